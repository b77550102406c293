"""What a subscription holds of tables on which its dataset has no rule more. Blocks on Postgres.

No page and no sweep asks for such rows: nobody could say which of them the dataset has. They leave
once all else of a backfill by the new rules is through, as the rows of a subscription that ends
do. Where the code has no model of the table any more, or lets nothing out of it, the receipts are
forgotten, and the rows become local ones.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from replicator.compiler import find_model, table_of
from replicator.declare import declared_opt_ins
from replicator.errors import WrongDeclaration
from replicator.filter_sql import key_text
from replicator.plan import DatasetPlan, TableName
from replicator_apply.plan import SubscribedDataset, receipts_name
from replicator_apply.receipts import count_held, key_of_receipts, receipt_tables, tables_here
from replicator_apply.state import Run

Cursor = psycopg.Cursor[Any]


@dataclass(frozen=True, slots=True)
class Dropped:
    """Receipts of tables that a dataset has no more: their numbers, by table of receipts.

    Attributes:
        leaving: those whose rows leave.
        forgotten: those of tables that are not here, or that no opt-in names.
    """

    leaving: Mapping[str, int]
    forgotten: Mapping[str, int]

    @property
    def tables(self) -> frozenset[str]:
        """All of the tables of receipts."""
        return frozenset((*self.leaving, *self.forgotten))

    @property
    def rows(self) -> int:
        """Rows that leave."""
        return sum(self.leaving.values())


def dropped_of(cursor: Cursor, subscription: int, dataset: DatasetPlan) -> Dropped:
    """Look for what a subscription holds of tables that its dataset does not have."""
    own = {receipts_name(release.table) for release in dataset.releases}
    counts = {
        name: count_held(cursor.connection, name, subscription)
        for name in receipt_tables(cursor.connection)
        if name not in own
    }
    held = {name: number for name, number in counts.items() if number}
    known = set(map(receipts_name, known_tables(cursor))) if held else set()
    return Dropped(
        {name: number for name, number in held.items() if name in known},
        {name: number for name, number in held.items() if name not in known},
    )


def known_tables(cursor: Cursor) -> set[TableName]:
    """List the tables that are here and of which this code lets something out."""
    found = set()
    for declaration in declared_opt_ins():
        with suppress(WrongDeclaration):  # Checks tell of it.
            found.add(table_of(find_model(declaration.label)))
    return found & tables_here(cursor.connection)


def is_awaited(
    dropped: Dropped, run: Run, runs: Iterable[Run], subscriptions: Collection[SubscribedDataset]
) -> bool:
    """Whether another backfill may yet bring rows of the same tables: they stay for it meanwhile.

    A table may have moved from one dataset to another: its rows would go, and come again. Pure.
    """
    brings = {each.subscription for each in runs if each.state == "running" and not each.sweeping}
    brings -= {run.subscription}
    return any(
        receipts_name(release.table) in dropped.leaving
        for each in subscriptions
        if each.id in brings and not each.gated
        for release in each.dataset.releases
    )


def keys_dropped(
    cursor: Cursor, subscription: int, dropped: Dropped, limit: int
) -> Sequence[tuple[str, str]]:
    """Give table and key of some rows that leave."""
    found: list[tuple[str, str]] = []
    for name in dropped.leaving:
        receipts = sql.Identifier("replicator", name)
        key = [sql.Identifier(column) for column in key_of_receipts(cursor.connection, name)]
        statement = sql.SQL("SELECT {} FROM {} WHERE subscription_id = {} LIMIT {}").format(
            key_text(key), receipts, subscription, limit - len(found)
        )
        found += [(name, str(row[0])) for row in cursor.execute(statement)]
    return found
