"""Where something stands: LSNs, epochs, runs and offsets, each with a type of its own.

Pure. A position `N` is half-open: every transaction with a commit LSN below `N` is applied.
"""

from typing import NewType

import msgspec

Lsn = NewType("Lsn", int)
"""Byte position in the write-ahead log (https://www.postgresql.org/docs/current/datatype-pg-lsn.html)."""

EpochId = NewType("EpochId", str)
"""One incarnation of the slot: eight hexadecimal digits, the tail of the slot's name."""

RunId = NewType("RunId", int)
"""One start of capture: the LSN of the message that it emits when streaming has begun."""

Offset = NewType("Offset", int)
"""Place of a record in a topic of the log."""


class Position(msgspec.Struct, frozen=True, order=True):
    """How far a reader of one stream has come: `next` inside `epoch`."""

    epoch: EpochId
    next: Lsn


def parse_lsn(text: str) -> Lsn:
    """Read Postgres' form of an LSN (`16/B374D848`).

    Raises:
        ValueError: `text` is not two hexadecimal numbers joined by a slash.
    """
    high, low = text.split("/")
    return Lsn((int(high, 16) << 32) + int(low, 16))


def format_lsn(lsn: Lsn) -> str:
    """Write an LSN as Postgres does."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
