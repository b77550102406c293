"""Subscriptions, datasets and the target's own tables → the plan of one stream. Pure."""

from collections.abc import Mapping, Sequence
from itertools import chain, repeat

from replicator.errors import Unfit
from replicator.plan import (
    And,
    ChildrenRule,
    Edge,
    Filter,
    Listed,
    Or,
    ReferencedRule,
    Release,
    RowsRule,
    TableName,
    columns_of,
)
from replicator.relations import edges_by, gates, nulls, pulls, whole_tables
from replicator_apply.catalog import TableShape
from replicator_apply.plan import Membership, Need, SubscribedDataset, Table, TargetPlan


def make_plan(
    subscriptions: Sequence[SubscribedDataset],
    shapes: Mapping[TableName, TableShape],
    defaults: Mapping[TableName, Mapping[str, str]],
    absent: Mapping[TableName, Mapping[str, str]] | None = None,
) -> TargetPlan:
    """Compile subscriptions against the target's tables.

    Raises:
        Unfit: a released column or key does not fit the table here.
    """
    releases = {r.table: r for s in subscriptions for r in s.dataset.releases}
    relations = _Relations(subscriptions)
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
            tuple(map(relations.membership, holders, repeat(name))),
            adopts=all(s.on_clash == "adopt" for s in holders),
            needs=needs,
            pulling=relations.pulling(name),
            closed=relations.closed(name),
            direct=relations.direct(name, needs),
            looked_at=relations.looked_at(release, shape, needs),
            defaults=defaults[name],
            absent=(absent or {}).get(name, {}),
        )
    return TargetPlan(tuple(subscriptions), tables)


class _Relations:
    """What the rules of all subscriptions mean for single tables."""

    def __init__(self, subscriptions: Sequence[SubscribedDataset]) -> None:
        self._subscriptions = subscriptions
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
            return Membership(holder.id, holder.generation, None, gated=holder.gated)
        return Membership(
            holder.id,
            holder.generation,
            _filter_of(holder, table),
            tuple(rule for rule in rules if isinstance(rule, ChildrenRule)),
            tuple(rule for rule in rules if isinstance(rule, ReferencedRule)),
            gated=holder.gated,
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


def _filter_of(holder: SubscribedDataset, table: TableName) -> Filter | None:
    """Give the union of the `Rows` rules on a table as one filter; None: every row passes.

    A table that has none gets the filter that no row passes.
    """
    rules = [r for r in holder.dataset.rules_of(table) if isinstance(r, RowsRule)]
    filters = [own_filter(holder, rule) for rule in rules]
    given = tuple(f for f in filters if f is not None)
    if len(given) < len(filters):
        return None
    return given[0] if len(given) == 1 else Or(given)


def own_filter(holder: SubscribedDataset, rule: RowsRule) -> Filter | None:
    """Give the filter that a rule is here: what the source has chosen is a list of keys."""
    if rule.selection is None:
        return rule.filter
    listed = Listed(holder.dataset.release(rule.label).key, holder.id, rule.name)
    return listed if rule.filter is None else And((rule.filter, listed))


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
