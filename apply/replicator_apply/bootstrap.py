"""Where a target begins that has never applied a stream: at the log's end. Blocks on the log."""

from replicator.log import Log
from replicator.log.tail import last_records
from replicator.positions import EpochId, Lsn, Offset, Position
from replicator_apply.decode import Skimmed, skim
from replicator_apply.state import StoredPosition

TAIL = 50
"""Records that are looked at first; more, if a large transaction is just being published."""


def first_position(log: Log, topic: str) -> StoredPosition | None:
    """Give the position behind the last whole transaction in the log; None: it has none yet.

    Reading begins some records before it, so that no fragment of the next one is missed.

    Raises:
        LogUnavailable, Hole, BadRecord: as `last_records`.
    """
    count = TAIL
    while True:
        found = last_records(log, topic, count)
        records = [(offset, skim(value)) for offset, _, value in found]
        epoch = _newest_epoch([record for _, record in records])
        ends = [r.at.to for _, r in records if r.at.epoch == epoch and r.at.to is not None]
        if epoch is not None and ends:
            offset = next(offset for offset, r in records if r.at.epoch == epoch)
            return StoredPosition(Position(epoch, Lsn(max(ends))), Offset(offset))
        if len(found) < count:
            return None
        count *= 10


def _newest_epoch(records: list[Skimmed]) -> EpochId | None:
    """Give the epoch that the last epoch record began, or that the last record belongs to."""
    for record in reversed(records):
        if record.epoch is not None:
            return record.epoch.id
    return records[-1].at.epoch if records else None
