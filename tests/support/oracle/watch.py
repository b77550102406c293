"""A reader of the target, in a thread: what it sees is kept and judged later."""

import contextlib
import threading
from collections.abc import Iterator

import psycopg

from tests.support.oracle.judge import Broken, Judge
from tests.support.oracle.states import TargetReader

PAUSE = 0.005


class Watcher:
    """Reads the target again and again.

    Attributes:
        seen: number of different states.
    """

    def __init__(self, reader: TargetReader) -> None:
        self._reader = reader
        self._lines: list[list[tuple[str, str, str, str]]] = []
        self._stop, self._blind = threading.Event(), threading.Event()
        self._failure: psycopg.Error | None = None
        self.seen = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        last: list[tuple[str, str, str, str]] = []
        before = ""
        try:
            while not self._stop.wait(PAUSE):
                if self._blind.is_set():
                    continue
                # As long as it is the same, nobody has committed anything, in any database.
                snapshot = self._reader.snapshot()
                if snapshot == before:
                    continue
                lines, before = self._reader.raw(), snapshot
                if lines != last and not self._blind.is_set():
                    self._lines.append(lines)
                    last = lines
        except psycopg.Error as error:
            self._failure = error

    def judge(self, judge: Judge) -> None:
        """Check what was seen since the last call. Raises Broken."""
        if self._failure is not None:
            raise self._failure
        while self._lines:
            lines = self._lines.pop(0)
            self.seen += 1
            try:
                judge.moment(self._reader.parse(lines))
            except Broken as error:
                raise Broken(f"a reader saw, {error}") from error

    @contextlib.contextmanager
    def blind(self) -> Iterator[None]:
        """See nothing while the body runs."""
        self._blind.set()
        yield
        self._blind.clear()

    def end(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join(10)
