"""The compiled twins say what the plain functions say, whatever they are given."""

import importlib
import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.envelope import Mark
from replicator.errors import BadMessage
from replicator.log import record_batch
from replicator.plan import Release, TableName
from replicator.positions import EpochId, Lsn, RunId
from replicator.speed import FORM
from replicator_apply import copytext
from replicator_capture import assemble, encode
from replicator_capture.assemble import Assembler, Commitment, Origin
from replicator_capture.encode import EncodedRow, TableEncoder
from replicator_capture.pgoutput import POSTGRES_EPOCH_US, UNCHANGED, Relation, decode
from tests.support.plain_capture import (
    begin_message,
    commit_message,
    delete_message,
    insert_message,
    logical_message,
    relation_message,
    truncate_message,
    update_message,
)
from tests.unit.test_apply_copytext import cell
from tests.unit.test_assemble import Recorder
from tests.unit.test_encode import TABLE, Case, cases, copied, copied_rows

if os.environ.get("REPLICATOR_TEST_SPEED"):
    speed: Any = importlib.import_module("replicator_speed")
else:
    speed = pytest.importorskip("replicator_speed", reason="the compiled twins are not installed")

TAIL = b'"source":{},"at":{"ordinal":'
STANDING = TAIL, (b"", b"", b"", b""), 7, 41, Lsn(100)
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
    until, size, ordinal, begun = encoder.compiled.run([b"", message], 1, STANDING, records, [])
    assert size == sum(len(value) for _, value in records)
    assert (ordinal, begun) == (40 + until, None)
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
    found = (
        _run(table, message) if message[:1] in (b"I", b"U", b"D") and len(message) >= 5 else None
    )
    if found is not None:
        ((key, head),) = table.by_letter[message[0]](message)
        assert found == [(key, b"%b%b41}}" % (head, TAIL))]


RELATION = relation_message([("id", 23, True), ("note", 25, False), ("ok", 16, False)])
USUAL = [
    insert_message([b"1", b'a "b" \\ \x01\n', b"t"]),
    insert_message([b"2", None, b"f"]),
    update_message([b"-3", "Zürich ☃".encode(), None]),
    delete_message([b"7", None, None], "K"),
]


def test_usual_rows_are_not_left_to_the_plain_twin() -> None:
    release = Release("a.T", TableName("public", "t"), ("id",), ("id", "note", "ok"))
    relation = decode(RELATION)
    assert isinstance(relation, Relation)
    table = _encoder(Case(relation, release, b""))
    assert table.compiled is not None
    messages = [*USUAL, commit_message(1, 2)]
    for ended, until in ((None, len(USUAL)), ([], len(USUAL) + 1)):
        assert table.compiled.run(messages, 0, STANDING, [], ended)[0] == until


def test_a_large_message_is_left_to_the_plain_twin() -> None:
    release = Release("a.T", TableName("public", "t"), ("id",), ("id", "note", "ok"))
    relation = decode(RELATION)
    assert isinstance(relation, Relation)
    table = _encoder(Case(relation, release, b""))
    # Else memory for six times as much would be kept for each table.
    assert _run(table, insert_message([b"1", b"x" * (1 << 20), b"t"])) is None
    assert _run(table, insert_message([b"1", b"x" * (1 << 19), b"t"])) is not None


# Transactions

ORIGIN = Origin("prod", "a%d\N{SNOWMAN}", EpochId("0a1b2c3d"), RunId(90))
T, U, SECRET = 77, 78, 79
COLUMNS = [("id", 23, True), ("note", 25, False), ("ok", 16, False)]
RELEASES = {
    TableName("public", name): Release(
        label, TableName("public", name), ("id",), ("id", "note", "ok")
    )
    for label, name in (("a.T", "t"), ("a.U", "u"))
}
SHAPES = [
    relation_message(COLUMNS, oid=oid, table=name)
    for oid, name in ((T, "t"), (U, "u"), (SECRET, "secret"))
]
TURNED = relation_message([COLUMNS[0], *reversed(COLUMNS[1:])], oid=T, table="t")
TYPE = b"Y" + bytes(4) + b"public\0mood\0"
FOREIGN = b"O" + bytes(8) + b"node\0"


@st.composite
def rows(draw: st.DrawFn) -> bytes:
    """One row message, most often a usual one of the table `t`."""
    oid = draw(st.sampled_from([T, T, T, U, SECRET]))
    key = b"%d" % draw(st.integers(-5, 5))
    text = draw(st.one_of(st.none(), st.text().map(lambda t: t.encode(errors="ignore"))))
    kind = draw(st.sampled_from(["i", "i", "i", "u", "u", "key", "toast", "d"]))
    if kind == "d":
        return delete_message([key, None, None], "K", oid=oid)
    if kind == "key":
        return update_message([key, text, b"f"], [b"9", None, None], "K", oid=oid)
    if kind == "toast":
        return update_message([key, UNCHANGED, b"f"], oid=oid)
    make = insert_message if kind == "i" else update_message
    return make([key, text, b"t"], oid=oid)


USUAL_ROWS = st.lists(st.just(insert_message([b"1", b"x", b"t"], T)), min_size=1, max_size=3)
OTHERS = st.sampled_from(
    [
        logical_message(b"ours"),
        logical_message(b"foreign", prefix="other"),
        logical_message(b"loose", transactional=False),
        truncate_message(T, SECRET, U),
        SHAPES[0],
        TURNED,
        TYPE,
        FOREIGN,
    ]
)
TIMES = st.one_of(
    st.just(POSTGRES_EPOCH_US + 1_234_567),
    st.integers(-3_000_000, 3_000_000),
    st.integers(-1, 1).map(lambda n: POSTGRES_EPOCH_US + n),
    st.integers(-(1 << 63), (1 << 63) - 1).map(lambda n: POSTGRES_EPOCH_US + n),
)


@st.composite
def transactions(draw: st.DrawFn) -> list[bytes]:
    """Whole transactions, most often of usual rows of one table and nothing else."""
    messages = []
    lsn = 200
    for _ in range(draw(st.integers(1, 6))):
        inside = draw(
            st.one_of(USUAL_ROWS, USUAL_ROWS, st.lists(st.one_of(rows(), rows(), OTHERS)))
        )
        xid = draw(st.one_of(st.integers(3, 9), st.just((1 << 32) - 1)))
        ts_us = draw(TIMES)
        messages += [
            begin_message(lsn, xid, ts_us),
            *inside,
            commit_message(lsn, lsn + 8, draw(st.one_of(st.just(ts_us), TIMES))),
        ]
        lsn += draw(st.sampled_from([10, 10, 1 << 31, 1 << 60, 1 << 63]))
        lsn %= (1 << 64) - 16
    return messages


class Reader(Recorder):
    """Feeds an assembler, appends a mark at each message, and writes down all that can be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[object] = []
        self.assembler = Assembler(ORIGIN, RELEASES, Lsn(100), self)
        self.assembler.feed(SHAPES)

    def unknown(self, table: TableName, columns: tuple[str, ...]) -> None:
        self.events.append((table, columns))

    def committed(self, commitments: Sequence[Commitment]) -> None:
        assert commitments
        self.events += commitments

    def message(self, content: bytes, commitment: Commitment) -> None:
        marked = self.assembler.append_mark(Mark(content.decode()), commitment)
        self.events.append((content, commitment, marked, self.assembler.pending))

    def retain(self, row: EncodedRow, table: TableName, xid: int, commit: Lsn) -> None:
        self.events.append((row, table, xid, commit))

    def feed(self, messages: list[bytes], then: str) -> bool:
        """Feed and do something; False: the messages are refused."""
        assembler = self.assembler
        try:
            assembler.feed(messages)
        except BadMessage:
            self.events.append("refused")
            return False
        seen = assembler.told, assembler.open_xid, assembler.size, assembler.pending
        self.events.append(seen)
        if then == "take":
            self.events.append(assembler.take())
        elif then:
            assembler.retain = self.retain if then == "retain" else None
        return True

    def all(self, messages: list[bytes], pieces: list[tuple[int, str]]) -> list[object]:
        """Feed everything in pieces of these sizes, from the first one again after the last."""
        at = turn = 0
        while at < len(messages):
            size, then = pieces[turn % len(pieces)]
            if not self.feed(messages[at : at + size], then):
                return self.events
            at, turn = at + size, turn + 1
        return [*self.events, self.assembler.take()]


def _seen(messages: list[bytes], pieces: list[tuple[int, str]], *, plain: bool) -> list[object]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "row_encoder", (lambda *_, **__: None) if plain else _row_encoder)
        patch.setattr(assemble, "COMPILED", not plain)
        return Reader().all(messages, pieces)


PIECES = st.one_of(
    st.integers(1, 30).map(lambda size: [(size, "")]),
    st.lists(
        st.tuples(st.integers(1, 12), st.sampled_from(["", "", "take", "retain", "release"])),
        min_size=1,
    ),
)


@given(transactions(), PIECES)
@settings(max_examples=500)
def test_a_stream_is_assembled_alike(messages: list[bytes], pieces: list[tuple[int, str]]) -> None:
    assert _seen(messages, pieces, plain=False) == _seen(messages, pieces, plain=True)


def test_a_damaged_stream_is_refused_or_assembled_alike() -> None:
    messages = [
        message
        for lsn, row in zip((200, 300, 400, 500), USUAL, strict=True)
        for message in (begin_message(lsn), row, commit_message(lsn, lsn + 8))
    ]
    for at, whole in enumerate(messages):
        damaged = [
            [],
            [whole] * 2,
            [whole + b"\0"],
            *([whole[:size]] for size in range(len(whole))),
            *([b"%c" % letter + whole[1:]] for letter in b"BCIUDRTMOYX"),
        ]
        for instead in damaged:
            stream = [*messages[:at], *instead, *messages[at + 1 :]]
            assert _seen(stream, [(99, "")], plain=False) == _seen(stream, [(99, "")], plain=True)


@pytest.mark.parametrize("count", [1, 10])
def test_usual_transactions_are_not_left_to_the_plain_twin(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plainly = Assembler._feed_plainly
    left: list[bytes] = []

    def feed_plainly(assembler: Assembler, messages: list[bytes]) -> None:
        left.extend(messages)
        plainly(assembler, messages)

    monkeypatch.setattr(assemble, "COMPILED", True)
    monkeypatch.setattr(encode, "row_encoder", _row_encoder)
    monkeypatch.setattr(Assembler, "_feed_plainly", feed_plainly)
    reader = Reader()
    left.clear()
    inside = [USUAL[n % len(USUAL)] for n in range(count)]
    messages = [
        message
        for n in range(200)
        for message in (begin_message(200 + 10 * n), *inside, commit_message(200 + 10 * n, 209))
    ]
    reader.assembler.feed(messages)
    assert reader.assembler.pending == 200 * count
    assert left == messages[:1]
    reader.assembler.feed([*messages, messages[0]])
    assert left[1:] == [messages[0], messages[0]], "its row may be of another table"
    reader.assembler.feed(messages[1:])
    assert left[3:] == []


# Rows that a fetch read


def _read(types: list[int]) -> encode.ReadEncoder:
    columns = tuple(f"c%{n}" for n in range(len(types)))
    return encode.ReadEncoder(Release("app.T", TABLE, columns[-2:], columns), types)


def _read_plainly(encoder: encode.ReadEncoder, block: bytes) -> list[EncodedRow]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "_compiled", None)
        return encoder.rows(block)


@given(copied_rows(), st.integers(1, 3))
@settings(max_examples=600)
def test_rows_that_were_read_are_encoded_alike(
    row: tuple[list[int], list[bytes | None]], count: int
) -> None:
    types, texts = row
    block = (b"\t".join(map(copied, texts)) + b"\n") * count
    encoder = _read(types)
    assert encoder._compiled is not None
    rows = encoder._compiled.rows(block)
    assert rows == _read_plainly(encoder, block)
    assert rows is not None
    assert len(rows) == count


@given(copied_rows(), st.sampled_from([b"", b"\t", b"\\", b"\\N", b"\x00", b"\n"]), st.data())
@settings(max_examples=600)
def test_a_damaged_block_is_refused_or_encoded_alike(
    row: tuple[list[int], list[bytes | None]], noise: bytes, data: st.DataObject
) -> None:
    types, texts = row
    whole = b"\t".join(map(copied, texts)) + b"\n"
    cut = data.draw(st.integers(0, len(whole)))
    keep = data.draw(st.sampled_from([0, cut]))
    block = whole[:cut] + noise + whole[keep:]
    encoder = _read(types)
    found: list[object] = []
    for read in (encoder.rows, lambda b: _read_plainly(encoder, b)):
        try:
            found.append(read(block) if block.endswith(b"\n") else None)
        except BadMessage:
            found.append("refused")
    assert found[0] == found[1]


@given(RECORDS, st.integers(0, 2**40), st.sampled_from([b"}}", b'},"answer":{}}']))
def test_records_of_an_answer_get_their_places_alike(
    rows: list[tuple[bytes, bytes]], ordinal: int, end: bytes
) -> None:
    found: list[tuple[bytes, bytes]] = [(b"before", b"")]
    expected = [*found]
    size = speed.place_records(rows, TAIL, ordinal, end, found)
    assert size == assemble.place_plainly(rows, TAIL, ordinal, end, expected)
    assert found == expected


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
