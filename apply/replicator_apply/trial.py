"""What an answer of verify would change, were it applied: evaluated, looked at, and taken back.

Where rows belong because of others, hashes of a rule's own rows tell little. There verify asks for
rows as a backfill does, with all that hangs on them, and this module follows the rules on them
under a savepoint. Blocks on Postgres.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from replicator.edge_sql import points_at
from replicator.plan import ChildrenRule, TableName
from replicator.sql_parts import column
from replicator_apply.candidate_sql import flag
from replicator_apply.choice import Choice, note
from replicator_apply.collapse import TableChanges
from replicator_apply.plan import SubscribedDataset, Table, TargetPlan
from replicator_apply.rules import Rules
from replicator_apply.stage import Staged, StagingTables, merge_rounds, stage
from replicator_apply.table_sql import TableSql

Cursor = psycopg.Cursor[Any]
Batch = Mapping[TableName, Staged]


KINDS = ("missing", "extra", "different", "local")
"""How rows differ: not here, not on the source, other values, or a local row under the key."""


class Difference(NamedTuple):
    """A row that is not as it should be: one of KINDS, its table, and its key as text."""

    kind: str
    table: str
    key: str


def is_related(plan: TargetPlan, subscription: SubscribedDataset) -> bool:
    """Whether a row of the dataset may belong, or wait, because of another one."""
    dataset = subscription.dataset
    if len(dataset.paged) < len(dataset.rules):
        return True
    return any(
        not need.null and subscription.id not in need.pulled and need.key.to in plan.tables
        for release in dataset.releases
        for need in plan.tables[release.table].needs
    )


@contextmanager
def trial(
    cursor: Cursor,
    plan: TargetPlan,
    staging: StagingTables,
    rounds: Iterable[Mapping[bytes, TableChanges]],
    choice: Choice | None = None,
) -> Iterator[Batch]:
    """Evaluate changes, by a rule with a selection; what the body reads is taken back at its end.

    The temporary tables must be there already (`StagingTables.prepare`).
    """
    staged = {t.name: Staged(t, staging.prepare(t)) for t in plan.tables.values()}
    cursor.execute("SAVEPOINT replicator_trial")
    try:
        for one in staged.values():
            cursor.execute(one.sql.compose("DELETE FROM {stage}"))
            cursor.execute(one.sql.compose("DELETE FROM {candidates}"))
        for changes in rounds:
            for prefix, part in changes.items():
                stage(cursor, staged[plan.by_prefix[prefix].name], part)
        for one in staged.values():
            merge_rounds(cursor, one)
        choices = [choice] if choice is not None else []
        for each in choices:
            note(cursor, staged[each.table.name].sql, each)
        rules = Rules(cursor, plan, staged, choices)
        rules.look()
        if sum(_leave_wanted_out(cursor, one.sql) for one in staged.values()):
            rules.again()
        yield staged
    finally:
        cursor.execute("ROLLBACK TO SAVEPOINT replicator_trial")
        for one in staged.values():
            if one.filled:
                # Their dead versions are still there.
                staging.use(one.table, one.size)


def _leave_wanted_out(cursor: Cursor, text: TableSql) -> int:
    """Do not expect rows that a fetch is to bring, nor what would come with them.

    Of one that is ours the old version stands until then.
    """
    was, wanted = text.any_flag("_was"), text.is_wanted("v")
    outside = text.compose(
        "UPDATE {candidates} v SET {may} WHERE NOT {was} AND {wanted}",
        may=text.shut_out,
        was=was,
        wanted=wanted,
    )
    held = text.compose(
        "UPDATE {candidates} v SET _back = true WHERE {was} AND v._present AND {wanted}",
        was=was,
        wanted=wanted,
    )
    left = cursor.execute(outside).rowcount
    if back := cursor.execute(held).rowcount:
        cursor.execute(text.step_back)
    return left + back


def differences(
    cursor: Cursor,
    batch: Batch,
    subscription: SubscribedDataset,
    paged: tuple[Table, sql.Composable],
) -> tuple[list[Difference], int]:
    """Tell what differs, and how many rows were compared.

    Args:
        cursor: of the target.
        batch: the candidates.
        subscription: of which rows are compared.
        paged: the table whose page was read, and the condition on `t` of the rows that it spans:
            those that pass the rule's filter, between its first key and its last.
    """
    found, checked, number = [], 0, subscription.id
    for staged in batch.values():
        memberships = {m.subscription: m for m in staged.table.memberships}
        if number not in memberships:
            continue
        name, text = str(staged.table.name), staged.sql
        statements = [_by_candidates(text, subscription)]
        if staged.table is paged[0]:
            statements.append(_unread(text, number, paged[1]))
        statements += _unread_children(text, subscription, batch)
        for statement in statements:
            rows = cursor.execute(statement).fetchall()
            found += [Difference(kind, name, key) for kind, key in rows]
        row = cursor.execute(_checked(text, number)).fetchone()
        checked += int(row[0]) if row else 0
    return list(dict.fromkeys(found)), checked


def left_out(cursor: Cursor, batch: Batch, subscription: SubscribedDataset) -> int:
    """Count the rows that were read and not compared, because a fetch is about to bring them.

    What would come with those is not among them: it is not known before.
    """
    number, count = subscription.id, 0
    for staged in batch.values():
        if number in {m.subscription for m in staged.table.memberships}:
            text = staged.sql
            statement = text.compose(
                "SELECT count(*) FROM {candidates} v WHERE v._changed AND {wanted}",
                wanted=text.is_wanted("v"),
            )
            row = cursor.execute(statement).fetchone()
            count += int(row[0]) if row else 0
    return count


def _by_candidates(text: TableSql, subscribed: SubscribedDataset) -> str:
    """Compare what was read with what is held."""
    table, subscription = text.table, subscribed.id
    held = sql.SQL(", ").join(text.true_value(name, "t") for name in table.columns)
    read = sql.SQL(", ").join(column(name, "s") for name in table.columns)
    return text.compose(
        "SELECT kind, key_text FROM (SELECT {row_key} AS key_text, CASE "
        "WHEN {inside} AND NOT {was} AND {local} THEN 'local' "
        "WHEN {inside} AND NOT {was} THEN 'missing' WHEN {was} AND NOT {inside} THEN 'extra' "
        "WHEN {inside} AND v._verdict = 'w' AND v._complete AND EXISTS "
        "(SELECT FROM {table} t, {stage} s WHERE {tv} AND {sv} AND s._set = 0 "
        "AND ROW({held})::text <> ROW({read})::text) THEN 'different' END AS kind "
        "FROM {candidates} v WHERE NOT {wanted} AND NOT {others}) found WHERE kind IS NOT NULL",
        row_key=text.row_key("v"),
        inside=flag("_in", subscription),
        was=flag("_was", subscription),
        others=column("_held", "v") if subscribed.new else sql.SQL("FALSE"),
        local=text.is_local("v"),
        held=held,
        read=read,
        wanted=text.is_wanted("v"),
    )


def _unread(text: TableSql, subscription: int, span: sql.Composable) -> str:
    """Give held rows that the page spans, and that the source did not have in it."""
    return text.compose(
        "SELECT 'extra', {row_key} FROM {table} t WHERE {held} AND {span} "
        "AND NOT EXISTS (SELECT FROM {candidates} v WHERE {tv}) AND NOT {wanted}",
        row_key=text.row_key("t"),
        held=text.is_held_by(subscription, "t"),
        span=span,
        wanted=text.is_wanted("t"),
    )


def _unread_children(
    text: TableSql, subscription: SubscribedDataset, batch: Batch
) -> Sequence[str]:
    """Give held children of rows that were read, which the source does not have.

    Of a row of which only a repeated event tells, they were not: it may have entered since.
    """
    return [
        text.compose(
            "SELECT 'extra', {row_key} FROM {table} t JOIN {parents} p ON {same} "
            "WHERE p._read AND {inside} AND {held} "
            "AND NOT EXISTS (SELECT FROM {candidates} v WHERE {tv}) AND NOT {wanted}",
            row_key=text.row_key("t"),
            parents=batch[edge.to].table.candidates,
            same=points_at(edge, "t", "p"),
            inside=flag("_in", subscription.id, "p"),
            held=text.is_held_by(subscription.id, "t"),
            wanted=text.is_wanted("t"),
        )
        for rule in subscription.dataset.rules_of(text.table.name)
        if isinstance(rule, ChildrenRule)
        for edge in rule.edges
    ]


def _checked(text: TableSql, subscription: int) -> str:
    return text.compose(
        "SELECT count(*) FROM {candidates} v WHERE v._changed AND {inside}",
        inside=flag("_in", subscription),
    )
