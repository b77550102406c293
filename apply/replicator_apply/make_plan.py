"""Subscriptions, datasets and the target's own tables → the plan of one stream. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, repeat
from typing import NamedTuple

from replicator.errors import ConfigurationError, Unfit
from replicator.plan import (
    And,
    ChildrenRule,
    Edge,
    Filter,
    Listed,
    OnLeave,
    Or,
    ReferencedRule,
    Release,
    RowsRule,
    TableName,
    columns_of,
)
from replicator.relations import (
    edges_by,
    edges_of,
    gates,
    nulls,
    on_leave,
    pulls,
    whole_tables,
)
from replicator.words import SCHEMA_CHANGE
from replicator_apply.catalog import TableShape
from replicator_apply.decode import KeyOf
from replicator_apply.plan import (
    Membership,
    Need,
    Settled,
    SubscribedDataset,
    Support,
    Table,
    TargetPlan,
)


class Apart(NamedTuple):
    """Subscriptions whose rules do not count.

    Attributes:
        frozen: the paused ones.
        standing: the tables of which those hold rows; None: it may be any.
        leaving: one that ends, if the plan is made for that, or that has tables no more.
        left: the tables of which that one holds rows, which leave.
        policies: what their rules say of rows that leave; it holds where the others say nothing.
    """

    frozen: Sequence[int] = ()
    standing: frozenset[TableName] | None = None
    leaving: int | None = None
    left: frozenset[TableName] = frozenset()
    policies: Sequence[OnLeave] = ()


def make_plan(  # noqa: PLR0913 (what the target knows of its tables, one by one)
    subscriptions: Sequence[SubscribedDataset],
    shapes: Mapping[TableName, TableShape],
    defaults: Mapping[TableName, Mapping[str, str]],
    *,
    absent: Mapping[TableName, Mapping[str, str]] | None = None,
    keys_of: Mapping[TableName, Mapping[str, KeyOf]] | None = None,
    hooks: Mapping[TableName, Sequence[str]] | None = None,
    apart: Apart = Apart(),  # noqa: B008 (immutable)
) -> TargetPlan:
    """Compile subscriptions against the target's tables.

    Args:
        subscriptions: of one stream.
        shapes: of all of their tables.
        defaults: values of columns that nothing else fills; see `Table`.
        absent: values of columns that the source does not have yet.
        keys_of: what gives the keys here of rows that travel by name, by column.
        hooks: names of the functions that are called after rows of a table were applied.
        apart: subscriptions whose rules do not count.

    Raises:
        Unfit: a released column or key does not fit the table here.
        ConfigurationError: subscriptions say different things of rows that leave.
    """
    releases = {table: _left_behind(shapes[table]) for table in apart.left}
    releases |= {r.table: r for s in subscriptions for r in s.dataset.releases}
    relations = _Relations(subscriptions, apart)
    tables = {}
    for number, (name, release) in enumerate(sorted(releases.items())):
        shape = shapes[name]
        stay = relations.stay(release)
        _must_fit(release, shape, stay)
        holders = relations.holders(name)
        needs = relations.needs(shape, release)
        called = tuple((hooks or {}).get(name, ()))
        memberships = (*map(relations.membership, holders, repeat(name)), *relations.others(name))
        tables[name] = Table(
            number,
            release,
            shape,
            memberships,
            adopts=all(s.on_clash == "adopt" for s in holders),
            needs=needs,
            pulling=relations.pulling(name),
            closed=relations.closed(name),
            loose=relations.loose(name),
            direct=relations.direct(name, needs),
            looked_at=relations.looked_at(release, shape, needs),
            defaults=defaults.get(name, {}),
            absent=(absent or {}).get(name, {}),
            keys_of=(keys_of or {}).get(name, {}),
            # Calls are stored, and rows that stay are marked, where verdicts are written.
            settled=Settled()
            if stay or called
            else relations.settled(release, shape, memberships, needs),
            hooks=called,
            stay=stay,
        )
    plan = TargetPlan(tuple(subscriptions), tables, tuple(apart.frozen))
    apart_from_rules = [name for name in tables if relations.others(name)]
    # What stands or leaves though no event tells of it is known to the rules alone.
    judged = {
        table.name: replace(table, direct=False, settled=Settled())
        for table in plan.tied(apart_from_rules)
    }
    return replace(plan, tables={**tables, **judged})


def _left_behind(shape: TableShape) -> Release:
    """Stand for a table of which nothing is written any more: what others point at matters."""
    names = {name for key in shape.incoming for name in key.to_columns} - set(shape.key)
    return Release(str(shape.name), shape.name, shape.key, (*shape.key, *sorted(names)))


class _Relations:
    """What the rules of all subscriptions mean for single tables."""

    def __init__(self, subscriptions: Sequence[SubscribedDataset], apart: Apart) -> None:
        self._subscriptions = subscriptions
        self._apart = apart
        datasets = [s.dataset for s in subscriptions]
        self._nulls = nulls(datasets)
        self._gates = gates(datasets)
        self._gated = {s.id for s in subscriptions if s.gated}
        self._rules = [(s.id, rule) for s in subscriptions for rule in s.dataset.rules]
        self._led = {e for _, r in self._rules if isinstance(r, ChildrenRule) for e in r.edges}
        self._guarded = {e for d in datasets for r in d.releases for e in edges_of(r)}
        self._edges = {edge for _, rule in self._rules for edge in edges_by(rule)}

    def others(self, table: TableName) -> list[Membership]:
        """Give the memberships of subscriptions whose rules do not count."""
        apart = self._apart
        standing = apart.standing is None or table in apart.standing
        found = [
            Membership(number, 0, None, gated=True, frozen=True)
            for number in (apart.frozen if standing else ())
        ]
        if apart.leaving is not None and apart.leaving not in {s.id for s in self.holders(table)}:
            found.append(Membership(apart.leaving, 0, None, gated=True, leaving=True))
        return found

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
            _filter_of(holder, table),
            tuple(rule for rule in rules if isinstance(rule, ChildrenRule)),
            tuple(rule for rule in rules if isinstance(rule, ReferencedRule)),
            gated=holder.gated,
            doubted=holder.doubted,
        )

    def needs(self, shape: TableShape, release: Release) -> tuple[Need, ...]:
        found, natural = [], set(release.natural)
        for key in shape.outgoing:
            # What travels by name is here: it is made where it is not.
            if set(key.columns) <= set(release.columns) and not natural & set(key.columns):
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

    def stay(self, release: Release) -> OnLeave | None:
        said = on_leave((s.dataset for s in self._subscriptions), release.table)
        if not said:
            said = [policy for policy in self._apart.policies if policy.table == release.table]
        if len(said) > 1:
            raise ConfigurationError(
                f"Subscriptions say different things of rows of {release.label} that leave: "
                f"{', and '.join(map(str, said))}.",
                remedy="Say the same in all of these datasets, or in one of them only.",
            )
        return said[0] if said and said[0].action != "delete" else None

    def closed(self, table: TableName) -> bool:
        return not any(edge.to == table for edge in self._led | self._gates)

    def loose(self, table: TableName) -> bool:
        return any(edge.to == table for edge in self._led - self._guarded)

    def direct(self, table: TableName, needs: Sequence[Need]) -> bool:
        whole = all(table in whole_tables(s.dataset) for s in self.holders(table))
        pulls_more = bool(self._pulled_beyond(table))
        awaited = any(edge.to == table for edge in self._nulls | self._gates)
        nulls_some = any(need.null for need in needs)
        return whole and not (pulls_more or awaited or nulls_some or self.loose(table))

    def looked_at(
        self, release: Release, shape: TableShape, needs: Sequence[Need]
    ) -> tuple[str, ...]:
        name = release.table
        found = {*self.tying(release, shape, needs)}
        found.update(
            *(
                columns_of(rule.filter)
                for s in self.holders(name)
                for rule in s.dataset.rules_of(name)
            )
        )
        others = (name for name in release.columns if name in found and name not in release.key)
        return (*release.key, *others)

    def tying(self, release: Release, shape: TableShape, needs: Sequence[Need]) -> tuple[str, ...]:
        """Name the columns by which rows of a table are tied to others, but for the key's."""
        name = release.table
        every = self._edges | self._nulls | self._gates
        found = set(chain(*(need.key.columns for need in needs)))
        found.update(*(edge.own_columns for edge in every if edge.table == name))
        found.update(*(edge.to_columns for edge in every if edge.to == name))
        found.update(*(key.to_columns for key in shape.incoming))
        return tuple(c for c in release.columns if c in found and c not in release.key)

    def settled(
        self,
        release: Release,
        shape: TableShape,
        memberships: Sequence[Membership],
        needs: Sequence[Need],
    ) -> Settled:
        """Find out which changes of a table need no verdict, as far as the rules can say."""
        name = release.table
        if any(need.null for need in needs) or any(edge.to == name for edge in self._nulls):
            return Settled()
        pulled = self._pulled_beyond(name)
        generic = any(_is_generic(m) for m in memberships)
        holders = () if generic else _holders(memberships)
        held = not generic and all(m.filter is None or _is_child(m) for m in memberships)
        # What is older than a new row, and points at it, is asked for.
        held = held and not self.loose(name)
        nobodys = not generic and all(_is_plain(m) for m in memberships)
        return Settled(
            (*holders, *self._others_needed(holders, pulled, needs)) if held else None,
            holders=holders,
            nobodys=nobodys,
            alone=nobodys and all(m.filter == Or(()) for m in memberships),
            steady=True,
            tying=self.tying(release, shape, needs),
            leaves=self.closed(name) and not pulled,
        )

    def _pulled_beyond(self, table: TableName) -> list[tuple[int, Edge]]:
        """Give the edges by which a table's rows pull in rows that need not all belong."""
        datasets = {s.id: s.dataset for s in self._subscriptions}
        return [
            (number, rule.edge)
            for number, rule in self._rules
            if isinstance(rule, ReferencedRule)
            and rule.edge.table == table
            and rule.edge.to not in whole_tables(datasets[number])
        ]

    def _others_needed(
        self,
        holders: Sequence[Support],
        pulled: Sequence[tuple[int, Edge]],
        needs: Sequence[Need],
    ) -> Iterator[Support]:
        """Say what must be ours beside the holders for a new row to want nothing."""
        known = {(support.subscription, support.edge) for support in holders}
        for number, edge in dict.fromkeys(pulled):
            if (number, edge) not in known:
                yield Support(number, edge, holds=False)
        edges = {edge for _, edge in (*known, *pulled)}
        for need in needs:
            key = need.key
            edge = Edge(key.table, key.columns, key.to, key.to_columns)
            if self.holders(key.to) and edge not in edges:
                yield Support(None, edge, holds=False)


def _is_generic(membership: Membership) -> bool:
    """Whether a row belongs because of one that it points at by a generic foreign key."""
    return any(edge.generic for rule in membership.children for edge in rule.edges)


def _is_child(membership: Membership) -> bool:
    """Whether every child of some rows belongs, by one rule."""
    return len(membership.children) == 1 and membership.children[0].filter is None


def _is_plain(membership: Membership) -> bool:
    """Whether a row belongs by a filter of its own, or as such a child, and not otherwise."""
    return (
        membership.filter is not None
        and not membership.referenced
        and (not membership.children or _is_child(membership))
    )


def _holders(memberships: Sequence[Membership]) -> tuple[Support, ...]:
    """Give the edges by which rows belong as children."""
    return tuple(
        dict.fromkeys(
            Support(membership.subscription, edge, holds=True)
            for membership in memberships
            if _is_child(membership)
            for edge in membership.children[0].edges
        )
    )


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


def _must_fit(release: Release, shape: TableShape, stay: OnLeave | None) -> None:
    needed = (*release.columns, *([stay.column] if stay is not None and stay.column else []))
    missing = [c for c in needed if c not in shape.columns]
    if missing:
        raise Unfit(
            f"Table {release.table} lacks the column(s) {', '.join(missing)} here.",
            remedy=f"Run `manage.py migrate` against this environment's database. {SCHEMA_CHANGE}",
        )
    if set(release.key) != set(shape.key):
        raise Unfit(
            f"The primary key of {release.table} is ({', '.join(shape.key)}) here and "
            f"({', '.join(release.key)}) in the model.",
            remedy="Bring the database and the model's primary key together.",
        )
