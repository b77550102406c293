"""Calls the functions of `on_applied`, each in a thread of its own, beside the stream.

A function may take its time, fail or never return: it holds up neither the stream nor another
function. One session holds the advisory lock of a stream's function, so that it is called by one
thread at a time, whatever was started. Blocks on Postgres and on the functions.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import psycopg
from django.db import close_old_connections, connections, reset_queries

from replicator.compiler import find_model, table_of
from replicator.database import open_database
from replicator.declare import Hook, declared_hooks
from replicator.errors import ReplicatorError
from replicator.metrics import counter
from replicator.postgres import driver_errors
from replicator.settings import ReplicatorSettings
from replicator.stop import Backoff
from replicator_apply import metrics
from replicator_apply.calls import (
    TRIES,
    Call,
    applied,
    next_calls,
    note_done,
    note_failure,
    wake_resting,
)
from replicator_apply.state import Place

Connection = psycopg.Connection[Any]
logger = logging.getLogger(__name__)

LOOK = 5.0
"""Seconds between looks for calls of which nobody told."""
PATIENCE = 10.0
"""Seconds that the end of apply waits for a function that is running."""
AGAIN = Backoff(first=1.0, limit=300.0)
"""Pauses before a call that failed is made again."""
_LOCK = "SELECT pg_try_advisory_lock(hashtext('replicator on_applied'), hashtext(%s))"


class Caller:
    """Calls one function for what a stream has applied.

    Args:
        settings: of this environment.
        place: the stream.
        hooks: the declarations of the function, one for each model.
    """

    def __init__(self, settings: ReplicatorSettings, place: Place, hooks: Iterable[Hook]) -> None:
        self._settings, self._place = settings, place
        self._hooks = {str(table_of(find_model(h.label))): h for h in hooks}
        self.name = next(iter(self._hooks.values())).name
        self._told = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"calls {self.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def tell(self) -> None:
        """Say that something may be due. Any thread may; costs nothing."""
        self._told.set()

    def end(self) -> None:
        """Make no further call."""
        self._ended.set()
        self._told.set()

    def join(self, seconds: float) -> None:
        """Wait for the function that is running; one that does not return is left alone."""
        self._thread.join(max(0.0, seconds))
        if self._thread.is_alive():
            logger.warning(
                "%s of on_applied is still running; it will be called again.",
                self.name,
                extra={"event": "call_unfinished", "function": self.name},
            )

    # In the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                with (
                    open_database(self._settings, "replicator on_applied") as connection,
                    driver_errors("reading what is due"),
                ):
                    self._serve(connection)
            except Exception as error:  # noqa: BLE001 (the thread's top frame)
                calm = time.monotonic() - began >= AGAIN.calm
                failures = 1 if calm else failures + 1
                logger.warning(
                    "Calls of %s pause: %s",
                    self.name,
                    error if isinstance(error, ReplicatorError) else type(error).__name__,
                    extra={"event": "calls_pause", "error_class": type(error).__name__},
                )
                self._ended.wait(AGAIN.delay(failures))
        connections.close_all()

    def _serve(self, connection: Connection) -> None:
        """Make calls until the end."""
        while not self._locked(connection):
            if self._ended.wait(1.0):
                return
        with connection.cursor() as cursor:
            wake_resting(cursor, self._place, self.name)
            while not self._ended.is_set():
                self._told.clear()
                calls = next_calls(cursor, self._place, self.name, self._hooks)
                if calls:
                    self._make(cursor, calls)
                else:
                    self._told.wait(LOOK)

    def _locked(self, connection: Connection) -> bool:
        name = f"{self._place.source}/{self._place.stream}/{self.name}"
        row = connection.execute(_LOCK, (name,)).fetchone()
        return bool(row and row[0])

    def _make(self, cursor: psycopg.Cursor[Any], calls: tuple[Call, ...]) -> None:
        """Call the function once, and note what came of it."""
        table = calls[0].table
        try:
            self._call(self._hooks[table], calls)
        except (Exception, SystemExit) as error:  # noqa: BLE001 (code of the project)
            note_failure(cursor, calls, f"{type(error).__name__}: {error}"[:1_000])
            self._failed(error, calls)
        else:
            note_done(cursor, calls)
            counter(metrics.CALLS).labels(*self._place, table, "made").inc()

    def _call(self, hook: Hook, calls: tuple[Call, ...]) -> None:
        """Call the function, its database connections as at the start of a request."""
        close_old_connections()
        try:
            hook.function(applied(find_model(hook.label), calls))
        except BaseException:
            # It may have left a transaction open.
            connections.close_all()
            raise
        finally:
            close_old_connections()
            reset_queries()

    def _failed(self, error: BaseException, calls: tuple[Call, ...]) -> None:
        """Tell of a failure, and pause."""
        table, tries = calls[0].table, calls[0].tries + 1
        counter(metrics.CALLS).labels(*self._place, table, "failed").inc()
        logger.error(
            "%s of on_applied fails for %s (try %d); it is called again.",
            self.name,
            table,
            tries,
            exc_info=error,
            extra={"event": "call_failed", "function": self.name, "table": table},
        )
        self._ended.wait(AGAIN.delay(tries) if tries < TRIES else 0.0)


class Callers:
    """The callers of all functions, of one stream."""

    def __init__(self, callers: Iterable[Caller]) -> None:
        self._callers = tuple(callers)

    def tell(self) -> None:
        """Say that something was applied."""
        for caller in self._callers:
            caller.tell()

    def end(self) -> None:
        """Have all of them make no further call."""
        for caller in self._callers:
            caller.end()

    def join(self) -> None:
        """Wait a moment for functions that are running."""
        until = time.monotonic() + PATIENCE
        for caller in self._callers:
            caller.join(until - time.monotonic())


@contextmanager
def calling(settings: ReplicatorSettings, place: Place) -> Iterator[Callers]:
    """Call the declared functions while the body runs.

    If it fails, functions that are running are left alone: the stream begins again at once. Those
    that call them then wait for the lock.
    """
    hooks = sorted(declared_hooks(), key=lambda hook: hook.name)
    by_name = [list(group) for _, group in groupby(hooks, key=lambda hook: hook.name)]
    all_callers = [Caller(settings, place, group) for group in by_name]
    callers = Callers(all_callers)
    for caller in all_callers:
        caller.start()
    try:
        yield callers
    finally:
        callers.end()
    callers.join()
