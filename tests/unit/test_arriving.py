"""Rounds from a thread that reads to one that writes."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from replicator_apply.arriving import WAITING, Arriving, GivenUp

EVENTS: list[Any] = [(b"k", None)]


def made(events: Sequence[Any]) -> Any:
    return {b"n": len(events)}


def reader(work: Any) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_rounds_come_out_in_order_and_end() -> None:
    arriving = Arriving(made)

    def read() -> None:
        for n in range(1, 9):
            arriving.put(EVENTS * n)
        arriving.end()

    thread = reader(read)
    assert [each[b"n"] for each in arriving.rounds()] == [*range(1, 9)]  # type: ignore[comparison-overlap]
    thread.join()
    assert arriving.count == 36


def test_who_reads_waits_for_who_writes() -> None:
    arriving, through = Arriving(made), threading.Event()

    def read() -> None:
        for _ in range(WAITING + 1):
            arriving.put(EVENTS)
        through.set()

    thread = reader(read)
    assert not through.wait(0.1)
    next(arriving.rounds())
    assert through.wait(10)
    thread.join()


@pytest.mark.parametrize("begun", [True, False])
def test_who_reads_learns_that_nobody_writes_any_more(begun: bool) -> None:
    arriving = Arriving(made)
    failed = threading.Event()

    def read() -> None:
        try:
            for _ in range(9):
                arriving.put(EVENTS)
        except GivenUp:
            failed.set()

    thread = reader(read)
    if begun:
        next(arriving.rounds())
    arriving.close()
    assert failed.wait(10)
    thread.join()


def test_what_is_abandoned_does_not_end_well() -> None:
    arriving = Arriving(made)
    arriving.put(EVENTS)
    arriving.abandon()
    with pytest.raises(GivenUp):
        next(arriving.rounds())


def test_what_is_whole_is_not_abandoned() -> None:
    arriving = Arriving(made)
    arriving.put(EVENTS)
    arriving.end()
    arriving.abandon()
    assert len([*arriving.rounds()]) == 1
