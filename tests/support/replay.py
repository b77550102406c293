"""Records of a stream, replayed: the state of the source's tables at any position of it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from replicator.envelope import Record, Value

Row = dict[str, Value]
State = dict[str, dict[Value, Row]]
"""Rows by table and by the single column `id`."""


@dataclass
class Transaction:
    """A transaction of the stream, whole."""

    records: list[Record]

    @property
    def request(self) -> str | None:
        """The request that it answers."""
        answer = self.records[0].answer
        return None if answer is None else answer.request


def transactions(records: Iterable[Record]) -> Iterator[Transaction]:
    """Cut the records of one run into transactions; what is unfinished is left out."""
    collected: list[Record] = []
    for record in records:
        if record.op == "epoch":
            continue
        assert record.at.ordinal == len(collected)
        collected.append(record)
        if record.at.to is not None:
            yield Transaction(collected)
            collected = []


def apply(state: State, record: Record) -> None:
    """Change the state as the record says."""
    rows = state.setdefault(record.source.table, {})
    if record.op in "cr":
        assert record.after is not None
        rows[record.after["id"]] = dict(record.after)
    elif record.op == "u":
        assert record.after is not None
        key = record.after["id"]
        rows[key] = {**rows.get(key, {}), **record.after}
    elif record.op == "d":
        assert record.before is not None
        rows.pop(record.before["id"], None)
    elif record.op == "t":
        rows.clear()
