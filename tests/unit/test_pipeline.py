"""Batches in order: which is written, which waits, and what is settled when."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from replicator_apply.batch import Batch
from replicator_apply.pipeline import ASIDE_ROWS, Applied, Pipeline


class Piece:
    """A batch by name; `go` lets its writing end."""

    arriving = None

    def __init__(self, name: str, rows: int = ASIDE_ROWS, *, spooled: bool = False) -> None:
        self.name, self.rows, self.spooled = name, rows, spooled
        self.go = threading.Event()
        self.error: Exception | None = None
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Line:
    """A pipeline that notes what is done to the pieces."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.pipeline = Pipeline(self._apply, self._settle)

    def _apply(self, batch: Any) -> Applied:
        self.did.append(f"write {batch.name}")
        assert batch.go.wait(10)
        if batch.error is not None:
            raise batch.error
        return cast(Applied, batch)

    def _settle(self, applied: Any) -> None:
        self.did.append(f"settle {applied.name}")

    def give(self, piece: Piece) -> None:
        self.pipeline.hand_over(cast(Batch, piece))

    def until(self, what: str) -> None:
        for _ in range(1_000):
            if what in self.did:
                return
            self.pipeline.wait(0.01)
            self.pipeline.proceed()
        raise AssertionError(f"{what} not in {self.did}")


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    with closed(made.pipeline):
        yield made


@contextmanager
def closed(pipeline: Pipeline) -> Iterator[None]:
    try:
        yield
    finally:
        pipeline.close()


def test_one_is_written_and_one_waits_until_it_is_settled(line: Line) -> None:
    first, second = Piece("a"), Piece("b")
    line.give(first)
    assert not line.pipeline.full
    line.give(second)
    assert line.pipeline.busy
    assert line.pipeline.full
    first.go.set()
    line.until("write b")
    second.go.set()
    line.pipeline.finish()
    assert line.did == ["write a", "settle a", "write b", "settle b"]
    assert not line.pipeline.busy


def test_who_brings_a_third_one_waits(line: Line) -> None:
    first, second, third = Piece("a"), Piece("b"), Piece("c")
    line.give(first)
    line.give(second)
    threading.Timer(0.05, first.go.set).start()
    line.give(third)
    assert line.did[:2] == ["write a", "settle a"]
    second.go.set()
    third.go.set()
    line.pipeline.finish()
    assert line.did == [f"{do} {name}" for name in "abc" for do in ("write", "settle")]


def test_a_small_one_is_written_at_once_and_after_what_was_before(line: Line) -> None:
    first, small = Piece("a"), Piece("b", ASIDE_ROWS - 1)
    line.give(first)
    first.go.set()
    small.go.set()
    line.give(small)
    assert line.did == ["write a", "settle a", "write b", "settle b"]
    assert small.closed


def test_join_leaves_what_waits_for_the_connection_is_needed(line: Line) -> None:
    first, second = Piece("a"), Piece("b")
    line.give(first)
    line.give(second)
    first.go.set()
    line.pipeline.join()
    assert line.did == ["write a", "settle a"]
    second.go.set()
    line.pipeline.proceed()
    line.pipeline.join()
    assert line.did[2:] == ["write b", "settle b"]


def test_what_fails_is_raised_and_nothing_behind_it_is_written(line: Line) -> None:
    first, second, third = Piece("a"), Piece("b", spooled=False), Piece("c", spooled=True)
    first.error = ZeroDivisionError()
    line.give(first)
    line.give(second)
    first.go.set()
    with pytest.raises(ZeroDivisionError):
        line.give(third)
    assert third.closed
    line.pipeline.close()
    assert second.closed
    assert line.did == ["write a"]


def test_close_waits_for_what_is_under_way_and_drops_what_waits() -> None:
    line = Line()
    first, second = Piece("a"), Piece("b")
    line.give(first)
    line.give(second)
    threading.Timer(0.05, first.go.set).start()
    line.pipeline.close()
    assert line.did == ["write a"]
    assert second.closed
