"""The capture daemon: ties start-up, stream, keeper and fetches together for one run.

One loop that never blocks for long; what it calls is named after its step. A run ends when it is
told to stop, or with the error that ended it; `replicator.stop.supervise` begins the next one if a
service was away.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from replicator.envelope import Mark, Source
from replicator.errors import DatabaseUnavailable
from replicator.http import Health
from replicator.log.port import Log, open_log
from replicator.metrics import counter, gauge
from replicator.plan import DatasetPlan, Release, TableName
from replicator.positions import EpochId, Lsn, RunId, parse_lsn
from replicator.postgres import Parameters, connect, connection_parameters, driver_errors
from replicator.settings import ReplicatorSettings, requests_topic, stream_topic
from replicator.stop import Stop
from replicator_capture import beat, facts, inbox, metrics, prepare, publication
from replicator_capture.assemble import Assembler, Commitment, Origin
from replicator_capture.desk import Desk, Reading
from replicator_capture.fetch import Fetcher
from replicator_capture.fetch import Site as FetchSite
from replicator_capture.keeper import Duty, Keeper
from replicator_capture.publish import Publisher
from replicator_capture.pump import Pump
from replicator_capture.tail import mark_health
from replicator_capture.visibility import Commit, Snapshot, Unseen
from replicator_capture.wal import WalStream
from replicator_capture.worker import Worker

logger = logging.getLogger(__name__)

_TURN = 0.02
"""Seconds that a turn waits for input; a fetch waits as long until it is taken up."""
_SHOW_EVERY = 1.0
_STOP_WITHIN = 2.0


@dataclass(frozen=True, slots=True)
class Task:
    """What one stream's capture needs to know, all of it plain values.

    Attributes:
        settings: of Replicator.
        stream: name of the stream.
        database: connection parameters of the source.
        releases: of the stream's tables.
        datasets: that the stream carries, by name.
        beat_table: where the beat is.
    """

    settings: ReplicatorSettings
    stream: str
    database: Parameters
    releases: Sequence[Release]
    datasets: Mapping[str, DatasetPlan]
    beat_table: TableName

    @property
    def topic(self) -> str:
        """The stream's topic."""
        return stream_topic(self.settings.environment, self.stream)


def task_of(
    settings: ReplicatorSettings,
    stream: str,
    databases: Mapping[str, Mapping[str, Any]],
    declared: tuple[Sequence[Release], Sequence[DatasetPlan]],
    beat_table: TableName,
) -> Task:
    """Put together what capture needs.

    Args:
        settings: of Replicator.
        stream: name of the stream.
        databases: `settings.DATABASES`.
        declared: releases of the stream, and all datasets.
        beat_table: table of the model Beat.

    Raises:
        ConfigurationError: the database has no name.
    """
    releases, datasets = declared
    parameters = connection_parameters(
        databases[settings.database], settings.direct, application=f"replicator capture {stream}"
    )
    carried = {dataset.name: dataset for dataset in datasets if dataset.stream == stream}
    return Task(settings, stream, parameters, releases, carried, beat_table)


class Capture:
    """One stream's capture, over all runs of this process.

    Args:
        task: what to do.
        new_epoch: begin a new epoch, once.
        reason: why.
    """

    def __init__(self, task: Task, *, new_epoch: bool = False, reason: str = "by command") -> None:
        self._task, self._new_epoch, self._reason = task, new_epoch, reason

    def run(self, stop: Stop, health: Health) -> None:
        """Capture until it is told to stop.

        Raises:
            DatabaseUnavailable, LogUnavailable: begin again after a pause.
            Refused, LostLog, BadRecord: the process must end.
        """
        task = self._task
        log = open_log(task.settings.log, task.settings.log_options)
        if task.settings.auto_prepare:
            for problem in prepare.create_topics(task.settings, task.stream):
                logger.warning("Topic: %s", problem, extra={"event": "topic"})
        with connect(task.database) as connection:
            site = _site(task, connection, log)
            health.turned()
            health.ready(False, "another capture streams, or start-up is under way")
            start = facts.begin(
                site,
                new_epoch=self._new_epoch,
                reason=self._reason,
                stop=stop,
                turned=health.turned,
            )
            if start is None:
                return
            self._new_epoch = False
            with _Run.begin(task, log, connection, start) as run:
                health.ready(True)
                run.loop(stop, health)


def _site(task: Task, connection: psycopg.Connection, log: Log) -> facts.Site:
    return facts.Site(
        connection=connection,
        log=log,
        topic=task.topic,
        stream=task.stream,
        releases=task.releases,
        beat_table=task.beat_table,
        auto_prepare=task.settings.auto_prepare,
        source=_source(task, connection),
    )


def _source(task: Task, connection: psycopg.Connection) -> Source:
    return Source(
        version="1",
        connector="replicator",
        name=task.settings.environment,
        db=connection.info.dbname,
        schema="",
        table="",
        txId=0,
        lsn=Lsn(0),
        ts_ms=time.time_ns() // 1_000_000,
        snapshot="false",
    )


class _Run:
    """One run: from START_REPLICATION to its end. The listener of its assembler."""

    def __init__(self, task: Task, start: facts.Start, keeper: Keeper, stop: Stop) -> None:
        self._task, self._start, self._keeper, self._stop = task, start, keeper, stop
        self._unseen = Unseen()
        self._settled: Snapshot | None = None
        self._desk = Desk()
        self._workers: list[Worker] = []
        self._newest_ts = 0.0
        self._transactions = self._rows = 0
        self._show_due = 0.0

    @classmethod
    @contextmanager
    def begin(
        cls, task: Task, log: Log, connection: psycopg.Connection, start: facts.Start
    ) -> Iterator["_Run"]:
        """Start streaming and the threads beside it; end all of it at the end."""
        duty = _duty(task, start)
        with ExitStack() as stack:
            stop = Stop()
            stack.callback(stop.close)
            keeper = Keeper(connection, duty, start.beat, stop)
            run = cls(task, start, keeper, stop)
            with driver_errors("writing the first beat"):
                # Before anything is confirmed: it says that this epoch has run.
                keeper.write_beat()
            run._open_stream(log, connection, stack)
            run._start_workers(log, stack)
            yield run

    def _open_stream(self, log: Log, connection: psycopg.Connection, stack: ExitStack) -> None:
        task, slot = self._task, self._start.slot
        confirmed = slot.confirmed or Lsn(0)
        self._stream = WalStream.open(
            task.database, slot.name, publication.name_of(task.stream), confirmed
        )
        stack.callback(self._stream.close, _STOP_WITHIN)
        writer = log.writer(task.topic)
        stack.callback(writer.close, _STOP_WITHIN)
        with driver_errors("beginning a run"):
            run = _run_id(connection)
        names = (task.settings.environment, connection.info.dbname)
        origin = Origin(*names, EpochId(slot.epoch), run)
        releases = {release.table: release for release in task.releases}
        self._assembler = Assembler(origin, releases, confirmed, self)
        self._publisher = Publisher(self._assembler, writer, self._between)
        self._pump = Pump(self._stream, self._assembler, self._publisher, self._unseen.first)
        logger.info(
            "Streaming from %s, run %d.",
            slot.name,
            run,
            extra={"event": "streaming", "slot": slot.name, "run": run},
        )

    def _start_workers(self, log: Log, stack: ExitStack) -> None:
        task = self._task
        site = FetchSite(task.stream, task.datasets, task.settings.allows)
        box = inbox.Inbox(task.stream)
        connection = stack.enter_context(connect(task.database))
        fetcher = Fetcher(connection, site, box, self._desk, self._stop)
        stack.callback(self._end_workers)
        self._workers.append(Worker("keeper", self._keeper.run))
        self._workers.append(Worker("fetch", fetcher.run))
        for target in task.settings.targets:
            topic = requests_topic(task.settings.environment, task.stream, target)
            self._workers.append(_listener(log, topic, target, box, self._stop))

    def _end_workers(self) -> None:
        self._stop.set()
        until = time.monotonic() + _STOP_WITHIN
        for worker in self._workers:
            worker.join(max(0.0, until - time.monotonic()))
        self._desk.release(self._assembler)

    def loop(self, stop: Stop, health: Health) -> None:
        """Turn until it is told to stop."""
        while not stop.is_set():
            health.turned()
            self._pump.turn(_TURN)
            self._settle()
            self._desk.turn(self._assembler, self._unseen)
            self._measure()
            for worker in self._workers:
                worker.raise_failure()
        self._finish()

    def _finish(self) -> None:
        """Hand over what is assembled, and confirm what has been stored meanwhile."""
        until = time.monotonic() + _STOP_WITHIN
        self._publisher.flush(dry=True)
        while not self._publisher.idle() and time.monotonic() < until:
            self._publisher.wait(0.1)
        self._pump.confirm()

    def _between(self) -> None:
        """Keep the walsender's patience while a long answer waits for the log."""
        self._stream.tick()

    def _settle(self) -> None:
        snapshot = self._keeper.snapshot
        if snapshot is not None and snapshot is not self._settled:
            self._unseen.settle(snapshot)
            self._settled = snapshot

    def _measure(self) -> None:
        now = time.time()
        behind = self._keeper.wal_end > self._stream.received
        self._desk.lag = max(0.0, now - self._newest_ts) if behind and self._newest_ts else 0.0
        if now < self._show_due:
            return
        self._show_due = now + _SHOW_EVERY
        stream = self._task.stream
        gauge(metrics.LAG_SECONDS).labels(stream).set(self._desk.lag)
        lag = max(0, self._keeper.wal_end - self._stream.received)
        gauge(metrics.LAG_BYTES).labels(stream).set(lag)
        gauge(metrics.CONFIRMED).labels(stream).set(self._stream.confirmed)
        gauge(metrics.PUBLISHED).labels(stream).set(self._assembler.told)
        gauge(metrics.UNSEEN).labels(stream).set(len(self._unseen))
        # Counted here once a second: an increment costs as much as encoding a row.
        counter(metrics.TRANSACTIONS).labels(stream).inc(self._transactions)
        counter(metrics.ROWS_READ).labels(stream).inc(self._rows)
        self._transactions = self._rows = 0

    def unknown(self, table: TableName, columns: tuple[str, ...]) -> None:
        """See `assemble.Listener.unknown`."""
        gauge(metrics.UNKNOWN_COLUMNS).labels(self._task.stream, str(table)).set(len(columns) or 1)
        logger.warning(
            "Table %s has %s that the code does not know; not published.",
            table,
            f"columns ({', '.join(columns)})" if columns else "rows",
            extra={"event": "unknown_columns", "table": str(table)},
        )

    def committed(self, commitment: Commitment) -> None:
        """See `assemble.Listener.committed`."""
        self._unseen.add(Commit(commitment.xid, commitment.lsn, commitment.end))
        self._newest_ts = commitment.ts_us / 1e6
        self._transactions += 1
        self._rows += commitment.rows

    def message(self, content: bytes, commitment: Commitment) -> None:
        """See `assemble.Listener.message`: a beat becomes a mark, a fetch its answer."""
        self._newest_ts = commitment.ts_us / 1e6
        found = beat.from_content(content)
        if found is not None and found.nonce in self._keeper.pending:
            health = {**self._keeper.health, **mark_health(self._start.epoch)}
            if self._publisher.publish_mark(Mark(found.nonce, health), commitment):
                counter(metrics.MARKS).labels(self._task.stream).inc()
        elif (reading := self._desk.take(content)) is not None:
            self._publish(reading, commitment)

    def _publish(self, reading: Reading, commitment: Commitment) -> None:
        published = self._publisher.publish_answer(reading.answer, reading.events(), commitment)
        reading.finish(published=published)


def _listener(log: Log, topic: str, target: str, box: inbox.Inbox, stop: Stop) -> Worker:
    return Worker(f"requests-{target}", lambda: inbox.listen(log, topic, target, box, stop))


def _duty(task: Task, start: facts.Start) -> Duty:
    return Duty(
        stream=task.stream,
        slot=start.slot.name,
        epoch=EpochId(start.slot.epoch),
        releases=task.releases,
        beat_table=task.beat_table,
        auto_prepare=task.settings.auto_prepare,
    )


def _run_id(connection: psycopg.Connection) -> RunId:
    """Draw the run's id: the LSN of a message emitted after streaming has begun."""
    row = connection.execute(
        "SELECT pg_logical_emit_message(true, %s, 'run')::text", (beat.MESSAGE_PREFIX,)
    ).fetchone()
    if row is None:
        raise DatabaseUnavailable("Postgres gave no position for a message.")
    return RunId(parse_lsn(row[0]))
