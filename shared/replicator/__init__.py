"""Replicator keeps chosen data of a Django project equal across its environments.

The public names are what `__all__` lists; they are loaded at first use, so that neither the
Django app's registration nor the pure modules below this package pay for them, and a web process
loads neither the Kafka client nor the Postgres driver on our account.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replicator.applied import Applied
    from replicator.declare import (
        Children,
        Dataset,
        Referenced,
        Rows,
        dataset,
        on_applied,
        opt_in,
        opt_out,
    )
    from replicator.rule_sets import (
        children_for_derived_models,
        closure_of,
        rows_for_app,
        rows_for_derived_models,
    )
    from replicator.selectors import latest, sample

__all__ = [
    "Applied",
    "Children",
    "Dataset",
    "Referenced",
    "Rows",
    "children_for_derived_models",
    "closure_of",
    "dataset",
    "latest",
    "on_applied",
    "opt_in",
    "opt_out",
    "rows_for_app",
    "rows_for_derived_models",
    "sample",
]

_ELSEWHERE = {
    "Applied": "replicator.applied",
    **dict.fromkeys(
        (
            "children_for_derived_models",
            "closure_of",
            "rows_for_app",
            "rows_for_derived_models",
        ),
        "replicator.rule_sets",
    ),
    **dict.fromkeys(("latest", "sample"), "replicator.selectors"),
}
"""Modules of the names that are not in `replicator.declare`."""


def __getattr__(name: str) -> object:
    """Load a public name. Raises AttributeError for any other."""
    if name in __all__:
        return getattr(import_module(_ELSEWHERE.get(name, "replicator.declare")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
