"""What one target holds of one stream: its subscriptions compiled against its own tables. Pure.

A plan is made anew whenever subscriptions, declarations or shapes of tables change. Its fingerprint
names it in every request; an answer to another plan counts for nothing.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

from psycopg import sql

from replicator.envelope import encode_key
from replicator.errors import Unfit
from replicator.plan import DatasetPlan, Filter, Release, TableName, columns_of
from replicator.requests import PlanItem, fingerprint
from replicator_apply.catalog import Constraint, TableShape
from replicator_apply.decode import EventReader

KEPT = 0
"""Subscription of the receipts of rows that left and that local rows still point at."""

MAX_IDENTIFIER = 63

ONE_SPELLING = frozenset(
    {
        "smallint",
        "integer",
        "bigint",
        "uuid",
        "text",
        "character varying",
        "date",
        "timestamp without time zone",
        "timestamp with time zone",
        "boolean",
        "bytea",
        "inet",
    }
)
"""Types of which equal values have the same text."""


@dataclass(frozen=True, slots=True)
class SubscribedDataset:
    """A subscription as the target stores it, with its dataset compiled.

    Attributes:
        id: of its row, and in receipts.
        arguments: of the dataset, "" if it takes none.
        generation: number of its newest backfill; older receipts are suspect.
        on_clash: what becomes of a local row under a replicated row's key, `refuse` or `adopt`.
        fuse: most suspects that a sweep may ask for unconfirmed; None: the default.
    """

    id: int
    dataset: DatasetPlan
    arguments: str
    generation: int
    on_clash: str = "refuse"
    fuse: int | None = None


@dataclass(frozen=True, slots=True)
class Membership:
    """Which rows of a table one subscription holds: those that pass the filter; None: all."""

    subscription: int
    generation: int
    filter: Filter | None


@dataclass(frozen=True)
class Table:
    """A replicated table of the target.

    Attributes:
        number: names its staging table.
        release: what the source lets out of it.
        shape: the table here.
        memberships: of the subscriptions that hold rows of it.
        adopts: whether local rows under replicated keys become ours.
        pulled: foreign keys to tables that one of the subscriptions holds wholly: a row that they
            point at belongs, so if it is missing it is on its way.
        defaults: text of a value for each column of new rows that nothing else fills.
        absent: text of a value for released columns that the source does not have yet.
    """

    number: int
    release: Release
    shape: TableShape
    memberships: tuple[Membership, ...]
    adopts: bool
    pulled: tuple[Constraint, ...]
    defaults: Mapping[str, str]
    absent: Mapping[str, str] = field(default_factory=dict)

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
        return EventReader(str(self.name), self.columns, self.key, self.absent)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are written."""
        return self.release.columns

    @property
    def key(self) -> tuple[str, ...]:
        """The primary key's columns."""
        return self.release.key

    @cached_property
    def respelled(self) -> bool:
        """Whether two texts may be one key: 1.0 and 1.00 as numeric, `a` and `A` as citext."""
        return any(
            self.shape.columns[name].type.partition("(")[0] not in ONE_SPELLING for name in self.key
        )

    @property
    def whole(self) -> bool:
        """Whether every row of the source belongs to every subscription on this table."""
        return all(membership.filter is None for membership in self.memberships)

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
    def parking(self) -> sql.Composable:
        """Where rows stand while their unique values change hands."""
        return sql.Identifier("pg_temp", f"replicator_parking_{self.number}")


@dataclass(frozen=True)
class TargetPlan:
    """All that this target holds of one stream."""

    subscriptions: tuple[SubscribedDataset, ...]
    tables: Mapping[TableName, Table]

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that name the plan in requests and answers."""
        return fingerprint(self.named)

    @cached_property
    def named(self) -> tuple[PlanItem, ...]:
        """The plan as a request names it."""
        return tuple(
            PlanItem(
                dataset=s.dataset.name, arguments=s.arguments, fingerprint=s.dataset.fingerprint
            )
            for s in self.subscriptions
        )

    @cached_property
    def by_prefix(self) -> dict[bytes, Table]:
        """The tables by the beginning of their records' keys."""
        return {table.prefix: table for table in self.tables.values()}

    def subscription(self, number: int) -> SubscribedDataset:
        """Give a subscription by its id. Raises KeyError."""
        for subscription in self.subscriptions:
            if subscription.id == number:
                return subscription
        raise KeyError(number)


def receipts_name(table: TableName) -> str:
    """Name the receipts of a table: `schema.table`, its tail hashed if that is too long."""
    name = str(table)
    if len(name.encode()) <= MAX_IDENTIFIER:
        return name
    return (
        name.encode()[:46].decode(errors="ignore") + hashlib.sha256(name.encode()).hexdigest()[:16]
    )


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
    tables = {}
    for number, (name, release) in enumerate(sorted(releases.items())):
        _must_fit(release, shapes[name])
        holders = [s for s in subscriptions if s.dataset.rules_of(name)]
        tables[name] = Table(
            number,
            release,
            shapes[name],
            tuple(Membership(s.id, s.generation, s.dataset.filter_of(name)) for s in holders),
            adopts=all(s.on_clash == "adopt" for s in holders),
            pulled=tuple(k for k in shapes[name].outgoing if _is_pulled(k, release, holders)),
            defaults=defaults[name],
            absent=(absent or {}).get(name, {}),
        )
    return TargetPlan(tuple(subscriptions), tables)


def _is_pulled(key: Constraint, release: Release, holders: Sequence[SubscribedDataset]) -> bool:
    return set(key.columns) <= set(release.columns) and any(
        s.dataset.is_whole(key.to) for s in holders
    )


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


def reading_columns(table: Table) -> tuple[str, ...]:
    """Columns that decide whether a row belongs and what it needs: filters, keys, references."""
    wanted = set(chain(table.key, *table.shape.unique, *(k.columns for k in table.shape.outgoing)))
    wanted.update(*(columns_of(m.filter) for m in table.memberships))
    return tuple(c for c in table.columns if c in wanted)
