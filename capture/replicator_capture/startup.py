"""May capture start, and how? The decision is pure; `replicator_capture.facts` gathers and acts.

Every row of the start-up table is one rule here. What must never happen: going on over a gap (the
slot, the database or the log is not the one that the others belong to), and publishing twice at
once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from replicator.envelope import EpochStart, Value
from replicator.errors import Refused
from replicator.positions import Lsn
from replicator_capture.beat import Beat
from replicator_capture.slot import PLUGIN, Slot

NEW_EPOCH = (
    "Begin a new epoch: `replicator capture --new-epoch`. Every target then backfills what it "
    "subscribed to."
)
LOST_LOG = (
    "See that ENVIRONMENT and LOG are right; if they are, begin a new epoch: `replicator capture "
    "--new-epoch`. Where a target then stands because the log lacks its place, run `replicator "
    "rebase` there: it backfills too."
)
PREPARE = "Run `replicator prepare source` as the owner of the tables."


@dataclass(frozen=True, slots=True)
class Database:
    """The source database.

    Attributes:
        system_id: the cluster's, as pg_control_system() tells.
        timeline: on which WAL is being written.
        in_recovery: it is a standby.
        wal_level: the setting.
        wal_end: where the next WAL record goes.
        beat: the newest beat; None if there has never been one.
    """

    system_id: str
    timeline: int
    in_recovery: bool
    wal_level: str
    wal_end: Lsn
    beat: Beat | None


@dataclass(frozen=True, slots=True)
class LogTail:
    """The end of the stream's topic.

    Attributes:
        empty: it holds no record (it may once have).
        epoch: the last epoch record.
        to: `to` of the last whole transaction or mark of that epoch; None: there is none.
        beat: the last beat that a mark of that epoch told of.
        tables: what its last marks tell of tables.
    """

    empty: bool
    epoch: EpochStart | None
    to: Lsn | None
    beat: Beat | None
    tables: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the decision hangs on.

    Attributes:
        slots: of this stream in this database.
        has_publication: the stream's publication exists.
        problems: of publication and tables, a sentence each.
        new_epoch: the operator asks for a new epoch.
    """

    slots: tuple[Slot, ...]
    log: LogTail
    database: Database
    has_publication: bool
    problems: tuple[str, ...]
    new_epoch: bool


@dataclass(frozen=True, slots=True)
class BeginEpoch:
    """Drop these slots, then: publication, slot, epoch record."""

    previous: str
    drop: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Standby:
    """Another capture streams: wait, and look again."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class AppendEpoch:
    """Append the slot's epoch record, then go.

    Attributes:
        previous: the epoch before; the slot's own after a fail-over, when the same epoch goes on.
        start: where the epoch's events begin.
        reason: for the record.
    """

    slot: Slot
    previous: str
    start: Lsn
    reason: str


@dataclass(frozen=True, slots=True)
class Go:
    """Stream from this slot."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Refuse:
    """Do not start: what was found, and what the operator is to do."""

    message: str
    remedy: str

    def error(self) -> Refused:
        """Give the refusal as the error that ends the command."""
        return Refused(self.message, remedy=self.remedy)


Decision = BeginEpoch | Standby | AppendEpoch | Go | Refuse
_Rule = Callable[[Facts], Decision | None]


def decide(facts: Facts) -> Decision:
    """Apply the start-up table: the first rule that has something to say decides."""
    rules = _ON_ASKING if facts.new_epoch else _ALWAYS
    for rule in rules:
        if (decision := rule(facts)) is not None:
            return decision
    raise AssertionError("the last rule of each list always decides")


def foresee(facts: Facts) -> Refuse | None:
    """Say what the next start would be refused for; None: nothing, as far as can be told.

    While a capture runs, the facts must have been read in this order: slots, log, database.
    """
    rested = tuple(slot._replace(active=False) for slot in facts.slots)
    decision = decide(replace(facts, slots=rested))
    return decision if isinstance(decision, Refuse) else None


def _unfit_database(facts: Facts) -> Refuse | None:
    if facts.database.in_recovery:
        return Refuse(
            "The database is a hot standby; capture needs the primary.",
            "Point DATABASE (or DIRECT) at the primary.",
        )
    if facts.database.wal_level != "logical":
        return Refuse(
            f"wal_level is {facts.database.wal_level}; logical replication needs 'logical'.",
            "Run ALTER SYSTEM SET wal_level = 'logical' and restart Postgres.",
        )
    return None


def _active_slot_in_the_way(facts: Facts) -> Refuse | None:
    for slot in facts.slots:
        if slot.active:
            return Refuse(
                f"A capture (process {slot.active_pid} of Postgres) streams from {slot.name}.",
                "Stop it, then begin the new epoch.",
            )
    return None


def _unfit_tables(facts: Facts) -> Refuse | None:
    if facts.problems:
        return Refuse(" ".join(facts.problems), PREPARE)
    return None


def _new_epoch(facts: Facts) -> BeginEpoch:
    previous = facts.log.epoch.id if facts.log.epoch else ""
    return BeginEpoch(previous, tuple(slot.name for slot in facts.slots))


def _several_slots(facts: Facts) -> Refuse | None:
    if len(facts.slots) > 1:
        names = ", ".join(slot.name for slot in facts.slots)
        return Refuse(
            f"This database has several slots of this stream: {names}.",
            "Drop those that no capture uses with pg_drop_replication_slot(), or begin a new "
            "epoch: `replicator capture --new-epoch`.",
        )
    return None


def _no_slot(facts: Facts) -> Decision | None:
    if facts.slots:
        return None
    if facts.log.empty:
        return _unfit_tables(facts) or BeginEpoch("", ())
    return Refuse(
        "The log holds records of this stream, but the database has no slot for it: changes may "
        "have been missed.",
        NEW_EPOCH,
    )


def _standby(facts: Facts) -> Standby | None:
    return Standby(facts.slots[0]) if facts.slots[0].active else None


def _unfit_slot(facts: Facts) -> Refuse | None:
    slot = facts.slots[0]
    if slot.plugin != PLUGIN:
        return Refuse(
            f"The slot {slot.name} uses the plugin {slot.plugin}, not {PLUGIN}.",
            f"Drop it with pg_drop_replication_slot('{slot.name}'). {NEW_EPOCH}",
        )
    if slot.wal_status == "lost" or slot.invalidation:
        why = slot.invalidation or "wal_status is lost: max_slot_wal_keep_size was exceeded"
        return Refuse(f"Postgres has given up the slot {slot.name} ({why}).", NEW_EPOCH)
    if not facts.has_publication:
        return Refuse("The slot is there, but its publication has been dropped.", NEW_EPOCH)
    return None


def _epoch_not_in_log(facts: Facts) -> Decision | None:
    """Tell a slot that is newer than the log from a log that has lost what it held."""
    slot, log = facts.slots[0], facts.log
    if log.epoch is not None and log.epoch.id == slot.epoch:
        return None
    beat = facts.database.beat
    if slot.confirmed is None or (beat is not None and beat.epoch == slot.epoch):
        return Refuse(
            f"The slot's epoch {slot.epoch} has run, but the log does not know it: the log has "
            "been emptied, restored or replaced, or is not the one that the settings name.",
            LOST_LOG,
        )
    if log.epoch is not None and _same_database(facts) and (log.to or 0) > slot.confirmed:
        return Refuse(
            f"The slot {slot.name} is older than the log's last epoch {log.epoch.id}.",
            NEW_EPOCH,
        )
    if log.epoch is None and not log.empty:
        return Refuse("The log holds records, but no longer its epoch's beginning.", LOST_LOG)
    previous = log.epoch.id if log.epoch else ""
    return AppendEpoch(slot, previous, slot.confirmed, "begun, and crashed before it was told")


def _same_database(facts: Facts) -> bool:
    epoch = facts.log.epoch
    return epoch is not None and epoch.system_id == facts.database.system_id


def _other_database(facts: Facts) -> Decision | None:
    slot, epoch, database = facts.slots[0], facts.log.epoch, facts.database
    if epoch is None:
        return None
    if epoch.system_id != database.system_id:
        return Refuse(
            f"The log belongs to the database system {epoch.system_id}; this one is "
            f"{database.system_id}.",
            NEW_EPOCH,
        )
    if epoch.timeline == database.timeline:
        return None
    if slot.synced and slot.confirmed is not None:
        reason = f"fail-over to timeline {database.timeline} with a synchronised slot"
        return AppendEpoch(slot, epoch.id, slot.confirmed, reason)
    return Refuse(
        f"The log was written from timeline {epoch.timeline}; the database is on "
        f"{database.timeline} (a fail-over or a restore), and the slot was not synchronised.",
        NEW_EPOCH,
    )


def _log_behind_slot(facts: Facts) -> Refuse | None:
    slot, log = facts.slots[0], facts.log
    if slot.confirmed is None or log.epoch is None:
        return Refuse(f"The slot {slot.name} has no position.", NEW_EPOCH)
    tail = log.epoch.start if log.to is None else log.to
    if slot.confirmed > tail:
        return Refuse(
            "The slot was confirmed beyond the end of the log: the log has lost records.",
            LOST_LOG,
        )
    return None


def _database_behind_log(facts: Facts) -> Refuse | None:
    """Tell a restored volume: system id, timeline and slot are right, but the beat is older."""
    log, database = facts.log, facts.database
    restored = log.beat is not None and (
        database.beat is None or not database.beat.follows(log.beat)
    )
    if restored or (log.to is not None and log.to > database.wal_end):
        return Refuse(
            "The database is older than the log: it has been restored from a backup or a snapshot.",
            NEW_EPOCH,
        )
    return None


def _go(facts: Facts) -> Go:
    return Go(facts.slots[0])


_ON_ASKING: tuple[_Rule, ...] = (
    _unfit_database,
    _active_slot_in_the_way,
    _unfit_tables,
    _new_epoch,
)
_ALWAYS: tuple[_Rule, ...] = (
    _unfit_database,
    _several_slots,
    _no_slot,
    _standby,
    _unfit_slot,
    _unfit_tables,
    _epoch_not_in_log,
    _database_behind_log,
    _other_database,
    _log_behind_slot,
    _go,
)
