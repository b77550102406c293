"""The compiled twins say what the plain functions say, whatever they are given."""

import importlib
import os
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.log import record_batch
from replicator.plan import Release, TableName
from replicator.positions import EpochId, Lsn, RunId
from replicator.speed import FORM
from replicator_apply import copytext
from replicator_capture import assemble, encode
from replicator_capture.assemble import Assembler, Origin
from replicator_capture.encode import TableEncoder
from replicator_capture.pgoutput import Relation, decode
from tests.support.plain_capture import (
    begin_message,
    commit_message,
    delete_message,
    insert_message,
    relation_message,
    update_message,
)
from tests.unit.test_apply_copytext import cell
from tests.unit.test_assemble import Recorder
from tests.unit.test_encode import Case, cases

if os.environ.get("REPLICATOR_TEST_SPEED"):
    speed: Any = importlib.import_module("replicator_speed")
else:
    speed = pytest.importorskip("replicator_speed", reason="the compiled twins are not installed")

TAIL = b'"source":{},"at":{"ordinal":'
RECORDS = st.lists(st.tuples(st.binary(max_size=200), st.binary(max_size=20_000)), max_size=40)


def test_the_form_is_the_one_that_is_taken() -> None:
    assert speed.FORM == FORM


# Rows


def _row_encoder(
    kinds: bytes, key: list[int], start: bytes, names: list[bytes], **more: Any
) -> Any:
    return speed.RowEncoder(kinds, key, start, names, more["identified"])


def _run(encoder: TableEncoder, message: bytes) -> list[tuple[bytes, bytes]] | None:
    records: list[tuple[bytes, bytes]] = []
    assert encoder.compiled is not None
    until, size = encoder.compiled.run([b"", message], 1, TAIL, 41, records)
    assert size == sum(len(value) for _, value in records)
    assert len(records) == until - 1
    return records or None


def _encoder(case: Case) -> TableEncoder:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "row_encoder", _row_encoder)
        return TableEncoder(case.relation, case.release)


@given(cases())
@settings(max_examples=1_000)
def test_a_row_is_encoded_alike_or_left_to_the_plain_twin(case: Case) -> None:
    table = _encoder(case)
    found = _run(table, case.message)
    if found is not None:
        ((key, head),) = table.by_letter[case.message[0]](case.message)
        assert found == [(key, b"%b%b41}}" % (head, TAIL))]


@given(cases(), st.data())
@settings(max_examples=1_000)
def test_a_damaged_row_is_left_to_the_plain_twin_or_encoded_alike(
    case: Case, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(case.message)))
    message = case.message[:cut] + data.draw(st.binary(max_size=6))
    table = _encoder(case)
    # The stream gives it only messages that begin as a row does.
    found = _run(table, message) if message[:1] in (b"I", b"U") and len(message) >= 5 else None
    if found is not None:
        ((key, head),) = table.by_letter[message[0]](message)
        assert found == [(key, b"%b%b41}}" % (head, TAIL))]


RELATION = relation_message([("id", 23, True), ("note", 25, False), ("ok", 16, False)])
USUAL = [
    insert_message([b"1", b'a "b" \\ \x01\n', b"t"]),
    insert_message([b"2", None, b"f"]),
    update_message([b"-3", "Zürich ☃".encode(), None]),
]


def test_usual_rows_are_not_left_to_the_plain_twin() -> None:
    release = Release("a.T", TableName("public", "t"), ("id",), ("id", "note", "ok"))
    relation = decode(RELATION)
    assert isinstance(relation, Relation)
    table = _encoder(Case(relation, release, b""))
    records: list[tuple[bytes, bytes]] = []
    assert table.compiled is not None
    assert table.compiled.run([*USUAL, commit_message(1, 2)], 0, TAIL, 0, records)[0] == len(USUAL)


def test_a_large_message_is_left_to_the_plain_twin() -> None:
    release = Release("a.T", TableName("public", "t"), ("id",), ("id", "note", "ok"))
    relation = decode(RELATION)
    assert isinstance(relation, Relation)
    table = _encoder(Case(relation, release, b""))
    # Else memory for six times as much would be kept for each table.
    assert _run(table, insert_message([b"1", b"x" * (1 << 20), b"t"])) is None
    assert _run(table, insert_message([b"1", b"x" * (1 << 19), b"t"])) is not None


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Whole transactions of rows of one table, and of one that is not released."""
    messages = [RELATION]
    for number in range(draw(st.integers(1, 4))):
        messages.append(begin_message(200 + 10 * number, 7 + number))
        for _ in range(draw(st.integers(0, 5))):
            key = b"%d" % draw(st.integers(-5, 5))
            text = draw(st.one_of(st.none(), st.text().map(lambda t: t.encode(errors="ignore"))))
            kind = draw(st.sampled_from(["i", "u", "d"]))
            if kind == "d":
                messages.append(delete_message([key, None, None], "K"))
            else:
                make = insert_message if kind == "i" else update_message
                messages.append(make([key, text, b"t"]))
        messages.append(commit_message(200 + 10 * number, 208 + 10 * number))
    return messages


@given(streams(), st.integers(1, 9))
def test_a_stream_is_assembled_alike(messages: list[bytes], step: int) -> None:
    assert _assembled(messages, step, plain=False) == _assembled(messages, step, plain=True)


def _assembled(messages: list[bytes], step: int, *, plain: bool) -> tuple[object, ...]:
    release = Release("a.T", TableName("public", "t"), ("id",), ("id", "note", "ok"))
    origin = Origin("prod", "app", EpochId("0a1b2c3d"), RunId(90))
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "row_encoder", (lambda *_, **__: None) if plain else _row_encoder)
        patch.setattr(assemble, "COMPILED", not plain)
        assembler = Assembler(origin, {release.table: release}, Lsn(100), recorder)
        for at in range(0, len(messages), step):
            assembler.feed(messages[at : at + step])
        return assembler.size, assembler.pending, assembler.take()


# Record batches


@given(RECORDS, st.integers(0, 60_000), st.integers(0, 3))
def test_records_are_written_alike(
    records: list[tuple[bytes, bytes]], limit: int, start: int
) -> None:
    expected = record_batch.encode_records_plainly(records, start, limit)
    assert speed.encode_records(records, start, limit) == expected


@given(RECORDS)
def test_records_are_read_alike(records: list[tuple[bytes, bytes]]) -> None:
    body, count = record_batch.encode_records_plainly(records, 0, 1 << 30)
    assert speed.decode_records(body, count) == records


@given(st.binary(max_size=200), st.integers(0, 6), RECORDS, st.data())
@settings(max_examples=1_000)
def test_a_damaged_body_is_refused_or_read_alike(
    garbage: bytes, count: int, records: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    body, _ = record_batch.encode_records_plainly(records[:3], 0, 1 << 30)
    cut = data.draw(st.integers(0, len(body)))
    for damaged in (garbage, body[:cut] + garbage, body[:cut] + garbage + body[cut:]):
        found = speed.decode_records(damaged, count)
        if found is not None:
            at = 0
            for record in found:
                decoded = record_batch.decode_record(damaged, at)
                assert decoded.record == record
                at = decoded.end
            assert at == len(damaged)


# COPY


@given(st.lists(st.tuples(cell, cell, cell), max_size=6), st.sampled_from(["", "7\x01x\x01"]))
def test_lines_are_written_alike(rows: list[tuple[Any, ...]], start: str) -> None:
    fields = ["c0", "c1", "c2"]
    structs = [SimpleNamespace(**dict(zip(fields, row, strict=True))) for row in rows]
    expected = copytext.chunk_plainly(structs, fields, copytext.line_function(fields), start)
    ends = copytext.NULL.encode(), copytext.DELIMITER.encode()
    assert speed.copy_lines(structs, tuple(fields), start.encode(), *ends) == expected


def test_a_number_of_any_size_is_written() -> None:
    rows = [SimpleNamespace(c0=n) for n in (0, -1, 2**63 - 1, -(2**63), 2**63, 10**40, True)]
    lines = speed.copy_lines(rows, ("c0",), b"", b"N", b"\x01").decode().split()
    assert lines == [str(row.c0) for row in rows]


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        speed.copy_lines([SimpleNamespace(c0="\ud800")], ("c0",), b"", b"N", b"\x01")
