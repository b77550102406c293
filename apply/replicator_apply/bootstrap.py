"""Where a target begins that has never applied a stream: at the log's end. Blocks on the log.

A rebase begins here too, so nothing that is wrong in what lies behind may get in the way: records
that cannot be read are left behind. If they were part of the stream, the next one shows the hole.
"""

from collections.abc import Sequence

from replicator.errors import BadRecord
from replicator.log import Log
from replicator.log.tail import Found, last_records
from replicator.positions import EpochId, Lsn, Offset, Position
from replicator_apply.decode import Skimmed, skim
from replicator_apply.state import StoredPosition

TAIL = 50
"""Records that are looked at first; more, if a large transaction is just being published."""

Readable = tuple[Offset, Skimmed]


def first_position(log: Log, topic: str) -> StoredPosition | None:
    """Give the position behind the last whole transaction in the log; None: it has none yet.

    Reading begins at the first fragment of the next one, if some are there.

    Raises:
        LogUnavailable, Hole, BadRecord: as `last_records`.
    """
    count = TAIL
    while True:
        found = last_records(log, topic, count)
        whole = len(found) < count
        first = _position_in(found, whole=whole)
        if first is not None or whole:
            return first
        count *= 10


def _position_in(found: Sequence[Found], *, whole: bool) -> StoredPosition | None:
    """Look for it in the last records; None: they reach not far enough back.

    Args:
        found: the records.
        whole: whether they are all that the log has.
    """
    records, behind = _readable(found)
    epoch = _newest_epoch([record for _, record in records])
    ours = [(offset, record) for offset, record in records if record.at.epoch == epoch]
    ends = [record.at.to for _, record in ours if record.at.to is not None]
    if epoch is None or not ends:
        return None
    following = Lsn(max(ends))
    fragments = [each for each in ours if each[1].source.lsn >= following and each[0] >= behind]
    if not fragments:
        return StoredPosition(Position(epoch, following), Offset(found[-1].offset + 1))
    offset, first = fragments[0]
    if first.at.ordinal and not (whole or behind):
        return None
    return StoredPosition(Position(epoch, following), offset)


def _readable(found: Sequence[Found]) -> tuple[list[Readable], Offset]:
    """Read what can be read, and say behind which offset all can be (0: everywhere)."""
    records: list[Readable] = []
    behind = Offset(0)
    for offset, _, value in found:
        try:
            records.append((offset, skim(value)))
        except BadRecord:
            behind = Offset(offset + 1)
    return records, behind


def _newest_epoch(records: list[Skimmed]) -> EpochId | None:
    """Give the epoch that the last epoch record began, or that the last record belongs to."""
    for record in reversed(records):
        if record.epoch is not None:
            return record.epoch.id
    return records[-1].at.epoch if records else None
