"""A stream as capture would publish it, written by hand: for tests of apply alone."""

from dataclasses import dataclass, field
from typing import Any

from replicator.envelope import (
    Answer,
    At,
    EpochStart,
    Op,
    Record,
    RowHash,
    Source,
    Value,
    encode,
    encode_key,
)
from replicator.log import Log
from replicator.positions import EpochId, Lsn, RunId
from replicator.settings import stream_topic

EPOCH = EpochId("0a1b2c3d")


@dataclass
class Change:
    """A row event to publish; `key` holds the primary key's values."""

    op: Op
    table: str
    key: tuple[Value, ...] = ()
    after: dict[str, Value] | None = None
    unchanged: tuple[str, ...] = ()
    read: bool = False


@dataclass
class Published:
    """Appends transactions to a stream's topic, with a chain of its own."""

    log: Log
    environment: str = "prod"
    epoch: EpochId = EPOCH
    run: RunId = RunId(1000)
    next: Lsn = Lsn(1000)
    commit: Lsn = Lsn(1000)
    held_back: list[tuple[bytes, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.log.create(self.topic)
        self._writer = self.log.writer(self.topic)
        start = EpochStart(self.epoch, "", self.next, "7", 1, "test")
        at = At(1, self.epoch, RunId(0), 0, self.next, self.next)
        record = Record("epoch", self._source(self.next, ""), at, epoch=start)
        self.append([(encode_key(""), encode(record))])

    @property
    def topic(self) -> str:
        return stream_topic(self.environment, "main")

    def transaction(self, *changes: Change, answer: Answer | None = None, gap: int = 0) -> Lsn:
        """Publish one transaction; gives its commit LSN. `gap`: bytes of the log that are lost."""
        records = self.records(*changes, answer=answer, gap=gap)
        self.append(records)
        return self.commit

    def records(
        self, *changes: Change, answer: Answer | None = None, gap: int = 0
    ) -> list[tuple[bytes, bytes]]:
        """Make a transaction's records without publishing them."""
        since = Lsn(self.next + gap)
        self.commit = Lsn(since + 10)
        self.next = Lsn(self.commit + 8)
        records = []
        for ordinal, change in enumerate(changes):
            last = ordinal == len(changes) - 1
            at = At(1, self.epoch, self.run, ordinal, *((since, self.next) if last else ()))
            records.append(self._record(change, at, answer))
        return records

    def mark(self) -> None:
        """Publish a transaction without rows."""
        self.transaction(Change("m", ""))

    def _record(self, change: Change, at: At, answer: Answer | None) -> tuple[bytes, bytes]:
        before: dict[str, Any] | None = {"id": change.key[0]} if change.op in "ud" else None
        snapshot = "true" if change.read or change.op == "r" else "false"
        record = Record(
            change.op,
            self._source(self.commit, change.table, snapshot),
            at,
            before if change.op == "d" else None,
            change.after,
            change.unchanged,
            answer=answer,
        )
        return encode_key(change.table, change.key), encode(record)

    def hashes(self, table: str, rows: list[RowHash], answer: Answer) -> None:
        """Publish verify's answer."""
        since, self.commit = self.next, Lsn(self.next + 10)
        self.next = Lsn(self.commit + 8)
        source = self._source(self.commit, table)
        first = Record(
            "h", source, At(1, self.epoch, self.run, 0), hashes=tuple(rows), answer=answer
        )
        at = At(1, self.epoch, self.run, 1, since, self.next)
        last = Record("m", self._source(self.commit, ""), at, answer=answer)
        self.append([(encode_key(table), encode(first)), (encode_key(""), encode(last))])

    def _source(self, lsn: Lsn, table: str, snapshot: str = "false") -> Source:
        schema, _, name = table.rpartition(".")
        return Source(
            "1",
            "replicator",
            self.environment,
            "app",
            schema,
            name,
            7,
            lsn,
            1_795_168_342_164,
            snapshot,
        )

    def append(self, records: list[tuple[bytes, bytes]]) -> None:
        """Append records that `records` made."""
        self._writer.append(records, None)
