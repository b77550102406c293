"""Subscriptions, datasets and the target's own tables → the plan of one stream. Pure."""

from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from typing import NamedTuple

from replicator.errors import Unfit
from replicator.plan import (
    ChildrenRule,
    Edge,
    ReferencedRule,
    Release,
    TableName,
    columns_of,
)
from replicator.relations import edges_by, filter_of, gates, nulls, pulls, whole_tables
from replicator_apply.catalog import TableShape
from replicator_apply.plan import Membership, Need, SubscribedDataset, Table, TargetPlan


class Apart(NamedTuple):
    """Subscriptions whose rules do not count.

    Attributes:
        frozen: the paused ones.
        leaving: one that ends, if the plan is made for that.
        left: the tables of which that one holds rows.
    """

    frozen: Sequence[int] = ()
    leaving: int | None = None
    left: frozenset[TableName] = frozenset()


def make_plan(
    subscriptions: Sequence[SubscribedDataset],
    shapes: Mapping[TableName, TableShape],
    defaults: Mapping[TableName, Mapping[str, str]],
    absent: Mapping[TableName, Mapping[str, str]] | None = None,
    apart: Apart = Apart(),  # noqa: B008 (immutable)
) -> TargetPlan:
    """Compile subscriptions against the target's tables.

    Raises:
        Unfit: a released column or key does not fit the table here.
    """
    releases = {table: _left_behind(shapes[table]) for table in apart.left}
    releases |= {r.table: r for s in subscriptions for r in s.dataset.releases}
    relations = _Relations(subscriptions, apart)
    tables = {}
    for number, (name, release) in enumerate(sorted(releases.items())):
        shape = shapes[name]
        _must_fit(release, shape)
        holders = relations.holders(name)
        needs = relations.needs(shape, release)
        tables[name] = Table(
            number,
            release,
            shape,
            (*map(relations.membership, holders, repeat(name)), *relations.others),
            adopts=all(s.on_clash == "adopt" for s in holders),
            needs=needs,
            pulling=relations.pulling(name),
            closed=relations.closed(name),
            direct=relations.direct(name, needs),
            looked_at=relations.looked_at(release, shape, needs),
            defaults=defaults.get(name, {}),
            absent=(absent or {}).get(name, {}),
        )
    return TargetPlan(tuple(subscriptions), tables, tuple(apart.frozen))


def _left_behind(shape: TableShape) -> Release:
    """Stand for a table of which nothing is written any more: what others point at matters."""
    names = {name for key in shape.incoming for name in key.to_columns} - set(shape.key)
    return Release(str(shape.name), shape.name, shape.key, (*shape.key, *sorted(names)))


class _Relations:
    """What the rules of all subscriptions mean for single tables.

    Attributes:
        others: memberships in every table, of subscriptions whose rules do not count.
    """

    def __init__(self, subscriptions: Sequence[SubscribedDataset], apart: Apart) -> None:
        self._subscriptions = subscriptions
        self.others = [Membership(n, 0, None, gated=True, frozen=True) for n in apart.frozen]
        if apart.leaving is not None:
            self.others.append(Membership(apart.leaving, 0, None, gated=True, leaving=True))
        datasets = [s.dataset for s in subscriptions]
        self._nulls = nulls(datasets)
        self._gates = gates(datasets)
        self._gated = {s.id for s in subscriptions if s.gated}
        self._rules = [(s.id, rule) for s in subscriptions for rule in s.dataset.rules]
        self._edges = {edge for _, rule in self._rules for edge in edges_by(rule)}

    def holders(self, table: TableName) -> list[SubscribedDataset]:
        return [s for s in self._subscriptions if s.dataset.rules_of(table)]

    def membership(self, holder: SubscribedDataset, table: TableName) -> Membership:
        rules = holder.dataset.rules_of(table)
        if table in whole_tables(holder.dataset):
            return Membership(
                holder.id, holder.generation, None, gated=holder.gated, doubted=holder.doubted
            )
        return Membership(
            holder.id,
            holder.generation,
            filter_of(holder.dataset, table),
            tuple(rule for rule in rules if isinstance(rule, ChildrenRule)),
            tuple(rule for rule in rules if isinstance(rule, ReferencedRule)),
            gated=holder.gated,
            doubted=holder.doubted,
        )

    def needs(self, shape: TableShape, release: Release) -> tuple[Need, ...]:
        found = []
        for key in shape.outgoing:
            if set(key.columns) <= set(release.columns):
                edge = Edge(key.table, key.columns, key.to, key.to_columns)
                holders = self.holders(key.table)
                pulled = frozenset(s.id for s in holders if pulls(s.dataset, edge))
                found.append(Need(key, edge in self._nulls, pulled))
        return tuple(found)

    def pulling(self, table: TableName) -> tuple[tuple[int, ReferencedRule], ...]:
        return tuple(
            (number, rule)
            for number, rule in self._rules
            if isinstance(rule, ReferencedRule)
            and rule.edge.table == table
            and number not in self._gated
        )

    def closed(self, table: TableName) -> bool:
        edges = {e for _, r in self._rules if isinstance(r, ChildrenRule) for e in r.edges}
        return not any(edge.to == table for edge in edges | self._gates)

    def direct(self, table: TableName, needs: Sequence[Need]) -> bool:
        if self.others:
            return False
        whole = all(table in whole_tables(s.dataset) for s in self.holders(table))
        datasets = {s.id: s.dataset for s in self._subscriptions}
        pulls_more = any(
            rule.edge.to not in whole_tables(datasets[number])
            for number, rule in self._rules
            if isinstance(rule, ReferencedRule) and rule.edge.table == table
        )
        awaited = any(edge.to == table for edge in self._nulls | self._gates)
        return whole and not pulls_more and not awaited and not any(need.null for need in needs)

    def looked_at(
        self, release: Release, shape: TableShape, needs: Sequence[Need]
    ) -> tuple[str, ...]:
        name = release.table
        holders = self.holders(name)
        found = set(chain(release.key, *(need.key.columns for need in needs)))
        found.update(
            *(columns_of(rule.filter) for s in holders for rule in s.dataset.rules_of(name))
        )
        every = self._edges | self._nulls | self._gates
        found.update(*(edge.columns for edge in every if edge.table == name))
        found.update(*(edge.to_columns for edge in every if edge.to == name))
        found.update(*(key.to_columns for key in shape.incoming))
        others = (name for name in release.columns if name in found and name not in release.key)
        return (*release.key, *others)


def _must_fit(release: Release, shape: TableShape) -> None:
    missing = [c for c in release.columns if c not in shape.columns]
    if missing:
        raise Unfit(
            f"Table {release.table} lacks the released column(s) {', '.join(missing)} here.",
            remedy="Run `manage.py migrate` against this environment's database.",
        )
    if set(release.key) != set(shape.key):
        raise Unfit(
            f"The primary key of {release.table} is ({', '.join(shape.key)}) here and "
            f"({', '.join(release.key)}) in the model.",
            remedy="Bring the database and the model's primary key together.",
        )
