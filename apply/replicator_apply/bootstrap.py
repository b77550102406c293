"""Where a target begins that has never applied a stream: at the log's end. Blocks on the log.

A rebase begins here too, so nothing that is wrong in what lies behind may get in the way: records
that cannot be read are left behind. If they were part of the stream, the next one shows the hole.
"""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field

from replicator.errors import BadRecord
from replicator.log import Log
from replicator.log.tail import records_between
from replicator.positions import EpochId, Lsn, Offset, Position
from replicator_apply.decode import Skimmed, skim
from replicator_apply.state import StoredPosition

TAIL = 50
"""Offsets that are looked at first; more, if a large transaction is just being published."""


def first_position(log: Log, topic: str) -> StoredPosition | None:
    """Give the position behind the last whole transaction in the log; None: it has none yet.

    Reading begins at the first fragment of the next one, if some are there. No record is kept:
    that transaction may be larger than memory.

    Raises:
        LogUnavailable, Hole, BadRecord: as `records_between`.
    """
    state = log.state(topic)
    if not state.exists:
        return None
    reach = TAIL
    while True:
        start = Offset(max(state.begin, state.end - reach))
        whole = start <= state.begin
        first = _Window(log, topic, start, state.end).position(whole=whole)
        if first is not None or whole:
            return first
        reach *= 10


@dataclass(slots=True)
class _Seen:
    """What the records of a window tell, all together.

    Attributes:
        begun: the epoch that the last epoch record began.
        last: the epoch that the last record belongs to.
        ends: the highest `to` of each epoch.
        behind: behind which offset all can be read (0: everywhere).
        resume: the offset behind the last record.
    """

    begun: EpochId | None = None
    last: EpochId | None = None
    ends: dict[EpochId, Lsn] = field(default_factory=dict)
    behind: Offset = Offset(0)
    resume: Offset = Offset(0)

    def add(self, offset: Offset, record: Skimmed | None) -> None:
        """Take note of a record; None: it cannot be read."""
        self.resume = Offset(offset + 1)
        if record is None:
            self.behind = self.resume
            return
        if record.epoch is not None:
            self.begun = record.epoch.id
        at = record.at
        self.last = at.epoch
        if at.to is not None:
            self.ends[at.epoch] = max(at.to, self.ends.get(at.epoch, at.to))


@dataclass(frozen=True, slots=True)
class _Window:
    """The records of a topic from `start` to below `end`; read anew whenever they are asked for."""

    log: Log
    topic: str
    start: Offset
    end: Offset

    def position(self, *, whole: bool) -> StoredPosition | None:
        """Look for the position; None: the window reaches not far enough back.

        Args:
            whole: whether it holds all that the log has.
        """
        seen = _Seen()
        for offset, record in self._records(self.start):
            seen.add(offset, record)
        epoch = seen.begun or seen.last
        following = seen.ends.get(epoch) if epoch is not None else None
        if epoch is None or following is None:
            return None
        position = Position(epoch, following)
        offset, ordinal = self._first_fragment(position, seen)
        if ordinal and not (whole or seen.behind):
            return None
        return StoredPosition(position, offset)

    def _first_fragment(self, position: Position, seen: _Seen) -> tuple[Offset, int]:
        """Give the offset and ordinal of what is there of the next transaction; 0: nothing."""
        with closing(self._records(max(self.start, seen.behind))) as records:
            for offset, record in records:
                if (
                    record is not None
                    and record.at.epoch == position.epoch
                    and record.source.lsn >= position.next
                ):
                    return offset, record.at.ordinal
        return seen.resume, 0

    def _records(self, start: Offset) -> Generator[tuple[Offset, Skimmed | None]]:
        with closing(records_between(self.log, self.topic, start, self.end)) as records:
            for offset, _, value in records:
                try:
                    yield offset, skim(value)
                except BadRecord:
                    yield offset, None
