"""The advisory lock of a stream: whoever holds it is the only worker. Blocks on Postgres."""

from typing import Any

import psycopg

from replicator.postgres import driver_errors
from replicator_apply.state import Place

# Two keys: hashes of the purpose and of the stream.
_TRY = "SELECT pg_try_advisory_lock(hashtext('replicator apply'), hashtext(%s))"
# https://www.postgresql.org/docs/current/view-pg-locks.html: keys are unsigned there, and
# objsubid 2 tells that there are two.
_LOOK = """
SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
               AND classid::int8 = hashtext('replicator apply')::int8 & 4294967295
               AND objid::int8 = hashtext(%s)::int8 & 4294967295)
"""


def try_lock(connection: psycopg.Connection[Any], place: Place) -> bool:
    """Take the stream's advisory lock, unless another session has it."""
    return _ask(connection, _TRY, place)


def is_locked(connection: psycopg.Connection[Any], place: Place) -> bool:
    """Say whether a worker applies the stream here, without touching its lock."""
    return _ask(connection, _LOOK, place)


def _ask(connection: psycopg.Connection[Any], question: str, place: Place) -> bool:
    with driver_errors("looking at the stream's lock"):
        row = connection.execute(question, (f"{place.source}/{place.stream}",)).fetchone()
    return bool(row and row[0])
