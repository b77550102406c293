"""Transactions get their place in the stream, whatever is taken when, and nothing else leaves."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.envelope import Answer, At, Mark, Record, Source, decode, encode, encode_key
from replicator.errors import BadMessage, Refused
from replicator.plan import Release, TableName
from replicator.positions import EpochId, Lsn, RunId
from replicator_capture.assemble import (
    MESSAGES_PER_TRANSACTION,
    Assembler,
    Commitment,
    KeyedValue,
    Origin,
)
from replicator_capture.encode import EncodedRow
from replicator_capture.pgoutput import POSTGRES_EPOCH_US, UNCHANGED
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

_ORIGIN = Origin("prod", "app", EpochId("0a1b2c3d"), RunId(90))
_POLLS = TableName("public", "polls")
_VOTES = TableName("public", "votes")
_RELEASES = {
    _POLLS: Release("polls.Poll", _POLLS, ("id",), ("id", "text")),
    _VOTES: Release("polls.Vote", _VOTES, ("id",), ("id",), ("ip",)),
}
_COLUMNS = [("id", 23, True), ("text", 25, False)]
_SHAPES = [
    relation_message(_COLUMNS, oid=1, table="polls"),
    relation_message([("id", 23, True), ("ip", 25, False)], oid=2, table="votes"),
    relation_message(_COLUMNS, oid=3, table="auth_user"),
]


class Recorder:
    """A listener that writes down what it is told."""

    def __init__(self) -> None:
        self.unknowns: list[tuple[TableName, tuple[str, ...]]] = []
        self.commits: list[Commitment] = []
        self.messages: list[tuple[bytes, Commitment]] = []

    def unknown(self, table: TableName, columns: tuple[str, ...]) -> None:
        self.unknowns.append((table, columns))

    def committed(self, commitments: Sequence[Commitment]) -> None:
        self.commits += commitments

    def message(self, content: bytes, commitment: Commitment) -> None:
        self.messages.append((content, commitment))


def _assembler(listener: Recorder | None = None, *, start: int = 100) -> Assembler:
    assembler = Assembler(_ORIGIN, _RELEASES, Lsn(start), listener or Recorder())
    assembler.feed(_SHAPES)
    return assembler


def _transaction(lsn: int, *inside: bytes) -> list[bytes]:
    return [begin_message(lsn, lsn % 1000), *inside, commit_message(lsn, lsn + 8)]


def _insert(key: int, text: bytes = b"x", oid: int = 1) -> bytes:
    return insert_message([b"%d" % key, text], oid)


def _places(records: list[KeyedValue]) -> list[At]:
    return [decode(value).at for _, value in records]


def _at(ordinal: int, start: int | None = None, to: int | None = None) -> At:
    return At(
        1,
        _ORIGIN.epoch,
        _ORIGIN.run,
        ordinal,
        None if start is None else Lsn(start),
        None if to is None else Lsn(to),
    )


def test_a_record_byte_for_byte() -> None:
    assembler = _assembler()
    ts_us = 1_795_168_342_164_999
    assembler.feed([begin_message(200, 7, ts_us), _insert(1), commit_message(200, 240, ts_us)])
    source = Source(
        "1", "replicator", "prod", "app", "public", "polls", 7, Lsn(200), ts_us // 1000, "false"
    )
    record = Record("c", source, _at(0, 100, 240), after={"id": 1, "text": "x"})
    assert assembler.take() == ([(encode_key("public.polls", [1]), encode(record))], 240)


def test_transactions_are_chained_and_numbered() -> None:
    assembler = _assembler()
    assembler.feed(_transaction(200, _insert(1), _insert(2)))
    assembler.feed(_transaction(300, _insert(3)))
    records, until = assembler.take()
    assert _places(records) == [_at(0), _at(1, 100, 208), _at(0, 208, 308)]
    assert until == 308
    assert assembler.take() == ([], None)


def test_inside_a_transaction_the_last_record_is_held_back() -> None:
    assembler = _assembler()
    assembler.feed([begin_message(200), _insert(1)])
    assert assembler.take() == ([], None)
    assembler.feed([_insert(2), _insert(3)])
    first, until = assembler.take()
    assert (_places(first), until) == ([_at(0), _at(1)], None)
    assembler.feed([commit_message(200, 208)])
    last, until = assembler.take()
    assert (_places(last), until) == ([_at(2, 100, 208)], 208)


def test_what_is_complete_is_given_with_the_part_behind_it() -> None:
    assembler = _assembler()
    assembler.feed([*_transaction(200, _insert(1)), begin_message(300)])
    assert assembler.take()[1] == 208
    assembler.feed([_insert(2), _insert(3)])
    records, until = assembler.take()
    assert (_places(records), until) == ([_at(0)], None)


def test_an_empty_transaction_is_covered_by_the_next_one() -> None:
    recorder = Recorder()
    assembler = _assembler(recorder)
    assembler.feed(_transaction(200))
    assembler.feed(_transaction(300, _insert(1, oid=3)))
    assert (assembler.told, assembler.pending) == (100, 0)
    assembler.feed(_transaction(400, _insert(1)))
    assert _places(assembler.take()[0]) == [_at(0, 100, 408)]
    assert [commit.lsn for commit in recorder.commits] == [400]


def test_a_changed_key_takes_two_ordinals() -> None:
    assembler = _assembler()
    changed = update_message([b"2", UNCHANGED], [b"1", None], "K", oid=1)
    assembler.feed(_transaction(200, changed, delete_message([b"2", None], oid=1)))
    records = [decode(value) for _, value in assembler.take()[0]]
    assert [(record.op, record.at.ordinal) for record in records] == [("d", 0), ("c", 1), ("d", 2)]
    assert records[1].unchanged == ("text",)


def test_truncate_is_one_record_per_released_table() -> None:
    assembler = _assembler()
    assembler.feed(_transaction(200, truncate_message(2, 3, 1)))
    records, _ = assembler.take()
    assert [key for key, _ in records] == [b'["public.votes"]', b'["public.polls"]']
    assert [decode(value).op for _, value in records] == ["t", "t"]
    assert _places(records) == [_at(0), _at(1, 100, 208)]


def test_unknown_tables_and_columns_are_told_and_not_published() -> None:
    recorder = Recorder()
    assembler = _assembler(recorder)
    assert recorder.unknowns == [(TableName("public", "auth_user"), ())]
    shape = relation_message([*_COLUMNS, ("new", 25, False)], oid=1, table="polls")
    assembler.feed(_transaction(200, shape, insert_message([b"1", b"x", b"hidden"], 1)))
    assert recorder.unknowns[1:] == [(_POLLS, ("new",))]
    assert b"hidden" not in assembler.take()[0][0][1]


def test_a_table_may_change_its_shape_inside_a_transaction() -> None:
    assembler = _assembler()
    turned = relation_message([*reversed(_COLUMNS)], oid=1, table="polls")
    assembler.feed(_transaction(200, _insert(1), turned, insert_message([b"y", b"2"], 1)))
    rows = [decode(value).after for _, value in assembler.take()[0]]
    assert rows == [{"id": 1, "text": "x"}, {"text": "y", "id": 2}]


def test_a_released_column_that_is_gone_stops_the_stream() -> None:
    with pytest.raises(Refused, match="text"):
        _assembler().feed([relation_message([("id", 23, True)], oid=1, table="polls")])


@pytest.mark.parametrize(
    "messages",
    [
        [_insert(1)],
        [commit_message(200, 208)],
        [begin_message(200), _insert(1, oid=9)],
        [begin_message(200), b"I\0\0"],
        [b""],
        [begin_message(200), truncate_message(9)],
    ],
)
def test_what_is_out_of_place_is_refused(messages: list[bytes]) -> None:
    with pytest.raises(BadMessage):
        _assembler().feed(messages)


# Listener


def test_transactions_are_told_with_their_place() -> None:
    recorder = Recorder()
    assembler = _assembler(recorder)
    ts_us = POSTGRES_EPOCH_US + 5
    assembler.feed(
        [begin_message(200, 7, ts_us), _insert(1), _insert(2), commit_message(200, 240, ts_us)]
    )
    assert recorder.commits == [Commitment(7, Lsn(200), Lsn(240), ts_us, 2, False)]


def test_transactions_are_told_in_order_and_before_the_message_behind_them() -> None:
    class Ordered(Recorder):
        def message(self, content: bytes, commitment: Commitment) -> None:
            assert [commit.lsn for commit in self.commits] == [200, 300, 400]
            assert assembler.told == 408
            super().message(content, commitment)

    recorder = Ordered()
    assembler = _assembler(recorder)
    few = [_transaction(lsn, _insert(lsn)) for lsn in (200, 300)]
    carrying = _transaction(400, _insert(400), logical_message(b"ours"))
    assembler.feed([*few[0], *few[1], *carrying, *_transaction(500, _insert(500))])
    assert [commit.lsn for commit in recorder.commits] == [200, 300, 400, 500]
    assert len(recorder.messages) == 1


def test_only_our_own_transactional_messages_count_and_only_at_the_commit() -> None:
    recorder = Recorder()
    assembler = _assembler(recorder)
    assembler.feed([logical_message(b"loose", transactional=False)])
    inside = [
        logical_message(b"ours"),
        logical_message(b"foreign", prefix="replicator2"),
        logical_message(b"loose", transactional=False),
    ]
    assembler.feed([begin_message(200, 7), *inside])
    assert recorder.messages == []
    assembler.feed([commit_message(200, 208)])
    assert [(content, at.xid, at.lsn, at.end) for content, at in recorder.messages] == [
        (b"ours", 7, 200, 208)
    ]
    assembler.feed(_transaction(300))
    assert len(recorder.messages) == 1


def test_a_flood_of_messages_is_cut() -> None:
    recorder = Recorder()
    _assembler(recorder).feed(_transaction(200, *[logical_message(b"x")] * 1000))
    assert len(recorder.messages) == MESSAGES_PER_TRANSACTION


def test_rows_are_retained_from_the_next_transaction_on() -> None:
    recorder, kept = Recorder(), []

    def retain(row: EncodedRow, table: TableName, xid: int, commit: Lsn) -> None:
        kept.append((row[0], row[1][:9], table, xid, commit))

    assembler = _assembler(recorder)
    assembler.feed([begin_message(200, 7), _insert(1)])
    assembler.retain = retain
    assembler.feed([_insert(2), commit_message(200, 208)])
    assert kept == []
    changed = update_message([b"2", b"x"], [b"1", None], "K", oid=1)
    assembler.feed([begin_message(300, 8), changed, truncate_message(2)])
    assembler.retain = None
    assembler.feed([_insert(3), commit_message(300, 308), *_transaction(400, _insert(4))])
    assert kept == [
        (b'["public.polls",1]', b'{"op":"d"', _POLLS, 8, 300),
        (b'["public.polls",2]', b'{"op":"c"', _POLLS, 8, 300),
        (b'["public.votes"]', b'{"op":"t"', _VOTES, 8, 300),
        (b'["public.polls",3]', b'{"op":"c"', _POLLS, 8, 300),
    ]
    assert [commit.retained for commit in recorder.commits] == [False, True, False]


# Marks and answers


def test_a_mark_stands_at_its_commit() -> None:
    assembler = _assembler()
    commitment = Commitment(7, Lsn(200), Lsn(208), POSTGRES_EPOCH_US)
    assert assembler.append_mark(Mark("b-1", {"held": 3}), commitment)
    [(key, value)], until = assembler.take()
    assert (key, until) == (encode_key(""), 208)
    source = Source(
        "1", "replicator", "prod", "app", "", "", 7, Lsn(200), POSTGRES_EPOCH_US // 1000, "false"
    )
    mark = Mark("b-1", {"held": 3})
    assert value == encode(Record("m", source, _at(0, 100, 208), mark=mark))


def test_what_was_told_is_not_told_again() -> None:
    assembler = _assembler()
    assembler.feed(_transaction(200, _insert(1)))
    own = Commitment(7, Lsn(200), Lsn(208), POSTGRES_EPOCH_US)
    assert not assembler.append_mark(Mark("b-1"), own)
    assert assembler.begin_answer(Answer("stage", "r", "p"), own) is None
    assert assembler.pending == 1


def test_an_answer_is_a_transaction_that_a_closing_record_ends() -> None:
    assembler = _assembler()
    commitment = Commitment(7, Lsn(200), Lsn(208), POSTGRES_EPOCH_US)
    answer = Answer("stage", "r-1", "00ff", last_key=(7, "x"), estimated=12)
    writer = assembler.begin_answer(answer, commitment)
    assert writer is not None
    writer.rows(
        [(b'["public.polls",1]', b'{"op":"r","before":null,"after":{"id":1},')], _POLLS, read=True
    )
    writer.rows(
        [(b'["public.votes",2]', b'{"op":"d","before":{"id":2},"after":null,')], _VOTES, read=False
    )
    first, until = assembler.take()
    assert (len(first), until) == (1, None)
    writer.close()
    rest, until = assembler.take()
    records = [decode(value) for _, value in [*first, *rest]]
    bare = Answer("stage", "r-1", "00ff")
    assert [record.at for record in records] == [_at(0), _at(1), _at(2, 100, 208)]
    assert [record.answer for record in records] == [bare, bare, answer]
    assert [(record.op, record.source.table) for record in records] == [
        ("r", "polls"),
        ("d", "votes"),
        ("m", ""),
    ]
    assert [record.source.snapshot for record in records] == ["true", "false", "false"]
    assert until == 208
    assert {record.source.lsn for record in records} == {200}
    assert [value for _, value in [*first, *rest]] == [encode(record) for record in records]


def test_an_answer_from_within_the_listener_comes_before_the_next_transaction() -> None:
    class Answering(Recorder):
        def message(self, content: bytes, commitment: Commitment) -> None:
            assert assembler.append_mark(Mark(content.decode()), commitment)

    assembler = _assembler(Answering())
    assembler.feed(
        [
            *_transaction(200, _insert(1)),
            *_transaction(300, logical_message(b"b")),
            *_transaction(400, _insert(2)),
        ]
    )
    records, until = assembler.take()
    assert [decode(value).op for _, value in records] == ["c", "m", "c"]
    assert _places(records) == [_at(0, 100, 208), _at(0, 208, 308), _at(0, 308, 408)]
    assert until == 408


# However it is cut


@given(
    st.lists(st.integers(0, 4), max_size=6),
    st.lists(st.integers(1, 5), min_size=1),
    st.lists(st.booleans(), min_size=1),
)
def test_records_do_not_depend_on_when_they_are_taken(
    sizes: list[int], pieces: list[int], takes: list[bool]
) -> None:
    messages = [
        message
        for n, size in enumerate(sizes)
        for message in _transaction(200 + 50 * n, *(_insert(key) for key in range(size)))
    ]
    whole, cut = _assembler(), _assembler()
    whole.feed(messages)
    taken: list[KeyedValue] = []
    confirmed: list[Lsn] = []
    turn = 0
    while messages:
        size = pieces[turn % len(pieces)]
        cut.feed(messages[:size])
        messages = messages[size:]
        if takes[turn % len(takes)]:
            records, until = cut.take()
            taken += records
            confirmed += [] if until is None else [until]
            assert until is None or _closes(taken, until)
        turn += 1
    taken += cut.take()[0]
    assert taken == whole.take()[0]
    assert confirmed == sorted(set(confirmed))
    assert (cut.size, cut.pending) == (0, 0)


def _closes(taken: list[KeyedValue], until: Lsn) -> bool:
    """Say whether the record that ends at `until` is among those taken."""
    return any(place.to == until for place in _places(taken))


def test_size_counts_the_bytes_that_wait() -> None:
    assembler = _assembler()
    assembler.feed([*_transaction(200, _insert(1)), begin_message(300), _insert(2), _insert(3)])
    waiting = assembler.size
    records, _ = assembler.take()
    assert waiting == sum(len(value) for _, value in records) + assembler.size
    assert assembler.size > 0
    assert msgspec.json.decode(records[0][1])["at"]["to"] == 208
