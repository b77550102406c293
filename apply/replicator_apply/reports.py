"""What a target tells the source of itself, for `status` there. Blocks on Postgres."""

import time
from typing import Any

import psycopg
from psycopg import sql

from replicator.models import StreamPosition, Subscription, WantedRow
from replicator.plan import full_name
from replicator.requests import MAX_ERRORS, Report, ReportedError
from replicator_apply.state import STANDS, UNKNOWN, Place, other_code, state_table

Cursor = psycopg.Cursor[Any]

_POSITION = (
    "SELECT epoch, next_lsn, extract(epoch FROM now() - committed_at)::float, stopped_reason, "
    "stopped_remedy FROM {} WHERE source = %(source)s AND stream = %(stream)s"
)
_OLDEST_WANTED = (
    # In the order of their ids, and so of their time; only until the first one is found.
    "SELECT extract(epoch FROM now() - created_at)::float FROM (SELECT * FROM {} ORDER BY id "
    "OFFSET 0) w WHERE source = %(source)s AND stream = %(stream)s LIMIT 1"
)


_GATES = (
    "SELECT dataset, arguments, gate, {} FROM {} s "
    "WHERE source = %(source)s AND stream = %(stream)s AND {} "
    "AND gate <> '' ORDER BY id"
)


BEATS_WITHIN = 15.0
"""Seconds within which a source that runs is heard of: its beats come every ten."""


def make_report(
    cursor: Cursor, place: Place, environment: str, wanted: int, *, dry: bool
) -> Report:
    """Describe how the stream stands here.

    Args:
        cursor: on the target.
        place: the stream.
        environment: this one.
        wanted: how many rows are wanted.
        dry: the log has been read to its end, and every row of it is applied.
    """
    position = cursor.execute(
        sql.SQL(_POSITION).format(state_table(StreamPosition)), place.parameters
    ).fetchone()
    oldest = cursor.execute(
        sql.SQL(_OLDEST_WANTED).format(state_table(WantedRow)), place.parameters
    ).fetchone()
    now_ms = int(time.time() * 1000)
    if position is None:
        return Report(target=environment, at_ms=now_ms)
    epoch, next_lsn, lag, reason, remedy = position
    errors = [ReportedError(error="stopped", message=reason[:1000], remedy=remedy[:1000])]
    return Report(
        target=environment,
        at_ms=now_ms,
        epoch=epoch,
        next=next_lsn,
        lag_s=lag_of(lag, dry=dry and not reason),
        oldest_wanted_s=oldest[0] if oldest else None,
        counts={"wanted": wanted},
        errors=(*(errors if reason else ()), *_refused(cursor, place)),
    )


def _refused(cursor: Cursor, place: Place) -> list[ReportedError]:
    """Report the datasets that the source itself refuses, and those that this code has not."""
    rows = cursor.execute(
        sql.SQL(_GATES).format(UNKNOWN, state_table(Subscription), STANDS), place.parameters
    )
    return [
        _told(full_name(dataset, arguments), gate, unknown=unknown)
        for dataset, arguments, gate, unknown in rows.fetchmany(MAX_ERRORS - 1)
    ]


def _told(name: str, gate: str, *, unknown: bool) -> ReportedError:
    if unknown:
        message = f"The subscription to {name} waits: {gate}"
        return ReportedError(error="waits", message=message[:1000], remedy=other_code(name))
    return ReportedError(
        error="refused", message=f"The source refuses {name}: {gate}"[:1000], remedy=remedy_of(gate)
    )


def remedy_of(gate: str) -> str:
    """Say what is to be done about a dataset that the source refuses. Pure."""
    if gate.startswith("TARGETS "):
        return (
            "If it is to have it, add the dataset to TARGETS in the source's settings and restart "
            "capture there; it is asked for again."
        )
    return "Bring the code of both sides in line; it is asked for again."


def lag_of(age: float | None, *, dry: bool) -> float | None:
    """Give the lag of a stream whose last commit here is `age` seconds old.

    Nothing lags behind a log that is dry, as long as its source is heard of; if it is not, what it
    has committed meanwhile is unknown, and the age says how long.
    """
    return 0.0 if dry and age is not None and age <= BEATS_WITHIN else age
