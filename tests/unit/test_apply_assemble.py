"""Records in, whole transactions out: against what the source told, and its plainest reading.

A random source is told by several runs of capture, cut into fragments, interleaved, repeated from
any confirmed place on, broken off; some records may be lost.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.envelope import Answer, At, encode_key
from replicator.errors import Hole
from replicator.positions import EpochId, Lsn, Offset, Position, RunId
from replicator_apply import assemble
from replicator_apply.assemble import Assembler, Transaction
from replicator_apply.decode import Event, Origin

EPOCH, OLD = EpochId("0a1b2c3d"), EpochId("ffffffff")
START = 100

Told = tuple[int, tuple[str, ...]]
"""A transaction of the source: its commit LSN, and its events' names."""


@dataclass(frozen=True)
class Fragment:
    """A record of the topic."""

    epoch: EpochId
    run: int
    commit: int
    ordinal: int
    name: str
    since: int | None
    to: int | None

    @property
    def event(self) -> Event:
        since = None if self.since is None else Lsn(self.since)
        to = None if self.to is None else Lsn(self.to)
        at = At(1, self.epoch, RunId(self.run), self.ordinal, since, to)
        return Event("c", Origin(Lsn(self.commit), self.commit), at, after=self.name)

    @property
    def key(self) -> bytes:
        return encode_key("public.thing", [self.name])


@st.composite
def sources(draw: st.DrawFn) -> list[Told]:
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=7))
    gaps = draw(st.lists(st.integers(1, 4), min_size=len(sizes), max_size=len(sizes)))
    commit, source = START, []
    for number, (size, gap) in enumerate(zip(sizes, gaps, strict=True)):
        commit += gap
        source.append((commit, tuple(f"{number}.{i}" for i in range(size))))
    return source


def run_of(source: list[Told], run: int, first: int, epoch: EpochId = EPOCH) -> list[Fragment]:
    """Tell the source from transaction `first` on, as one run does, chained."""
    since = START if first == 0 else source[first - 1][0] + 1
    records = []
    for commit, names in source[first:]:
        for ordinal, name in enumerate(names):
            last = ordinal == len(names) - 1
            ends = (since, commit + 1) if last else (None, None)
            records.append(Fragment(epoch, run, commit, ordinal, name, *ends))
        since = commit + 1
    return records


@st.composite
def topics(draw: st.DrawFn, source: list[Told]) -> list[Fragment]:
    """Interleave runs that break off anywhere; the last to begin tells all, so nothing is lost."""
    lines = []
    for run in range(draw(st.integers(0, 3))):
        epoch = OLD if draw(st.integers(0, 9)) == 0 else EPOCH
        line = run_of(source, run + 1, draw(st.integers(0, len(source) - 1)), epoch)
        lines.append(line[: draw(st.integers(0, len(line)))])
    lines.append(run_of(source, 9, 0))
    # A record may have been appended twice in place (a retry whose first try was stored).
    lines = [
        [r for r in line for _ in range(draw(st.sampled_from((1, 1, 1, 2))))] for line in lines
    ]
    topic = []
    random = draw(st.randoms(use_true_random=False))
    while any(lines):
        topic.append(random.choice([line for line in lines if line]).pop(0))
    # A run chains on what the log holds confirmed; one that starts ahead of it never happens.
    return list(without_leaps(topic, source))


def without_leaps(topic: list[Fragment], source: list[Told]) -> Iterator[Fragment]:
    """Leave out a run that begins behind what was told before it: capture does not do that."""
    reached, banned = START, set()
    for record in topic:
        begins = next((c for c, _ in source if c >= reached), record.commit)
        if record.ordinal == 0 and record.epoch == EPOCH and record.commit > begins:
            banned.add(record.run)
        if record.run in banned and record.run != 9:
            continue
        yield record
        if record.epoch == EPOCH and record.to is not None and record.to > reached:
            reached = record.to


def names(transaction: Transaction) -> tuple[str, ...]:
    """All events of a transaction, those in the spool among them."""
    first = [event.after for _, event in transaction.events if isinstance(event, Event)]
    spooled = transaction.spool.records() if transaction.spool else ()
    return (*first, *(value.decode() for _, value in spooled))


def told(transaction: Transaction) -> Told:
    """Read a transaction, and free what it holds."""
    with closing(transaction):
        return transaction.commit, names(transaction)


def feed(assembler: Assembler, offset: int, record: Fragment) -> Transaction | None:
    return assembler.feed(Offset(offset), record.key, record.name.encode(), record.event)


@pytest.fixture(autouse=True)
def _small_spool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "SPOOL_AFTER", 2)


@given(st.data())
def test_every_transaction_comes_out_whole_once_and_in_order(data: st.DataObject) -> None:
    source = data.draw(sources())
    topic = data.draw(topics(source))
    out: list[Told] = []
    with closing(Assembler(Position(EPOCH, Lsn(START)))) as assembler:
        for offset, record in enumerate(topic):
            done = feed(assembler, offset, record)
            if done is not None:
                size = done.size
                out.append(told(done))
                assert size == len(out[-1][1])
                assert done.next == done.commit + 1 == assembler.position
    assert out == source


@given(st.data())
def test_a_restart_at_any_record_loses_and_repeats_nothing(data: st.DataObject) -> None:
    source = data.draw(sources())
    topic = data.draw(topics(source))
    crashes = data.draw(st.lists(st.integers(0, len(topic)), max_size=4))
    position, resume = Lsn(START), 0
    out: list[Told] = []
    for crash in (*crashes, len(topic)):
        with closing(Assembler(Position(EPOCH, position))) as assembler:
            for offset in range(resume, crash):
                done = feed(assembler, offset, topic[offset])
                if done is not None:
                    out.append(told(done))
                    position, resume = done.next, done.resume
    assert out == source


@given(st.data())
def test_a_hole_is_seen_if_and_only_if_something_is_lost(data: st.DataObject) -> None:
    source = data.draw(sources())
    topic = [r for r in data.draw(topics(source)) if r.epoch == EPOCH]
    lost = data.draw(st.sets(st.integers(0, len(topic) - 1), max_size=6))
    left = [record for offset, record in enumerate(topic) if offset not in lost]
    out, hole = [], False
    with closing(Assembler(Position(EPOCH, Lsn(START)))) as assembler:
        for offset, record in enumerate(left):
            try:
                done = feed(assembler, offset, record)
            except Hole:
                hole = True
                break
            if done is not None:
                out.append(told(done))
    # What came out is right in any case, and what is missing behind it is never stepped over.
    assert out == source[: len(out)]
    assert hole is missing_before_another(left, source, len(out))


def missing_before_another(topic: list[Fragment], source: list[Told], count: int) -> bool:
    """Whether some later transaction is told whole, though the next one is nowhere whole."""
    later = {commit for commit, _ in source[count:]}
    return any(
        wholly_told(topic, commit, run) for commit in later for run in {r.run for r in topic}
    )


def wholly_told(topic: list[Fragment], commit: int, run: int) -> bool:
    """Whether a run tells a transaction whole, its fragments in order, nothing of it between."""
    expected = 0
    for record in topic:
        if record.run != run:
            continue
        if record.commit != commit:
            expected = 0
        elif record.ordinal == expected:
            expected += 1
            if record.to is not None:
                return True
    return False


def test_a_hole_is_passed_by_a_run_that_repeats_what_was_lost() -> None:
    source: list[Told] = [(101, ("a",)), (105, ("b", "c")), (110, ("d",))]
    lossy = [record for record in run_of(source, 1, 0) if record.commit != 105]
    assembler = Assembler(Position(EPOCH, Lsn(START)))
    first = feed(assembler, 0, lossy[0])
    assert first is not None
    with pytest.raises(Hole, match="between 0/66 and 0/6A of epoch 0a1b2c3d"):
        feed(assembler, 1, lossy[1])
    again = [feed(assembler, 2 + i, r) for i, r in enumerate(run_of(source, 2, 1))]
    assert [told(done) for done in again if done is not None] == source[1:]


def test_it_resumes_at_the_oldest_fragment_still_of_use() -> None:
    long: list[Told] = [(150, ("a", "b"))]
    short: list[Told] = [(120, ("x",))]
    one, two = run_of(long, 1, 0), run_of(short, 2, 0)
    assembler = Assembler(Position(EPOCH, Lsn(START)))
    feed(assembler, 10, one[0])
    done = feed(assembler, 11, two[0])
    assert done is not None
    assert done.resume == 10
    assert assembler.resume_at(Offset(12)) == 10
    last = feed(assembler, 12, one[1])
    assert last is not None
    assert last.resume == 13
    last.close()


def test_records_without_use_count_but_are_not_kept() -> None:
    records = run_of([(101, ("a", "b", "c"))], 1, 0)
    assembler = Assembler(Position(EPOCH, Lsn(START)))
    done = None
    for offset, record in enumerate(records):
        done = assembler.feed(
            Offset(offset), record.key, b"", record.event, keep=record.name == "b"
        )
    assert done is not None
    assert told(done) == (101, ("b",))


def test_a_large_transaction_is_spooled_and_read_as_often_as_needed() -> None:
    records = run_of([(101, tuple("abcdefg"))], 1, 0)
    assembler = Assembler(Position(EPOCH, Lsn(START)))
    done = [feed(assembler, offset, record) for offset, record in enumerate(records)][-1]
    assert done is not None
    assert done.spool is not None
    assert (len(done.events), done.spool.count, done.size) == (2, 5, 7)
    assert names(done) == names(done) == tuple("abcdefg")
    keys = [key for key, _ in done.keys_and_events()]
    assert keys == [record.key for record in records]
    done.close()


def test_only_verifys_answers_are_hashes() -> None:
    def transaction(request: str | None) -> Transaction:
        answer = None if request is None else Answer("stage", request, "f")
        return Transaction(Lsn(1), Lsn(2), 0, [], None, answer, Offset(1), RunId(1))

    assert transaction("verify-1-0-").hashed
    assert not transaction("page-1").hashed
    assert not transaction(None).hashed


def test_large_records_are_spooled_however_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "SPOOL_AFTER", 1_000)
    monkeypatch.setattr(assemble, "SPOOL_BYTES", 250)
    done = None
    with closing(Assembler(Position(EPOCH, Lsn(START)))) as assembler:
        for offset, each in enumerate(run_of([(START, tuple("abcdefghij"))], 1, 0)):
            done = assembler.feed(offset, each.key, b"x" * 100, each.event)
    assert done is not None
    with closing(done):
        assert (len(done.events), done.size) == (3, 10)
