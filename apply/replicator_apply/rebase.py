"""Going on behind a gap, and forgetting the state of a cloned database. Blocks on Postgres."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from replicator.errors import BadRecord, Hole, LogUnavailable, Refused
from replicator.log import open_log
from replicator.models import (
    AppliedCall,
    BackfillRun,
    Beat,
    ChosenRow,
    NulledValue,
    StreamPosition,
    Subscription,
    VerifyRun,
    WantedRow,
)
from replicator.settings import ReplicatorSettings, stream_topic
from replicator_apply.bootstrap import first_position
from replicator_apply.lock import try_lock
from replicator_apply.state import (
    Place,
    begin_at,
    load_position,
    start_run,
    state_table,
    stop_of,
    stored_subscriptions,
)

Connection = psycopg.Connection[Any]
_GAPS = {Hole.__name__, BadRecord.__name__}
"""Errors of a stream that does not go on with what the log has."""
_STATE = (
    *(VerifyRun, BackfillRun, ChosenRow, Subscription, WantedRow, NulledValue),
    *(AppliedCall, StreamPosition, Beat),
)


def rebase(connection: Connection, settings: ReplicatorSettings, place: Place) -> bool:
    """Go on with what the log has now, and backfill every subscription; False: nothing is wrong.

    A worker that stands before the gap finds the new position by itself.

    Raises:
        Refused: the stream has never been applied here, the database is a copy, or the stream
            stands for another reason than a gap: what waits would be thrown away.
        LogUnavailable: the log is away or has no whole transaction.
    """
    log, topic = open_log(*settings.log_of_stream(*place)), stream_topic(*place)
    with connection.transaction(), connection.cursor() as cursor:
        stored = load_position(cursor, place, settings.environment)
        if stored is None:
            raise Refused(
                f"Stream {place.stream} of {place.source} has never been applied here.",
                remedy="Run `replicator apply`.",
            )
        state = log.state(topic)
        if state.begin <= stored.offset <= state.end:
            stop = stop_of(cursor, place)
            if stop is None:
                return False
            if stop.error not in _GAPS:
                raise Refused(
                    f"There is no gap. The stream stands: {stop.reason}", remedy=stop.remedy
                )
        first = first_position(log, topic)
        if first is None:
            raise LogUnavailable(
                "The log has no whole transaction yet.", remedy="Start the source's capture."
            )
        begin_at(cursor, place, settings.environment, first)
        for subscription in stored_subscriptions(cursor, place):
            start_run(cursor, subscription.id, "rebase")
    return True


def reset_state(connection: Connection) -> None:
    """Remove all of Replicator's state in this database, and no row of the project's tables.

    Raises:
        Refused: a worker applies one of its streams.
    """
    with _held_back(connection), connection.transaction():
        for model in _STATE:
            connection.execute(sql.SQL("DELETE FROM {}").format(state_table(model)))
        connection.execute("DROP SCHEMA IF EXISTS replicator CASCADE")


@contextmanager
def _held_back(connection: Connection) -> Iterator[None]:
    """Keep every stream's workers from applying while the body runs."""
    statement = sql.SQL("SELECT source, stream FROM {} UNION SELECT source, stream FROM {}")
    known = connection.execute(
        statement.format(state_table(StreamPosition), state_table(Subscription))
    ).fetchall()
    try:
        for place in (Place(*row) for row in known):
            if not try_lock(connection, place):
                raise Refused(
                    f"A worker applies stream {place.stream} of {place.source} here.",
                    remedy="Stop `replicator apply` first.",
                )
        yield
    finally:
        connection.execute("SELECT pg_advisory_unlock_all()")
