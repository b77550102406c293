"""Replicator keeps chosen data of a Django project equal across its environments.

The public names are what `__all__` lists; they are loaded at first use, so that neither the
Django app's registration nor the pure modules below this package pay for them, and a web process
loads neither the Kafka client nor the Postgres driver on our account.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replicator.declare import Children, Dataset, Referenced, Rows, dataset, opt_in, opt_out

__all__ = ["Children", "Dataset", "Referenced", "Rows", "dataset", "opt_in", "opt_out"]


def __getattr__(name: str) -> object:
    """Load a public name. Raises AttributeError for any other."""
    if name in __all__:
        return getattr(import_module("replicator.declare"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
