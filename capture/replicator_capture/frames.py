"""The frames of the replication stream, as bytes. Pure.

Source: https://www.postgresql.org/docs/current/protocol-replication.html
"""

import struct
from typing import Final, NamedTuple

from replicator.errors import BadMessage
from replicator.positions import Lsn
from replicator_capture.pgoutput import POSTGRES_EPOCH_US

WAL_DATA: Final = ord("w")
"""First byte of a frame that carries a message of the output plugin."""

HEADER: Final = 25
"""Where that message begins."""

_WAL_POSITIONS = struct.Struct("!xQQq")
_KEEP_ALIVE = struct.Struct("!cQqB")
_STATUS = struct.Struct("!cQQQqB")


class KeepAlive(NamedTuple):
    """The server's sign of life: how far it has sent, and whether it wants a status now."""

    wal_end: Lsn
    reply: bool


def parse_keep_alive(frame: bytes) -> KeepAlive:
    """Read a keep-alive frame. Raises BadMessage for anything else."""
    if len(frame) != _KEEP_ALIVE.size or frame[:1] != b"k":
        raise BadMessage(f"A frame of the replication stream is not known ({frame[:1]!r}).")
    _, wal_end, _, reply = _KEEP_ALIVE.unpack(frame)
    return KeepAlive(Lsn(wal_end), bool(reply))


def parse_wal_end(frame: bytes) -> Lsn:
    """Read from a WAL data frame how far it reaches. Raises BadMessage if it is cut short."""
    if len(frame) < HEADER:
        raise BadMessage("A frame of the replication stream is cut short.")
    start, end, _ = _WAL_POSITIONS.unpack_from(frame)
    return Lsn(max(start, end))


def status_update(received: Lsn, confirmed: Lsn, now_us: int, *, reply: bool = False) -> bytes:
    """Build a standby status update.

    Args:
        received: how far the stream has been read.
        confirmed: everything before it may be forgotten by the slot.
        now_us: the time in microseconds since 1970.
        reply: ask for a keep-alive.
    """
    sent = now_us - POSTGRES_EPOCH_US
    return _STATUS.pack(b"r", max(received, confirmed), confirmed, confirmed, sent, reply)
