"""A thread of the daemon whose failure is the daemon's failure."""

import threading
from collections.abc import Callable
from typing import TypeVar

from replicator.stop import Stop

_LOOK = 0.5

T = TypeVar("T")


class Halted(Exception):
    """It was told to stop before the work was done."""


class Worker:
    """Runs `work` in a thread; what it raises is raised again in the loop's thread.

    Args:
        name: of the thread.
        work: returns soon after the run's token has been set.
    """

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self._work = work
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 (the thread's top frame: handed over)
            self._failure = error

    def raise_failure(self) -> None:
        """Raise what ended the thread, if something did. Does not block."""
        if self._failure is not None:
            raise self._failure

    def join(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the thread to end; say whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()


def unless_stopped(name: str, work: Callable[[], T], stop: Stop, turned: Callable[[], None]) -> T:
    """Do something that may block for long, in a thread; give what it returns, or raise as it does.

    Args:
        name: of the thread.
        work: what to do.
        stop: ends the wait; the thread is then left to itself, as the process is about to end.
        turned: called at least every half second meanwhile.

    Raises:
        Halted: told to stop.
    """
    found: list[T] = []
    worker = Worker(name, lambda: found.append(work()))
    while not worker.join(_LOOK):
        turned()
        if stop.is_set():
            raise Halted
    worker.raise_failure()
    return found[0]
