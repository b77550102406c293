"""Probes of a database that both sides need: version, pooler, clock, and what tables are like.

Blocks on the database; gives findings as Django's check messages. Ids, with the sides' own:

    E101 Postgres is older than 15                W101 Postgres is newer than any tested
    E102 a pooler stands in between               W102 clocks differ
    E103 a table is missing                       E104 a view, foreign table or the like
    E105 a table is unlogged or temporary         E106 a privilege on a table is missing
    E107 row-level security hides rows            E108 tables of the app `replicator` are missing
    E109 a key's collation takes texts for equal that differ
    E110 a table lacks a released column

    source: replicator_capture.preflight (E12x)   target: replicator_apply.preflight (E14x)
"""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import psycopg
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as Advice
from psycopg.rows import class_row

from replicator.models import Beat
from replicator.plan import Release, TableName
from replicator.words import SCHEMA_CHANGE

OLDEST, NEWEST = 15, 18
"""Major versions of Postgres that the tests run on."""

CLOCK_TOLERANCE = 2.0
"""Seconds that two clocks may differ; lags are wrong by as much."""


class TableFacts(NamedTuple):
    """A table as the catalog knows it.

    Attributes:
        kind: pg_class.relkind; None if there is no such table.
        persistence: pg_class.relpersistence: p permanent, u unlogged, t temporary.
        identity: pg_class.relreplident: d default, f full, i index, n nothing.
        identity_columns: the columns that it is made of; empty under FULL and NOTHING.
        owned: the role may act as its owner.
        lacking: privileges of those asked for that the role does not have.
        hides_rows: row-level security applies to the role.
        triggers: the users' own that fire on ordinary sessions.
        blurred: columns of the primary key whose collation is not deterministic.
    """

    schema: str
    name: str
    kind: str | None
    persistence: str
    identity: str
    identity_columns: Sequence[str]
    owned: bool
    lacking: Sequence[str]
    hides_rows: bool
    triggers: Sequence[str]
    blurred: Sequence[str]

    @property
    def label(self) -> str:
        """The table as messages name it."""
        return f"{self.schema}.{self.name}"


# https://www.postgresql.org/docs/current/catalog-pg-class.html
_TABLES = """
SELECT w.schema, w.name, c.relkind::text AS kind,
       coalesce(c.relpersistence::text, '') AS persistence,
       coalesce(c.relreplident::text, '') AS identity,
       ARRAY(SELECT a.attname::text FROM pg_index i
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
             WHERE i.indrelid = c.oid AND i.indisvalid
             AND CASE c.relreplident WHEN 'd' THEN i.indisprimary
                                     WHEN 'i' THEN i.indisreplident ELSE false END
            ) AS identity_columns,
       coalesce(pg_has_role(c.relowner, 'USAGE'), false) AS owned,
       ARRAY(SELECT p FROM unnest(%(privileges)s::text[]) p
             WHERE NOT has_table_privilege(c.oid, p)) AS lacking,
       coalesce(row_security_active(c.oid), false) AS hides_rows,
       ARRAY(SELECT t.tgname::text FROM pg_trigger t
             WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
             ORDER BY t.tgname) AS triggers,
       ARRAY(SELECT a.attname::text FROM pg_index i
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
             JOIN pg_collation l ON l.oid = a.attcollation AND NOT l.collisdeterministic
             WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY a.attnum) AS blurred
FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS w (schema, name)
LEFT JOIN pg_namespace n ON n.nspname = w.schema
LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
ORDER BY w.schema, w.name
"""


def read_tables(
    connection: psycopg.Connection, tables: Sequence[TableName], privileges: Sequence[str]
) -> list[TableFacts]:
    """Describe tables; `privileges` are those that the role needs on each (`SELECT`, …)."""
    parameters = {
        "schemas": [table.schema for table in tables],
        "names": [table.name for table in tables],
        "privileges": list(privileges),
    }
    with connection.cursor(row_factory=class_row(TableFacts)) as cursor:
        return cursor.execute(_TABLES, parameters).fetchall()


def table_messages(facts: TableFacts) -> Iterator[CheckMessage]:
    """Say what makes a table unfit on either side. Pure."""
    if facts.kind is None:
        yield _error("E103", "The table does not exist.", "Run `manage.py migrate`.", facts.label)
    elif facts.kind not in {"r", "p"}:
        text = "It is no table (a view, foreign table or the like)."
        yield _error("E104", text, "Use opt_out() for its model.", facts.label)
    elif facts.persistence != "p":
        text = "The table is unlogged or temporary: its changes never reach the WAL."
        yield _error("E105", text, f"Run ALTER TABLE {facts.label} SET LOGGED.", facts.label)
    elif facts.lacking:
        wanted = ", ".join(facts.lacking)
        text = f"The role lacks {wanted}."
        yield _error("E106", text, f"Run GRANT {wanted} ON {facts.label} TO the role.", facts.label)
    elif facts.hides_rows:
        hint = "Let the role have BYPASSRLS, or own the table."
        yield _error("E107", "Row-level security hides rows of it.", hint, facts.label)
    elif facts.blurred:
        # Events, receipts and pages know rows by the text of their keys.
        columns = ", ".join(facts.blurred)
        text = f"The collation of its key ({columns}) takes texts for equal that differ."
        hint = "Give these columns a deterministic collation (ALTER COLUMN … TYPE … COLLATE …)."
        yield _error("E109", text, hint, facts.label)


_COLUMNS = """
SELECT w.number, a.attname::text FROM unnest(%(schemas)s::text[], %(names)s::text[])
       WITH ORDINALITY AS w (schema, name, number)
JOIN pg_namespace n ON n.nspname = w.schema
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
"""


def column_messages(
    connection: psycopg.Connection, releases: Sequence[Release]
) -> Iterator[CheckMessage]:
    """Say which tables lack columns that the models have and that travel."""
    parameters = {
        "schemas": [release.table.schema for release in releases],
        "names": [release.table.name for release in releases],
    }
    found: dict[int, set[str]] = {}
    for number, column in connection.execute(_COLUMNS, parameters):
        found.setdefault(number - 1, set()).add(column)
    for number, columns in found.items():  # E103 tells of tables that are not there.
        release = releases[number]
        missing = sorted({*release.key, *release.columns} - columns)
        if missing:
            text = f"It has no column {', '.join(missing)}, which {release.label} has and releases."
            hint = f"Run `manage.py migrate`. {SCHEMA_CHANGE}"
            yield _error("E110", text, hint, str(release.table))


def server_messages(connection: psycopg.Connection) -> Iterator[CheckMessage]:
    """Probe what concerns the whole server."""
    yield from _version(connection.info.server_version // 10_000)
    yield from _pooler(connection)
    yield from _clock(connection)
    yield from _own_tables(connection)


def _version(major: int) -> Iterator[CheckMessage]:
    if major < OLDEST:
        text = f"Postgres {major} is too old."
        yield _error("E101", text, f"Use Postgres {OLDEST} to {NEWEST}.")
    elif major > NEWEST:
        text = f"Postgres {major} is newer than any that was tested."
        yield Advice(text, f"Tested are {OLDEST} to {NEWEST}.", id="replicator.W101")


def _pooler(connection: psycopg.Connection) -> Iterator[CheckMessage]:
    """Compare process ids: a pooler hands out ids of its own, for cancel requests."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    if row is not None and row[0] != connection.info.backend_pid:
        text = "A pooler stands between here and Postgres; replication needs a direct connection."
        yield _error("E102", text, "Set DIRECT to Postgres' own host and port.")


def _clock(connection: psycopg.Connection) -> Iterator[CheckMessage]:
    before = time.time()
    row = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
    middle = (before + time.time()) / 2
    skew = 0.0 if row is None else row[0] - middle
    if abs(skew) > CLOCK_TOLERANCE:
        text = f"The clocks of this machine and of Postgres differ by {skew:+.1f} s."
        yield Advice(text, "Synchronise them (NTP): lags are wrong by it.", id="replicator.W102")


def _own_tables(connection: psycopg.Connection) -> Iterator[CheckMessage]:
    own = TableName("public", Beat._meta.db_table)
    (facts,) = read_tables(connection, [own], [])
    if facts.kind is None:
        text = "The tables of the app `replicator` are missing."
        yield _error("E108", text, "Run `manage.py migrate replicator`.")


def _error(number: str, text: str, hint: str, table: str | None = None) -> Error:
    return Error(text, hint, obj=table, id=f"replicator.{number}")
