"""A batch's events → per table, one change per key. Pure.

Within a batch only the outcome counts: a key's columns are merged from the last event that has
each of them. A key is *born* if its first event in the batch is a create: nothing can have held or
pointed at it before. It is *read* if a fetch found it, or found it missing: then all that belongs
to it is in the same answer.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from replicator.speed import twin
from replicator_apply.decode import NO_TABLE, Cell, Event, EventReader, Parsed, Row, prefix_of

_collapse_events: Callable[..., int] | None = twin("collapse_events", None)


class Made(NamedTuple):
    """What is sent to Postgres for many changes of a table.

    Attributes:
        born: COPY text of new rows, and of their receipts of each subscription; none: few rows.
        changed: COPY text of changed rows; empty: few.
        gone: deleted keys, as arrays in SQL; empty: few.
        entering: what stands for `born` and `changed` if some rows were read; None: few, or none.
    """

    born: Sequence[bytes]
    changed: bytes
    gone: str
    entering: "Entering | None" = None


class Entering(NamedTuple):
    """What is sent for rows that may be here already.

    Attributes:
        keys: their record keys.
        read: numbers, from 0, of those that an answer brought and whose keys lie close together.
        read_free: asks whether no row is ours between these; "" if there are none.
        others: numbers of all others.
        lines: COPY text of all of them, and of their receipts of each subscription.
    """

    keys: Sequence[bytes]
    read: Sequence[int]
    read_free: str
    others: Sequence[int]
    lines: Sequence[bytes]


@dataclass(slots=True)
class TableChanges:
    """What a batch does to one table.

    Attributes:
        reader: gives a row's columns.
        born: rows created in the batch that stand at its end, by record key.
        changed: other rows that stand at its end.
        gone: keys that do not stand at its end and may have stood before.
        replaced: keys of `changed` under which another row stood before: its columns are no base
            for those that did not come.
        read: keys that a fetch has read, found or not.
        fleeting: how many of `gone` need not be here: they were created in the batch as well, or
            an answer tells of them, which repeats what the stream has told.
        truncated: the table was emptied before all that is in `born`, `changed`, `gone`.
        made: what the fast path sends for these, if it was made ahead.
    """

    reader: EventReader
    born: dict[bytes, Row] = field(default_factory=dict)
    changed: dict[bytes, Row] = field(default_factory=dict)
    gone: dict[bytes, None] = field(default_factory=dict)
    replaced: set[bytes] = field(default_factory=set)
    read: set[bytes] = field(default_factory=set)
    fleeting: int = 0
    truncated: bool = False
    made: "Made | None" = None

    def add(self, key: bytes, event: Event) -> None:
        """Take the table's next event."""
        op = event.op
        if op == "c":
            self._create(key, event.after)
        elif op == "u":
            self._update(key, event.after)
        elif op == "d":
            told = event.answer is None
            self._delete(key, read=event.source.snapshot == "true", told=told)
        elif op == "r":
            self.born.pop(key, None)
            self.gone.pop(key, None)
            self.changed[key] = event.after
            self.read.add(key)
        elif op == "t":
            self._truncate()

    def _create(self, key: bytes, row: Row) -> None:
        if self.truncated or key in self.gone or key in self.changed:
            self.gone.pop(key, None)
            self.changed[key] = row
            self.replaced.add(key)
        else:
            self.born[key] = row

    def _update(self, key: bytes, row: Row) -> None:
        if (older := self.born.get(key)) is not None:
            self.born[key] = self.reader.merged(older, row)
        elif (older := self.changed.get(key)) is not None:
            self.changed[key] = self.reader.merged(older, row)
        else:
            self.gone.pop(key, None)
            self.changed[key] = row

    def _delete(self, key: bytes, *, read: bool, told: bool) -> None:
        if self.born.pop(key, None) is not None or not (told or key in self.gone):
            self.fleeting += 1
        self.changed.pop(key, None)
        self.gone[key] = None
        if read:
            self.read.add(key)

    def _truncate(self) -> None:
        self.truncated = True
        self.born.clear()
        self.changed.clear()
        self.gone.clear()
        self.fleeting = 0

    @property
    def size(self) -> int:
        """Keys that the batch changes, those of a TRUNCATE aside."""
        return len(self.born) + len(self.changed) + len(self.gone)


Round = dict[bytes, TableChanges]
"""Changes by table, as the prefix of the record key (`["schema.table"`) names it."""


def key_cells(key: bytes) -> list[Cell]:
    """Give the primary key's values out of a record's key."""
    cells: list[Cell] = msgspec.json.decode(key)[1:]
    return cells


def collapse(
    events: Iterable[Parsed],
    changes: Round,
    open_table: Callable[[bytes], TableChanges | None],
) -> None:
    """Add events, in order, to the changes of their tables.

    Args:
        events: the events.
        changes: grows.
        open_table: gives the empty changes of a table, by prefix; None: the target does not
            hold it.
    """
    if _collapse_events is not None:
        _collapse_compiled([*events], changes, open_table)
    else:
        _collapse_plainly(events, changes, open_table)


def _collapse_plainly(
    events: Iterable[Parsed],
    changes: Round,
    open_table: Callable[[bytes], TableChanges | None],
) -> None:
    prefix, table = NO_TABLE, None
    for key, event in events:
        if not key.startswith(prefix):  # mostly it is the table of the event before
            prefix = prefix_of(key)
            table = _changes_of(prefix, changes, open_table)
        if table is not None and isinstance(event, Event):
            table.add(key, event)


def _collapse_compiled(
    events: list[Parsed],
    changes: Round,
    open_table: Callable[[bytes], TableChanges | None],
) -> None:
    """As `_collapse_plainly`: runs of usual events by the compiled twin, all others one by one."""
    index = 0
    while index < len(events):
        prefix = prefix_of(events[index][0])
        table = _changes_of(prefix, changes, open_table)
        until = index
        if table is not None and not table.truncated and _collapse_events is not None:
            kind = table.reader.row_type
            until = _collapse_events(
                events,
                index,
                prefix,
                kind,
                table.born,
                table.changed,
                table.gone,
                table.read,
            )
        if until == index:
            _collapse_plainly([events[index]], changes, open_table)
            until += 1
        index = until


def _changes_of(
    prefix: bytes,
    changes: Round,
    open_table: Callable[[bytes], TableChanges | None],
) -> TableChanges | None:
    """Find or open the changes of a table."""
    if prefix not in changes and (opened := open_table(prefix)) is not None:
        changes[prefix] = opened
    return changes.get(prefix)
