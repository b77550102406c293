"""Where a target begins, or goes on after a rebase: behind the last whole transaction."""

import tracemalloc
from pathlib import Path

import pytest

from replicator.log import Log, open_log
from replicator.positions import Offset
from replicator_apply.bootstrap import TAIL, first_position
from replicator_apply.state import StoredPosition
from tests.support.published import Change, Published

TAG = "public.pages_tag"


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return open_log(f"sqlite:///{tmp_path}/log.sqlite3")


def rows(count: int) -> list[Change]:
    return [Change("c", TAG, (i,), {"id": i, "name": "x"}) for i in range(count)]


def append(log: Log, published: Published, *values: bytes) -> None:
    writer = log.writer(published.topic)
    writer.append([(b"", value) for value in values], None)
    writer.close(1)


def found(log: Log, published: Published) -> StoredPosition:
    first = first_position(log, published.topic)
    assert first is not None
    return first


def test_an_empty_log_has_no_position(log: Log) -> None:
    log.create("replicator.prod.main")
    assert first_position(log, "replicator.prod.main") is None


def test_reading_begins_behind_the_last_transaction(log: Log) -> None:
    published = Published(log)
    published.transaction(*rows(3))
    first = found(log, published)
    assert first.position.next == published.next
    assert first.offset == Offset(4)


@pytest.mark.parametrize("count", [5, TAIL + 20])
def test_reading_begins_at_the_first_fragment_of_an_open_transaction(log: Log, count: int) -> None:
    published = Published(log)
    published.transaction(*rows(2))
    position = published.next
    records = published.records(*rows(count))[:-1]
    append(log, published, *(value for _, value in records))
    first = found(log, published)
    assert (first.position.next, first.offset) == (position, Offset(3))


def test_a_large_open_transaction_is_not_held_in_memory(log: Log) -> None:
    published = Published(log)
    published.transaction(*rows(2))
    large = [Change("c", TAG, (i,), {"id": i, "name": "x" * 20_000}) for i in range(4_000)]
    append(log, published, *(value for _, value in published.records(*large)[:-1]))
    del large
    tracemalloc.start()
    try:
        assert found(log, published).offset == Offset(3)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 30_000_000


def test_records_that_cannot_be_read_are_left_behind(log: Log) -> None:
    published = Published(log)
    published.transaction(*rows(2))
    append(log, published, b"garbage", b"[" * 100_000)
    first = found(log, published)
    assert (first.position.next, first.offset) == (published.next, Offset(5))
    open_since = published.records(*rows(3))[:-1]
    append(log, published, *(value for _, value in open_since))
    assert found(log, published).offset == Offset(5)


def test_the_newest_epoch_counts(log: Log) -> None:
    published = Published(log)
    published.transaction(*rows(2))
    newer = Published(log, epoch="ffffffff", next=50)  # type: ignore[arg-type]
    first = found(log, newer)
    assert (first.position.epoch, first.position.next) == ("ffffffff", 50)
