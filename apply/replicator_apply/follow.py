"""Follows a run that a worker carries out, and shows its progress, until it ends or Ctrl-C.

The worker is the daemon, or, if none holds the stream, one in a thread of this process.
Blocks on Postgres.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

import psycopg
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from replicator.errors import Refused, Stopped
from replicator.http import Health
from replicator.settings import ReplicatorSettings
from replicator.stop import Stop, supervise
from replicator_apply.lock import is_locked, try_lock
from replicator_apply.rehearse import Rehearsal
from replicator_apply.state import Place, note_stop, stop_of
from replicator_apply.worker import Worker

PLAIN_EVERY = 5.0
"""Seconds between lines where no terminal shows a bar."""
LOOK_EVERY = 0.2
GONE_AFTER = 5.0
"""Seconds without a worker after which whoever follows a run is told."""


class Moving(Protocol):
    """What is followed: how far it is, and whether it has ended."""

    @property
    def done(self) -> int:
        """Rows so far."""

    @property
    def estimated(self) -> int | None:
        """Rows in all, roughly."""

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to wait for."""

    @property
    def note(self) -> str:
        """What the user should know now, "" if nothing."""


State = TypeVar("State", bound=Moving)


class Follower(Generic[State]):
    """Follows one run.

    Args:
        connection: of the target, in autocommit mode.
        place: the stream.
        what: what is done, for the lines: "backfill of polls".
        must_work: raises if the worker can no longer carry it out.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        place: Place,
        what: str,
        must_work: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._place = place
        self._what = what
        self._must_work = must_work
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._note = ""

    def follow(
        self, look: Callable[[], State], enough: Callable[[State], bool] = lambda _: False
    ) -> State:
        """Show progress until the run has ended, or it is enough; give its last state.

        Raises:
            Stopped: the stream stands.
            ReplicatorError: as `must_work`.
            KeyboardInterrupt: Ctrl-C.
        """
        shown = self._bar if self._console.is_terminal else self._lines
        with shown() as show:
            while True:
                state = look()
                show(state)
                if enough(state):
                    return state
                self._tell(state)
                if state.ended:
                    return state
                self._must_work()
                self._raise_if_stopped()
                time.sleep(LOOK_EVERY)

    def _tell(self, state: Moving) -> None:
        if state.note and state.note != self._note:
            self._console.print(state.note)
        self._note = state.note

    def _raise_if_stopped(self) -> None:
        with self._connection.cursor() as cursor:
            stopped = stop_of(cursor, self._place)
        if stopped is not None:
            raise Stopped(stopped.reason, remedy=stopped.remedy)

    @contextmanager
    def _bar(self) -> Iterator[Callable[[Moving], None]]:
        columns = (
            # A name may look like markup, or like an emoji: `section:a:`.
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            task: TaskID = progress.add_task(self._what, total=None, rate="")
            rate = Rate()

            def show(state: Moving) -> None:
                progress.update(
                    task,
                    completed=state.done,
                    total=max(state.estimated, state.done) if state.estimated else None,
                    rate=f"{rate.of(state.done):,.0f} rows/s",
                )

            yield show

    @contextmanager
    def _lines(self) -> Iterator[Callable[[Moving], None]]:
        rate, due = Rate(), [time.monotonic() + PLAIN_EVERY]

        def show(state: Moving) -> None:
            per_second = rate.of(state.done)
            if time.monotonic() < due[0]:
                return
            due[0] = time.monotonic() + PLAIN_EVERY
            total = f" of about {state.estimated:,}" if state.estimated else ""
            left = ""
            if state.estimated and per_second:
                left = f", {max(0, state.estimated - state.done) / per_second:,.0f} s left"
            rows = "row" if state.done == 1 and not total else "rows"
            self._console.print(
                f"{self._what}: {state.done:,}{total} {rows}, {per_second:,.0f} rows/s{left}"
            )

        yield show


class Rate:
    """Rows a second since the first look."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, int] | None = None

    def of(self, done: int) -> float:
        """Give the rate, now that so many are done."""
        now = self._clock()
        if self._first is None:
            self._first = now, done
        began, at = self._first
        return (done - at) / (now - began) if now > began else 0.0


@contextmanager
def worker_for(
    settings: ReplicatorSettings,
    connection: psycopg.Connection[Any],
    place: Place,
    *,
    rehearses: bool = False,
) -> Iterator[Callable[[], None]]:
    """See to it that a worker applies the stream while the body runs.

    With `rehearses` it only compares, because apply does not know the dataset yet. Gives what
    raises the error that ended the worker of this process, if one did.

    Raises:
        Refused: it would have to rehearse, and another worker holds the stream.
    """
    if not try_lock(connection, place):
        if rehearses:
            raise Refused(
                "The apply worker that runs here does not know this dataset, or not its rules yet.",
                remedy="Compare while no apply runs; started again, apply begins the backfill.",
            )
        yield _Watch(connection, place).look
        return
    with connection.cursor() as cursor:
        # What stopped the last worker may be mended; the one that begins here finds out.
        note_stop(cursor, place, None)
    connection.execute("SELECT pg_advisory_unlock_all()")
    does = "compares, and applies nothing" if rehearses else "applies the stream meanwhile"
    sys.stdout.write(f"No apply worker runs here; this command {does}.\n")
    kind = Rehearsal if rehearses else Worker
    with _running(lambda stop: kind(settings, place, stop, Health())) as must_work:
        yield must_work


class _Watch:
    """Tells, once each time, that the worker which was to carry out a run has ended.

    Args:
        connection: of the target.
        place: the stream.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        place: Place,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._place = place
        self._clock = clock
        self._gone: float | None = None
        self._told = False

    def look(self) -> None:
        """See whether a worker holds the stream; between two of them there is a moment."""
        if is_locked(self._connection, self._place):
            self._gone, self._told = None, False
            return
        now = self._clock()
        self._gone = now if self._gone is None else self._gone
        if now - self._gone >= GONE_AFTER and not self._told:
            self._told = True
            sys.stdout.write("No apply worker runs here any more; it goes on when one does.\n")
            sys.stdout.flush()


@contextmanager
def rehearsal_of(
    settings: ReplicatorSettings, place: Place, subscription: int
) -> Iterator[Callable[[], None]]:
    """Compare a subscription that nobody wants yet while the body runs, beside what applies.

    Gives what raises the error that ended the comparison, if one did.
    """
    with _running(lambda stop: Rehearsal(settings, place, stop, Health(), subscription)) as works:
        yield works


@contextmanager
def _running(make: Callable[[Stop], Worker]) -> Iterator[Callable[[], None]]:
    """Run a worker in a thread, again when a service was away."""
    stop = Stop()
    failures: list[Exception] = []

    def run() -> None:
        try:
            supervise(lambda: make(stop).run(), stop)
        except Exception as error:  # noqa: BLE001 (the thread's top frame: raised by `must_work`)
            failures.append(error)

    def must_work() -> None:
        if failures:
            raise failures[0]

    thread = threading.Thread(target=run, name="apply")
    thread.start()
    try:
        yield must_work
    finally:
        stop.set()
        thread.join()
        stop.close()
