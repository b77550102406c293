"""Sessions that notice when the network between has gone deaf.

A connection whose peer has gone is given up by keep-alives and TCP's user timeout. But something
between (a proxy, a tunnel, a firewall) may acknowledge every byte and pass none on: then nothing
ever breaks, and a wait for an answer never ends. So a thread looks at sessions that have waited
for long, and asks the server over another connection what the session's process does there. While
it works, it is left alone, however long that takes. If it waits for us, as we wait for it, or the
server cannot be heard at all, the session is broken off, and the wait ends with the driver's
OperationalError. Nothing here blocks a caller.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import psycopg
from psycopg.abc import PQGen

logger = logging.getLogger(__name__)

SILENCE = 30.0
"""Seconds of one wait after which the server is asked what it does."""
ANSWER = 10.0
"""Seconds within which the server must say so."""
LOOK_EVERY = 5.0
"""Seconds between looks at all sessions."""

_PID = "SELECT pg_backend_pid()"
_WORKS = (
    "SELECT coalesce(bool_and(wait_event_type IS DISTINCT FROM 'Client'), false) "
    "FROM pg_stat_activity WHERE pid = %s"
)

T = TypeVar("T")


class Session(psycopg.Connection[Any]):
    """A connection that knows since when it waits for the server.

    Attributes:
        parameters: what it was opened with.
        process: id of the server's process; a pooler would tell another one at the beginning.
    """

    parameters: Mapping[str, str]
    process: int

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._wait_lock = threading.Lock()
        self._waiting_since: float | None = None

    @classmethod
    def open(cls, parameters: Mapping[str, str]) -> "Session":
        """Connect in autocommit mode, and have it watched. Raises as psycopg does."""
        session = cls.connect(**parameters, autocommit=True)  # type: ignore[arg-type]
        session.parameters = parameters
        row = session.execute(_PID).fetchone()
        session.process = int(row[0]) if row else 0
        _watch.add(session)
        return session

    @property
    def waiting_since(self) -> float | None:
        """When the wait began that is under way (monotonic seconds); None: there is none."""
        return self._waiting_since

    def wait(self, gen: PQGen[T], *arguments: Any, **named: Any) -> T:
        """Wait as psycopg does, and note since when."""
        self._waiting_since = time.monotonic()
        try:
            return super().wait(gen, *arguments, **named)
        finally:
            with self._wait_lock:
                self._waiting_since = None

    def break_off(self, waiting_since: float) -> bool:
        """End that wait from another thread, as a lost connection does; False: it has ended."""
        with self._wait_lock:
            if self._waiting_since != waiting_since:
                return False
            with socket.socket(fileno=os.dup(self.pgconn.socket)) as end:
                end.shutdown(socket.SHUT_RDWR)
            return True


@dataclass(frozen=True, slots=True)
class _Look:
    """What was found of a session's wait: when to look again, and whether it seemed in vain."""

    since: float
    due: float
    in_vain: bool


class Watch:
    """Looks at sessions from a thread that begins with the first of them.

    Args:
        works: whether a session's process works, as the server says; None: it cannot be heard.
        clock: seconds, as `Session.waiting_since`.
    """

    def __init__(
        self, works: Callable[[Session], bool | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._works, self._clock = works, clock
        self._lock = threading.Lock()
        self._looks: WeakKeyDictionary[Session, _Look | None] = WeakKeyDictionary()
        self._thread: threading.Thread | None = None
        self._end = threading.Event()

    def add(self, session: Session) -> None:
        """Look at a session from now on, as long as it lives."""
        with self._lock:
            self._looks[session] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sessions", daemon=True)
                self._thread.start()

    def end(self) -> None:
        """Look at nothing any more."""
        self._end.set()

    def _run(self) -> None:
        while not self._end.wait(LOOK_EVERY):
            with self._lock:
                sessions = list(self._looks)
            for session in sessions:
                self.look(session)
            del sessions

    def look(self, session: Session) -> None:
        """Break a session off whose wait seems in vain for the second time."""
        since, now, last = session.waiting_since, self._clock(), self._looks.get(session)
        if since is None or now - since < SILENCE:
            return
        again = last is not None and last.since == since
        if last is not None and again and now < last.due:
            return
        works = self._works(session)
        in_vain = works is not True
        if last is not None and again and last.in_vain and in_vain:
            if session.break_off(since):
                _tell(heard=works is not None)
            return
        self._looks[session] = _Look(since, now if in_vain else now + SILENCE, in_vain)


def _tell(*, heard: bool) -> None:
    logger.warning(
        "Postgres %s; the connection is given up.",
        "waits for us, as we wait for it" if heard else "has not been heard for long",
        extra={"event": "session_silent"},
    )


def _works_at_server(session: Session) -> bool | None:
    """Ask the server over another connection whether the session's process works."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            with psycopg.connect(**session.parameters, autocommit=True) as connection:  # type: ignore[arg-type]
                row = connection.execute(_WORKS, (session.process,)).fetchone()
                answers.append(row is not None and bool(row[0]))
        except psycopg.errors.ConnectionTimeout:
            return
        except psycopg.Error:
            # Heard, but not told: out of connections, or starting. TCP notices a host that is gone.
            answers.append(True)

    asking = threading.Thread(target=ask, name="asks for a session", daemon=True)
    asking.start()
    asking.join(ANSWER)
    return answers[0] if answers else None


_watch = Watch(_works_at_server)
