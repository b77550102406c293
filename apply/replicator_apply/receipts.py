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


def count(connection: psycopg.Connection, plan: DatasetPlan) -> tuple[Count, ...]:
    """Count the receipts of each model, for every subscription to a dataset; none: no counts.

    Raises:
        DatabaseUnavailable: try again.
        Unfit: the tables of the app `replicator` are not there.
    """
    with driver_errors("counting receipts"):
        found = connection.execute(_SUBSCRIPTIONS, (plan.name,)).fetchall()
        return tuple(
            Count(
                _title(source, arguments, wanted=wanted, paused=paused),
                _held(connection, plan, number),
            )
            for number, source, arguments, wanted, paused in found
        )


def _title(source: str, arguments: str, *, wanted: bool, paused: bool) -> str:
    which = f" ({arguments})" if arguments else ""
    how = ", paused" if paused else "" if wanted else ", not declared any more"
    return f"held from {source}{which}{how}"


def _held(connection: psycopg.Connection, plan: DatasetPlan, subscription: int) -> dict[str, int]:
    rows = {}
    for release in plan.releases:
        receipts = sql.Identifier("replicator", receipts_name(release.table))
        there = connection.execute("SELECT to_regclass(%s)", (receipts.as_string(),)).fetchone()
        rows[release.label] = 0
        if there and there[0] is not None:
            statement = sql.SQL("SELECT count(*) FROM {} WHERE subscription_id = {}")
            row = connection.execute(statement.format(receipts, subscription)).fetchone()
            rows[release.label] = int(row[0]) if row else 0
    return rows
