"""Answers requests: reads rows under one snapshot and gives them their exact place in the stream.

The order of the steps is what makes an answer exact:

1. the reader retains row events from now on, and notes the commits that snapshots may not see yet;
2. LOCK TABLE before any snapshot: a migration or TRUNCATE in progress would show an empty table;
3. the snapshot; unless it sees every commit noted, all is thrown away and tried again;
4. the rows are read, and what they point to;
5. a logical message is committed. The reader publishes the answer at that commit, and repeats the
   events of earlier transactions that the snapshot did not see.

Behind a page that was answered the next one is read before it is asked for: steps 1 to 4. Its
transaction stays open, and its message is committed when the request comes, or not at all.

Runs in a thread of its own with a connection of its own, one fetch at a time, keys before pages.
"""

import logging
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass

import msgspec
import psycopg
from psycopg import sql

from replicator.envelope import Answer
from replicator.metrics import counter, histogram
from replicator.plan import TableName
from replicator.postgres import driver_errors
from replicator.requests import PageRequest
from replicator.sql_parts import identifier
from replicator.stop import Stop
from replicator_capture import beat, metrics
from replicator_capture.answer_plan import AnswerPlan, FindDataset, Refusal, resolve
from replicator_capture.answer_read import Request, RowReader, answer_of
from replicator_capture.desk import Desk, Reading, Retention
from replicator_capture.inbox import Inbox
from replicator_capture.spool import Spool
from replicator_capture.visibility import Snapshot, parse_snapshot, visible

logger = logging.getLogger(__name__)

AHEAD_PATIENCE = 0.5
"""Seconds, and a turn of the inbox, that a page which was read ahead waits, and keeps its locks."""
LAG_FOR_PAGES = 5.0
"""Seconds by which the reader may be behind while pages are read."""
STATEMENT_TIMEOUT = 60.0
"""Seconds that one statement may read; a page that needs more is refused."""
_CONTENT = b"fetch:"
_PATIENCE = 20.0
_PAUSE = 0.1

_REFUSED = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.DataError,
    psycopg.ProgrammingError,
)
_BUSY = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.QueryCanceled,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)
_SETTINGS = (
    "SET LOCAL synchronous_commit = local",
    "SET LOCAL row_security = off",
    "SET LOCAL lock_timeout = '2s'",
)
_TOO_SLOW = {
    "page": (
        "reading a page took longer than {:g} s: index the columns that the dataset's filter "
        "looks at"
    ),
    "keys": (
        "reading rows by key, with all that hangs on them, took longer than {:g} s: index the "
        "foreign keys that the dataset's rules follow; fewer are asked for each time"
    ),
}


class _NotYetVisible(Exception):
    """A commit that was read before is not visible in the snapshot."""


@dataclass(frozen=True, slots=True)
class Site:
    """What requests are answered with.

    Attributes:
        stream: name of the stream.
        find: looks up a dataset.
        allows: whether a target may ask for a dataset.
    """

    stream: str
    find: FindDataset
    allows: Callable[[str, str], bool]


class Fetcher:
    """Takes requests from the inbox and answers them, until it is to stop.

    Args:
        connection: of its own, in autocommit mode.
        site: what requests are answered with.
        inbox: where requests come from.
        desk: where the reader is met.
        stop: of this run.
    """

    def __init__(
        self, connection: psycopg.Connection, site: Site, inbox: Inbox, desk: Desk, stop: Stop
    ) -> None:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        self._connection = connection
        self._site, self._inbox, self._desk, self._stop = site, inbox, desk, stop
        self._last: tuple[Request, AnswerPlan, Answer] | None = None
        self._ahead: _Ahead | None = None

    def run(self) -> None:
        """Serve until it is to stop.

        Raises:
            DatabaseUnavailable: the connection broke.
        """
        while not self._stop.is_set():
            pages = self._desk.lag <= LAG_FOR_PAGES
            request = self._inbox.next(pages=pages, timeout=0.2)
            with driver_errors("answering a fetch"):
                if request is not None:
                    self._serve(request)
                elif self._ahead is not None and self._ahead.until < time.monotonic():
                    self._drop_ahead()
        with driver_errors("ending a fetch"):
            self._drop_ahead()

    def _serve(self, request: Request) -> None:
        began = time.monotonic()
        outcome = self._answer(request)
        if outcome != "dropped":
            self._inbox.answered(request, refused=outcome == "refused")
        stream, kind = self._site.stream, request.kind
        counter(metrics.FETCHES).labels(stream, request.target, kind, outcome).inc()
        histogram(metrics.FETCH_SECONDS).labels(stream, kind).observe(time.monotonic() - began)
        if outcome == "answered":
            self._look_ahead()

    def _answer(self, request: Request) -> str:
        """Answer a request; say what became of it: answered, refused, dropped."""
        content = _new_content()
        if self._ahead is not None and not self._ahead.is_for(request):
            self._drop_ahead()
        try:
            plan = resolve(request, self._site.stream, self._site.find, self._site.allows)
        except Refusal as refusal:
            self._drop_ahead()
            return self._refuse(request, refusal, content)
        ahead, self._ahead = self._ahead, None
        retention = ahead.reading.retention if ahead else self._desk.open(plan.tables, self._stop)
        try:
            if ahead is None:
                reading = self._read(request, plan, retention, content)
            else:
                reading = self._tell_ahead(ahead, request, content)
            labels = (self._site.stream, request.target)
            counter(metrics.FETCHED_ROWS).labels(*labels).inc(len(reading.rows))
            self._last = request, plan, reading.answer
            return "answered" if self._published(reading) else "dropped"
        except Refusal as error:
            found = error
        except (_NotYetVisible, *_BUSY) as error:
            self._log_drop(request, error)
            return "dropped"
        except _REFUSED as error:
            found = Refusal(f"Postgres refused to read the rows ({type(error).__name__}).")
        finally:
            self._desk.close(content, retention)
        return self._refuse(request, found, _new_content())

    def _log_drop(self, request: Request, error: Exception) -> None:
        logger.warning(
            "A fetch for %s was given up (%s); the target asks again.",
            request.target,
            type(error).__name__,
            extra={"event": "fetch_dropped", "target": request.target},
        )

    def _published(self, reading: Reading) -> bool:
        try:
            return reading.wait(self._stop)
        finally:
            reading.rows.close()

    def _refuse(self, request: Request, refusal: Refusal, content: bytes) -> str:
        """Publish that the request is not answered, at a position of its own."""
        logger.warning(
            "A fetch for %s was refused: %s",
            request.target,
            refusal,
            extra={"event": "fetch_refused", "target": request.target},
        )
        retention = self._desk.open(frozenset(), self._stop)
        answer = answer_of(request, refusal=refusal)
        reading = Reading(answer, Spool(), None, retention)
        try:
            self._desk.register(content, reading)
            with self._connection.transaction():
                self._connection.execute(_SETTINGS[0])
                beat.emit(self._connection, content)
            return "refused" if self._published(reading) else "dropped"
        finally:
            self._desk.close(content, retention)

    def _read(
        self, request: Request, plan: AnswerPlan, retention: Retention, content: bytes
    ) -> Reading:
        """Read until a snapshot sees all that was noted; commit the message.

        Waiting for locks, a deadlock or a cancelled statement is tried again as well, for a while;
        what is too slow is not: the next try would be as slow.
        """
        until = time.monotonic() + _PATIENCE
        while True:
            rows = Spool()
            try:
                return self._read_once(request, plan, retention, content, rows)
            except (_NotYetVisible, *_BUSY):
                rows.close()
                retention.snapshot = None
                counter(metrics.FETCH_RETRIES).labels(self._site.stream).inc()
                if time.monotonic() > until or self._stop.wait(_PAUSE):
                    raise
            except BaseException:
                rows.close()
                raise

    def _read_once(
        self,
        request: Request,
        plan: AnswerPlan,
        retention: Retention,
        content: bytes,
        rows: Spool,
    ) -> Reading:
        with self._connection.transaction():
            reading = self._look(request, plan, retention, rows)
            self._tell(reading, content)
        return reading

    def _look(
        self, request: Request, plan: AnswerPlan, retention: Retention, rows: Spool
    ) -> Reading:
        """Read the rows, in a transaction that has just begun."""
        snapshot = self._lock_and_snapshot(plan.tables | plan.tables_by_name)
        if not all(visible(xid, snapshot) for xid in retention.noted):
            raise _NotYetVisible
        retention.snapshot = snapshot
        answer = self._answer_in_time(request, plan, rows)
        return Reading(answer, rows, snapshot, retention)

    def _tell(self, reading: Reading, content: bytes) -> None:
        """Write the message at whose commit the answer is published."""
        self._desk.register(content, reading)
        beat.emit(self._connection, content)

    def _answer_in_time(self, request: Request, plan: AnswerPlan, rows: Spool) -> Answer:
        """Read the rows. Raises Refusal if a statement timeout cancelled it."""
        began = time.monotonic()
        try:
            return RowReader(self._connection, plan, rows).read(request)
        except psycopg.errors.QueryCanceled as error:
            # By the clock: Postgres has one code for every cancellation, and translates the text.
            timed_out = time.monotonic() - began >= STATEMENT_TIMEOUT
            if timed_out and not self._stop.is_set():
                raise Refusal(_TOO_SLOW[request.kind].format(STATEMENT_TIMEOUT)) from error
            raise

    def _lock_and_snapshot(self, tables: Iterable[TableName]) -> Snapshot:
        # Not by set_config: a SELECT would take the snapshot before the lock.
        lock = sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(
            sql.SQL(", ").join(identifier(table) for table in sorted(tables))
        )
        before = [
            *_SETTINGS,
            f"SET LOCAL statement_timeout = {round(STATEMENT_TIMEOUT * 1e3)}",
            lock.as_string(self._connection),
        ]
        # One round trip: a page has few rows, and each trip costs what many rows do.
        cursor = self._connection.execute(
            "; ".join([*before, "SELECT pg_current_snapshot()::text"]), prepare=False
        )
        for _ in before:
            cursor.nextset()
        row = cursor.fetchone()
        if row is None:
            raise AssertionError("a SELECT without FROM gives one row")
        return parse_snapshot(row[0])

    # The next page -------------------------------------------------------------------------------

    def _look_ahead(self) -> None:
        """Read the page behind the one that was answered, if there is more: its request comes."""
        last, self._last = self._last, None
        if last is None or self._stop.is_set() or self._desk.lag > LAG_FOR_PAGES:
            return
        if self._inbox.waits():
            return  # It would be forgotten at once, and have kept the next one waiting.
        request, plan, answer = last
        if not isinstance(request, PageRequest) or request.hashes or answer.last_key is None:
            return
        following = request.model_copy(update={"after": answer.last_key})
        retention, rows = self._desk.open(plan.tables, self._stop), Spool()
        with ExitStack() as stack:
            stack.callback(self._desk.close, b"", retention)
            stack.callback(rows.close)
            try:
                with ExitStack() as attempt:
                    attempt.enter_context(self._connection.transaction())
                    reading = self._look(following, plan, retention, rows)
                    transaction = attempt.pop_all()
            except (_NotYetVisible, Refusal, *_BUSY, *_REFUSED):
                return  # Its request is answered as any other then, and told what is wrong.
            until = time.monotonic() + AHEAD_PATIENCE
            self._ahead = _Ahead(following, reading, transaction, until)
            stack.pop_all()

    def _tell_ahead(self, ahead: "_Ahead", request: Request, content: bytes) -> Reading:
        """Commit the message of what was read ahead."""
        reading = ahead.reading
        reading.answer = msgspec.structs.replace(reading.answer, request=request.id)
        try:
            with ahead.transaction:
                self._tell(reading, content)
        except BaseException:
            reading.rows.close()
            raise
        return reading

    def _drop_ahead(self) -> None:
        """Forget what was read ahead: something else was asked for, or nothing."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.reading.rows.close()
            self._desk.close(b"", ahead.reading.retention)
            ahead.transaction.close()


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A page that was read before it was asked for.

    Attributes:
        request: what is expected, but for its name.
        reading: what was read; its answer has the name of the page before.
        transaction: in which it was read; it ends with this.
        until: how long it may wait (monotonic seconds).
    """

    request: PageRequest
    reading: Reading
    transaction: ExitStack
    until: float

    def is_for(self, request: Request) -> bool:
        """Whether this is what a request asks for."""
        return (
            isinstance(request, PageRequest)
            and request.model_copy(update={"id": self.request.id}) == self.request
        )


def _new_content() -> bytes:
    return _CONTENT + secrets.token_hex(16).encode()
