"""One run of the capture loop, and what runs beside it.

The loop never blocks for long; what it calls is named after its step. It ends when it is told to
stop, or with the error that ended it or one of the threads.
"""

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress

import psycopg

from replicator.envelope import Mark
from replicator.errors import DatabaseUnavailable
from replicator.http import Health
from replicator.log.port import Log
from replicator.metrics import counter, gauge
from replicator.plan import TableName
from replicator.positions import EpochId, Lsn, RunId, parse_lsn
from replicator.postgres import connect, driver_errors
from replicator.settings import requests_topic
from replicator.stop import Stop
from replicator_capture import beat, facts, inbox, metrics, publication
from replicator_capture.assemble import Assembler, Commitment, Origin
from replicator_capture.desk import Desk, Reading
from replicator_capture.fetch import Fetcher
from replicator_capture.fetch import Site as FetchSite
from replicator_capture.keeper import Duty, Keeper
from replicator_capture.names import NameBook
from replicator_capture.publish import Publisher
from replicator_capture.pump import Pump
from replicator_capture.tail import mark_health
from replicator_capture.task import Task
from replicator_capture.visibility import Snapshot, Unseen
from replicator_capture.wal import WalStream
from replicator_capture.worker import Worker

logger = logging.getLogger(__name__)

SILENCE = 30.0
"""Seconds without an answer to the keeper after which the connections are taken for dead."""
BEAT_LATE = 30.0
"""Seconds without a beat in the stream after which capture does not count as ready."""
_TURN = 0.02
"""Seconds that a turn waits for input; a fetch waits as long until it is taken up."""
_SHOW_EVERY = 1.0
_STOP_WITHIN = 1.0
_GRACE = 0.7


class _Halted(Exception):
    """It was told to stop while the log did not take the rest of an answer."""


class Run:
    """One run of one stream: from START_REPLICATION to its end. The listener of its assembler.

    Args:
        task: what to capture.
        site: what start-up worked with; its connection becomes the keeper's.
        start: where to go on.
        stack: ends, in the opposite order, everything that is begun here.
    """

    def __init__(self, task: Task, site: facts.Site, start: facts.Start, stack: ExitStack) -> None:
        self._task, self._start = task, start
        self._stop = Stop()
        stack.callback(self._stop.close)
        confirmed = start.slot.confirmed or Lsn(0)
        self._stream = _open_stream(task, start, confirmed, stack)
        names = NameBook(task.database, task.releases, site.connection)
        self._keeper = _begin_keeping(site, _duty(task, start, names), self._stop)
        facts.release(site)
        writer = facts.open_writer(site)
        stack.callback(writer.close, _STOP_WITHIN)
        releases = {release.table: release for release in task.releases}
        self._unseen, self._desk = Unseen(), Desk()
        origin = _origin(task, site, start)
        self._assembler = Assembler(origin, releases, confirmed, self, names.by_table)
        self._publisher = Publisher(self._assembler, writer, self._between)
        self._pump = Pump(
            self._stream,
            self._assembler,
            self._publisher,
            self._unseen.first,
            lambda: time.time() - self._newest_ts,
        )
        self._settled: Snapshot | None = None
        self._newest_ts = time.time()
        self._beat_seen, self._ready = time.monotonic(), True
        self._transactions = self._rows = 0
        self._show_due = 0.0
        self._workers: list[Worker] = []
        self._health: Health | None = None
        self._halt = self._stop
        fetching = connect(task.database)
        stack.callback(fetching.close)
        self._connections = (site.connection, fetching)
        stack.callback(self._end_workers)
        self._start_workers(site.log, fetching)

    def _start_workers(self, log: Log, fetching: psycopg.Connection) -> None:
        task, settings, box = self._task, self._task.settings, inbox.Inbox(self._task.stream)
        site = FetchSite(task.stream, task.find, settings.allows)
        fetcher = Fetcher(fetching, site, box, self._desk, self._stop)
        self._workers.append(Worker("keeper", self._keeper.run))
        self._workers.append(Worker("fetch", fetcher.run))
        for target in settings.targets:
            name = requests_topic(settings.environment, task.stream, target)
            # Before capture says that it is ready: what is asked then is heard.
            topic = inbox.RequestsTopic(target, name, log.state(name).end)
            self._workers.append(_listener(log, topic, box, self._stop))

    def _end_workers(self) -> None:
        self._stop.set()
        if not self._joined(_GRACE):
            for connection in self._connections:
                with suppress(psycopg.Error):
                    connection.cancel_safe(timeout=_GRACE)
            self._joined(_STOP_WITHIN)
        self._desk.release(self._assembler)

    def _joined(self, timeout: float) -> bool:
        until = time.monotonic() + timeout
        return all(each.join(max(0.0, until - time.monotonic())) for each in self._workers)

    def loop(self, stop: Stop, health: Health) -> None:
        """Turn until it is told to stop."""
        self._health, self._halt = health, stop
        with suppress(_Halted):
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
        """Keep the walsender's patience while a long answer is published; not longer than told."""
        self._stream.tick()
        if self._health is not None:
            self._health.turned()
        if self._halt.is_set():
            raise _Halted

    def _settle(self) -> None:
        snapshot = self._keeper.snapshot
        if snapshot is not None and snapshot is not self._settled:
            self._unseen.settle(snapshot)
            self._settled = snapshot

    def _measure(self) -> None:
        if time.monotonic() - self._keeper.looked > SILENCE:
            raise DatabaseUnavailable(
                f"The source's Postgres has not answered for {SILENCE:.0f} s.",
                remedy="Check the network between; capture connects anew.",
            )
        now = time.time()
        behind = self._keeper.wal_end > self._stream.received
        self._desk.lag = max(0.0, now - self._newest_ts) if behind else 0.0
        if now < self._show_due:
            return
        self._show_due = now + _SHOW_EVERY
        self._tell_readiness()
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

    def _tell_readiness(self) -> None:
        """Tell whether beats arrive: a stream that is silent looks like one that is idle."""
        age = time.monotonic() - self._beat_seen
        ready = age <= BEAT_LATE
        if self._health is not None and (not ready or not self._ready):
            late = f"the last beat in the stream came {age:.0f} s ago: capture is far behind, "
            self._health.ready(ready, "" if ready else f"{late}or the connection is silent")
        self._ready = ready

    def unknown(self, table: TableName, columns: tuple[str, ...]) -> None:
        """See `assemble.Listener.unknown`."""
        gauge(metrics.UNKNOWN_COLUMNS).labels(self._task.stream, str(table)).set(len(columns) or 1)
        logger.warning(
            "Table %s has %s that the code does not know; not published.",
            table,
            f"columns ({', '.join(columns)})" if columns else "rows",
            extra={"event": "unknown_columns", "table": str(table)},
        )

    def committed(self, commitments: Sequence[Commitment]) -> None:
        """See `assemble.Listener.committed`."""
        self._unseen.add(commitments)
        self._newest_ts = commitments[-1].ts_us / 1e6
        self._transactions += len(commitments)
        self._rows += sum([commitment.rows for commitment in commitments])

    def message(self, content: bytes, commitment: Commitment) -> None:
        """See `assemble.Listener.message`: a beat becomes a mark, a fetch its answer."""
        self._newest_ts = commitment.ts_us / 1e6
        found = beat.from_content(content)
        if found is not None and found.nonce in self._keeper.pending:
            self._beat_seen = time.monotonic()
            health = {**self._keeper.health, **mark_health(self._start.epoch)}
            if self._publisher.publish_mark(Mark(found.nonce, health), commitment):
                counter(metrics.MARKS).labels(self._task.stream).inc()
        elif (reading := self._desk.take(content)) is not None:
            self._publish(reading, commitment)

    def _publish(self, reading: Reading, commitment: Commitment) -> None:
        published = self._publisher.publish_answer(reading.answer, reading.events(), commitment)
        reading.finish(published=published)


def _open_stream(task: Task, start: facts.Start, confirmed: Lsn, stack: ExitStack) -> WalStream:
    publication_name = publication.name_of(task.stream)
    stream = WalStream.open(task.database, start.slot.name, publication_name, confirmed)
    stack.callback(stream.close, _STOP_WITHIN)
    return stream


def _begin_keeping(site: facts.Site, duty: Duty, stop: Stop) -> Keeper:
    """Write the run's first beat.

    Before anything is confirmed, because it says that this epoch has run; and only when the slot
    is ours, because two captures that beat would part log and database.
    """
    with driver_errors("writing the first beat"):
        newest = beat.read(site.connection, duty.beat_table)
        keeper = Keeper(site.connection, duty, newest, stop)
        keeper.begin()
    return keeper


def _origin(task: Task, site: facts.Site, start: facts.Start) -> Origin:
    """Give what the run's records share; its id is the LSN of a message in the stream."""
    with driver_errors("beginning a run"):
        row = site.connection.execute(
            "SELECT pg_logical_emit_message(true, %s, 'run')::text", (beat.MESSAGE_PREFIX,)
        ).fetchone()
    if row is None:
        raise AssertionError("a SELECT without FROM gives one row")
    run = RunId(parse_lsn(row[0]))
    name = start.slot.name
    logger.info(
        "Streaming from %s, run %d.",
        name,
        run,
        extra={"event": "streaming", "slot": name, "run": run},
    )
    database = site.connection.info.dbname
    return Origin(task.settings.environment, database, EpochId(start.slot.epoch), run)


def _listener(log: Log, topic: inbox.RequestsTopic, box: inbox.Inbox, stop: Stop) -> Worker:
    return Worker(f"requests-{topic.target}", lambda: inbox.listen(log, topic, box, stop))


def _duty(task: Task, start: facts.Start, names: NameBook) -> Duty:
    return Duty(
        stream=task.stream,
        slot=start.slot.name,
        epoch=EpochId(start.slot.epoch),
        releases=task.releases,
        beat_table=task.beat_table,
        auto_prepare=task.settings.auto_prepare,
        told=start.told,
        names=names,
    )
