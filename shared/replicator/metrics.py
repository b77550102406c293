"""The metrics that both daemons have, and the type in which every metric is declared.

Each package has one module `metrics` with constants of the type `Metric` and a tuple `METRICS`
of all of them; `docs/metrics.md` lists them, and a test compares the two. `counter`, `gauge` and
`histogram` give the one instrument of this process for a constant:

    ROWS = Metric("replicator_apply_rows_total", "counter", "Rows written.", ("op", "table"))
    METRICS = (ROWS,)
    …
    counter(ROWS).labels(op="c", table="public.polls_question").inc(100)

Labels carry names of tables, operations and environments, never a row's value or key.
Source of the naming rules: https://prometheus.io/docs/practices/naming/
"""

from functools import cache
from typing import Literal, NamedTuple

from prometheus_client import Counter, Gauge, Histogram

Kind = Literal["counter", "gauge", "histogram"]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Buckets for durations."""

ROWS = (1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0, 1_000_000.0)
"""Buckets for counts of rows."""


class Metric(NamedTuple):
    """One metric as it is documented and exposed.

    Attributes:
        name: as Prometheus shows it, unit included; a counter's ends in `_total`.
        kind: what it is to Prometheus.
        help: one sentence.
        labels: names of its labels.
        buckets: upper bounds, of a histogram only.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = SECONDS


BUILD_INFO = Metric(
    "replicator_build_info",
    "gauge",
    "Always 1; the labels say which daemon of which release runs in which environment.",
    ("daemon", "version", "environment"),
)
LOOP_TURNS = Metric(
    "replicator_loop_turns_total", "counter", "Turns of the daemon's loop; it stands if they stop."
)
LOOP_AGE = Metric(
    "replicator_loop_age_seconds", "gauge", "Seconds since the daemon's loop turned last."
)
READY = Metric(
    "replicator_ready", "gauge", "1 while the daemon does its work, 0 while it starts or waits."
)
ERRORS = Metric(
    "replicator_errors_total",
    "counter",
    "Errors that the daemon met, by class and by what it did about them.",
    ("error", "disposition"),
)
RESTARTS = Metric(
    "replicator_restarts_total", "counter", "Times the daemon's loop began again after an error."
)

METRICS = (BUILD_INFO, LOOP_TURNS, LOOP_AGE, READY, ERRORS, RESTARTS)


@cache
def counter(metric: Metric) -> Counter:
    """Give this process's counter for `metric`."""
    return Counter(metric.name, metric.help, metric.labels)


@cache
def gauge(metric: Metric) -> Gauge:
    """Give this process's gauge for `metric`."""
    return Gauge(metric.name, metric.help, metric.labels)


@cache
def histogram(metric: Metric) -> Histogram:
    """Give this process's histogram for `metric`."""
    return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets)
