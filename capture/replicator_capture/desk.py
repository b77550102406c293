"""Where the thread that fetches and the thread that reads the stream meet.

A fetch goes: `open` (from now on row events are retained) → a snapshot that sees every commit
noted by then → `register` what was read under the message's content → COMMIT. The reader meets
the message and takes what is registered; then both let go. One fetch at a time.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from replicator.envelope import Answer
from replicator.errors import DatabaseUnavailable
from replicator.plan import TableName
from replicator.positions import Lsn
from replicator.stop import Stop
from replicator_capture.assemble import Retain
from replicator_capture.encode import EncodedRow
from replicator_capture.spool import Block, Spool
from replicator_capture.visibility import Snapshot, Unseen, visible

_NAP = 0.5


class Retainer(Protocol):
    """The part of the assembler that the desk uses."""

    retain: Retain | None

    @property
    def open_xid(self) -> int | None:
        """The transaction that is being read, of which the beginning was not retained."""


class Retention:
    """Row events on some tables, from a moment on; called by the reader for each.

    Args:
        tables: the tables of the request's plan.
    """

    def __init__(self, tables: frozenset[TableName]) -> None:
        self._tables = tables
        self._spool = Spool()
        self._last = (-1, False)
        self._closed = False
        self.noted: frozenset[int] = frozenset()
        """Ids of the commits that came before, and that no snapshot was known to see."""
        self.snapshot: Snapshot | None = None
        """Set once it is taken: what it sees need not be kept any longer."""

    def __call__(self, row: EncodedRow, table: TableName, xid: int, commit: Lsn) -> None:  # noqa: ARG002 (the port's)
        """Keep a row event, unless the snapshot sees it. See `assemble.Retain`."""
        if self._closed or table not in self._tables:
            return
        if self.snapshot is None or not self._sees(self.snapshot, xid):
            self._spool.add(row, table, xid)

    def _sees(self, snapshot: Snapshot, xid: int) -> bool:
        if self._last[0] != xid:
            self._last = (xid, visible(xid, snapshot))
        return self._last[1]

    def unseen(self, snapshot: Snapshot) -> Iterator[Block]:
        """Give the events that the snapshot does not see, in commit order."""
        self._last = (-1, False)
        for block in self._spool:
            if not self._sees(snapshot, block.xid):
                yield block

    def close(self) -> None:
        """Free what was kept; the rest of the open transaction may still come (reader)."""
        self._closed = True
        self._spool.close()


@dataclass(slots=True)
class Reading:
    """What a fetch has read, until it is published.

    Attributes:
        answer: whom it is for, and its closing fields.
        rows: what was read, and what was not found.
        snapshot: what was read under; None for a refusal, which repeats nothing.
        retention: events since before the snapshot.
    """

    answer: Answer
    rows: Spool
    snapshot: Snapshot | None
    retention: Retention
    _done: threading.Event = field(default_factory=threading.Event)
    published: bool = False

    def events(self) -> Iterator[tuple[Block, bool]]:
        """Give all of the answer, in order: what was read (True), then what is to be repeated."""
        for block in self.rows:
            yield block, True
        if self.snapshot is not None:
            for block in self.retention.unseen(self.snapshot):
                yield block, False

    def finish(self, *, published: bool) -> None:
        """Tell the fetching thread that the reader has dealt with it."""
        self.published = published
        self._done.set()

    def wait(self, stop: Stop) -> bool:
        """Wait until the reader has dealt with it or it is to stop; say whether published."""
        while not self._done.wait(_NAP):
            if stop.is_set():
                return False
        return self.published


class Desk:
    """Both threads' view of the fetch that is under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: Retention | None = None
        self._ended: list[Retention] = []
        self._accepted = threading.Event()
        self._readings: dict[bytes, Reading] = {}
        self.lag = 0.0
        """Seconds by which the reader is behind; the reader's to set."""

    def open(self, tables: frozenset[TableName], stop: Stop) -> Retention:
        """Have row events on these tables retained from now on (fetching thread).

        Blocks until the reader has turned, which it does several times a second.

        Raises:
            DatabaseUnavailable: it is to stop.
        """
        retention = Retention(tables)
        with self._lock:
            self._accepted.clear()
            self._asked = retention
        while not self._accepted.wait(_NAP):
            if stop.is_set():
                self.close(b"", retention)
                raise DatabaseUnavailable("The fetch was given up: capture stops.")
        return retention

    def turn(self, assembler: Retainer, unseen: Unseen) -> None:
        """Take up what the fetching thread asked for (reader, between two messages)."""
        if self._asked is None and not self._ended:
            return
        self.release(assembler)
        with self._lock:
            retention, self._asked = self._asked, None
            if retention is None:
                return
            retention.noted = frozenset(
                {commit.xid for commit in unseen.commits()}
                | ({assembler.open_xid} if assembler.open_xid is not None else set())
            )
            assembler.retain = retention
            self._accepted.set()

    def release(self, assembler: Retainer) -> None:
        """Let go of the retentions of fetches that have ended (reader)."""
        with self._lock:
            for ended in self._ended:
                ended.close()
                if assembler.retain is ended:
                    assembler.retain = None
            self._ended.clear()

    def register(self, content: bytes, reading: Reading) -> None:
        """Have the reader publish this at the commit of the message `content`."""
        with self._lock:
            self._readings[content] = reading

    def take(self, content: bytes) -> Reading | None:
        """Give what belongs to a message (reader); None: it is not of this run."""
        with self._lock:
            return self._readings.pop(content, None)

    def close(self, content: bytes, retention: Retention) -> None:
        """End a fetch, published or not (fetching thread)."""
        with self._lock:
            self._readings.pop(content, None)
            self._ended.append(retention)
