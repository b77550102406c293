"""Reads the last records of a topic: where capture finds what it published before it stopped.

Blocks on the log.
"""

from collections import deque
from collections.abc import Generator
from typing import NamedTuple

from replicator.errors import LogUnavailable
from replicator.log.port import Log
from replicator.positions import Offset

_MARGIN = 64
_PATIENCE = 30
"""Empty polls of a second until the log counts as away."""


class Found(NamedTuple):
    """One record of the tail."""

    offset: Offset
    key: bytes
    value: bytes


def last_records(log: Log, topic: str, count: int) -> list[Found]:
    """Read the last `count` records of a topic, oldest first; fewer if it has fewer.

    Begins near the end, and again further back if what it found there was too little (offsets
    are not records: a large value takes several, a transaction's marker takes one). Records that
    are appended meanwhile are left out.

    Raises:
        LogUnavailable: the log is away.
        Hole: retention took the tail away while it was read.
        BadRecord: a record of the tail cannot be read.
    """
    state = log.state(topic)
    if not state.exists or count < 1:
        return []
    reach = count + _MARGIN
    while True:
        start = max(state.begin, state.end - reach)
        found = list(deque(records_between(log, topic, Offset(start), state.end), count))
        if len(found) == count or start <= state.begin:
            return found
        reach *= 4


def records_between(log: Log, topic: str, start: Offset, end: Offset) -> Generator[Found]:
    """Give the records from `start` to below `end`, one chunk of the log in memory at a time.

    Raises:
        LogUnavailable, Hole, BadRecord: as `last_records`.
    """
    reader = log.reader(topic)
    patience = _PATIENCE
    try:
        reader.seek(start)
        while reader.position() < end:
            for chunk in reader.poll(1.0):
                patience = _PATIENCE
                for offset, (key, value) in zip(chunk.offsets, chunk.records, strict=True):
                    if offset < end:
                        yield Found(Offset(offset), key, value)
            patience -= 1
            if patience == 0:
                raise LogUnavailable("The log does not hand out its last records.")
    finally:
        reader.close()
