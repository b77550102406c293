"""The session that applies. Blocks on Postgres."""

from typing import Any

import psycopg

from replicator.database import open_database
from replicator.postgres import driver_errors
from replicator.settings import ReplicatorSettings


def connect_target(settings: ReplicatorSettings) -> psycopg.Connection[Any]:
    """Open the session that applies.

    `synchronous_commit` is off: a crash of the target loses rows and position alike. Names
    are searched as in the project's own sessions, for the triggers and operators (citext) of its
    tables; our statements qualify all of theirs.

    Raises:
        DatabaseUnavailable: the database is away, or cut the session as it began.
    """
    connection = open_database(settings, "replicator apply")
    try:
        with driver_errors("beginning the session that applies"):
            connection.execute("SET synchronous_commit = off; SET lock_timeout = '10s'")
            # Staged rows are analysed in every large batch, for their number more than for their
            # values.
            connection.execute("SET temp_buffers = '32MB'; SET default_statistics_target = 5")
            connection.execute('SET search_path = "$user", public')
            # Between two rounds of a large transaction that arrives; the worker itself gives it up.
            connection.execute("SET idle_in_transaction_session_timeout = 0")
    except BaseException:
        connection.close()
        raise
    return connection
