"""The log in one SQLite file: for one machine (demo, laptop, tests), any number of processes.

Each topic has a table of its own, `topic_<n>`, whose ids come from AUTOINCREMENT, so they are
never given twice and have no gaps: a missing one is a hole. The journal is a write-ahead log and
`synchronous` is FULL, so an append is one transaction and is on the disk when it returns
(https://www.sqlite.org/pragma.html#pragma_synchronous). Readers poll.
"""

import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from replicator.errors import ConfigurationError, Hole, LogUnavailable, LostLog
from replicator.log.port import Chunk, TopicState
from replicator.positions import Lsn, Offset

_BUSY_SECONDS = 30.0
_POLL_BYTES = 8 << 20
_POLL_RECORDS = 10_000
_NAP_SHORTEST, _NAP_LONGEST = 0.001, 0.008
_TRIM_SECONDS = 10.0
_TRIM_RECORDS = 20_000
_RETAIN: Mapping[str, int] = {"retain_seconds": 7 * 86_400, "retain_bytes": 4 << 30}

_TOPICS = "CREATE TABLE IF NOT EXISTS topic (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)"
_RECORDS = """CREATE TABLE IF NOT EXISTS {table} (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL)"""
"""`bytes` counts from the topic's first record on, so that retention need not add up."""


class SqliteLog:
    """See `port.Log`. Opens a connection per call, writer and reader.

    Args:
        path: of the file; it is created when a topic is.
        options: `retain_seconds` (default 7 days) and `retain_bytes` (default 4 GiB) of each
            topic; older records are removed by its writer.

    Raises:
        ConfigurationError: an unknown option, or one that is not a positive whole number.
    """

    def __init__(self, path: str, options: Mapping[str, object]) -> None:
        self._path = path
        retain = dict(_RETAIN)
        for name, value in options.items():
            if name not in retain or not isinstance(value, int) or value <= 0:
                raise ConfigurationError(
                    f"LOG_OPTIONS: {name} is not an option of a sqlite log, or not above 0.",
                    remedy="Use retain_seconds and retain_bytes, whole numbers.",
                )
            retain[name] = value
        self._retain = retain

    def create(self, topic: str) -> None:
        """See `port.Log.create`."""
        with self._opened() as connection, _transaction(connection):
            connection.execute(_TOPICS)
            connection.execute("INSERT OR IGNORE INTO topic (name) VALUES (?)", (topic,))
            table = _table(connection, topic)
            assert table is not None  # noqa: S101 (inserted above)
            connection.execute(_RECORDS.format(table=table))

    def state(self, topic: str) -> TopicState:
        """See `port.Log.state`."""
        if self._is_missing():
            return TopicState(False, Offset(0), Offset(0))
        with self._opened() as connection:
            table = _table(connection, topic)
            if table is None:
                return TopicState(False, Offset(0), Offset(0))
            with _transaction(connection, "DEFERRED"):
                begin, end = _ends(connection, table)
            return TopicState(True, Offset(begin), Offset(end))

    def writer(self, topic: str) -> "SqliteWriter":
        """See `port.Log.writer`. Also raises ConfigurationError for a topic that is not there."""
        return SqliteWriter(*self._existing(topic), self._retain)

    def reader(self, topic: str) -> "SqliteReader":
        """See `port.Log.reader`. Also raises ConfigurationError for a topic that is not there."""
        return SqliteReader(*self._existing(topic))

    def _existing(self, topic: str) -> tuple[sqlite3.Connection, str]:
        """Connect, and give the name of the topic's table."""
        if not self._is_missing():
            connection = self._connect()
            table = _table(connection, topic)
            if table is not None:
                return connection, table
            connection.close()
        raise ConfigurationError(
            f"There is no topic {topic}.", remedy="Run `replicator prepare source`."
        )

    def _is_missing(self) -> bool:
        """Whether only the file is missing: nobody but `create` makes it."""
        path = Path(self._path)
        return path.parent.is_dir() and not path.exists()

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with closing(self._connect()) as connection, _translated():
            yield connection

    def _connect(self) -> sqlite3.Connection:
        with _translated():
            connection = sqlite3.connect(
                self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                _use_write_ahead_log(connection)
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute(f"PRAGMA journal_size_limit={64 << 20}")
            except sqlite3.Error:
                connection.close()
                raise
            return connection


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Switch the journal; two that do so at once get 'locked' in spite of the busy timeout."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            threading.Event().wait(0.02)
        else:
            return


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise LogUnavailable(
            f"The log's file cannot be used ({error}).",
            remedy="Check that its folder is there, writable and not full.",
        ) from error


@contextmanager
def _transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    connection.execute(f"BEGIN {kind}")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _table(connection: sqlite3.Connection, topic: str) -> str | None:
    """Name of the topic's table, None if there is no such topic: never the topic's own name."""
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'topic'").fetchone()
    if known is None:
        return None
    row = connection.execute("SELECT id FROM topic WHERE name = ?", (topic,)).fetchone()
    return None if row is None else f"topic_{int(row[0])}"


def _ends(connection: sqlite3.Connection, table: str) -> tuple[int, int]:
    """Offsets of the oldest record and behind the newest; ids begin at 1, offsets at 0."""
    given = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,))
    row = given.fetchone()
    end = 0 if row is None else int(row[0])
    oldest = connection.execute(f"SELECT min(id) FROM {table}").fetchone()[0]  # noqa: S608
    return (end if oldest is None else int(oldest) - 1), end


class SqliteWriter:
    """See `port.LogWriter`. An append blocks until it is on the disk: nothing is ever in flight.

    Every ten seconds an append also removes records that retention no longer covers.
    """

    def __init__(
        self, connection: sqlite3.Connection, table: str, retain: Mapping[str, int]
    ) -> None:
        self._connection = connection
        self._table = table
        self._retain_ms = retain["retain_seconds"] * 1000
        self._retain_bytes = retain["retain_bytes"]
        self._trimmed = 0.0
        self._acknowledged: Lsn | None = None
        self._failure: sqlite3.Error | None = None
        self._insert = f"INSERT INTO {table} (at_ms, bytes, key, value) VALUES (?, ?, ?, ?)"  # noqa: S608
        self._newest = f"SELECT bytes FROM {table} ORDER BY id DESC LIMIT 1"  # noqa: S608

    def append(self, records: Sequence[tuple[bytes, bytes]], until: Lsn | None) -> None:
        """See `port.LogWriter.append`; waits up to 30 s for another process's append."""
        self._raise_failure()
        try:
            with _transaction(self._connection):
                self._store(records)
            self._maybe_trim()
        except sqlite3.Error as error:
            self._failure = error
            self._raise_failure()
        if until is not None and (self._acknowledged is None or until > self._acknowledged):
            self._acknowledged = until

    def acknowledged(self) -> Lsn | None:
        """See `port.LogWriter.acknowledged`."""
        self._raise_failure()
        return self._acknowledged

    def in_flight(self) -> int:
        """See `port.LogWriter.in_flight`; always 0."""
        return 0

    def wait(self, timeout: float) -> None:
        """See `port.LogWriter.wait`; returns at once."""

    def close(self, timeout: float) -> None:  # noqa: ARG002 (the port's)
        """See `port.LogWriter.close`."""
        self._connection.close()

    def _store(self, records: Sequence[tuple[bytes, bytes]]) -> None:
        newest = self._connection.execute(self._newest).fetchone()
        self._connection.executemany(self._insert, _rows(records, newest[0] if newest else 0))

    def _maybe_trim(self) -> None:
        now = time.monotonic()
        if now - self._trimmed >= _TRIM_SECONDS:
            self._trimmed = now
            while self._trim() == _TRIM_RECORDS:
                pass

    def _trim(self) -> int:
        """Remove some of the oldest records beyond retention, never the newest; gives how many."""
        newest = self._connection.execute(self._newest).fetchone()[0]
        oldest_ms = int(time.time() * 1000) - self._retain_ms
        table = self._table
        with _transaction(self._connection):
            return self._connection.execute(
                f"DELETE FROM {table} WHERE id IN "  # noqa: S608
                f"(SELECT id FROM {table} WHERE id < (SELECT max(id) FROM {table})"
                f" AND id < coalesce((SELECT id FROM {table}"
                f" WHERE at_ms >= ? AND bytes > ? ORDER BY id LIMIT 1), 9e18)"
                " ORDER BY id LIMIT ?)",
                (oldest_ms, newest - self._retain_bytes, _TRIM_RECORDS),
            ).rowcount

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise LostLog("An append to the log's file failed.") from self._failure


def _rows(
    records: Sequence[tuple[bytes, bytes]], size: int
) -> Iterator[tuple[int, int, bytes, bytes]]:
    now_ms = int(time.time() * 1000)
    for key, value in records:
        size += len(key) + len(value)
        yield now_ms, size, key, value


class SqliteReader:
    """See `port.LogReader`. One thread.

    While it waits it looks every millisecond at first, every 8 ms later.
    """

    def __init__(self, connection: sqlite3.Connection, table: str) -> None:
        self._connection = connection
        self._table = table
        self._position = 0
        self._nap = threading.Event()
        self._size = f"SELECT id, bytes FROM {table} WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608
        self._select = (
            f"SELECT id - 1, at_ms, key, value FROM {table}"  # noqa: S608
            " WHERE id > ? AND id <= ? ORDER BY id"
        )

    def seek(self, offset: Offset) -> None:
        """See `port.LogReader.seek`. Also raises LogUnavailable."""
        with _translated(), _transaction(self._connection, "DEFERRED"):
            begin, end = _ends(self._connection, self._table)
        if not begin <= offset <= end:
            raise Hole(f"The topic has offsets {begin} to {end}, not {offset}.")
        self._position = int(offset)

    def position(self) -> Offset:
        """See `port.LogReader.position`."""
        return Offset(self._position)

    def poll(self, timeout: float) -> Sequence[Chunk]:
        """See `port.LogReader.poll`."""
        deadline = time.monotonic() + timeout
        nap = _NAP_SHORTEST
        while True:
            with _translated():
                chunk = self._next()
            left = deadline - time.monotonic()
            if chunk is not None:
                return [chunk]
            if left <= 0:
                return []
            self._nap.wait(min(nap, left))
            nap = min(nap * 1.3, _NAP_LONGEST)

    def close(self) -> None:
        """See `port.LogReader.close`."""
        self._connection.close()

    def _next(self) -> Chunk | None:
        with _transaction(self._connection, "DEFERRED"):
            last = self._last_that_fits()
            if last is None:
                self._look_for_hole()
                return None
            rows = self._connection.execute(self._select, (self._position, last)).fetchall()
        if rows[0][0] != self._position:
            raise Hole(f"Records {self._position} to {rows[0][0] - 1} were removed from the log.")
        self._position = last
        # Records that somebody has removed in between are missed by who puts transactions together.
        offsets = [row[0] for row in rows]
        return Chunk(offsets, [row[2:] for row in rows], Offset(last), rows[-1][1])

    def _last_that_fits(self) -> int | None:
        """Id of the last record of the next 8 MB, at least one record; None if there is none."""
        last = first = None
        for this, size in self._connection.execute(self._size, (self._position, _POLL_RECORDS)):
            if first is None:
                first = size
            elif size - first > _POLL_BYTES:
                break
            last = this
        return last

    def _look_for_hole(self) -> None:
        _, end = _ends(self._connection, self._table)
        if end != self._position:
            raise Hole(f"The log has no record {self._position}; the next one will be {end}.")
