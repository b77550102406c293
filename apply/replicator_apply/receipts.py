"""The tables of receipts, and how many rows each subscription holds. Blocks on Postgres."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql

from replicator.explain import Count
from replicator.models import Subscription
from replicator.plan import DatasetPlan, TableName
from replicator.postgres import driver_errors
from replicator_apply.plan import Table, TargetPlan, receipts_name
from replicator_apply.state import state_table

_SUBSCRIPTIONS = sql.SQL(
    "SELECT id, source, arguments, declared OR by_command, paused FROM {} "
    "WHERE dataset = %s ORDER BY id"
).format(state_table(Subscription))


_TABLES = (
    "SELECT c.relname::text FROM pg_catalog.pg_class c "
    "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
    "WHERE n.nspname = 'replicator' AND c.relkind = 'r' ORDER BY 1"
)
_OTHERS = (
    "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c "
    "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
    "WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^(pg_|replicator$)'"
)


def receipt_tables(connection: psycopg.Connection) -> list[str]:
    """Name the tables of receipts."""
    return [str(name) for (name,) in connection.execute(_TABLES)]


def key_of_receipts(connection: psycopg.Connection, name: str) -> list[str]:
    """Name the columns of the key of a table's rows, in their order in its receipts."""
    statement = sql.SQL("SELECT * FROM {} LIMIT 0").format(sql.Identifier("replicator", name))
    names = [each.name for each in connection.execute(statement).description or ()]
    return [each for each in names if each not in {"subscription_id", "generation"}]


def tables_here(connection: psycopg.Connection) -> set[TableName]:
    """List the tables of the database, those of receipts aside."""
    return {TableName(*row) for row in connection.execute(_OTHERS)}


def held_by(connection: psycopg.Connection, subscription: int) -> dict[str, int]:
    """Count the rows that a subscription holds, by table of receipts, for those that have some."""
    names = receipt_tables(connection)
    counts = {name: count_held(connection, name, subscription) for name in names}
    return {name: rows for name, rows in counts.items() if rows}


def count_held(connection: psycopg.Connection, name: str, subscription: int) -> int:
    """Count the rows that a subscription holds by one table of receipts."""
    statement = sql.SQL("SELECT count(*) FROM {} WHERE subscription_id = {}").format(
        sql.Identifier("replicator", name), subscription
    )
    row = connection.execute(statement).fetchone()
    return int(row[0]) if row else 0


def held_by_each(connection: psycopg.Connection) -> dict[int, int]:
    """Count the rows that are ours, by subscription."""
    counts: dict[int, int] = {}
    for name in receipt_tables(connection):
        statement = sql.SQL("SELECT subscription_id, count(*) FROM {} GROUP BY 1").format(
            sql.Identifier("replicator", name)
        )
        for subscription, rows in connection.execute(statement):
            counts[subscription] = counts.get(subscription, 0) + rows
    return counts


def count(connection: psycopg.Connection, plan: DatasetPlan) -> tuple[Count, ...]:
    """Count the receipts of each model, for every subscription to a dataset; none: no counts.

    Raises:
        DatabaseUnavailable: try again.
        Unfit: the tables of the app `replicator` are not there.
    """
    with driver_errors("counting receipts"):
        found = connection.execute(_SUBSCRIPTIONS, (plan.name,)).fetchall()
        counts = []
        for number, source, arguments, wanted, paused in found:
            held = held_by(connection, number)
            rows = {r.label: held.get(receipts_name(r.table), 0) for r in plan.releases}
            counts.append(Count(_title(source, arguments, wanted=wanted, paused=paused), rows))
        return tuple(counts)


def _title(source: str, arguments: str, *, wanted: bool, paused: bool) -> str:
    which = f" ({arguments})" if arguments else ""
    how = ", paused" if paused else "" if wanted else ", not declared any more"
    return f"held from {source}{which}{how}"


GROWN = 1_000
GROWN_SHARE = 0.2
"""Rows, and share of those known of, by which receipts grow until the planner is told of them."""


class GrowingReceipts:
    """Has receipts analysed as they grow: a backfill fills an empty table within seconds.

    Without statistics the planner takes the index that begins with the subscription for as good as
    that of the key, and every look through it reads all of them. Autovacuum comes a minute later.

    Args:
        connection: of the target, in autocommit mode.
        plan: what it holds.
    """

    def __init__(self, connection: psycopg.Connection[Any], plan: TargetPlan) -> None:
        self._connection, self._plan = connection, plan
        self._known: Counter[TableName] = Counter()
        self._new: Counter[TableName] = Counter()

    def note(self, written: Mapping[tuple[TableName, str], int]) -> None:
        """Take note of rows written by a batch, by table and op; between two transactions."""
        for (name, op), rows in written.items():
            if op != "c" or name not in self._plan.tables:
                continue
            self._new[name] += rows
            if self._new[name] >= max(GROWN, GROWN_SHARE * self._known[name]):
                self._known[name] += self._new.pop(name)
                self._analyze(self._plan.tables[name])

    def _analyze(self, table: Table) -> None:
        # A vacuum that holds the lock is as good; the stream does not wait for it.
        statement = sql.SQL("ANALYZE (SKIP_LOCKED) {}").format(table.receipts)
        self._connection.execute(statement, prepare=False)
