"""One step ahead: order, errors, and who waits for whom."""

import threading
from collections.abc import Iterator

import pytest

from replicator_apply.ahead import Aside, one_ahead


def test_work_goes_on_while_the_caller_does() -> None:
    aside, going = Aside[str](), threading.Event()
    aside.begin(lambda: "done" if going.wait(10) else "the caller waited for it")
    assert aside.busy
    going.set()
    assert aside.join() == "done"
    assert not aside.busy
    assert aside.join() is None
    aside.close()


def test_what_work_raises_is_raised_once_by_join() -> None:
    aside = Aside[int]()
    aside.begin(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        aside.join()
    assert aside.join() is None
    aside.close()


def test_only_one_piece_of_work_at_a_time() -> None:
    aside = Aside[None]()
    aside.begin(lambda: None)
    with pytest.raises(AssertionError, match="one piece"):
        aside.begin(lambda: None)
    aside.close()


def test_close_waits_for_the_work_under_way() -> None:
    aside, done = Aside[None](), list[int]()

    def work() -> None:
        threading.Event().wait(0.1)
        done.append(1)

    aside.begin(work)
    aside.close()
    assert done == [1]


def test_items_come_in_order_and_one_is_made_ahead() -> None:
    made, ahead = list[int](), threading.Event()

    def items() -> Iterator[int]:
        for n in range(4):
            made.append(n)
            if n == 1:
                ahead.set()
            yield n

    taken = one_ahead(items())
    assert next(taken) == 0
    assert ahead.wait(10)
    assert [*taken] == [1, 2, 3]
    assert made == [0, 1, 2, 3]


def test_an_error_comes_where_the_item_would_have() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("gone")

    taken = one_ahead(items())
    assert next(taken) == 1
    with pytest.raises(KeyError, match="gone"):
        next(taken)


def test_closed_early_it_makes_no_more_than_it_has_begun() -> None:
    made = list[int]()

    def items() -> Iterator[int]:
        for n in range(100):
            made.append(n)
            yield n

    taken = one_ahead(items())
    next(taken)
    taken.close()
    assert len(made) <= 2
