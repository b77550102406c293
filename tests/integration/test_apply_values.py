"""Values that travel as constants of a statement, read back from a real Postgres."""

import psycopg
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.postgres import SESSION_SETTINGS
from replicator_apply.values import cells_of
from tests.support.postgres import PostgresServer

_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
_CELL = st.none() | _TEXT | st.sampled_from(["\\", "'", "\\'", "''", "%s", "%(a)s", ");--", "\\n"])


def test_texts_come_back_as_they_were(postgres_server: PostgresServer) -> None:
    options = " ".join(f"-c {name}={value}" for name, value in SESSION_SETTINGS.items())
    with psycopg.connect(postgres_server.conninfo("postgres"), options=options) as connection:
        # The database's own setting must not matter.
        connection.execute("CREATE TEMP TABLE taken (a text, b text)")

        @settings(max_examples=200, deadline=None)
        @given(st.lists(st.tuples(_CELL, _CELL), min_size=1, max_size=5))
        def check(rows: list[tuple[str | None, str | None]]) -> None:
            connection.execute("TRUNCATE taken")
            connection.execute("INSERT INTO taken VALUES " + cells_of(rows), prepare=False)
            assert connection.execute("SELECT a, b FROM taken").fetchall() == rows

        check()
