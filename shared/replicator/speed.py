"""The compiled twins of the hottest steps, if the package django-replicator-speed is installed.

They say the same as the plain functions, which do without; unit tests compare the two. The
environment variable REPLICATOR_SPEED=off leaves them out.
"""

import os
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol, TypeVar

F = TypeVar("F")

FORM = 1
"""Of the twins that this code knows."""


class RowEncoder(Protocol):
    """Encodes the usual messages of one table; see `replicator_speed`."""

    def run(
        self,
        messages: list[bytes],
        start: int,
        tail: bytes,
        ordinal: int,
        records: list[tuple[bytes, bytes]],
    ) -> tuple[int, int]:
        """Encode messages from `start` on; give the first that is not, and the values' bytes."""


def _find() -> ModuleType | None:
    if os.environ.get("REPLICATOR_SPEED", "") == "off":
        return None
    try:
        found = import_module("replicator_speed")
    except ImportError:
        return None
    return found if getattr(found, "FORM", None) == FORM else None


_module = _find()

COMPILED = _module is not None
"""Whether they are used."""


def twin(name: str, plain: F) -> F:
    """Give the compiled twin of a function, or the function."""
    found: Any = getattr(_module, name, plain)
    return found  # type: ignore[no-any-return]


def row_encoder(
    kinds: bytes, key: list[int], key_start: bytes, names: list[bytes], *, identified: bool
) -> RowEncoder | None:
    """Make an encoder of a table's row messages; None: there is none.

    Args:
        kinds: of each column of the relation: 0 is not released, 1 a number, 2 a bool, 3 a text.
        key: places of the key's columns among the released ones.
        key_start: the record's key up to the comma before its first value.
        names: of each released column, as JSON with its colon, and a comma before all but the
            first.
        identified: whether an update without an old row has not changed the key.
    """
    if _module is None:
        return None
    found: RowEncoder = _module.RowEncoder(kinds, key, key_start, names, identified)
    return found
