"""The tables of receipts, and how many rows each subscription holds. Blocks on Postgres."""

import psycopg
from psycopg import sql

from replicator.explain import Count
from replicator.models import Subscription
from replicator.plan import DatasetPlan
from replicator.postgres import driver_errors
from replicator_apply.plan import receipts_name
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


def receipt_tables(connection: psycopg.Connection) -> list[str]:
    """Name the tables of receipts."""
    return [str(name) for (name,) in connection.execute(_TABLES)]


def held_by(connection: psycopg.Connection, subscription: int) -> dict[str, int]:
    """Count the rows that a subscription holds, by table of receipts, for those that have some."""
    found = {}
    for name in receipt_tables(connection):
        statement = sql.SQL("SELECT count(*) FROM {} WHERE subscription_id = {}").format(
            sql.Identifier("replicator", name), subscription
        )
        row = connection.execute(statement).fetchone()
        if row and row[0]:
            found[name] = int(row[0])
    return found


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
