"""How many rows of the source belong to a dataset, counted as the rules say. Blocks on Postgres.

The plain way: under one snapshot, the keys of what belongs are gathered in temporary tables until
nothing is added; rows whose foreign key dangles are then shut out, and it begins again. That reads
each table several times: it is for people who ask, and ends after `LIMIT` seconds.
"""

import time
from collections.abc import Callable, Iterator, Sequence

import psycopg
from psycopg import sql

from replicator.edge_sql import pointed
from replicator.errors import Refused
from replicator.explain import Count
from replicator.filter_sql import filter_sql
from replicator.plan import (
    ChildrenRule,
    DatasetPlan,
    Edge,
    ReferencedRule,
    Release,
    RowsRule,
    Rule,
    TableName,
)
from replicator.postgres import driver_errors
from replicator.relations import edges_of
from replicator.sql_parts import all_of, column, equal, equal_to, given, identifier, identifiers
from replicator_capture.selection_sql import belongs

LIMIT = 60.0
"""Seconds that counting may take in all."""


def count(connection: psycopg.Connection, plan: DatasetPlan) -> tuple[Count, ...]:
    """Count the rows of each model that belong. Nothing but temporary tables is written.

    A row whose foreign key leads to a table outside of the dataset counts: whether the other row is
    there is the target's business.

    Args:
        connection: of the source, in autocommit mode.
        plan: the dataset.

    Raises:
        Refused: the role may not read a table or make temporary ones, or this is a standby.
        DatabaseUnavailable: try again, or the time is up.
        Unfit: a table is not there.
    """
    try:
        with driver_errors("counting the rows that belong"), connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            return (Count("rows that belong", _Members(connection, plan).count()),)
    except (
        psycopg.errors.InsufficientPrivilege,
        psycopg.errors.ReadOnlySqlTransaction,
    ) as error:
        raise Refused(
            f"Postgres refused it: {error.diag.message_primary}.",
            remedy="Grant this role SELECT on the tables and TEMPORARY on the database.",
        ) from error


class _Members:
    """The temporary tables of one count: members and rows shut out, by table."""

    def __init__(
        self,
        connection: psycopg.Connection,
        plan: DatasetPlan,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection, self._plan, self._clock = connection, plan, clock
        self._end = clock() + LIMIT
        self._releases = {release.table: release for release in plan.releases}
        self._numbers = {table: number for number, table in enumerate(self._releases)}

    def count(self) -> dict[str, int]:
        for table, release in self._releases.items():
            for name in (self._in(table), self._out(table)):
                self._run(
                    "CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA",
                    sql.Identifier(name),
                    identifiers(release.key),
                    identifier(table),
                )
                key = sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})")
                self._run(key.format(_temp(name), identifiers(release.key)).as_string())
        while True:
            self._gather()
            if not sum(self._shut_out(edge) for edge in self._guarded()):
                break
        return {r.label: self._size(table) for table, r in self._releases.items()}

    def _size(self, table: TableName) -> int:
        statement = sql.SQL("SELECT count(*) FROM {}").format(_temp(self._in(table)))
        row = self._connection.execute(statement).fetchone()
        return int(row[0]) if row else 0

    def _gather(self) -> None:
        """Let in what stands by itself, then what hangs on that, until nothing more does."""
        for table in self._releases:
            self._run("TRUNCATE {}", _temp(self._in(table)))
        for rule in self._plan.paged:
            self._let_in(rule)
        others = [rule for rule in self._plan.rules if not isinstance(rule, RowsRule)]
        while sum(map(self._let_in, others)):
            pass

    def _let_in(self, rule: Rule) -> int:
        table = self._plan.table_of(rule)
        release = self._releases[table]
        return self._run(
            "INSERT INTO {} SELECT {} FROM {} t WHERE {} AND {} AND NOT {} AND NOT {}",
            _temp(self._in(table)),
            identifiers(release.key, "t"),
            identifier(table),
            self._passes(rule, release),
            all_of(self._holds(rule)),
            _same_key(self._in(table), release),
            _same_key(self._out(table), release),
        )

    def _passes(self, rule: Rule, release: Release) -> sql.Composable:
        if isinstance(rule, RowsRule):
            return belongs(rule, release, identifier(release.table))
        return filter_sql(rule.filter, lambda name: column(name, "t"))

    def _holds(self, rule: Rule) -> Iterator[sql.Composable]:
        if isinstance(rule, ChildrenRule):
            for edge in rule.edges:
                yield self._is_member(edge.to, edge.to_columns, pointed(edge, "t"))
        elif isinstance(rule, ReferencedRule):
            edge = rule.edge
            values = [column(name, "t") for name in edge.to_columns]
            yield self._is_member(edge.table, edge.columns, values)

    def _is_member(
        self, table: TableName, columns: tuple[str, ...], values: Sequence[sql.Composable]
    ) -> sql.Composable:
        """Whether a row of a table that belongs has these values in its columns."""
        return sql.SQL("EXISTS (SELECT FROM {} o JOIN {} m USING ({}) WHERE {})").format(
            identifier(table),
            _temp(self._in(table)),
            identifiers(self._releases[table].key),
            equal_to(columns, "o", values),
        )

    def _guarded(self) -> Iterator[Edge]:
        """Give the foreign keys that may dangle inside the dataset."""
        for release in self._plan.releases:
            for edge in edges_of(release):
                if edge.to in self._releases and edge not in self._plan.nulls:
                    yield edge

    def _shut_out(self, edge: Edge) -> int:
        release = self._releases[edge.table]
        return self._run(
            "INSERT INTO {} SELECT {} FROM {} t WHERE {} AND {} AND NOT {} AND NOT {}",
            _temp(self._out(edge.table)),
            identifiers(release.key, "t"),
            identifier(edge.table),
            given(column(name, "t") for name in edge.columns),
            _same_key(self._in(edge.table), release),
            self._is_member(edge.to, edge.to_columns, pointed(edge, "t")),
            _same_key(self._out(edge.table), release),
        )

    def _in(self, table: TableName) -> str:
        return f"replicator_in_{self._numbers[table]}"

    def _out(self, table: TableName) -> str:
        return f"replicator_out_{self._numbers[table]}"

    def _run(self, text: str, *parts: sql.Composable) -> int:
        """Run a statement within the time that is left; give the number of rows."""
        left = max(1, round((self._end - self._clock()) * 1000))
        self._connection.execute(f"SET LOCAL statement_timeout = {left}")
        statement = sql.SQL(text).format(*parts) if parts else sql.SQL(text)
        return self._connection.execute(statement).rowcount


def _temp(name: str) -> sql.Identifier:
    return sql.Identifier("pg_temp", name)


def _same_key(name: str, release: Release) -> sql.Composable:
    same = equal(release.key, "x", release.key, "t")
    return sql.SQL("EXISTS (SELECT FROM {} x WHERE {})").format(_temp(name), same)
