"""Answers requests: reads rows under one snapshot and gives them their exact place in the stream.

The order of the steps is what makes an answer exact:

1. the reader retains row events from now on, and notes the commits that snapshots may not see yet;
2. LOCK TABLE before any snapshot: a migration or TRUNCATE in progress would show an empty table;
3. the snapshot; unless it sees every commit noted, all is thrown away and tried again;
4. the rows are read, and what they point to;
5. a logical message is committed. The reader publishes the answer at that commit, and repeats the
   events of earlier transactions that the snapshot did not see.

Runs in a thread of its own with a connection of its own, one fetch at a time, keys before pages.
"""

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec
import psycopg
from psycopg import sql

from replicator.envelope import Answer, RowHash, Value, encode_key
from replicator.metrics import counter, histogram
from replicator.plan import Release, TableName
from replicator.postgres import driver_errors
from replicator.requests import KeysRequest, PageRequest, fingerprint
from replicator.sql_parts import identifier
from replicator.stop import Stop
from replicator_capture import beat, metrics
from replicator_capture.answer_plan import AnswerPlan, FindDataset, Refusal, resolve
from replicator_capture.closure import Closure
from replicator_capture.desk import Desk, Reading, Retention
from replicator_capture.encode import EncodedRow
from replicator_capture.inbox import Inbox
from replicator_capture.rowtext import Texts
from replicator_capture.spool import Spool
from replicator_capture.table_read import TableRead, key_text, rows_of
from replicator_capture.visibility import Snapshot, parse_snapshot, visible

logger = logging.getLogger(__name__)

Request = KeysRequest | PageRequest

LAG_FOR_PAGES = 5.0
"""Seconds by which the reader may be behind while pages are read."""
STATEMENT_TIMEOUT = 60.0
"""Seconds that one statement may read; a page that needs more is refused."""
_CONTENT = b"fetch:"
_HASHES_PER_RECORD = 1_000
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

_dumps = msgspec.json.Encoder().encode
_loads = msgspec.json.Decoder(list[int | bool | str | None]).decode


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

    def run(self) -> None:
        """Serve until it is to stop.

        Raises:
            DatabaseUnavailable: the connection broke.
        """
        while not self._stop.is_set():
            pages = self._desk.lag <= LAG_FOR_PAGES
            request = self._inbox.next(pages=pages, timeout=0.2)
            if request is not None:
                self._serve(request)

    def _serve(self, request: Request) -> None:
        began = time.monotonic()
        with driver_errors("answering a fetch"):
            outcome = self._answer(request)
        if outcome != "dropped":
            self._inbox.answered(request, refused=outcome == "refused")
        stream, kind = self._site.stream, request.kind
        counter(metrics.FETCHES).labels(stream, request.target, kind, outcome).inc()
        histogram(metrics.FETCH_SECONDS).labels(stream, kind).observe(time.monotonic() - began)

    def _answer(self, request: Request) -> str:
        """Answer a request; say what became of it: answered, refused, dropped."""
        content = _CONTENT + secrets.token_hex(16).encode()
        try:
            plan = resolve(request, self._site.stream, self._site.find, self._site.allows)
        except Refusal as refusal:
            return self._refuse(request, refusal, content)
        retention = self._desk.open(plan.tables, self._stop)
        try:
            reading = self._read(request, plan, retention, content)
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
        return self._refuse(request, found, _CONTENT + secrets.token_hex(16).encode())

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
        answer = _answer_of(request, refusal=refusal)
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
            snapshot = self._lock_and_snapshot(plan.tables | plan.tables_by_name)
            if not all(visible(xid, snapshot) for xid in retention.noted):
                raise _NotYetVisible
            retention.snapshot = snapshot
            answer = self._answer_in_time(request, plan, rows)
            reading = Reading(answer, rows, snapshot, retention)
            self._desk.register(content, reading)
            beat.emit(self._connection, content)
        labels = (self._site.stream, request.target)
        counter(metrics.FETCHED_ROWS).labels(*labels).inc(len(rows))
        return reading

    def _answer_in_time(self, request: Request, plan: AnswerPlan, rows: Spool) -> Answer:
        """Read the rows. Raises Refusal if a statement timeout cancelled it."""
        began = time.monotonic()
        try:
            return _RowReader(self._connection, plan, rows).read(request)
        except psycopg.errors.QueryCanceled as error:
            # By the clock: Postgres has one code for every cancellation, and translates the text.
            timed_out = time.monotonic() - began >= STATEMENT_TIMEOUT
            if timed_out and not self._stop.is_set():
                raise Refusal(_TOO_SLOW[request.kind].format(STATEMENT_TIMEOUT)) from error
            raise

    def _lock_and_snapshot(self, tables: Iterable[TableName]) -> Snapshot:
        for setting in _SETTINGS:
            self._connection.execute(setting)
        # Not by set_config: a SELECT would take the snapshot before the lock.
        self._connection.execute(
            sql.SQL("SET LOCAL statement_timeout = {}").format(
                sql.Literal(round(STATEMENT_TIMEOUT * 1e3))
            )
        )
        self._connection.execute(
            sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(
                sql.SQL(", ").join(identifier(table) for table in sorted(tables))
            )
        )
        row = self._connection.execute("SELECT pg_current_snapshot()::text").fetchone()
        if row is None:
            raise AssertionError("a SELECT without FROM gives one row")
        return parse_snapshot(row[0])


class _RowReader:
    """Reads the rows of one request, and what they point to, into a spool."""

    def __init__(self, connection: psycopg.Connection, plan: AnswerPlan, rows: Spool) -> None:
        self._connection, self._plan, self._rows = connection, plan, rows
        self._closure = Closure(plan.links)
        self._reads: dict[TableName, TableRead] = {}

    def read(self, request: Request) -> Answer:
        """Read what is asked for; give the closing fields of the answer."""
        if isinstance(request, PageRequest):
            return self._page(request)
        for label, keys in request.keys.items():
            read = self._table(self._plan.releases[label].table)
            texts = [tuple(map(key_text, key)) for key in keys]
            found = read.by_values(read.release.key, texts, hashes=request.hashes)
            if request.hashes:
                self._add_hashes(read, found)
                continue
            self._add(read, found)
            for missing in rows_of(read.missing(texts)):
                self._add_missing(read, [text for text in missing if text is not None])
        self._close()
        return _answer_of(request)

    def _add_missing(self, read: TableRead, key: Sequence[bytes]) -> None:
        """Add to the answer that no row has a key."""
        release = read.release
        self._rows.add(read.encoder.missing(key), release.table)
        named = zip(release.key, (text.decode() for text in key), strict=True)
        self._closure.note_missing(release.table, dict(named))

    def _page(self, request: PageRequest) -> Answer:
        if self._plan.page is None:
            raise AssertionError("a page request resolves to a page")
        rule, release = self._plan.page
        read = self._table(release.table)
        found = read.page(rule, request.after, request.limit, hashes=request.hashes)
        add = self._add_hashes if request.hashes else self._add
        count, last = add(read, found)
        self._close()
        full = count == request.limit
        return msgspec.structs.replace(
            _answer_of(request, last_key=last if full else None, estimated=read.estimate(rule)),
            # Nothing is answered twice, so these rows, which are read first, are all there.
            chosen=None if rule.selection is None else count,
        )

    def _table(self, table: TableName) -> TableRead:
        if table not in self._reads:
            self._reads[table] = TableRead(self._connection, self._plan.releases[str(table)])
        return self._reads[table]

    def _add(self, read: TableRead, found: Iterable[bytes]) -> tuple[int, tuple[Value, ...]]:
        """Add blocks of rows to the answer; give their number and the last one's key."""
        table, encode = read.release.table, read.encoder.rows
        count, last = 0, b""
        for block in found:
            rows = encode(block)
            count, last = count + len(rows), rows[-1][0]
            new = self._note(read.release, block, rows) if self._closure.follows else rows
            self._rows.add_all(new, table)
        return count, _key_values(last)

    def _note(self, release: Release, block: bytes, rows: list[EncodedRow]) -> list[EncodedRow]:
        """Note where rows lead to; give those that have not been read before."""
        closure, table = self._closure, release.table
        names = closure.columns_of(table)
        linked = _Cells(release, names)
        if not closure.reaches(table):
            found = {linked.of(texts) for texts in rows_of([block])} if names else ()
            closure.follow(table, (dict(zip(names, cells, strict=True)) for cells in found))
            return rows
        key = _Cells(release, release.key)
        return [
            row
            for row, texts in zip(rows, rows_of([block]), strict=True)
            if closure.note(
                table,
                tuple(cell or "" for cell in key.of(texts)),
                dict(zip(names, linked.of(texts), strict=True)),
            )
        ]

    def _close(self) -> None:
        """Read what the rows point to, until nothing new turns up."""
        while lookups := self._closure.lookups():
            for lookup in lookups:
                read = self._table(lookup.table)
                found = read.by_values(lookup.columns, lookup.values, generic=lookup.generic)
                self._add(read, found)

    def _add_hashes(self, read: TableRead, found: Iterable[bytes]) -> tuple[int, tuple[Value, ...]]:
        """Add hash records to the answer; give the number of rows and the last one's key."""
        table = read.release.table
        hashes: list[RowHash] = []
        count, last = 0, b""
        for texts in rows_of(found):
            last, _ = read.encoder.missing([text or b"" for text in texts[:-1]])
            hashes.append(RowHash(_key_values(last), (texts[-1] or b"").decode()))
            count += 1
            if len(hashes) == _HASHES_PER_RECORD:
                self._rows.add(_hash_record(table, hashes), table)
                hashes = []
        if hashes:
            self._rows.add(_hash_record(table, hashes), table)
        return count, _key_values(last)


class _Cells:
    """Some columns of rows that were read, as text."""

    def __init__(self, release: Release, names: Sequence[str]) -> None:
        self._places = [release.columns.index(name) for name in names]

    def of(self, texts: Texts) -> tuple[str | None, ...]:
        """Give a row's."""
        return tuple([None if (t := texts[n]) is None else t.decode() for n in self._places])


def _hash_record(table: TableName, hashes: Sequence[RowHash]) -> tuple[bytes, bytes]:
    return encode_key(str(table)), b'{"op":"h","hashes":%b,' % _dumps(hashes)


def _key_values(record_key: bytes) -> tuple[Value, ...]:
    """Give the key's values of a record's key."""
    return tuple(_loads(record_key)[1:]) if record_key else ()


def _answer_of(
    request: Request,
    *,
    last_key: tuple[Value, ...] | None = None,
    estimated: int | None = None,
    refusal: Refusal | None = None,
) -> Answer:
    answer = Answer(request.target, request.id, fingerprint(request.plan), last_key, estimated)
    if refusal is None:
        return answer
    return msgspec.structs.replace(answer, refused=str(refusal), refused_datasets=refusal.datasets)
