"""Content types and permissions by name: name → the key that they have here.

What is not here yet is made, as Django itself makes a content type when it is first asked for one:
the row that came with the name would have nothing to point at. `migrate` finds it there later.
Blocks on Postgres, once for each new name.

Source: https://docs.djangoproject.com/en/5.2/ref/contrib/contenttypes/#the-contenttypemanager
"""

from collections.abc import Iterable, Mapping
from typing import Any

import psycopg
from psycopg import sql

from replicator.errors import Unfit
from replicator.natural_keys import DANGLING, all_names_sql
from replicator.plan import CONTENT_TYPES, Release, TableName
from replicator.postgres import driver_errors
from replicator.settings import ReplicatorSettings
from replicator.sql_parts import identifier
from replicator_apply.connection import connect_target
from replicator_apply.decode import KeyOf

Connection = psycopg.Connection[Any]

_MAKE_KIND = sql.SQL("INSERT INTO {} (app_label, model) VALUES (%s, %s) ON CONFLICT DO NOTHING")
_MAKE_PERMISSION = sql.SQL(
    "INSERT INTO {} (name, content_type_id, codename) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
)


class LocalKeys:
    """The keys that rows with names have in this environment.

    Args:
        settings: say where that is.
    """

    def __init__(self, settings: ReplicatorSettings) -> None:
        self._settings = settings
        self._known: dict[TableName, dict[str, int]] = {}

    def of(self, release: Release) -> Mapping[str, KeyOf]:
        """Give, for each column of a table whose values travel as names, what translates them."""
        return {name: self._translation(table) for name, table in release.natural.items()}

    def load(self, connection: Connection, releases: Iterable[Release]) -> None:
        """Read the names of all tables that releases refer to by name."""
        for table in frozenset[TableName]().union(*(each.named_by for each in releases)):
            self._known[table] = _read(connection, table)

    def _translation(self, table: TableName) -> KeyOf:
        def key_of(name: str) -> int:
            known = self._known[table].get(name)
            return self._look_up(table, name) if known is None else known

        return key_of

    def _look_up(self, table: TableName, name: str) -> int:
        """Find or make a row that was not known, apart from the batch's transaction.

        Raises:
            DatabaseUnavailable: try again.
            Unfit: the table is not there, or apply's role may not write to it.
        """
        if name.startswith(DANGLING):
            # As on the source, where it points at nothing: at a key that nothing will ever have.
            return -int(name.removeprefix(DANGLING))
        with connect_target(self._settings) as connection, driver_errors(f"looking for {name}"):
            if name not in self._reread(connection, table):
                try:
                    self._make(connection, table, name)
                except psycopg.errors.InsufficientPrivilege as error:
                    raise Unfit(
                        f"{table} has no {name} here, and apply's role may not write to it.",
                        remedy="Run `manage.py migrate` with the code that the source runs, or "
                        f"GRANT INSERT ON {table} to the role.",
                    ) from error
                self._reread(connection, table)
        return self._known[table][name]

    def _reread(self, connection: Connection, table: TableName) -> dict[str, int]:
        found = self._known[table] = _read(connection, table)
        return found

    def _make(self, connection: Connection, table: TableName, name: str) -> None:
        app, model, *codename = name.split(".", 2)
        if table == CONTENT_TYPES:
            connection.execute(_MAKE_KIND.format(identifier(table)), (app, model))
        else:
            kind = self._translation(CONTENT_TYPES)(f"{app}.{model}")
            values = (*codename, kind, *codename)
            connection.execute(_MAKE_PERMISSION.format(identifier(table)), values)


def _read(connection: Connection, table: TableName) -> dict[str, int]:
    rows = connection.execute(all_names_sql(table).as_string())
    return {str(name): int(key) for key, name in rows if name is not None}
