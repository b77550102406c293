"""What capture does beside the stream: beats, snapshots, the slot's health, the publication.

Runs in a thread of its own with a connection of its own, once a second. What it finds is read by
the loop's thread; every attribute is replaced whole, never changed in place.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import psycopg

from replicator.envelope import Value
from replicator.metrics import counter, gauge
from replicator.plan import Release, TableName
from replicator.positions import EpochId, Lsn, parse_lsn
from replicator.postgres import driver_errors
from replicator.stop import Stop
from replicator_capture import beat, metrics, prepare, publication, slot
from replicator_capture.names import NameBook
from replicator_capture.partitions import TABLE, Trees
from replicator_capture.visibility import Snapshot, parse_snapshot

logger = logging.getLogger(__name__)

LOOK_EVERY = 1.0
CHECK_EVERY = 60.0

_LOOK = "SELECT pg_current_snapshot()::text, pg_current_wal_lsn()::text"
_SAFE_STATES = frozenset({"reserved", "extended"})


@dataclass(frozen=True, slots=True)
class Duty:
    """What is to be kept.

    Attributes:
        stream: name of the stream.
        slot: name of its slot.
        epoch: the epoch that is captured.
        releases: of the stream's tables.
        beat_table: where the beat is.
        auto_prepare: let tables join the publication, where the role may.
        told: what the log's last marks tell of tables.
        names: what is kept fresh of content types and permissions.
    """

    stream: str
    slot: str
    epoch: EpochId
    releases: Sequence[Release]
    beat_table: TableName
    auto_prepare: bool
    told: Mapping[str, Value]
    names: NameBook


class Memberships:
    """Which memberships of tables in the publication targets may be told of. Pure.

    A transaction that wrote to a table before it joined, and commits later, is not in the stream.
    The same holds for a partition.
    So a membership is told only when every transaction that ran when it was first seen has ended:
    a backfill that begins after it was told misses nothing.
    """

    def __init__(self) -> None:
        self._since: dict[Value, int] = {}
        self._members: dict[Value, str] = {}

    def update(self, members: Mapping[str, Value], snapshot: Snapshot) -> None:
        """Note the token of each member of now, seen together with a snapshot."""
        self._members = {token: label for label, token in members.items()}
        self._since = {token: self._since.get(token, snapshot.xmax) for token in self._members}

    def settled(self, snapshot: Snapshot) -> dict[str, Value]:
        """Give the token of each table that may be told of."""
        return {
            label: token
            for token, label in self._members.items()
            if snapshot.xmin >= self._since[token]
        }


class Keeper:
    """Keeps the slot moving and watches over it.

    Args:
        connection: of its own, in autocommit mode.
        duty: what is to be kept.
        last: the beat before the next one; None: there has been none.
        stop: of this run.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        connection: psycopg.Connection,
        duty: Duty,
        last: beat.Beat | None,
        stop: Stop,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection, self._duty, self._stop, self._clock = connection, duty, stop, clock
        self._beat = last
        self._memberships, self._trees = Memberships(), Trees(duty.told)
        self._problems: tuple[str, ...] = ()
        self._figures: dict[str, Value] = {}
        self._tokens: dict[str, Value] = {}
        self._beat_due = self._check_due = clock()
        self.snapshot: Snapshot | None = None
        """The newest one."""
        self.looked = clock()
        """When Postgres last answered."""
        self.wal_end = Lsn(0)
        """How far Postgres has written its WAL."""
        self.pending: frozenset[str] = frozenset()
        """Nonces of this run's last beats: only these become marks."""

    @property
    def health(self) -> dict[str, Value]:
        """What a mark tells of the source: the slot's figures and `table:<label>` → token.

        A target that knows another token of a table has missed events of it, and brings it anew.
        What else is told of a partitioned table is for the next run.
        """
        tokens = self._tokens
        named = {TABLE + label: token for label, token in tokens.items()}
        return {**self._figures, **named, **self._trees.told_of(tokens)}

    def begin(self) -> None:
        """Write the run's first beat, which tells of the tables if no transaction is under way."""
        self._remember_members()
        self._look()
        self.write_beat()

    def run(self) -> None:
        """Keep until it is to stop.

        Raises:
            DatabaseUnavailable: the connection broke.
        """
        while not self._stop.wait(LOOK_EVERY):
            with driver_errors("watching over the slot"):
                self.turn()

    def turn(self) -> None:
        """Do what is due."""
        self._look()
        now = self._clock()
        if now >= self._check_due:
            self._check()
            self._check_due = now + CHECK_EVERY
        if now >= self._beat_due:
            self._weigh()
            self.write_beat()
            self._beat_due = now + beat.EVERY

    def write_beat(self) -> None:
        """Write the next beat."""
        epoch = self._duty.epoch
        following = beat.first(epoch) if self._beat is None else self._beat.next(epoch)
        recent = [] if self._beat is None else [self._beat.nonce]
        self.pending = frozenset([*recent, following.nonce])
        try:
            beat.write(self._connection, self._duty.beat_table, following)
        except psycopg.errors.LockNotAvailable:
            logger.warning(
                "The table of the beat is locked; the next beat comes later.",
                extra={"event": "beat_locked"},
            )
            return
        self._beat = following
        counter(metrics.BEATS).labels(self._duty.stream).inc()

    def _look(self) -> None:
        row = self._connection.execute(_LOOK).fetchone()
        if row is None:
            raise AssertionError("a SELECT without FROM gives one row")
        self.snapshot, self.wal_end = parse_snapshot(row[0]), parse_lsn(row[1])
        self._tokens = self._memberships.settled(self.snapshot)
        self.looked = self._clock()

    def _weigh(self) -> None:
        """Read the slot's figures."""
        for found in slot.find(self._connection, self._duty.stream):
            if found.name == self._duty.slot:
                self._figures = {
                    "slot": found.name,
                    "wal_status": found.wal_status,
                    "retained_bytes": found.retained,
                    "safe_wal_bytes": found.safe_wal_size,
                    "wal_end": int(self.wal_end),
                    "problem": " ".join(self._problems)[:1_000] or None,
                }
                self._show(found)

    def _show(self, found: slot.Slot) -> None:
        stream = self._duty.stream
        safe = -1 if found.safe_wal_size is None else found.safe_wal_size
        endangered = found.wal_status not in _SAFE_STATES
        gauge(metrics.RETAINED_BYTES).labels(stream).set(found.retained)
        gauge(metrics.SAFE_BYTES).labels(stream).set(safe)
        gauge(metrics.SLOT_ENDANGERED).labels(stream).set(int(endangered))
        if endangered:
            logger.warning(
                "The slot %s is in danger: wal_status is %s.",
                found.name,
                found.wal_status,
                extra={"event": "slot_endangered", "slot": found.name},
            )

    def _check(self) -> None:
        """Compare publication and identities with what is opted in; let tables join."""
        duty, connection = self._duty, self._connection
        todo = prepare.statements(connection, duty.stream, duty.releases)
        if duty.auto_prepare:
            todo = self._prepare(todo)
        self._remember_members()
        duty.names.refresh(connection)
        problems = [each.problem for each in todo if each.needed]
        problems += prepare.unreplicable(connection, duty.releases)
        gauge(metrics.UNPREPARED).labels(duty.stream).set(len(problems))
        for problem in problems:
            logger.warning("%s Run `replicator prepare source`.", problem, extra={"event": "check"})
        self._problems = tuple(problems)

    def _prepare(self, todo: Sequence[prepare.Statement]) -> list[prepare.Statement]:
        """Run what the role may, one by one: each may wait for a lock, which is no silence."""
        refused = []
        for statement in todo:
            refused += prepare.run(self._connection, [statement])
            self.looked = self._clock()
        return refused

    def _remember_members(self) -> None:
        name = publication.name_of(self._duty.stream)
        found = publication.read(self._connection, name)
        parts = publication.read_parts(self._connection, name)
        self._trees.update(parts, partial(publication.are_empty, self._connection))
        # A snapshot from before the members were read would tell of them too early.
        self._look()
        if found is not None and self.snapshot is not None:
            members = {m.label: self._trees.token(m.label, m.token) for m in found.members.values()}
            self._memberships.update(members, self.snapshot)
