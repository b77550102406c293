"""The compiled twins of the hottest steps, if the package django-replicator-speed is installed.

They say the same as the plain functions, which do without; unit tests compare the two. The
environment variable REPLICATOR_SPEED=off leaves them out.
"""

import os
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol, TypeVar

from replicator.positions import Lsn

F = TypeVar("F")

FORM = 3
"""Of the twins that this code knows: raised with every change of what they take or give."""


TailParts = tuple[bytes, bytes, bytes, bytes]
"""What stands before, between and behind a transaction's id, commit LSN and milliseconds, from
`"source"` to `"ordinal":`, in the values of a table's records."""

Standing = tuple[bytes, TailParts, int, int, Lsn]
"""Where a run begins, inside a transaction: its parts and numbers put together, the parts, its id,
the next record's ordinal, and where the transaction before ended. (Plain: a run may be short.)"""

Ended = tuple[int, Lsn, Lsn, int, int]
"""A transaction that ended: its id, commit LSN, end, microseconds since 1970, number of records."""

Begun = tuple[Lsn, int, int]
"""A transaction that began: its commit LSN, microseconds since 1970, id."""


class RowEncoder(Protocol):
    """Encodes the usual messages of one table; see `replicator_speed`."""

    def run(
        self,
        messages: list[bytes],
        start: int,
        standing: Standing,
        records: list[tuple[bytes, bytes]],
        ended: list[Ended] | None,
    ) -> tuple[int, int, int, Begun | None]:
        """Encode messages from `start` on, as long as they are of this table and usual.

        Args:
            messages: of the stream; that at `start` is a row of this table.
            start: where to begin.
            standing: see there.
            records: key and value of each are appended.
            ended: transactions that end are appended. None: their Commit is left to the caller.

        Returns:
            The index of the first message that is not taken in; the bytes of the values; the next
            record's ordinal; and the open transaction, if another one ended before it.
        """


class LineEncoder(Protocol):
    """Encodes the rows of one table that a fetch read; see `replicator_speed`."""

    def rows(self, block: bytes) -> list[tuple[bytes, bytes]] | None:
        """Give key and head of the record of each line of COPY's text format, UTF-8.

        None: a line does not fit the columns, or is very long.
        """


def find(name: str = "replicator_speed") -> tuple[ModuleType | None, str]:
    """Find the twins that are installed; else say why those are left out, "" if there are none."""
    if os.environ.get("REPLICATOR_SPEED", "").lower() == "off":
        return None, ""
    try:
        found = import_module(name)
    except ModuleNotFoundError as error:
        return None, "" if error.name == name else f"They cannot be loaded: {error}."
    except ImportError as error:
        return None, f"They cannot be loaded: {error}."
    if getattr(found, "FORM", None) != FORM:
        return None, "They are of another version of Replicator."
    return found, ""


_module, LEFT_OUT = find()

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
        kinds: of each column of the relation: 0 is not released, 1 a number, 2 a bool, 3 a text;
            and 4 more if it is part of the replica identity.
        key: places of the key's columns among the released ones.
        key_start: the record's key up to the comma before its first value.
        names: of each released column, as JSON with its colon.
        identified: whether the key is part of the replica identity: an update without an old row
            has not changed it, and a deleted row shows it.
    """
    if _module is None:
        return None
    found: RowEncoder = _module.RowEncoder(kinds, key, key_start, names, identified)
    return found


def line_encoder(
    kinds: bytes, key: list[int], key_start: bytes, names: list[bytes]
) -> LineEncoder | None:
    """Make an encoder of a table's rows as COPY gives them; None: there is none.

    Args:
        kinds: of each column: 1 a number, 2 a bool, 3 a text.
        key: places of the key's columns among them.
        key_start: the record's key up to the comma before its first value.
        names: of each column, as JSON with its colon.
    """
    if _module is None:
        return None
    found: LineEncoder = _module.LineEncoder(kinds, key, key_start, names)
    return found
