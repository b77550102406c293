"""The daemons' small HTTP server: /metrics for Prometheus, /healthz and /readyz for probes.

It runs in one thread of its own beside the daemon's loop, which tells `Health` that it turns.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from replicator.errors import ConfigurationError
from replicator.metrics import LOOP_AGE, LOOP_TURNS, READY, counter, gauge

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

ALIVE_WITHIN = 60.0
"""Seconds within which a daemon's loop must turn; longer than any wait inside it."""


class Health:
    """What the loop tells of itself. Any thread may ask; the loop's thread tells.

    Args:
        within: seconds within which the loop must turn to count as alive.
        clock: seconds that only grow.
    """

    def __init__(
        self, within: float = ALIVE_WITHIN, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._within = within
        self._clock = clock
        self._parts: list[HealthPart] = []
        self._turned = clock()
        self._ready: tuple[bool, str] = (False, "starting")
        gauge(LOOP_AGE).set_function(self.age)
        gauge(READY).set(0)
        self._turns = counter(LOOP_TURNS)

    def turned(self) -> None:
        """Note that the loop has turned. Cheap: call it in every turn."""
        self._turned = self._clock()
        self._turns.inc()

    def ready(self, is_ready: bool, reason: str = "") -> None:
        """Note whether the daemon does its work, and if not, why (a sentence for a person)."""
        self._ready = (is_ready, reason)
        gauge(READY).set(int(is_ready))

    def part(self, name: str) -> "HealthPart":
        """Give the health of one of several loops; the whole is as well as the worst of them."""
        part = HealthPart(self, name)
        self._parts.append(part)
        return part

    def parts_changed(self) -> None:
        """Take over what the parts tell."""
        self._turned = min(part.turned_at for part in self._parts)
        self._turns.inc()
        unready = [part.reason for part in self._parts if part.reason]
        self.ready(not unready, "; ".join(unready))

    def now(self) -> float:
        """Give the clock's seconds."""
        return self._clock()

    def age(self) -> float:
        """Give the seconds since the loop turned last."""
        return self._clock() - self._turned

    def liveness(self) -> tuple[bool, str]:
        """Say whether the loop turns, and how long ago it did."""
        age = self.age()
        return age <= self._within, f"the loop turned {age:.1f} s ago"

    def readiness(self) -> tuple[bool, str]:
        """Say whether the daemon does its work, or why not."""
        is_ready, reason = self._ready
        alive, age = self.liveness()
        if is_ready and not alive:
            return False, f"not ready: {age}"
        return is_ready, "ready" if is_ready else f"not ready: {reason}"


class HealthPart(Health):
    """What one loop of several tells of itself; made by `Health.part`.

    Attributes:
        reason: why it does not do its work, with its name; "" if it does.
        turned_at: when it turned last, by the whole's clock.
    """

    def __init__(self, whole: Health, name: str) -> None:
        self._whole = whole
        self._name = name
        self.reason = f"{name}: starting"
        self.turned_at = whole.now()

    def turned(self) -> None:
        """Note that this loop has turned."""
        self.turned_at = self._whole.now()
        self._whole.parts_changed()

    def ready(self, is_ready: bool, reason: str = "") -> None:
        """Note whether this loop does its work."""
        self.reason = "" if is_ready else f"{self._name}: {reason}"
        self._whole.parts_changed()


@contextmanager
def serve_http(address: tuple[str, int] | None, health: Health) -> Iterator[str | None]:
    """Serve while the body runs; gives the address in use (`host:port`), None if none is set.

    Args:
        address: host ("" is all of the machine's) and port (0 takes a free one).
        health: what /healthz and /readyz ask.

    Raises:
        ConfigurationError: no such address, or the port is busy.
    """
    if address is None:
        yield None
        return
    host, _ = address
    server = _bind(*address, application(health))
    thread = threading.Thread(target=server.serve_forever, name="http", daemon=True)
    thread.start()
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def application(health: Health) -> "WSGIApplication":
    """Build the WSGI application."""
    metrics: WSGIApplication = make_wsgi_app()
    probes = {"/healthz": health.liveness, "/readyz": health.readiness}

    def respond(environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, start)
        if path not in probes:
            return _text(start, "404 Not Found", "There are /metrics, /healthz and /readyz.")
        good, text = probes[path]()
        return _text(start, "200 OK" if good else "503 Service Unavailable", text)

    return respond


def _text(start: "StartResponse", status: str, text: str) -> list[bytes]:
    start(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{text}\n".encode()]


def _bind(host: str, port: int, app: "WSGIApplication") -> WSGIServer:
    try:
        server = _Server6 if ":" in host else _Server
        return make_server(host, port, app, server, _QuietHandler)
    except OSError as error:
        raise ConfigurationError(
            f"METRICS: cannot listen on {host}:{port}: {error.strerror}.",
            remedy="Choose a free port of this machine; every daemon needs its own.",
        ) from error


class _Server(ThreadingMixIn, WSGIServer):
    """A probe is answered even while a slow client reads metrics."""

    daemon_threads = True
    block_on_close = False


class _Server6(_Server):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    """Requests of probes are not worth a line in the log."""

    timeout = 10

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""
