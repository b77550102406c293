"""What the log's end tells of the stream: epoch, last position, last beat.

Blocks on the log. Reads backwards in windows, each larger than the one before, until it has met a
mark or the epoch's record; keeps no row. The epoch's record may have expired long ago, so every
mark repeats what a start needs of it (`mark_health`).
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from replicator.envelope import EpochStart, Mark, Record, Value, decode, decode_tail
from replicator.errors import BadRecord, Hole, LogUnavailable
from replicator.log.port import Log
from replicator.positions import EpochId, Lsn, Offset
from replicator_capture import beat
from replicator_capture.partitions import TABLE, TREE
from replicator_capture.startup import LogTail

logger = logging.getLogger(__name__)

_FIRST_WINDOW = 1_000
_PATIENCE = 30
"""Empty polls of a second until the log counts as away."""
_CONTROLS = (b'{"op":"m"', b'{"op":"epoch"')


@dataclass(slots=True)
class Window:
    """What some consecutive records tell.

    Attributes:
        any: there is a record.
        controls: marks and epoch records, oldest first.
        ends: the highest `to` of each epoch.
    """

    any: bool = False
    controls: list[Record] = field(default_factory=list)
    ends: dict[EpochId, Lsn] = field(default_factory=dict)

    def add(self, value: bytes) -> None:
        """Take note of a record.

        What is not in our format is passed over: no garbage may keep capture from starting, and
        apply stops at it.
        """
        self.any = True
        try:
            at = decode_tail(value).at
            if value.startswith(_CONTROLS):
                self.controls.append(decode(value))
        except BadRecord as error:
            logger.warning("At the log's end: %s", error, extra={"event": "bad_record"})
            return
        if at.to is not None:
            self.ends[at.epoch] = max(at.to, self.ends.get(at.epoch, Lsn(0)))

    def after(self, older: "Window") -> "Window":
        """Put an older window before this one."""
        epochs = {*older.ends, *self.ends}
        ends = {e: max(older.ends.get(e, Lsn(0)), self.ends.get(e, Lsn(0))) for e in epochs}
        return Window(self.any or older.any, older.controls + self.controls, ends)


def read_tail(log: Log, topic: str, between: Callable[[], None] = lambda: None) -> LogTail:
    """Read the end of the stream's topic, as far back as it takes to find a mark or the epoch.

    Args:
        log: the log.
        topic: the stream's.
        between: called at least every second or so; what it raises ends the reading.

    Raises:
        LogUnavailable: the log is away, or its retention took the end away while it was read.
    """
    state = log.state(topic)
    found, end, size = Window(), state.end, _FIRST_WINDOW
    while True:
        tail = summarize(found)
        if tail.epoch is not None or end <= state.begin:
            return tail
        start = Offset(max(state.begin, end - size))
        older = Window()
        for value in _read(log, topic, start, end, between):
            older.add(value)
        found, end, size = found.after(older), start, size * 4


def _read(
    log: Log, topic: str, start: Offset, end: Offset, between: Callable[[], None]
) -> Iterator[bytes]:
    """Give the values from `start` to below `end`."""
    reader = log.reader(topic)
    patience = _PATIENCE
    try:
        reader.seek(start)
        while reader.position() < end:
            between()
            for chunk in reader.poll(1.0):
                patience = _PATIENCE
                pairs = zip(chunk.offsets, chunk.records, strict=True)
                yield from (value for offset, (_, value) in pairs if offset < end)
            patience -= 1
            if patience == 0:
                raise LogUnavailable("The log does not hand out its last records.")
    except Hole as error:
        raise LogUnavailable("The log's end was removed while it was read.") from error
    finally:
        reader.close()


def summarize(found: Window) -> LogTail:
    """Say what the end of a topic tells. Pure.

    Records of an older run or epoch may stand behind newer ones: a capture that was replaced may
    have had some on their way. So the newest epoch record decides the epoch, else the last mark,
    and positions and beats are compared, not taken from the end.
    """
    epoch = _epoch(found)
    if epoch is None:
        return LogTail(empty=not found.any, epoch=None, to=None, beat=None)
    marks = [r.mark for r in found.controls if r.at.epoch == epoch.id and r.mark is not None]
    beats = [each for mark in marks if (each := beat.parse(mark.beat)) is not None]
    told = [
        (key, value)
        for mark in marks
        for key, value in mark.health.items()
        if key.startswith((TABLE, TREE))
    ]
    return LogTail(
        empty=False,
        epoch=epoch,
        to=found.ends.get(epoch.id),
        beat=max(beats, default=None, key=lambda each: each.number),
        tables=dict(told),
    )


def _epoch(found: Window) -> EpochStart | None:
    starts = [record.epoch for record in found.controls if record.epoch is not None]
    if starts:
        return starts[-1]
    for record in reversed(found.controls):
        if (epoch := _from_mark(record)) is not None:
            return epoch
    return None


def mark_health(epoch: EpochStart) -> dict[str, Value]:
    """Give what every mark repeats of its epoch's record."""
    return {
        "epoch_previous": epoch.previous,
        "epoch_start": int(epoch.start),
        "epoch_reason": epoch.reason,
        "system_id": epoch.system_id,
        "timeline": epoch.timeline,
    }


def _from_mark(record: Record) -> EpochStart | None:
    health: Mapping[str, Value] = (record.mark or Mark()).health
    if "system_id" not in health:
        return None
    start, timeline = health.get("epoch_start"), health.get("timeline")
    if not isinstance(start, int) or not isinstance(timeline, int):
        raise BadRecord("A mark's epoch cannot be read.")
    return EpochStart(
        id=EpochId(record.at.epoch),
        previous=str(health.get("epoch_previous", "")),
        start=Lsn(start),
        system_id=str(health["system_id"]),
        timeline=timeline,
        reason=str(health.get("epoch_reason", "")),
    )
