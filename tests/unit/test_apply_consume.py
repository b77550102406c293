"""Chunks in, batches out: which marks count."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.envelope import Answer, At, Mark, Record, Source, encode, encode_key
from replicator.log import Chunk
from replicator.positions import EpochId, Lsn, Offset, Position, RunId
from replicator_apply import assemble, consume
from replicator_apply.arriving import Arriving, GivenUp
from replicator_apply.batch import Batch
from replicator_apply.consume import Consumer, consumer_at
from replicator_apply.decode import Event, EventReader, Parsed, Skimmed
from replicator_apply.state import StoredPosition

EPOCH = EpochId("0a1b2c3d")


@pytest.fixture
def consumer() -> Consumer:
    return consumer_at(StoredPosition(Position(EPOCH, Lsn(100)), Offset(7)), {})


def feed(consumer: Consumer, beat: str, since: int, commit: int) -> None:
    """Feed it a mark of its own transaction."""
    source = Source("1", "replicator", "prod", "app", "", "", 7, Lsn(commit), 0, "false")
    at = At(1, EPOCH, RunId(1), 0, Lsn(since), Lsn(commit + 5))
    record = Record("m", source, at, mark=Mark(beat))
    chunk = Chunk([commit], [(encode_key(""), encode(record))], Offset(commit + 1), 0)
    consumer.feed(chunk, lambda: None)


def test_the_newest_mark_of_a_batch_counts(consumer: Consumer) -> None:
    feed(consumer, "one", 100, 110)
    feed(consumer, "two", 115, 120)
    assert consumer.take().mark == Mark("two")


def test_a_mark_that_is_repeated_does_not(consumer: Consumer) -> None:
    feed(consumer, "older", 80, 90)
    assert not consumer.pending


def test_a_mark_behind_a_hole_does_not(consumer: Consumer) -> None:
    feed(consumer, "behind", 105, 110)
    assert not consumer.pending
    assert consumer.hole is not None


def test_a_batch_goes_on_where_the_one_before_ended(consumer: Consumer) -> None:
    feed(consumer, "one", 100, 110)
    first = consumer.take()
    feed(consumer, "two", 115, 120)
    assert first.stored == StoredPosition(Position(EPOCH, Lsn(100)), Offset(7))
    assert first.following == consumer.take().stored
    assert first.following == StoredPosition(Position(EPOCH, Lsn(115)), Offset(111))


COLUMNS = ("id", "note")
READERS = {
    encode_key(f"public.{name}")[:-1]: EventReader(f"public.{name}", COLUMNS, ("id",))
    for name in "ab"
}


@st.composite
def logs(draw: st.DrawFn) -> list[tuple[bytes, bytes]]:
    """Records of transactions of two runs and of answers, some of them missing or repeated."""
    records: list[tuple[bytes, bytes]] = []
    since = 100
    for _ in range(draw(st.integers(1, 4))):
        commit, rows = since + 10, draw(st.integers(1, 8))
        run = RunId(draw(st.integers(1, 2)))
        answer = draw(st.sampled_from([None, None, Answer("stage", "page-1", "5f")]))
        for ordinal in range(rows):
            ends = (Lsn(since), Lsn(commit + 5)) if ordinal == rows - 1 else (None, None)
            at = At(1, EPOCH, run, ordinal, *ends)
            table = draw(st.sampled_from("aab"))
            op = draw(st.sampled_from("cud" if answer is None else "rrd"))
            row = {"id": draw(st.integers(0, 9)), "note": draw(st.sampled_from(TEXTS))}
            if op == "u" and draw(st.booleans()):
                row.pop("note")
            read = "false" if answer is None else draw(st.sampled_from(["true", "true", "false"]))
            source = Source("1", "replicator", "prod", "app", "public", table, 7, commit, 5, read)
            told = answer
            if told is not None and ordinal == rows - 1:
                told = msgspec.structs.replace(told, last_key=('"ordinal":1}', row["id"]))
            images = (row, None) if op == "d" else (None, row)
            unchanged = () if len(row) == len(COLUMNS) else ("note",)
            record = Record(op, source, at, *images, unchanged=unchanged, answer=told)  # type: ignore[arg-type]
            records.append((encode_key(f"public.{table}", [row["id"]]), encode(record)))
        since = commit + 5
    for _ in range(draw(st.integers(0, 3))):
        at_ = draw(st.integers(0, len(records)))
        if draw(st.booleans()):
            del records[at_ : at_ + draw(st.integers(0, 3))]
        else:
            records[at_:at_] = records[max(0, at_ - draw(st.integers(0, 9))) : at_]
    return records


TEXTS = ["", "x", '"source":{"at":{"ordinal":1}}', "\\", None, "é"]


def taken(records: list[tuple[bytes, bytes]], spool_after: int, *, plain: bool) -> list[object]:
    """Give the transactions that come out, with what they hold."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "SPOOL_AFTER", spool_after)
        if plain:
            patch.setattr(assemble.Assembler, "goes_on", lambda *_: False)
        patch.setattr(assemble, "_take_events", None)
        patch.setattr(assemble, "_go_on", None)
        consumer = consumer_at(StoredPosition(Position(EPOCH, Lsn(100)), Offset(7)), READERS)
        chunk = Chunk(range(7, 7 + len(records)), records, Offset(7 + len(records)), 0)
        consumer.feed(chunk, lambda: None)
        found: list[object] = [str(consumer.hole)]
        for each in consumer.take().transactions if consumer.pending else ():
            events = [
                (*shown(key, event), event.unchanged)
                for key, event in each.events
                if isinstance(event, Event)
            ]
            spooled = [] if each.spool is None else list(each.spool.records())
            places = each.commit, each.next, each.resume, each.committed_ms
            found.append((places, events, spooled, each.answer))
            each.close()
        consumer.close()
        return found


@given(logs(), st.sampled_from([2, 5, 20_000]))
@settings(max_examples=400)
def test_a_record_that_goes_on_is_taken_as_any_other(
    records: list[tuple[bytes, bytes]], spool_after: int
) -> None:
    assert taken(records, spool_after, plain=False) == taken(records, spool_after, plain=True)


class Taking:
    """What takes the parts of a large transaction, and notes them."""

    def __init__(self) -> None:
        self.parts: list[list[object]] = []
        self.count = 0

    def put(self, events: Sequence[Parsed]) -> None:
        self.parts.append([shown(key, event) for key, event in events])
        self.count += len(events)


def shown(key: bytes, event: Event | Skimmed) -> tuple[object, ...]:
    row = () if isinstance(event, Skimmed) else (str(event.before), str(event.after))
    return key, event.op, *row, event.source, event.answer


class Limits(NamedTuple):
    """Of what is kept in memory, and of batches; whether large transactions are taken early."""

    rows: int
    small: bool
    early: bool


def batches(
    records: list[tuple[bytes, bytes]], cut: int, limits: Limits, *, plain: bool
) -> list[object]:
    """Give the batches that come out, whatever transactions are put together in them."""
    found: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "SPOOL_AFTER", 5)
        patch.setattr(assemble, "PART_EVENTS", 3)
        if limits.small:
            patch.setattr(assemble, "SPOOL_BYTES", 1_200)
            patch.setattr(assemble, "PART_BYTES", 700)
            patch.setattr(consume, "BATCH_BYTES", 900)
        patch.setattr(consume, "BATCH_ROWS", limits.rows)
        if plain:
            patch.setattr(assemble, "_take_events", None)
            patch.setattr(assemble, "_go_on", None)
        consumer = consumer_at(StoredPosition(Position(EPOCH, Lsn(100)), Offset(7)), READERS)

        def take() -> None:
            batch = consumer.take()
            events = [shown(*each) for some in batch.transactions for each in some.events]
            spooled = [[*each.spool.records()] for each in batch.transactions if each.spool]
            number = sum(each.count for each in batch.transactions)
            weight = sum(each.weight for each in batch.transactions)
            parts = getattr(batch.arriving, "parts", None)
            answers = [each.answer for each in batch.transactions if each.answer]
            place = batch.next, batch.offset, batch.stored, batch.committed_ms, batch.new_run
            found.append((number, batch.rows, weight, events, spooled, parts, place, answers))
            batch.close()

        def on_large(batch: Batch) -> bool:
            if not limits.early:
                return False
            (so_far,) = batch.transactions
            taking = Taking()
            taking.put(so_far.events)
            found.append((so_far.commit, so_far.committed_ms, batch.stored, so_far.size))
            so_far.arriving = cast(Arriving, taking)
            return True

        try:
            for some in (range(cut), range(cut, len(records))):
                chunk = Chunk([7 + n for n in some], [records[n] for n in some], Offset(9_999), 0)
                consumer.feed(chunk, take, on_large)
            if consumer.pending:
                take()
        except GivenUp:
            found.append("given up")
        open_parts = [
            (p.run, p.commit, p.first, p.next_ordinal, p.size, len(p.events))
            for p in consumer.assembler._open.values()
        ]
        found += [str(consumer.hole), consumer.assembler.position, sorted(open_parts)]
        consumer.close()
        return found


@pytest.mark.skipif(assemble._take_events is None, reason="the compiled twins are not installed")
@given(
    logs(),
    st.integers(0, 20),
    st.builds(Limits, st.sampled_from([1, 3, 10_000]), st.booleans(), st.booleans()),
)
@settings(max_examples=1_000)
def test_records_that_are_taken_together_are_taken_as_any_other(
    records: list[tuple[bytes, bytes]], cut: int, limits: Limits
) -> None:
    cut = min(cut, len(records))
    together = batches(records, cut, limits, plain=False)
    assert together == batches(records, cut, limits, plain=True)


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note which records of a chunk are taken one by one."""
    indexes: list[int] = []
    take = Consumer._take

    def noted(consumer: Consumer, chunk: Chunk, index: int, *arguments: Any) -> Any:
        indexes.append(index)
        return take(consumer, chunk, index, *arguments)

    monkeypatch.setattr(Consumer, "_take", noted)
    return indexes


@pytest.mark.skipif(assemble._take_events is None, reason="the compiled twins are not installed")
@pytest.mark.parametrize("rows", [1, 3])
def test_usual_transactions_are_not_left_to_the_plain_twin(
    rows: int, one_by_one: list[int]
) -> None:
    records, since = list[tuple[bytes, bytes]](), 100
    for number in range(30):
        for ordinal in range(rows):
            ends = (Lsn(since), Lsn(since + 10)) if ordinal == rows - 1 else (None, None)
            at = At(1, EPOCH, RunId(1), ordinal, *ends)
            op = "cud"[number % 3]
            row = {"id": ordinal, "note": "x"}
            images = (row, None) if op == "d" else (None, row)
            source = Source(
                "1", "replicator", "prod", "app", "public", "a", number, Lsn(since + 5), 5, "false"
            )
            records.append(
                (encode_key("public.a", [ordinal]), encode(Record(op, source, at, *images)))  # type: ignore[arg-type]
            )
        since += 10
    consumer = consumer_at(StoredPosition(Position(EPOCH, Lsn(100)), Offset(7)), READERS)
    consumer.feed(Chunk(range(len(records)), records, Offset(999), 0), lambda: None)
    assert one_by_one == [0]
    batch = consumer.take()
    assert sum(each.count for each in batch.transactions) == 30
    assert len(batch.transactions) == (2 if rows == 1 else 1)
    consumer.close()


@pytest.mark.skipif(assemble._go_on is None, reason="the compiled twins are not installed")
def test_most_rows_of_an_answer_are_not_left_to_the_plain_twin(one_by_one: list[int]) -> None:
    source = Source("1", "replicator", "prod", "app", "public", "a", 7, Lsn(110), 5, "true")
    answer = Answer("stage", "page-1", "5f")
    records = []
    for n in range(30):
        at = At(1, EPOCH, RunId(1), n, *((Lsn(100), Lsn(120)) if n == 29 else (None, None)))
        record = Record("r", source, at, None, {"id": n, "note": "x"}, answer=answer)
        records.append((encode_key("public.a", [n]), encode(record)))
    consumer = consumer_at(StoredPosition(Position(EPOCH, Lsn(100)), Offset(7)), READERS)
    consumer.feed(Chunk(range(7, 37), records, Offset(37), 0), lambda: None)
    assert one_by_one == [0, 1, 29]
    (transaction,) = consumer.take().transactions
    assert [event.answer for _, event in transaction.events] == [answer] * 30
    consumer.close()


def test_most_records_of_a_transaction_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "_take_events", None)
    went: list[bool] = []
    goes_on = assemble.Assembler.goes_on
    monkeypatch.setattr(
        assemble.Assembler, "goes_on", lambda *a: (went.append(goes_on(*a)), went[-1])[1]
    )
    source = Source("1", "replicator", "prod", "app", "public", "a", 7, Lsn(110), 5, "false")
    records = [
        (
            encode_key("public.a", [n]),
            encode(Record("c", source, At(1, EPOCH, RunId(1), n), None, {"id": n, "note": "x"})),
        )
        for n in range(10)
    ]
    consumer = consumer_at(StoredPosition(Position(EPOCH, Lsn(100)), Offset(7)), READERS)
    consumer.feed(Chunk(range(7, 17), records, Offset(17), 0), lambda: None)
    assert went == [False] * 2 + [True] * 8
    consumer.close()


def test_a_batch_is_full_by_its_bytes_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consume, "BATCH_BYTES", 3_000)
    consumer = consumer_at(StoredPosition(Position(EPOCH, Lsn(100)), Offset(7)), READERS)
    records, since = [], Lsn(100)
    for number in range(6):
        at = At(1, EPOCH, RunId(1), 0, since, Lsn(since + 10))
        source = Source(
            "1", "replicator", "prod", "app", "public", "a", 7, Lsn(since + 5), 5, "false"
        )
        row = {"id": number, "note": "x" * 1_000}
        records.append(
            (encode_key("public.a", [number]), encode(Record("c", source, at, None, row)))
        )
        since = Lsn(since + 10)
    sizes: list[int] = []
    chunk = Chunk(range(7, 13), records, Offset(13), 0)
    consumer.feed(chunk, lambda: sizes.append(consumer.take().rows))
    assert sizes == [3, 3]
    consumer.close()
