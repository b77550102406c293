"""Finds out why a row is here, or is not; see `replicator_apply.why`. Blocks on Postgres.

Rules are judged by what this database has, as apply does: the row's own values, with the true one
where NULL stands in place of a row that is not here, and the receipts of other rows. Read under one
snapshot; nothing is written.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from replicator.datasets import find_dataset
from replicator.edge_sql import pointed
from replicator.errors import ConfigurationError, WrongDeclaration
from replicator.explain import readable, selected
from replicator.filter_sql import filter_sql, key_text
from replicator.models import BackfillRun, NulledValue, Subscription, WantedRow
from replicator.plan import (
    ChildrenRule,
    Edge,
    ReferencedRule,
    Release,
    RowsRule,
    Rule,
    TableName,
    full_name,
)
from replicator.postgres import driver_errors
from replicator.sql_parts import Sql, equal, equal_to, identifier
from replicator_apply.candidate_sql import CandidateSql
from replicator_apply.catalog import TableShape, read_shape, read_shapes
from replicator_apply.make_plan import make_plan, own_filter
from replicator_apply.plan import (
    KEPT,
    LEFT,
    SubscribedDataset,
    Table,
    TargetPlan,
    receipts_name,
)
from replicator_apply.receipts import receipt_tables
from replicator_apply.state import Place, state_table
from replicator_apply.why import SHOWN, Claim, Holder, Judged, Nulled, Waiting, Why

Connection = psycopg.Connection[Any]


def look(connection: Connection, release: Release, values: Sequence[str]) -> Why:
    """Find out all about one row.

    Args:
        connection: of the target, in autocommit mode.
        release: of its model.
        values: its primary key, as Postgres' input texts.

    Raises:
        ConfigurationError: the key has other columns or types.
        Unfit: a table is not there, or does not fit.
        DatabaseUnavailable: try again.
    """
    if len(values) != len(release.key):
        raise ConfigurationError(
            f"The key of {release.label} has {len(release.key)} column(s): "
            f"{', '.join(release.key)}.",
            remedy="Give their values in this order, separated by commas.",
        )
    try:
        with driver_errors("looking at a row"), connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            return _Look(connection, release, values).all()
    except psycopg.DataError as error:
        raise ConfigurationError(
            f"This is no key of {release.label}: {error.diag.message_primary}.",
            remedy="Give it as Postgres reads it: 42, 2026-01-31 or a UUID.",
        ) from error


class _Stored(NamedTuple):
    id: int
    source: str
    stream: str
    dataset: str
    arguments: str
    generation: int
    declared: bool
    paused: bool

    @property
    def place(self) -> Place:
        return Place(self.source, self.stream)


_STORED = sql.SQL(
    "SELECT id, source, stream, dataset, arguments, generation, declared OR by_command, paused "
    "FROM {} "
    "ORDER BY source, stream, id"
).format(state_table(Subscription))
_RUN = sql.SQL(
    "SELECT id, state FROM {} WHERE subscription_id = %s "
    "AND state IN ('running', 'paused', 'waiting')"
).format(state_table(BackfillRun))
_WANTED = sql.SQL(
    "SELECT source, reason, extract(epoch FROM now() - created_at)::float8, "
    "extract(epoch FROM now() - asked_at)::float8 FROM {} "
    "WHERE table_name = %s AND row_key = %s ORDER BY 1"
).format(state_table(WantedRow))
_NULLED = sql.SQL(
    "SELECT DISTINCT column_name, value FROM {} WHERE table_name = %s AND row_key = %s ORDER BY 1"
).format(state_table(NulledValue))
_LACKING = sql.SQL(
    "SELECT count(*) FROM {} WHERE source = %s AND stream = %s AND table_name = %s "
    "AND column_name = %s AND value = %s"
).format(state_table(NulledValue))


class _Look:
    """One look at a row, inside its transaction."""

    def __init__(self, connection: Connection, release: Release, values: Sequence[str]) -> None:
        self._connection, self._release = connection, release
        self._shape = read_shape(connection, release.table)
        self._policy = ""
        self._receipts = set(receipt_tables(connection))
        self._key = {
            name: sql.SQL("{}::{}").format(
                sql.Literal(value), sql.SQL(self._shape.columns[name].type)
            )
            for name, value in zip(release.key, values, strict=True)
        }

    def all(self) -> Why:
        key = str(self._one(sql.SQL("SELECT {}").format(key_text(self._key.values()))))
        present = bool(self._one(self._on_row(sql.SQL("SELECT true"))))
        receipts = self._own_receipts()
        named = (str(self._release.table), key)
        claims, lacking = self._claims(receipts, present=present)
        stays = (self._policy or "keep") if present and LEFT in receipts else ""
        return Why(
            self._release.label,
            key,
            present,
            claims,
            self._pointing() if present and KEPT in receipts else None,
            tuple(Waiting(*row) for row in self._connection.execute(_WANTED, named)),
            tuple(Nulled(*row) for row in self._connection.execute(_NULLED, named)),
            lacking,
            stays,
        )

    def _one(self, statement: sql.Composed) -> object:
        row = self._connection.execute(statement).fetchone()
        return None if row is None else row[0]

    def _on_row(self, select: sql.Composable) -> sql.Composed:
        """Complete a SELECT from `t`, the row."""
        return sql.SQL("{} FROM {} t WHERE {}").format(
            select, self._shape.identifier, self._same_key("t")
        )

    def _same_key(self, alias: str) -> Sql:
        return equal_to(tuple(self._key), alias, self._key.values())

    def _own_receipts(self) -> dict[int, int]:
        """Give the generations of the row's receipts by subscription."""
        name = receipts_name(self._release.table)
        if name not in self._receipts:
            return {}
        statement = sql.SQL("SELECT subscription_id, generation FROM {} r WHERE {}").format(
            sql.Identifier("replicator", name), self._same_key("r")
        )
        return dict(self._connection.execute(statement).fetchall())

    def _pointing(self) -> dict[str, int]:
        """Count the rows that point at the row."""
        found = {}
        for key in self._shape.incoming:
            same = equal(key.columns, "x", key.to_columns, "t")
            number = self._one(
                self._on_row(
                    sql.SQL("SELECT (SELECT count(*) FROM {} x WHERE {})").format(
                        identifier(key.table), same
                    )
                )
            )
            if isinstance(number, int) and number:
                found[f"{key.table}.{', '.join(key.columns)}"] = number
        return found

    # Subscriptions -------------------------------------------------------------------------------

    def _claims(
        self, receipts: Mapping[int, int], *, present: bool
    ) -> tuple[tuple[Claim, ...], dict[str, int]]:
        claims: list[Claim] = []
        lacking: dict[str, int] = {}
        stored = map(_Stored._make, self._connection.execute(_STORED).fetchall())
        for place, group in groupby(stored, key=lambda each: each.place):
            subscriptions = list(group)
            plan = self._plan(subscriptions)
            table = plan.tables.get(self._release.table)
            self._policy = str(table.stay) if table is not None and table.stay else self._policy
            for each in subscriptions:
                judged = tuple(self._judge(plan, each.id, place, present=present))
                if judged or each.id in receipts or (each.paused and self._may_hold(each)):
                    claims.append(self._claim(each, receipts.get(each.id), judged))
            lacking |= self._lacking(plan, place)
        return tuple(claims), lacking

    def _may_hold(self, stored: _Stored) -> bool:
        """Say whether a subscription has rules on the row's table, as far as the code has it."""
        with suppress(WrongDeclaration):
            dataset = find_dataset(stored.dataset, stored.arguments)
            return bool(dataset.rules_of(self._release.table))
        return False

    def _claim(self, stored: _Stored, generation: int | None, rules: tuple[Judged, ...]) -> Claim:
        name = full_name(stored.dataset, stored.arguments)
        run = self._connection.execute(_RUN, (stored.id,)).fetchone()
        backfill = None if run is None else (int(run[0]), str(run[1]))
        declared = stored.declared
        return Claim(
            stored.source,
            name,
            declared,
            generation,
            stored.generation,
            rules,
            backfill,
            stored.paused,
        )

    def _plan(self, stored: Sequence[_Stored]) -> TargetPlan:
        """Compile what the code still has of the subscriptions of one stream that stand."""
        subscribed = []
        for each in stored:
            with suppress(WrongDeclaration):
                dataset = find_dataset(each.dataset, each.arguments)
                names = {receipts_name(release.table) for release in dataset.releases}
                if each.declared and not each.paused and names <= self._receipts:
                    subscribed.append(SubscribedDataset(each.id, dataset, each.generation))
        tables = {release.table for each in subscribed for release in each.dataset.releases}
        shapes: dict[TableName, TableShape] = read_shapes(self._connection, sorted(tables))
        return make_plan(subscribed, shapes, {name: {} for name in tables})

    def _lacking(self, plan: TargetPlan, place: Place) -> dict[str, int]:
        """Count the rows that have NULL in place of this one."""
        found = {}
        for edge in sorted({e for s in plan.subscriptions for e in s.dataset.nulls}, key=str):
            if edge.to == self._release.table and edge.to_columns == self._release.key:
                (value,) = self._key.values()
                text = self._one(sql.SQL("SELECT {}::text").format(value))
                named = (*place, str(edge.table), edge.columns[0], text)
                row = self._connection.execute(_LACKING, named).fetchone()
                if row and row[0]:
                    found[str(edge)] = int(row[0])
        return found

    # Rules ---------------------------------------------------------------------------------------

    def _judge(
        self, plan: TargetPlan, subscription: int, place: Place, *, present: bool
    ) -> Iterator[Judged]:
        """Judge the rules of a subscription on the row's table."""
        table = plan.tables.get(self._release.table)
        for each in plan.subscriptions:
            if each.id == subscription and table is not None:
                text = CandidateSql(table, *place)
                for rule in each.dataset.rules_of(table.name):
                    passes = self._passes(each, rule, text) if present else None
                    holders = self._holders(plan, rule, subscription, text, present=present)
                    yield _judged(rule, passes, tuple(holders), present=present)

    def _passes(self, holder: SubscribedDataset, rule: Rule, text: CandidateSql) -> bool:
        own = own_filter(holder, rule) if isinstance(rule, RowsRule) else rule.filter
        condition = filter_sql(own, lambda name: text.true_value(name, "t"))
        return bool(self._one(self._on_row(sql.SQL("SELECT {}").format(condition))))

    def _holders(
        self,
        plan: TargetPlan,
        rule: Rule,
        subscription: int,
        text: CandidateSql,
        *,
        present: bool,
    ) -> Iterator[Holder]:
        if isinstance(rule, ChildrenRule) and present:
            for edge in rule.edges:
                mine = pointed(edge, "t", lambda name: text.true_value(name, "t"))
                other = plan.tables[edge.to]
                theirs: list[Sql] = [sql.Identifier("o", name) for name in edge.to_columns]
                keys = self._held(other, text, subscription, (theirs, mine))
                key = keys[0] if keys else ""
                yield Holder(str(edge), other.release.label, key)
        elif isinstance(rule, ReferencedRule):
            yield from self._referrers(plan.tables[rule.edge.table], rule.edge, subscription, text)

    def _referrers(
        self, other: Table, edge: Edge, subscription: int, text: CandidateSql
    ) -> Iterator[Holder]:
        if not set(edge.to_columns) <= self._key.keys():
            return
        theirs = [CandidateSql(other, *text.place).true_value(name, "o") for name in edge.columns]
        mine: list[Sql] = [self._key[name] for name in edge.to_columns]
        for key in self._held(other, text, subscription, (theirs, mine)):
            yield Holder(str(edge), other.release.label, key)

    def _held(
        self,
        other: Table,
        text: CandidateSql,
        subscription: int,
        equals: tuple[Sequence[Sql], Sequence[Sql]],
    ) -> list[str]:
        """Give keys of rows `o` of a table that a subscription holds and that equal in columns."""
        pairs = [sql.SQL("{} = {}").format(*pair) for pair in zip(*equals, strict=True)]
        statement = sql.SQL(
            "SELECT {key} FROM {other} o JOIN {receipts} r ON {same} "
            "LEFT JOIN {table} t ON {mine} WHERE r.subscription_id = {number} AND {equal} "
            "ORDER BY 1 LIMIT {shown}"
        ).format(
            key=CandidateSql(other, *text.place).row_key("o"),
            other=other.identifier,
            receipts=other.receipts,
            same=equal(other.key, "r", other.key, "o"),
            table=self._shape.identifier,
            mine=self._same_key("t"),
            number=sql.Literal(subscription),
            equal=sql.SQL(" AND ").join(pairs),
            shown=sql.Literal(SHOWN + 1),
        )
        return [str(key) for (key,) in self._connection.execute(statement)]


def _judged(
    rule: Rule, passes: bool | None, holders: tuple[Holder, ...], *, present: bool
) -> Judged:
    if isinstance(rule, ChildrenRule):
        held = all(holder.key for holder in holders) if present else None
        words = f"Children by {' and '.join(map(str, rule.edges))}"
    elif isinstance(rule, ReferencedRule):
        held = bool(holders)
        words = f"Referenced by {rule.edge}"
    else:
        held, words = True, "Rows"
    if rule.filter is not None:
        words += f" where {readable(rule.filter)}"
    if isinstance(rule, RowsRule) and rule.selection is not None:
        words += f" ({selected(rule.selection)})"
    holds = False if held is False or passes is False else passes and held
    selects = isinstance(rule, RowsRule) and rule.selection is not None
    return Judged(words, passes, holders, holds, selects)
