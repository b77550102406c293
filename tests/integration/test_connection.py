"""The session that applies: what cuts it is tried again, from its first moment on."""

from collections.abc import Callable, Mapping

import psycopg
import pytest

from replicator import database
from replicator.errors import DatabaseUnavailable
from replicator_apply import connection
from tests.conftest import SampleFactory
from tests.support.capture_run import capture_settings
from tests.support.sample.databases import connected

Connect = Callable[[Mapping[str, str]], psycopg.Connection]


def cut_at_once(connect: Connect, made: list[psycopg.Connection], conninfo: str) -> Connect:
    """Connect, and have the server end the session before anything is done with it."""

    def opened(parameters: Mapping[str, str]) -> psycopg.Connection:
        made.append(connect(parameters))
        with psycopg.connect(conninfo, autocommit=True) as other:
            pid = made[-1].info.backend_pid
            other.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
        return made[-1]

    return opened


def test_a_session_that_is_cut_as_it_begins_is_worth_another_try(
    sample_database: SampleFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    conninfo = sample_database()
    made: list[psycopg.Connection] = []
    monkeypatch.setattr(database, "connect", cut_at_once(database.connect, made, conninfo))
    with connected("default", conninfo):
        with pytest.raises(DatabaseUnavailable, match="beginning the session"):
            connection.connect_target(capture_settings("sqlite:////unused"))
        assert made[0].closed
