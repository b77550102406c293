"""What one target holds of one stream: its subscriptions compiled against its own tables. Pure.

A plan is made anew whenever subscriptions, declarations or shapes of tables change. Its fingerprint
names it in every request; an answer to another plan counts for nothing.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import chain

from psycopg import sql

from replicator.envelope import encode_key
from replicator.plan import (
    ChildrenRule,
    DatasetPlan,
    Edge,
    Filter,
    OnLeave,
    ReferencedRule,
    Release,
    TableName,
)
from replicator.relations import steps_of
from replicator.requests import PlanItem, fingerprint
from replicator_apply.catalog import Constraint, TableShape
from replicator_apply.decode import EventReader, KeyOf

KEPT = 0
"""Subscription of the receipts of rows that left and that local rows still point at."""

LEFT = -1
"""Subscription of the receipts of rows that left and stay by the policy of their rules."""

MAX_IDENTIFIER = 63


@dataclass(frozen=True, slots=True)
class SubscribedDataset:
    """A subscription as the target stores it, with its dataset compiled.

    Attributes:
        id: of its row, and in receipts.
        dataset: compiled for the subscription's arguments.
        generation: number of its newest backfill; older receipts are suspect.
        on_clash: what becomes of a local row under a replicated row's key, `refuse` or `adopt`.
        fuse: most suspects that a sweep may ask for unconfirmed; None: the default.
        gated: the source refuses it for now: nothing is asked for it.
        doubted: receipts below this generation may not fit their rows.
    """

    id: int
    dataset: DatasetPlan
    generation: int
    on_clash: str = "refuse"
    fuse: int | None = None
    gated: bool = False
    doubted: int = 0

    @property
    def new(self) -> bool:
        """Whether it was never backfilled: rows of others that are its, too, are not missing."""
        return self.generation == 0


@dataclass(frozen=True, slots=True)
class Membership:
    """Which rows of a table one subscription holds.

    Attributes:
        subscription: its id.
        generation: of its newest backfill.
        filter: the union of the `Rows` rules on the table; None: every row.
        children, referenced: the other rules on the table.
        gated: the source refuses the subscription: what a fetch reads is not closed for it.
        frozen: the subscription is paused: whatever it holds, it holds as it is.
        leaving: the subscription ends: it holds nothing any more.
        doubted: receipts below this generation do not tell that a row was tied to it as it is.
    """

    subscription: int
    generation: int
    filter: Filter | None
    children: tuple[ChildrenRule, ...] = ()
    referenced: tuple[ReferencedRule, ...] = ()
    gated: bool = False
    frozen: bool = False
    leaving: bool = False
    doubted: int = 0

    @property
    def related(self) -> bool:
        """Whether a row may belong because of another one."""
        return bool(self.children or self.referenced)


@dataclass(frozen=True, slots=True)
class Need:
    """A foreign key, and what becomes of a row that points by it at a row that is not here.

    Attributes:
        key: the foreign key.
        null: NULL is written until that row is here.
        pulled: subscriptions of which that row is as well, so that it is on its way; for the
            others the row waits outside.
    """

    key: Constraint
    null: bool
    pulled: frozenset[int]


@dataclass(frozen=True, slots=True)
class Support:
    """A row that must be one of ours already, for a new row that points at it to be settled.

    Attributes:
        subscription: whose; None: of any subscription of the plan.
        edge: how the new row points at it.
        holds: whether the new row belongs because of it; else NULL will do.
    """

    subscription: int | None
    edge: Edge
    holds: bool


@dataclass(frozen=True, slots=True)
class Settled:
    """Which changes of a table's rows need no verdict, though its rules look at other rows.

    Attributes:
        supports: rows that must be ours for a new row to belong to every subscription, and to want
            nothing; None: only the rules can tell.
        holders: those because of which it belongs; of one subscription, all must be ours.
        nobodys: whether a row that passes no filter and lacks a holder belongs to nothing.
        alone: whether that can be told without a filter.
        steady: whether a row of ours stays as long as nothing changes by which it is tied.
        tying: columns by which rows are tied to others, the key's not among them.
        leaves: whether nothing goes with a row that is deleted.
    """

    supports: tuple[Support, ...] | None = None
    holders: tuple[Support, ...] = ()
    nobodys: bool = False
    alone: bool = False
    steady: bool = False
    tying: tuple[str, ...] = ()
    leaves: bool = False


@dataclass(frozen=True)
class Table:
    """A replicated table of the target.

    Attributes:
        number: names its staging table.
        release: what the source lets out of it.
        shape: the table here.
        memberships: of the subscriptions that hold rows of it.
        adopts: whether local rows under replicated keys become ours.
        needs: its foreign keys among the released columns.
        pulling: by subscription, the rules by which rows of it pull others in.
        closed: whether no row waits for one of it, or hangs on it: what may belong because of such
            a row is the row alone.
        loose: whether rows that hang on one of it may be older than it, because Postgres does not
            guard how they point at it (generic foreign keys): one that is born is asked for, too.
        direct: whether what the source did to it is what the target must do, without a look at the
            rules: every row belongs to every subscription, and nothing else hangs on it.
        looked_at: columns that decide whether a row belongs and what it needs, the key first.
        defaults: text of a value for each column of new rows that nothing else fills.
        absent: text of a value for released columns that the source does not have yet.
        keys_of: for each column whose values travel as names, what gives the key here.
        settled: what else needs no verdict.
        hooks: names of the functions that are called after its rows were applied.
        stay: what becomes of rows that leave; None: they are deleted.
    """

    number: int
    release: Release
    shape: TableShape
    memberships: tuple[Membership, ...]
    adopts: bool
    needs: tuple[Need, ...]
    pulling: tuple[tuple[int, ReferencedRule], ...]
    closed: bool
    loose: bool
    direct: bool
    looked_at: tuple[str, ...]
    defaults: Mapping[str, str]
    absent: Mapping[str, str] = field(default_factory=dict)
    keys_of: Mapping[str, KeyOf] = field(default_factory=dict)
    settled: Settled = Settled()
    hooks: tuple[str, ...] = ()
    stay: OnLeave | None = None

    @property
    def name(self) -> TableName:
        """Schema and name."""
        return self.release.table

    @cached_property
    def prefix(self) -> bytes:
        """How the key of every record of the table begins."""
        return encode_key(str(self.name))[:-1]

    @cached_property
    def reader(self) -> EventReader:
        """Reads the table's events."""
        return EventReader(str(self.name), self.columns, self.key, self.absent, self.keys_of)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are written."""
        return self.release.columns

    @property
    def key(self) -> tuple[str, ...]:
        """The primary key's columns."""
        return self.release.key

    @cached_property
    def holders(self) -> tuple[Membership, ...]:
        """The memberships of subscriptions that are not paused."""
        return tuple(each for each in self.memberships if not each.frozen)

    @cached_property
    def frozen(self) -> tuple[int, ...]:
        """The paused subscriptions that may hold rows of it."""
        return tuple(each.subscription for each in self.memberships if each.frozen)

    @cached_property
    def respelled(self) -> bool:
        """Whether two texts may be one key: 1.0 and 1.00 as numeric, `a` and `A` as citext."""
        return not all(self.shape.columns[name].one_spelling for name in self.key)

    @cached_property
    def enters_alone(self) -> bool:
        """Whether a row of which all columns came may enter without a look at the rules.

        However it came: in a page of a backfill, or by an update before its page.
        """
        apart = self.respelled or self.hooks or self.stay is not None
        return self.direct and not apart and not any(m.gated for m in self.memberships)

    @property
    def mark(self) -> OnLeave | None:
        """How rows that left and stay are marked; None: they are not, or do not stay."""
        return self.stay if self.stay is not None and self.stay.column else None

    def nulls(self, key: Constraint) -> bool:
        """Whether NULL is written in a foreign key of it while the row pointed at is not here."""
        return any(need.null for need in self.needs if need.key == key)

    @cached_property
    def identifier(self) -> sql.Composable:
        """The table."""
        return self.shape.identifier

    @cached_property
    def receipts(self) -> sql.Composable:
        """Its receipts."""
        return sql.Identifier("replicator", receipts_name(self.name))

    @cached_property
    def stage(self) -> sql.Composable:
        """Its staging table."""
        return sql.Identifier("pg_temp", f"replicator_stage_{self.number}")

    @cached_property
    def candidates(self) -> sql.Composable:
        """Its candidates; see `candidates`."""
        return sql.Identifier("pg_temp", f"replicator_candidate_{self.number}")

    @cached_property
    def parking(self) -> sql.Composable:
        """Where rows stand while their unique values change hands."""
        return sql.Identifier("pg_temp", f"replicator_parking_{self.number}")


@dataclass(frozen=True)
class TargetPlan:
    """All that this target holds of one stream.

    Attributes:
        subscriptions: those to whose rows events are applied.
        tables: theirs.
        frozen: the paused subscriptions.
    """

    subscriptions: tuple[SubscribedDataset, ...]
    tables: Mapping[TableName, Table]
    frozen: tuple[int, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that name the plan in requests and answers."""
        return fingerprint(self.named)

    @cached_property
    def named(self) -> tuple[PlanItem, ...]:
        """The plan as a request names it, without what the source refuses."""
        return tuple(
            PlanItem(
                dataset=s.dataset.name,
                arguments=s.dataset.arguments,
                fingerprint=s.dataset.fingerprint,
            )
            for s in self.subscriptions
            if not s.gated
        )

    @cached_property
    def asked(self) -> frozenset[str]:
        """Tables that can be asked for, as requests name them."""
        return frozenset(
            str(release.table)
            for s in self.subscriptions
            if not s.gated
            for release in s.dataset.releases
        )

    @cached_property
    def selecting(self) -> frozenset[TableName]:
        """Tables with rows that the source chooses."""
        return frozenset(
            s.dataset.table_of(rule)
            for s in self.subscriptions
            for rule in s.dataset.paged
            if rule.selection is not None
        )

    @cached_property
    def by_prefix(self) -> dict[bytes, Table]:
        """The tables by the beginning of their records' keys."""
        return {table.prefix: table for table in self.tables.values()}

    @cached_property
    def _hanging(self) -> tuple[tuple[TableName, TableName], ...]:
        """Pairs of tables: rows of the first hang by a rule on rows of the second."""
        rules = chain.from_iterable(s.dataset.rules for s in self.subscriptions)
        return tuple(chain.from_iterable(map(steps_of, rules)))

    def in_order(self, names: frozenset[TableName]) -> tuple[list[TableName], bool]:
        """Order tables so that what a row hangs on comes first; True if some hang on each other."""
        if names not in self._orders:
            graph: dict[TableName, set[TableName]] = {name: set() for name in names}
            for table, on in self._hanging:
                if table in graph and on in graph:
                    graph[table].add(on)
            try:
                self._orders[names] = list(TopologicalSorter(graph).static_order()), False
            except CycleError:
                self._orders[names] = sorted(names), True
        return self._orders[names]

    def parents_first(self, names: Iterable[TableName]) -> list[TableName]:
        """Order tables so that what a row points at, or is a child of, comes first.

        Where rules and foreign keys go in a ring, by foreign keys alone; else anyhow.
        """
        chosen = frozenset(names)
        if chosen not in self._first:
            keys = {
                name: {k.to for k in self.tables[name].shape.outgoing if k.to in chosen} - {name}
                for name in chosen
            }
            children = (
                edge
                for s in self.subscriptions
                for rule in s.dataset.rules
                if isinstance(rule, ChildrenRule)
                for edge in rule.edges
            )
            both = {name: set(to) for name, to in keys.items()}
            for edge in children:
                if {edge.table, edge.to} <= chosen and edge.table != edge.to:
                    both[edge.table].add(edge.to)
            self._first[chosen] = _sorted(both) or _sorted(keys) or sorted(chosen)
        return self._first[chosen]

    @cached_property
    def _first(self) -> dict[frozenset[TableName], list[TableName]]:
        return {}

    def tied(self, changed: Iterable[TableName]) -> list[Table]:
        """Add to changed tables all that rules or foreign keys tie to them, directly or not."""
        names = set[TableName]()
        for name in changed:
            if name not in names:
                names |= self._components[name]
        return [table for name, table in self.tables.items() if name in names]

    @cached_property
    def _components(self) -> dict[TableName, frozenset[TableName]]:
        ties: dict[TableName, set[TableName]] = {name: {name} for name in self.tables}
        pairs = list(self._hanging)
        for table in self.tables.values():
            ends = [need.key.to for need in table.needs]
            ends += [key.table for key in table.shape.incoming]
            pairs += [(table.name, end) for end in ends if end in ties]
        for one, other in pairs:
            ties[one].add(other)
            ties[other].add(one)
        return {name: frozenset(_reached(name, ties)) for name in self.tables}

    @cached_property
    def _orders(self) -> dict[frozenset[TableName], tuple[list[TableName], bool]]:
        return {}

    def subscription(self, number: int) -> SubscribedDataset:
        """Give a subscription by its id. Raises KeyError."""
        for subscription in self.subscriptions:
            if subscription.id == number:
                return subscription
        raise KeyError(number)


def _sorted(graph: Mapping[TableName, set[TableName]]) -> list[TableName]:
    """Order tables so that what each needs comes first; none if they go in a ring."""
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError:
        return []


def _reached(begin: TableName, ties: Mapping[TableName, set[TableName]]) -> set[TableName]:
    names, todo = {begin}, [begin]
    while todo:
        more = ties[todo.pop()] - names
        names |= more
        todo += more
    return names


def receipts_name(table: TableName) -> str:
    """Name the receipts of a table: `schema.table`, its tail hashed if that is too long."""
    name = str(table)
    if len(name.encode()) <= MAX_IDENTIFIER:
        return name
    return (
        name.encode()[:46].decode(errors="ignore") + hashlib.sha256(name.encode()).hexdigest()[:16]
    )


def reading_columns(table: Table) -> tuple[str, ...]:
    """Columns that rules and unique constraints look at."""
    wanted = {*table.looked_at, *chain(*table.shape.unique)}
    return tuple(c for c in table.columns if c in wanted)
