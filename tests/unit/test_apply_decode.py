"""Apply's fast reader against the plain form of the envelope, on any record."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.envelope import Answer, At, Record, Source, Value, decode, encode
from replicator.errors import BadRecord, Stopped
from replicator.positions import EpochId, Lsn, RunId
from replicator_apply.decode import Event, EventReader, skim

TABLE = "public.thing"
COLUMNS = ("id", "name", "übergröße", "with blanks and 'quotes'")
EPOCH = EpochId("0a1b2c3d")

values: st.SearchStrategy[Value] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.text(st.characters(exclude_categories=("Cs",))),
)
rows = st.lists(values, min_size=len(COLUMNS), max_size=len(COLUMNS)).map(
    lambda cells: dict(zip(COLUMNS, cells, strict=True))
)


def reader() -> EventReader:
    return EventReader(TABLE, COLUMNS, ("id",))


def source(snapshot: str = "false") -> Source:
    return Source("1", "replicator", "prod", "app", "public", "thing", 7, Lsn(90), 12, snapshot)


def record(op: str, after: dict[str, Value] | None, **more: object) -> Record:
    at = At(1, EPOCH, RunId(5), 0, Lsn(80), Lsn(91))
    return msgspec.structs.replace(Record("u", source(), at, after=after), op=op, **more)


def cells(event: Event) -> dict[str, Value]:
    """The row that a fast event holds, absent columns left out."""
    found = {name: getattr(event.after, f"c{i}") for i, name in enumerate(COLUMNS)}
    return {name: cell for name, cell in found.items() if cell is not msgspec.UNSET}


@given(st.sampled_from("cur"), rows, st.sets(st.sampled_from(COLUMNS[1:])))
def test_the_reader_says_what_the_plain_form_says(
    op: str, row: dict[str, Value], unchanged: set[str]
) -> None:
    after = {name: cell for name, cell in row.items() if name not in unchanged}
    answer = Answer("stage", "page-1", "f" * 16, last_key=(3, "x"))
    value = encode(record(op, after, unchanged=tuple(sorted(unchanged)), answer=answer))
    plain, event = decode(value), reader().read(value)
    assert event.op == plain.op
    assert cells(event) == plain.after
    assert [type(cell) for cell in cells(event).values()] == [type(c) for c in after.values()]
    assert event.unchanged == plain.unchanged
    assert event.at == plain.at
    assert event.answer == plain.answer
    assert (event.source.lsn, event.source.ts_ms) == (plain.source.lsn, plain.source.ts_ms)
    assert event.source.snapshot == plain.source.snapshot


@given(rows, st.sets(st.sampled_from(COLUMNS[1:])))
def test_absent_columns_are_told_from_null_ones(row: dict[str, Value], absent: set[str]) -> None:
    after = {name: cell for name, cell in row.items() if name not in absent}
    value = encode(record("u", after, unchanged=tuple(sorted(absent))))
    this = reader()
    event = this.read(value)
    assert {COLUMNS[i] for i in this.missing(event.after)} == absent
    assert (type(event.after) is this.row_type) is (not absent)


@given(rows, rows, st.sets(st.sampled_from(COLUMNS[1:])), st.sets(st.sampled_from(COLUMNS[1:])))
def test_merging_takes_each_column_from_the_last_row_that_has_it(
    older: dict[str, Value], newer: dict[str, Value], without: set[str], lacks: set[str]
) -> None:
    this = reader()
    first = {name: cell for name, cell in older.items() if name not in without}
    second = {name: cell for name, cell in newer.items() if name not in lacks}
    old, new = (this.read(encode(record("u", after))) for after in (first, second))
    merged = this.merged(old.after, new.after)
    assert cells(msgspec.structs.replace(new, after=merged)) == {**first, **second}
    complete = len({**first, **second}) == len(COLUMNS)
    assert (type(merged) is this.row_type) is complete


def test_delete_and_truncate_have_no_row() -> None:
    deleted = reader().read(encode(record("d", None, before={"id": 3, "no longer here": 1})))
    assert (deleted.op, deleted.after) == ("d", None)
    assert reader().read(encode(record("t", None))).op == "t"


def test_a_column_that_the_table_lacks_stops_with_the_remedy() -> None:
    row = dict.fromkeys(COLUMNS, None) | {"id": 1, "colour": "red"}
    with pytest.raises(Stopped, match="thing has no column 'colour'") as caught:
        reader().read(encode(record("c", row)))
    assert "Migrate" in caught.value.remedy
    assert "red" not in str(caught.value)


def test_another_version_is_refused() -> None:
    newer = record("c", dict.fromkeys(COLUMNS, 1))
    value = encode(msgspec.structs.replace(newer, at=msgspec.structs.replace(newer.at, v=2)))
    for read in (reader().read, skim):
        with pytest.raises(BadRecord, match="version 2"):
            read(value)
    lacking = record("u", {"id": 1})
    value = encode(msgspec.structs.replace(lacking, at=msgspec.structs.replace(lacking.at, v=2)))
    with pytest.raises(BadRecord, match="version 2"):
        reader().read(value)


@pytest.mark.parametrize("read", [reader().read, skim], ids=["row", "skim"])
@given(data=st.data())
def test_what_is_no_record_is_refused_without_showing_it(read: object, data: st.DataObject) -> None:
    assert callable(read)
    value = encode(record("c", {**dict.fromkeys(COLUMNS, None), "id": 1, "name": "secret"}))
    garbage = data.draw(
        st.one_of(
            st.binary(max_size=200),
            st.integers(0, len(value) - 1).map(lambda end: value[:end]),
            st.just(b"{}"),
            st.just(b"[]"),
            st.just(value.replace(b'"at"', b'"AT"')),
        )
    )
    with pytest.raises(BadRecord) as caught:
        read(garbage)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("wrong", [1.5, [1], {"a": 1}])
def test_a_value_of_no_known_kind_is_refused(wrong: object) -> None:
    row = {**dict.fromkeys(COLUMNS, None), "id": 1, "name": wrong}
    with pytest.raises(BadRecord):
        reader().read(encode(record("c", row)))  # type: ignore[arg-type]


@given(rows)
def test_skimming_reads_all_but_the_row(row: dict[str, Value]) -> None:
    answer = Answer("stage", "verify-1", "f" * 16)
    value = encode(record("r", row, source=source("true"), answer=answer))
    skimmed, plain = skim(value), decode(value)
    assert (skimmed.op, skimmed.at, skimmed.answer) == (plain.op, plain.at, plain.answer)
    assert skimmed.source.lsn == plain.source.lsn


def test_names_become_keys_of_this_environment() -> None:
    keys = {"app.page": 31, "app.tag": 32}
    local = EventReader(TABLE, ("id", "kind"), ("id",), {"kind": "5"}, {"kind": keys.__getitem__})
    event = local.read(
        encode(record("u", {"id": 1, "kind": "app.page"}, before={"kind": "app.tag"}))
    )
    assert (event.after.c1, event.before.c1) == (31, 32)
    event = local.read(encode(record("u", {"id": 1, "kind": None})))
    assert event.after.c1 is None
    event = local.read(encode(record("u", {"id": 1}, unchanged=("kind",))))
    assert event.after.c1 is msgspec.UNSET
    # The source does not have the column yet: what is put in its place is of this environment.
    event = local.read(encode(record("c", {"id": 1})))
    assert event.after.c1 == "5"
