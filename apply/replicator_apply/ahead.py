"""One step ahead: what comes next is read in one thread while Postgres writes for another.

Postgres and Python work at the same time then, in place of waiting for each other by turns. Only
one thread uses the target's connection at a time: who lent it to a piece of work takes nothing
back before `join`.
"""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

Result = TypeVar("Result")
Item = TypeVar("Item")


class Aside(Generic[Result]):
    """Does one piece of work at a time in a thread of its own."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "write")
        self._work: Future[Result] | None = None

    @property
    def busy(self) -> bool:
        """Whether some work has not been joined yet."""
        return self._work is not None

    @property
    def ended(self) -> bool:
        """Whether there is some, and `join` need not wait for it."""
        return self._work is not None and self._work.done()

    def begin(self, work: Callable[[], Result]) -> None:
        """Begin a piece of work; the one before must have been joined."""
        if self._work is not None:
            raise AssertionError("one piece of work at a time")
        self._work = self._pool.submit(work)

    def join(self) -> Result | None:
        """Wait for the work under way and give what it gave; None: there is none.

        Raises what the work raised.
        """
        work, self._work = self._work, None
        return None if work is None else work.result()

    def wait(self, timeout: float) -> None:
        """Wait for the work under way, at most `timeout` seconds; `join` gives what it gave."""
        if self._work is not None:
            wait([self._work], timeout)

    def close(self) -> None:
        """Wait for the work under way, however it ends."""
        self._pool.shutdown()


def one_ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """Give all items; the next one is made while the caller works on this one.

    Close it if not all are taken: it then waits for the one that is being made. Raises what the
    iterator raises, where the item would have come.
    """
    end = object()
    with ThreadPoolExecutor(1, "read-ahead") as pool:
        following: Future[Item | object] = pool.submit(next, items, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, items, end)
            yield item  # type: ignore[misc]
