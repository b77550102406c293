"""Staged and held rows → who enters, stays, leaves, is kept or wanted. Blocks on Postgres.

Each staged row gets a verdict; mending repeats until nothing is bad: a row whose foreign key
dangles steps back to its old version and is wanted; a leaving row at which local rows point is
kept. Foreign keys to tables that a subscription does not hold wholly are left to Postgres.
"""

from collections.abc import Collection, Mapping
from typing import Any

import psycopg

from replicator.errors import Clash
from replicator.plan import TableName
from replicator_apply.catalog import Constraint
from replicator_apply.plan import Table, TargetPlan, reading_columns
from replicator_apply.stage import MANY, Staged

Cursor = psycopg.Cursor[Any]
Place = Mapping[str, str]
"""`source` and `stream`, as the state tables name them."""


def settle(
    cursor: Cursor, plan: TargetPlan, batch: Mapping[TableName, Staged], place: Place
) -> None:
    """Give every staged row its verdict.

    Raises:
        Clash: local rows stand under the keys of rows that enter, and the policy is `refuse`.
    """
    for staged in batch.values():
        _judge(cursor, staged, place)
    for staged in batch.values():
        refuse_clashes(cursor, staged)
    mend(cursor, plan, batch)


def _judge(cursor: Cursor, staged: Staged, place: Place) -> None:
    """Complete partial rows as far as can be, and give each row its first verdict."""
    staged.filled = _execute(cursor, staged.sql.stage_kept) > 0 or staged.filled
    if not staged.filled:
        return
    for number in range(1, len(staged.sets)):
        lacking = set(staged.missing(number))
        columns = [c for c in reading_columns(staged.table) if c in lacking]
        cursor.execute(staged.sql.complete(columns, number), place)
    cursor.execute(staged.sql.judge)
    if staged.size >= MANY:
        # Else it takes one verdict for the only one, and searches the table row by row.
        cursor.execute(staged.sql.analyze)
    for number in range(1, len(staged.sets)):
        cursor.execute(staged.sql.want_incomplete(staged.missing(number), number))


def refuse_clashes(cursor: Cursor, staged: Staged) -> None:
    """Raise Clash if local rows stand where rows enter and must not become ours."""
    if staged.table.adopts or not staged.filled:
        return
    found = cursor.execute(staged.sql.count_clashes).fetchone()
    if found and found[0]:
        raise Clash(
            f"{found[0]} local row(s) of table {staged.table.name} stand under primary keys that "
            "rows of the dataset have. Nothing of this batch was written."
        )


def mend(cursor: Cursor, plan: TargetPlan, batch: Mapping[TableName, Staged]) -> None:
    """Repeat until no foreign key of a row of ours dangles and no local row loses what it needs."""
    moved = 1
    while moved:
        moved = sum(_mend_table(cursor, plan, batch, staged) for staged in batch.values())


def _mend_table(
    cursor: Cursor, plan: TargetPlan, batch: Mapping[TableName, Staged], staged: Staged
) -> int:
    """Mend what goes out of a table and what comes in; give the number of rows moved."""
    if not staged.filled:
        return 0
    moved = 0
    for key in staged.table.pulled:
        moved += _execute(cursor, staged.sql.step_back(key, batch[key.to].table))
        if batch[key.to].filled:
            moved += _execute(cursor, staged.sql.evict_old(key, batch[key.to].table))
    if any(key.acts for key in staged.table.shape.incoming):
        # A local row that is committed after the look at it would go with what it points at.
        cursor.execute(staged.sql.lock_leaving)
    for key in staged.table.shape.incoming:
        moved += _keep(cursor, batch, staged, key, plan.tables.get(key.table))
    return moved


def _keep(
    cursor: Cursor,
    batch: Mapping[TableName, Staged],
    staged: Staged,
    key: Constraint,
    referrer: Table | None,
) -> int:
    """Look at what points at the leaving rows of a table."""
    if referrer is None:
        return _execute(cursor, staged.sql.keep_for_local(key))
    moved = 0
    other = batch[referrer.name]
    if key in referrer.pulled:
        moved = _execute(cursor, other.sql.evict(key, staged.table))
        other.filled = other.filled or moved > 0
    return moved + _execute(cursor, staged.sql.keep_for_ours(key, referrer))


def tables_to_stage(plan: TargetPlan, changed: Collection[TableName]) -> list[Table]:
    """Add to the changed tables those that mending looks at.

    What points at a changed table may have to leave with it, and so on; what any of these points
    to must be looked up. Each needs a staging table, be it empty.
    """
    names, todo = set(changed), list(changed)
    while todo:
        incoming = {
            key.table for key in plan.tables[todo.pop()].shape.incoming
        } & plan.tables.keys()
        todo += incoming - names
        names |= incoming
    names |= {key.to for name in names for key in plan.tables[name].pulled}
    return [table for name, table in plan.tables.items() if name in names]


def _execute(cursor: Cursor, statement: str) -> int:
    return cursor.execute(statement).rowcount
