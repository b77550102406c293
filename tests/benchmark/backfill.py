"""B: a new target is brought a table while 200 small transactions a second stream to it.

Of 1,000,000 rows, and those that the workloads before have left.
"""

import time
from dataclasses import dataclass

from tests.benchmark.latency import SIZE, Latency, measure
from tests.benchmark.sites import Connection, Site, open_connection
from tests.support.processes import wait_until

ROWS = 1_000_000
"""Rows that are there at scale 1."""
SLICE = 2.0
"""Seconds of traffic between two looks whether the backfill is through."""
POLL = 0.004
"""Seconds between two looks for new transactions: each takes time from the backfill."""
PATIENCE = 600.0

_STATE = "SELECT state, rows_done FROM replicator_backfillrun ORDER BY id DESC LIMIT 1"
_SECONDS = (
    "SELECT extract(epoch FROM finished_at - started_at) FROM replicator_backfillrun "
    "ORDER BY id DESC LIMIT 1"
)


@dataclass(frozen=True)
class Brought:
    """What came of it.

    Attributes:
        seconds: from when the target began to ask until it had all.
        latency: of the traffic meanwhile; None: the backfill was through before any.
        streamed: rows of the traffic.
    """

    seconds: float
    latency: Latency | None
    streamed: int


def watch(site: Site) -> Brought:
    """Let the traffic flow while a target that has just begun is brought its rows.

    Raises:
        AssertionError: it does not begin, or a transaction does not come.
    """
    with open_connection(site.target) as target:
        wait_until(lambda: _state(target)[1] > 0, PATIENCE, "the first rows are here")
        milliseconds, torn = list[float](), 0
        until = time.monotonic() + PATIENCE
        while _state(target)[0] != "finished":
            if time.monotonic() > until:
                raise AssertionError(f"the backfill was not through within {PATIENCE:.0f} s")
            measured = measure(site, SLICE, POLL)
            milliseconds += measured.milliseconds
            torn += measured.torn
        row = target.execute(_SECONDS).fetchone()
    seconds = float(row[0]) if row else 0.0
    latency = Latency(sorted(milliseconds), torn) if milliseconds else None
    return Brought(seconds, latency, len(milliseconds) * SIZE)


def _state(target: Connection) -> tuple[str, int]:
    row = target.execute(_STATE).fetchone()
    return (str(row[0]), int(row[1])) if row else ("", 0)
