"""What the log's end tells of the stream: epoch, last position, last beat.

Blocks on the log. The epoch record itself may have expired long ago, so every mark repeats what a
start needs of it (`mark_health`).
"""

import logging
from collections.abc import Mapping, Sequence

from replicator.envelope import EpochStart, Mark, Record, Value, decode
from replicator.errors import BadRecord, Hole, LogUnavailable
from replicator.log.port import Log
from replicator.log.tail import last_records
from replicator.positions import EpochId, Lsn
from replicator_capture import beat
from replicator_capture.startup import LogTail

logger = logging.getLogger(__name__)

_FIRST_REACH = 500
_FARTHEST_REACH = 2_000_000
"""Marks come every ten seconds, so that more than this is not worth reading."""


def read_tail(log: Log, topic: str) -> LogTail:
    """Read the end of the stream's topic, as far back as it takes to find a mark or the epoch.

    Raises:
        LogUnavailable: the log is away, or its retention took the end away while it was read.
    """
    reach = _FIRST_REACH
    while True:
        try:
            found = last_records(log, topic, reach)
        except Hole as error:
            raise LogUnavailable("The log's end was removed while it was read.") from error
        tail = summarize([each for record in found if (each := _readable(record.value))])
        if tail.epoch is not None or len(found) < reach or reach >= _FARTHEST_REACH:
            return tail
        reach *= 8


def _readable(value: bytes) -> Record | None:
    """Read a record; None for what is not in our format: no garbage may keep capture from starting.

    Apply stops at it, and says so.
    """
    try:
        return decode(value)
    except BadRecord as error:
        logger.warning("At the log's end: %s", error, extra={"event": "bad_record"})
        return None


def summarize(records: Sequence[Record]) -> LogTail:
    """Say what the last records of a topic tell. Pure.

    Records of an older run or epoch may stand behind newer ones: a capture that was replaced may
    have had some on their way. So the newest epoch record decides the epoch, else the last mark,
    and positions and beats are compared, not taken from the end.
    """
    epoch = _epoch(records)
    if epoch is None:
        return LogTail(empty=not records, epoch=None, to=None, beat=None)
    own = [record for record in records if record.at.epoch == epoch.id and record.op != "epoch"]
    ends = [record.at.to for record in own if record.at.to is not None]
    beats = [beat.parse(record.mark.beat) for record in own if record.mark is not None]
    return LogTail(
        empty=False,
        epoch=epoch,
        to=max(ends, default=None),
        beat=max((b for b in beats if b is not None), key=lambda b: b.number, default=None),
    )


def _epoch(records: Sequence[Record]) -> EpochStart | None:
    starts = [record.epoch for record in records if record.epoch is not None]
    if starts:
        return starts[-1]
    marks = [record for record in records if record.mark is not None]
    for record in reversed(marks):
        if (found := _from_mark(record)) is not None:
            return found
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
