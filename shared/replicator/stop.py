"""How a daemon is told to stop, and how it is begun again when a service was away."""

import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

from replicator.errors import Disposition, ReplicatorError, disposition
from replicator.metrics import ERRORS, RESTARTS, counter

logger = logging.getLogger(__name__)


class Stop:
    """A token that says once, and for good, that the process is to stop.

    Any thread may wait on it. It waits on a pipe, so that a signal handler wakes it at once.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._readable, self._writable = os.pipe()

    def set(self) -> None:
        """Ask to stop. May be called from a signal handler, and more than once."""
        if not self._event.is_set():
            self._event.set()
            os.write(self._writable, b"\0")

    def is_set(self) -> bool:
        """Say whether to stop. Does not block."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Block until it is set, at most so long; say whether it is."""
        readable, _, _ = select.select([self._readable], [], [], max(seconds, 0.0))
        return bool(readable)

    def close(self) -> None:
        """Release the descriptors; nobody may wait on it any more."""
        os.close(self._readable)
        os.close(self._writable)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Give a token that the first SIGTERM or SIGINT sets; the second ends the process at once.

    Only for the main thread (https://docs.python.org/3/library/signal.html#signals-and-threads).
    """
    stop = Stop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def handle(number: int, _: FrameType | None) -> None:
        stop.set()
        for each in signals:
            signal.signal(each, signal.SIG_DFL)
        logger.info(
            "Stopping on %s; again ends it at once.",
            signal.Signals(number).name,
            extra={"event": "stopping"},
        )

    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.close()


class Backoff(NamedTuple):
    """How long to wait before the next try, in seconds.

    Attributes:
        first: after the first error; doubled by each further one.
        limit: never longer than this.
        calm: after a run of this length an error counts as the first one again.
    """

    first: float = 0.5
    limit: float = 30.0
    calm: float = 60.0

    def delay(self, failures: int) -> float:
        """Give the pause after so many errors in a row (1: the first)."""
        return float(min(self.limit, self.first * 2.0 ** min(failures - 1, 32)))


def supervise(
    run: Callable[[], None],
    stop: Stop,
    backoff: Backoff = Backoff(),  # noqa: B008 (immutable)
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Call `run` until it returns, again after a pause when a service was away.

    Returns when `run` returns or when it is to stop during a pause. Blocks as long.

    Raises:
        ReplicatorError: what `errors.disposition` does not want to be tried again.
    """
    failures = 0
    while not stop.is_set():
        began = clock()
        try:
            run()
        except ReplicatorError as error:
            action = disposition(error)
            counter(ERRORS).labels(type(error).__name__, action.value).inc()
            if action is not Disposition.RETRY:
                raise
            failures = 1 if clock() - began >= backoff.calm else failures + 1
            _pause(error, stop, backoff.delay(failures))
        else:
            return


def _pause(error: ReplicatorError, stop: Stop, seconds: float) -> None:
    logger.warning(
        "%s Trying again in %.1f s.",
        error,
        seconds,
        extra={"event": "retry", "error_class": type(error).__name__, "seconds": seconds},
    )
    counter(RESTARTS).inc()
    stop.wait(seconds)
