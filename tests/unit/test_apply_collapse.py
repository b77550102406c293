"""Collapsing a batch, against a twin that replays its events one by one."""

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from replicator.envelope import At, encode_key
from replicator.positions import EpochId, Lsn, RunId
from replicator_apply import collapse as collapse_module
from replicator_apply.collapse import TableChanges, collapse, key_cells
from replicator_apply.decode import Event, EventReader, Origin, Parsed, Skimmed

COLUMNS = ("id", "a", "b")
READER = EventReader("public.thing", COLUMNS, ("id",))
OTHER = EventReader("public.other", COLUMNS, ("id",))
AT = At(1, EpochId("0a1b2c3d"), RunId(1), 0)

Step = tuple[str, int, int, int | None, bool]
"""op, key, column a, column b (None: it did not come), whether a fetch read it"""

steps = st.lists(
    st.tuples(
        st.sampled_from("ccuuddrt"),
        st.integers(1, 3),
        st.integers(0, 9),
        st.none() | st.integers(0, 9),
        st.booleans(),
    ),
    max_size=14,
)


def event_of(step: Step) -> Event:
    op, key, a, b, read = step
    row: Any = None
    if op in "cur":
        lacks = b is None and op == "u"
        row = READER.lenient_type(key, a) if lacks else READER.row_type(key, a, b or 0)
    snapshot = "true" if op == "r" or (op == "d" and read) else "false"
    return Event(op, Origin(Lsn(1), 0, snapshot), AT, after=row)


def key_of(step: Step) -> bytes:
    return encode_key("public.thing", [] if step[0] == "t" else [step[1]])


def shown(row: Any) -> dict[str, Any]:
    cells = {name: getattr(row, f"c{i}") for i, name in enumerate(COLUMNS)}
    return {name: cell for name, cell in cells.items() if cell is not msgspec.UNSET}


@dataclass
class Twin:
    """One event after the other: what is known of each key, and what happened to it first."""

    rows: dict[int, dict[str, Any] | None] = field(default_factory=dict)
    first: dict[int, str] = field(default_factory=dict)
    recreated: set[int] = field(default_factory=set)
    read: set[int] = field(default_factory=set)
    truncated: bool = False

    def take(self, step: Step) -> None:
        op, key, a, b, read = step
        if op == "t":
            self.rows.clear()
            self.truncated = True
            return
        new = {"id": key, "a": a} | ({} if b is None and op == "u" else {"b": b or 0})
        if op == "u" and self.rows.get(key) is not None:
            self.rows[key] = {**(self.rows[key] or {}), **new}
        else:
            self.rows[key] = None if op == "d" else new
        self.first.setdefault(key, "t" if self.truncated else op)
        if op == "r" or (op == "d" and read):
            self.read.add(key)


@given(steps)
@example([("c", 1, 1, 1, False), ("d", 1, 0, None, False), ("c", 1, 2, 2, False)])
@example([("t", 1, 0, None, False), ("c", 1, 2, 2, False)])
@example([("r", 1, 0, 1, True), ("u", 1, 2, None, False)])
def test_collapsing_leaves_what_replaying_leaves(sequence: list[Step]) -> None:
    changes = TableChanges(READER)
    twin = Twin()
    for step in sequence:
        changes.add(key_of(step), event_of(step))
        twin.take(step)
    standing = {**changes.born, **changes.changed}
    assert not changes.born.keys() & changes.changed.keys()
    assert {key_cells(k)[0]: shown(row) for k, row in standing.items()} == {
        key: row for key, row in twin.rows.items() if row is not None
    }
    assert {key_cells(k)[0] for k in changes.gone} == {k for k, r in twin.rows.items() if r is None}
    assert {key_cells(k)[0] for k in changes.read} == twin.read
    assert changes.truncated is twin.truncated
    assert changes.size == len(twin.rows)
    born = {key_cells(k)[0] for k in changes.born}
    assert all(twin.first[key] == "c" for key in born if isinstance(key, int))


@given(steps)
def test_a_row_is_complete_if_and_only_if_every_column_came(sequence: list[Step]) -> None:
    changes = TableChanges(READER)
    for step in sequence:
        changes.add(key_of(step), event_of(step))
    for row in (*changes.born.values(), *changes.changed.values()):
        assert (type(row) is READER.row_type) is (len(shown(row)) == len(COLUMNS))


def test_a_created_row_is_born_unless_its_key_was_known_before() -> None:
    def outcome(*ops: str) -> str:
        changes = TableChanges(READER)
        for op in ops:
            step: Step = (op, 1, 1, 1, False)
            changes.add(key_of(step), event_of(step))
        return "born" if changes.born else "changed" if changes.changed else "gone"

    assert outcome("c") == outcome("c", "u") == "born"
    assert outcome("d", "c") == outcome("u", "c") == outcome("r", "c") == "changed"
    assert outcome("t", "c") == outcome("c", "d", "c") == outcome("c", "r") == "changed"
    assert outcome("c", "d") == "gone"


READERS = {b'["public.thing"': READER, b'["public.other"': OTHER}
_one = st.tuples(
    st.sampled_from("cccuuudrt"),
    st.integers(1, 4),
    st.integers(0, 9),
    st.none() | st.integers(0, 9),
    st.booleans(),
)


@pytest.mark.skipif(
    collapse_module._collapse_events is None, reason="the compiled twins are not installed"
)
@given(st.lists(st.tuples(_one, st.sampled_from(["thing", "thing", "other", "nobodys"]))))
def test_events_are_collapsed_alike(sequence: list[tuple[Step, str]]) -> None:
    events: list[Parsed] = []
    for step, table in sequence:
        key = [] if step[0] == "t" else [step[1]]
        events.append((encode_key(f"public.{table}", key), event_of(step)))
    found: list[Any] = []
    for way in (collapse_module._collapse_plainly, collapse_module._collapse_compiled):
        changes: dict[bytes, TableChanges] = {}
        way(events, changes, lambda p: TableChanges(READERS[p]) if p in READERS else None)
        found.append(
            [
                (prefix, [*each.born.items()], [*each.changed.items()], [*each.gone], each)
                for prefix, each in changes.items()
            ]
        )
    assert found[0] == found[1]


def test_usual_events_are_not_left_to_the_plain_twin() -> None:
    twin = collapse_module._collapse_events
    if twin is None:
        pytest.skip("the compiled twins are not installed")
    changes = TableChanges(READER)
    events = [(key_of(s), event_of(s)) for s in [("c", 1, 1, 1, False), ("u", 1, 2, 2, False)] * 9]
    events += [(key_of(s), event_of(s)) for s in [("r", n, 2, 2, False) for n in (2, 3, 2)]]
    held = changes.born, changes.changed, changes.gone, changes.read
    assert twin(events, 0, b'["public.thing"', READER.row_type, *held) == len(events)


def test_events_find_their_tables() -> None:
    step: Step = ("c", 1, 1, 1, False)
    readers = {b'["public.thing"': READER, b'["public.other"': OTHER}

    def open_table(prefix: bytes) -> TableChanges | None:
        return TableChanges(readers[prefix]) if prefix in readers else None

    changes: dict[bytes, TableChanges] = {}
    mark = Skimmed("m", Origin(Lsn(1), 0), AT)
    events: list[tuple[bytes, Event | Skimmed]] = [
        (encode_key("public.thing", [1]), event_of(step)),
        (encode_key("public.other", [1]), event_of(step)),
        (encode_key("public.thing2", [1]), event_of(step)),
        (encode_key(""), mark),
        (b"", mark),
        (encode_key("public.thing", [2]), event_of(step)),
    ]
    collapse(events, changes, open_table)
    assert {prefix: table.size for prefix, table in changes.items()} == {
        b'["public.thing"': 2,
        b'["public.other"': 1,
    }


@given(st.lists(st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text()))
def test_the_values_of_a_key_come_back(cells: list[Any]) -> None:
    assert key_cells(encode_key('odd "schema".table', cells)) == cells
