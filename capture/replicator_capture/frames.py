"""The frames of the replication stream, as bytes. Pure.

Source: https://www.postgresql.org/docs/current/protocol-replication.html
"""

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from replicator.errors import BadMessage
from replicator.positions import Lsn
from replicator.speed import twin
from replicator_capture.pgoutput import POSTGRES_EPOCH_US

WAL_DATA: Final = ord("w")
"""First byte of a frame that carries a message of the output plugin."""

HEADER: Final = 25
"""Where that message begins."""

_WAL_POSITIONS = struct.Struct("!xQQ")
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


Take = Callable[[int], tuple[int, memoryview]]
"""psycopg's `PGconn.get_copy_data`: the length of a frame, 0: none is there, -1: no more comes."""


def take_frames_plainly(
    take: Take, messages: list[bytes], most: int, most_bytes: int
) -> tuple[int, bytes, int, int]:
    """Take the frames that have arrived, until they are enough or one is no WAL data.

    Args:
        take: gives the next frame.
        messages: what the frames carry is appended.
        most: messages in the list that are enough.
        most_bytes: bytes of frames that are.

    Returns:
        What `take` gave last; the frame, if it is no whole WAL data; bytes of those that are; and
        how far the last one of them reaches, 0 if there is none.
    """
    size = end = 0
    while len(messages) < most and size < most_bytes:
        length, data = take(1)
        if length <= 0:
            return length, b"", size, end
        frame = bytes(data)
        if frame[0] != WAL_DATA or len(frame) < HEADER:
            return length, frame, size, end
        messages.append(frame[HEADER:])
        size += length
        end = max(_WAL_POSITIONS.unpack_from(frame))
    return 1, b"", size, end


take_frames = twin("take_frames", take_frames_plainly)


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
