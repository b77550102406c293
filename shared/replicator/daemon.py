"""What capture and apply have in common around their loop: signals, HTTP, supervision."""

import gc
import logging
import sys
from collections.abc import Callable
from typing import Literal

from replicator.http import Health, serve_http
from replicator.metrics import BUILD_INFO, gauge
from replicator.release import release
from replicator.settings import ReplicatorSettings
from replicator.speed import COMPILED, LEFT_OUT
from replicator.stop import Stop, stop_on_signals, supervise

logger = logging.getLogger(__name__)

GARBAGE_AFTER = 200_000
"""Containers made, less those freed, after which the collector looks for cycles. A batch makes tens
of thousands that live for a moment and hold none; at Python's 700 it costs as much as the work."""

SWITCH_AFTER = 0.0005
"""Seconds that a thread of apply may hold the interpreter while another one waits for it: the one
that talks to Postgres wants it a few times a batch, for a moment each, and Python's 5 ms are as
long as Postgres' own work. Capture's threads gain nothing by it, and each switch costs."""

Body = Callable[[Stop, Health], None]
"""A daemon's work: connects, loops until `stop`, lets go of everything, and returns.

It calls `health.turned()` in every turn and `health.ready(…)` when that changes. An `Unavailable`
error that it raises leads to another call after a pause; every other one ends the daemon.
"""


def run_daemon(name: Literal["capture", "apply"], body: Body, settings: ReplicatorSettings) -> int:
    """Run a daemon in the foreground until a signal stops it; 0 then.

    Args:
        name: which one.
        body: its work.
        settings: of this environment.

    Raises:
        ReplicatorError: what ended the daemon.
    """
    _collect_seldom()
    if name == "apply":
        sys.setswitchinterval(SWITCH_AFTER)
    health = Health(settings.health.stalled_after)
    number = release()
    gauge(BUILD_INFO).labels(name, number, settings.environment).set(1)
    listen = settings.metrics.capture if name == "capture" else settings.metrics.apply
    listen_at = (listen.host, listen.port) if listen else None
    with stop_on_signals() as stop, serve_http(listen_at, health) as address:
        logger.info(
            "%s %s starts in environment %s%s%s.",
            name,
            number,
            settings.environment,
            f", metrics on http://{address}/metrics" if address else "",
            ", with compiled twins" if COMPILED else "",
            extra={"event": "started", "daemon": name, "release": number, "compiled": COMPILED},
        )
        if LEFT_OUT:
            logger.warning(
                "The compiled twins are left out: %s Install the folder `speed` of this version.",
                LEFT_OUT,
                extra={"event": "twins_left_out"},
            )
        supervise(lambda: _run(body, stop, health), stop)
    logger.info("%s has stopped.", name, extra={"event": "stopped", "daemon": name})
    return 0


def _collect_seldom() -> None:
    """Let the garbage collector run seldom, and never over what is loaded at the start.

    https://docs.python.org/3/library/gc.html#gc.freeze
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER, 20, 20)


def _run(body: Body, stop: Stop, health: Health) -> None:
    health.ready(False, "starting")
    try:
        body(stop, health)
    finally:
        health.ready(False, "not running")
