"""Chunks in, batches out: which marks count."""

import pytest

from replicator.envelope import At, Mark, Record, Source, encode, encode_key
from replicator.log import Chunk
from replicator.positions import EpochId, Lsn, Offset, Position, RunId
from replicator_apply.consume import Consumer, consumer_at
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
