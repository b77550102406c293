"""What declarations compile to: released tables, datasets and their filters, as plain values.

Pure: no Django, no database. `replicator.compiler` makes these from models; capture and apply
work with nothing else, so that a daemon never asks a model what may leave or enter.
"""

import hashlib
from typing import Literal, TypeAlias

import msgspec

Lookup: TypeAlias = Literal[
    "exact", "in", "lt", "lte", "gt", "gte", "range", "startswith", "contains", "endswith"
]
"""How a column is compared; the words of Django's field lookups, the meaning of the C collation."""

TEXT_TYPES = frozenset({"varchar", "character varying", "text", "bpchar"})
"""Postgres types that compare under a collation, without their length."""

ONE_SPELLING = TEXT_TYPES - {"bpchar"} | {
    "smallint",
    "integer",
    "bigint",
    "uuid",
    "date",
    "timestamp without time zone",
    "timestamp with time zone",
    "boolean",
    "bytea",
    "inet",
}
"""Types of which equal values have the same text, in sessions with the pinned settings."""


class TableName(msgspec.Struct, frozen=True, order=True):
    """A table of Postgres, by schema and name, unquoted."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


CONTENT_TYPES = TableName("public", "django_content_type")
PERMISSIONS = TableName("public", "auth_permission")
"""Tables that every environment fills by itself: the same row has another key in each, and a
reference to it travels as its name."""


class ForeignKey(msgspec.Struct, frozen=True):
    """A reference from released columns to another table.

    Attributes:
        columns: the referring columns.
        to: the table referred to; it need not be released.
        to_columns: its columns, in the order of `columns`.
        nullable: whether the reference may be NULL.
        constrained: whether Postgres enforces it (Django's `db_constraint`).
        natural: whether the row that it points at travels by name (content types, permissions).
    """

    columns: tuple[str, ...]
    to: TableName
    to_columns: tuple[str, ...]
    nullable: bool
    constrained: bool = True
    natural: bool = False

    def edge_from(self, table: TableName) -> "Edge":
        """Give it as the edge by which rows of its table point."""
        return Edge(table, self.columns, self.to, self.to_columns)


class Release(msgspec.Struct, frozen=True):
    """What may leave the environment of one opted-in model's table.

    Attributes:
        label: the model, `polls.Question`.
        table: its table.
        key: columns of the primary key, in its order.
        columns: released columns in the model's order; the key is always among them, generated
            columns never are (Postgres does not publish them before 18, and nobody may write them).
        excluded: columns of the model that stay.
        generated: columns that Postgres computes.
        foreign_keys: references among the released columns.
        unique: column sets that are unconditionally unique, apart from the key, if wholly released.
        stream: name of the stream that carries the table.
    """

    label: str
    table: TableName
    key: tuple[str, ...]
    columns: tuple[str, ...]
    excluded: tuple[str, ...] = ()
    generated: tuple[str, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    unique: tuple[tuple[str, ...], ...] = ()
    stream: str = "main"

    @property
    def natural(self) -> dict[str, TableName]:
        """The released columns whose values travel as names, with the table they point at."""
        return {key.columns[0]: key.to for key in self.foreign_keys if key.natural}

    @property
    def named_by(self) -> frozenset[TableName]:
        """The tables that are read for these names."""
        found = frozenset(self.natural.values())
        return found | {CONTENT_TYPES} if PERMISSIONS in found else found


class Compare(msgspec.Struct, frozen=True, tag_field="node", tag="compare"):
    """A column compared with constants; unknown where the column is NULL, as in SQL.

    Attributes:
        column: a released column of the rule's table.
        lookup: how it is compared.
        values: Postgres input texts, one but for `in` (any number, sorted) and `range` (two).
        type: Postgres type of column and values, without length or precision.
    """

    column: str
    lookup: Lookup
    values: tuple[str, ...]
    type: str


class IsNull(msgspec.Struct, frozen=True, tag_field="node", tag="null"):
    """True where the column is NULL, else false."""

    column: str


class Sampled(msgspec.Struct, frozen=True, tag_field="node", tag="sampled"):
    """True for about so many of a hundred keys: always the same ones.

    Attributes:
        columns: the primary key's; their types are of `ONE_SPELLING`.
        percent: as a decimal number, more than 0 and less than 100.
        seed: other seeds give other keys.
    """

    columns: tuple[str, ...]
    percent: str
    seed: str


class Listed(msgspec.Struct, frozen=True, tag_field="node", tag="listed"):
    """True for the keys that a target keeps for a rule with a selection; it never travels.

    Attributes:
        columns: the primary key's.
        subscription: whose list it is.
        rule: name of the rule.
    """

    columns: tuple[str, ...]
    subscription: int
    rule: str


class And(msgspec.Struct, frozen=True, tag_field="node", tag="and"):
    """All parts; true if there are none."""

    parts: tuple["Filter", ...]


class Or(msgspec.Struct, frozen=True, tag_field="node", tag="or"):
    """Any part; false if there are none."""

    parts: tuple["Filter", ...]


class Not(msgspec.Struct, frozen=True, tag_field="node", tag="not"):
    """The opposite; unknown stays unknown."""

    part: "Filter"


Filter: TypeAlias = And | Or | Not | Compare | IsNull | Sampled | Listed
"""A condition on one table's own columns; a row passes if it is true, neither false nor unknown."""


class Generic(msgspec.Struct, frozen=True):
    """What makes a generic foreign key point at one table.

    Attributes:
        column: that holds the content type.
        names: of the content types that mean this table, `polls.question`: its model's, and those
            of proxies if rows may name these.
        written: how the key stands in the other column: "" as itself, or as text.
    """

    column: str
    names: tuple[str, ...]
    written: Literal["", "integer", "uuid"] = ""


class Edge(msgspec.Struct, frozen=True, omit_defaults=True):
    """How rows of a table point at rows of another: by a foreign key, or a generic one.

    Attributes:
        table: the table that points.
        columns: its columns that hold the other's key.
        to: the table pointed at.
        to_columns: the columns there, in the order of `columns`.
        generic: None: by a foreign key.
    """

    table: TableName
    columns: tuple[str, ...]
    to: TableName
    to_columns: tuple[str, ...]
    generic: Generic | None = None

    @property
    def own_columns(self) -> tuple[str, ...]:
        """All columns of the table that decide where it points."""
        return self.columns if self.generic is None else (*self.columns, self.generic.column)

    def __str__(self) -> str:
        kind = "" if self.generic is None else f" ({self.generic.names[0]})"
        return f"{self.table.name}.{', '.join(self.columns)}{kind}"


class OnLeave(msgspec.Struct, frozen=True):
    """What becomes in a target of rows of a table that leave. The source need not know.

    Attributes:
        table: the table.
        action: `delete`; `keep`, as rows of the target's own; `soft`: keep and mark them.
        column: soft: the column that marks, which does not travel.
        flag: soft: true marks, and not the time.
    """

    table: TableName
    action: Literal["delete", "keep", "soft"]
    column: str = ""
    flag: bool = False

    def __str__(self) -> str:
        return f"soft {self.column}" if self.action == "soft" else self.action


class SampledRows(msgspec.Struct, frozen=True, tag_field="select", tag="sample"):
    """So many rows: those whose key's hash is smallest.

    Attributes:
        number: of rows.
        seed: other seeds give other rows.
    """

    number: int
    seed: str


class LatestRows(msgspec.Struct, frozen=True, tag_field="select", tag="latest"):
    """So many rows: those with the greatest values of a column, of equal ones the greatest keys.

    Attributes:
        number: of rows.
        by: the column, released; rows where it is NULL are none of them.
        type: its Postgres type, without length or precision.
    """

    number: int
    by: str
    type: str


Selection: TypeAlias = SampledRows | LatestRows
"""Which of the rows that pass a filter belong, where that hangs on the others."""


class RowsRule(msgspec.Struct, frozen=True, tag_field="rule", tag="rows"):
    """The rows of one model that pass a filter; all of them if it is None.

    Attributes:
        label: the model.
        filter: what each row must pass by itself.
        selection: which of these belong; None: all. The source chooses them, again and again; the
            target keeps their keys.
    """

    label: str
    filter: Filter | None = None
    selection: Selection | None = None

    @property
    def takes_all(self) -> bool:
        """Whether every row of the model belongs by it."""
        return self.filter is None and self.selection is None

    @property
    def name(self) -> str:
        """16 hexadecimal digits that name it among the rules of its dataset."""
        return _digits(self)


class ChildrenRule(msgspec.Struct, frozen=True, tag_field="rule", tag="children"):
    """The rows of one model that pass a filter and whose parents, by every edge, belong."""

    label: str
    edges: tuple[Edge, ...]
    filter: Filter | None = None


class ReferencedRule(msgspec.Struct, frozen=True, tag_field="rule", tag="referenced"):
    """The rows of one model that pass a filter and that rows which belong point at by an edge."""

    label: str
    edge: Edge
    filter: Filter | None = None


Rule: TypeAlias = RowsRule | ChildrenRule | ReferencedRule


class DatasetPlan(msgspec.Struct, frozen=True):
    """One dataset, compiled.

    Attributes:
        name: the dataset's name.
        stream: the stream that carries all its tables.
        rules: its rules, those that have pages first; several on one model are a union.
        releases: releases of the models that the rules name, each once, in the rules' order.
        fingerprint: 16 hexadecimal digits that change with the rules and the released columns.
        nulls: foreign keys in which NULL is written while the row pointed at is not here.
        required: foreign keys whose row waits outside until the row pointed at is here.
        arguments: that these rules are for, as the subscription writes them; "" if there are none.
        on_leave: what becomes of rows that leave, of the tables of which a rule says it; the
            fingerprint does not change with it.
        every: seconds after which what the rules select is chosen anew; None: none selects. It is
            the target's business, and no part of the fingerprint.
    """

    name: str
    stream: str
    rules: tuple[Rule, ...]
    releases: tuple[Release, ...]
    fingerprint: str
    nulls: tuple[Edge, ...] = ()
    required: tuple[Edge, ...] = ()
    arguments: str = ""
    on_leave: tuple[OnLeave, ...] = ()
    every: float | None = None

    @property
    def full_name(self) -> str:
        """The name as a subscription writes it: `polls:3,4`."""
        return full_name(self.name, self.arguments)

    def release(self, label: str) -> Release:
        """Give the release of a model that a rule names. Raises KeyError for any other."""
        for release in self.releases:
            if release.label == label:
                return release
        raise KeyError(label)

    @property
    def paged(self) -> tuple[RowsRule, ...]:
        """The rules that a backfill reads in pages; what else belongs comes along."""
        return tuple(rule for rule in self.rules if isinstance(rule, RowsRule))

    def rules_of(self, table: TableName) -> tuple[Rule, ...]:
        """Give the rules on a table, in their order; none if the dataset does not contain it."""
        labels = {release.label for release in self.releases if release.table == table}
        return tuple(rule for rule in self.rules if rule.label in labels)

    def table_of(self, rule: Rule) -> TableName:
        """Name the table of a rule's model."""
        return self.release(rule.label).table


def full_name(dataset: str, arguments: str) -> str:
    """Write a dataset's name and arguments as a subscription does: `polls:3,4`."""
    return f"{dataset}:{arguments}" if arguments else dataset


def split_name(name: str) -> tuple[str, str]:
    """Give dataset and arguments of what `full_name` writes."""
    dataset, _, arguments = name.partition(":")
    return dataset, arguments


def fingerprint(
    rules: tuple[Rule, ...],
    releases: tuple[Release, ...],
    nulls: tuple[Edge, ...] = (),
    required: tuple[Edge, ...] = (),
) -> str:
    """Hash what decides rows and values of a dataset: SHA-256, first 16 hexadecimal digits."""
    shapes = [(r.label, str(r.table), r.key, r.columns, r.stream) for r in releases]
    content = (list(map(_told, rules)), shapes, sorted(map(str, nulls)), sorted(map(str, required)))
    return _digits(content)


def _told(rule: Rule) -> object:
    """Give a rule's content; rules without a selection are told as before there were any."""
    content = msgspec.to_builtins(rule)
    return {name: value for name, value in content.items() if (name, value) != ("selection", None)}


def _digits(content: object) -> str:
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()[:16]


def columns_of(condition: Filter | None) -> frozenset[str]:
    """Name the columns that a filter looks at."""
    match condition:
        case None:
            return frozenset()
        case And(parts) | Or(parts):
            return frozenset[str]().union(*(columns_of(part) for part in parts))
        case Not(part):
            return columns_of(part)
        case Compare() | IsNull():
            return frozenset({condition.column})
        case Sampled() | Listed():
            return frozenset(condition.columns)
