"""Start-up: gathers the facts, has `startup` decide, and does what it decided.

Blocks on database and log. What needs privileges that the role lacks is refused, naming the
command that does it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from replicator.compiler import table_of
from replicator.envelope import EpochStart, Source, Value
from replicator.errors import Refused
from replicator.log.port import Log, LogWriter
from replicator.models import Beat
from replicator.plan import Release, TableName
from replicator.positions import EpochId, Lsn, parse_lsn
from replicator.postgres import driver_errors
from replicator.settings import ReplicatorSettings, stream_topic
from replicator.stop import Stop
from replicator_capture import beat, prepare, publication, slot, startup
from replicator_capture.publish import publish_epoch
from replicator_capture.tail import read_tail
from replicator_capture.worker import Halted, Worker, unless_stopped

logger = logging.getLogger(__name__)

STANDBY_EVERY = 1.0
_FIRST_STANDBY = 0.05
"""Seconds between looks at whether another capture runs, in the end and at first, doubled each
time: one that has just stopped holds its slot for a moment."""
_LOOK = 0.5
_SLOW = 5.0
_EPOCH_TIMEOUT = 60.0

_DATABASE = """
SELECT (pg_control_system()).system_identifier::text, pg_is_in_recovery(),
       current_setting('wal_level'),
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
            ELSE pg_current_wal_insert_lsn() END::text,
       CASE WHEN pg_is_in_recovery() THEN '0'
            ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END
"""


@dataclass(frozen=True, slots=True)
class Site:
    """What start-up works with.

    Attributes:
        connection: to the source, in autocommit mode.
        log: the log.
        topic: the stream's.
        stream: its name.
        releases: of the stream's tables.
        beat_table: where the beat is.
        auto_prepare: create what is missing, where the role may.
        source: environment and database, as epoch records name them.
        stop: ends every waiting.
        turned: called in every turn of a wait.
    """

    connection: psycopg.Connection
    log: Log
    topic: str
    stream: str
    releases: Sequence[Release]
    beat_table: TableName
    auto_prepare: bool
    source: Source
    stop: Stop
    turned: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Start:
    """Where capture goes on: the slot, its epoch, and what its last marks tell of tables."""

    slot: slot.Slot
    epoch: EpochStart
    told: Mapping[str, Value] = field(default_factory=dict)


def gather(site: Site, *, new_epoch: bool) -> startup.Facts:
    """Read all that the decision hangs on, and mend what may be mended.

    Raises:
        DatabaseUnavailable, LogUnavailable: try again.
        Unfit: the tables of the app `replicator` are not there.
    """
    connection = site.connection
    with driver_errors("looking at slots and publication"):
        slots = tuple(slot.find(connection, site.stream))
        database = read_database(connection, site.beat_table)
        found = publication.read(connection, publication.name_of(site.stream))
        problems: tuple[str, ...] = ()
        if not any(each.active for each in slots):
            problems = tuple(_mend(site, found))
    return startup.Facts(
        slots=slots,
        log=_read_tail(site),
        database=database,
        has_publication=found is not None,
        problems=problems,
        new_epoch=new_epoch,
    )


def foresee(
    connection: psycopg.Connection, log: Log, settings: ReplicatorSettings, stream: str
) -> startup.Refuse | None:
    """Say what the next start of capture would be refused for; changes nothing.

    What is wrong with tables and members of the publication is not looked at.

    Raises:
        DatabaseUnavailable, LogUnavailable: try again.
        Unfit: the tables of the app `replicator` are not there.
    """
    with driver_errors("looking at the slots"):
        slots = tuple(slot.find(connection, stream))
    # Before the database, which may only be newer than the log.
    tail = read_tail(log, stream_topic(settings.environment, stream))
    with driver_errors("looking at the database"):
        found = publication.read(connection, publication.name_of(stream))
        facts = startup.Facts(
            slots=slots,
            log=tail,
            database=read_database(connection, table_of(Beat)),
            has_publication=found is not None,
            problems=(),
            new_epoch=False,
        )
    return startup.foresee(facts)


def read_database(connection: psycopg.Connection, beat_table: TableName) -> startup.Database:
    """Describe the database. Raises as the driver."""
    row = connection.execute(_DATABASE).fetchone()
    if row is None:
        raise AssertionError("a SELECT without FROM gives one row")
    system_id, in_recovery, wal_level, wal_end, timeline = row
    newest = beat.read(connection, beat_table)
    return startup.Database(
        system_id, int(timeline, 16), in_recovery, wal_level, parse_lsn(wal_end), newest
    )


def _mend(site: Site, found: publication.Publication | None) -> list[str]:
    """Bring publication and identities in order, if allowed; say what is still wrong."""
    statements = prepare.statements(site.connection, site.stream, site.releases)
    if found is None:
        # Of a first or new epoch; for any other the decision refuses.
        statements = [each for each in statements if not each.creates_publication]
    if site.auto_prepare:
        statements = prepare.run(site.connection, statements)
    return [
        *prepare.unreplicable(site.connection, site.releases),
        *(publication.problems(found) if found else ()),
        *(each.problem for each in statements if each.needed),
    ]


def begin(site: Site, *, new_epoch: bool, reason: str) -> Start | None:
    """Start up: wait while another capture runs, then do what the facts say.

    Holds an advisory lock of the session afterwards, so that no other capture starts up meanwhile;
    `release` gives it back once streaming has begun.

    Args:
        site: what to work with.
        new_epoch: the operator asks for a new epoch.
        reason: why, for the record.

    Returns:
        Where to go on; None if it was told to stop while it waited.

    Raises:
        Refused: going on would lose or mix data.
        DatabaseUnavailable, LogUnavailable: try again.
        Halted: told to stop while it waited for the log.
    """
    waiting, pause = False, _FIRST_STANDBY
    while True:
        if _lock(site, "pg_try_advisory_lock"):
            # Looking at the log each time would open connections each time.
            if new_epoch or not waiting or not _streams(site):
                facts = gather(site, new_epoch=new_epoch)
                decision = startup.decide(facts)
                if not isinstance(decision, startup.Standby):
                    return _execute(site, facts, decision, reason)
            release(site)
        if not waiting:
            logger.info("Another capture runs; waiting to take over.", extra={"event": "standby"})
            waiting = True
        site.turned()
        pause = min(pause, STANDBY_EVERY)
        if site.stop.wait(pause):
            return None
        pause *= 2


def _read_tail(site: Site) -> startup.LogTail:
    def between() -> None:
        if site.stop.is_set():
            raise Halted

    def read() -> startup.LogTail:
        return read_tail(site.log, site.topic, between)

    return unless_stopped("tail", read, site.stop, site.turned)


def _streams(site: Site) -> bool:
    """Whether another capture streams from a slot of this stream."""
    with driver_errors("looking at the slots"):
        return any(each.active for each in slot.find(site.connection, site.stream))


def release(site: Site) -> None:
    """Let other captures start up, to find that the slot is in use."""
    _lock(site, "pg_advisory_unlock")


def _lock(site: Site, function: str) -> bool:
    statement = sql.SQL("SELECT {}(hashtextextended({}, 0))").format(
        sql.Identifier(function), sql.Literal(f"replicator:capture:{site.stream}")
    )
    with driver_errors("starting up"):
        row = site.connection.execute(statement).fetchone()
    return bool(row and row[0])


def _execute(
    site: Site, facts: startup.Facts, decision: startup.Decision, reason: str
) -> Start | None:
    match decision:
        case startup.BeginEpoch():
            return _begin_epoch(site, facts, decision, reason)
        case startup.AppendEpoch():
            return Start(decision.slot, _append_epoch(site, facts, decision))
        case startup.Go() if facts.log.epoch is not None:
            return Start(decision.slot, facts.log.epoch, facts.log.tables)
        case startup.Refuse():
            raise decision.error()
        case _:
            raise AssertionError("a slot goes on only in an epoch that the log knows")


def _begin_epoch(
    site: Site, facts: startup.Facts, decision: startup.BeginEpoch, reason: str
) -> Start | None:
    """Publication first, then the slot, then the record: the slot must see the publication."""
    connection = site.connection
    with driver_errors("beginning an epoch"):
        for name in decision.drop:
            slot.drop(connection, name)
        missing = prepare.statements(connection, site.stream, site.releases)
        _demand(prepare.run(connection, missing) if site.auto_prepare else missing)
        name = slot.name_of(site.stream, slot.new_epoch_id())
        start = _created(site, name)
    if start is None:
        return None
    (made,) = (each for each in slot.find(connection, site.stream) if each.name == name)
    first = "first start" if not decision.previous else reason
    append = startup.AppendEpoch(made, decision.previous, start, first)
    return Start(made, _append_epoch(site, facts, append))


def _demand(left: Sequence[prepare.Statement]) -> None:
    needed = [each.problem for each in left if each.needed]
    if needed:
        raise Refused(" ".join(needed), remedy=startup.PREPARE)


def _created(site: Site, name: str) -> Lsn | None:
    """Create the slot, which waits for all running transactions; None: told to stop meanwhile."""
    made: list[Lsn] = []
    worker = Worker("slot", lambda: made.append(slot.create(site.connection, name)))
    waited = 0.0
    while not worker.join(_LOOK):
        site.turned()
        waited += _LOOK
        if site.stop.is_set():
            site.connection.cancel_safe()
        elif waited == _SLOW:
            logger.warning(
                "Creating the slot waits for the transactions that run now to end.",
                extra={"event": "slot_waits"},
            )
    try:
        worker.raise_failure()
    except psycopg.errors.QueryCanceled:
        return None
    except psycopg.errors.InsufficientPrivilege as error:
        raise Refused(
            "The role may not create a replication slot.",
            remedy="Run as a superuser: ALTER ROLE <the role of DATABASE> REPLICATION.",
        ) from error
    except psycopg.errors.ConfigurationLimitExceeded as error:
        raise Refused(
            "All replication slots of the server are in use.",
            remedy="Raise max_replication_slots and restart Postgres, or drop unused slots.",
        ) from error
    return made[0]


def open_writer(site: Site) -> LogWriter:
    """Open the stream's topic. Raises as `port.Log.writer`, and Halted."""
    return unless_stopped("writer", lambda: site.log.writer(site.topic), site.stop, site.turned)


def _append_epoch(site: Site, facts: startup.Facts, decision: startup.AppendEpoch) -> EpochStart:
    def between() -> None:
        site.turned()
        if site.stop.is_set():
            raise Halted

    epoch = EpochStart(
        id=EpochId(decision.slot.epoch),
        previous=decision.previous,
        start=decision.start,
        system_id=facts.database.system_id,
        timeline=facts.database.timeline,
        reason=decision.reason,
    )
    writer = open_writer(site)
    try:
        publish_epoch(
            writer,
            epoch,
            site.source,
            timeout=_EPOCH_TIMEOUT,
            between=between,
        )
    finally:
        writer.close(1.0)
    logger.info(
        "Epoch %s begins (%s).", epoch.id, epoch.reason, extra={"event": "epoch", "id": epoch.id}
    )
    return epoch
