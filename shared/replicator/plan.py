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


class TableName(msgspec.Struct, frozen=True, order=True):
    """A table of Postgres, by schema and name, unquoted."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


class ForeignKey(msgspec.Struct, frozen=True):
    """A reference from released columns to another table.

    Attributes:
        columns: the referring columns.
        to: the table referred to; it need not be released.
        to_columns: its columns, in the order of `columns`.
        nullable: whether the reference may be NULL.
        constrained: whether Postgres enforces it (Django's `db_constraint`).
    """

    columns: tuple[str, ...]
    to: TableName
    to_columns: tuple[str, ...]
    nullable: bool
    constrained: bool = True


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


class And(msgspec.Struct, frozen=True, tag_field="node", tag="and"):
    """All parts; true if there are none."""

    parts: tuple["Filter", ...]


class Or(msgspec.Struct, frozen=True, tag_field="node", tag="or"):
    """Any part; false if there are none."""

    parts: tuple["Filter", ...]


class Not(msgspec.Struct, frozen=True, tag_field="node", tag="not"):
    """The opposite; unknown stays unknown."""

    part: "Filter"


Filter: TypeAlias = And | Or | Not | Compare | IsNull
"""A condition on one table's own columns; a row passes if it is true, neither false nor unknown."""


class RowsRule(msgspec.Struct, frozen=True):
    """The rows of one model that pass a filter; all of them if it is None."""

    label: str
    filter: Filter | None = None


class DatasetPlan(msgspec.Struct, frozen=True):
    """One dataset, compiled.

    Attributes:
        name: the dataset's name.
        stream: the stream that carries all its tables.
        rules: its rules as declared; several on one model are a union.
        releases: releases of the models that the rules name, each once, in the rules' order.
        fingerprint: 16 hexadecimal digits that change with the rules and the released columns.
    """

    name: str
    stream: str
    rules: tuple[RowsRule, ...]
    releases: tuple[Release, ...]
    fingerprint: str

    def release(self, label: str) -> Release:
        """Give the release of a model that a rule names. Raises KeyError for any other."""
        for release in self.releases:
            if release.label == label:
                return release
        raise KeyError(label)

    def rules_of(self, table: TableName) -> tuple[RowsRule, ...]:
        """Give the rules on a table, in their order; none if the dataset does not contain it."""
        labels = {release.label for release in self.releases if release.table == table}
        return tuple(rule for rule in self.rules if rule.label in labels)

    def filter_of(self, table: TableName) -> Filter | None:
        """Give the union of the rules on a table as one filter; None: every row belongs."""
        filters = [rule.filter for rule in self.rules_of(table)]
        given = tuple(f for f in filters if f is not None)
        if len(given) < len(filters):
            return None
        return given[0] if len(given) == 1 else Or(given)

    def is_whole(self, table: TableName) -> bool:
        """Whether every row of a table belongs to the dataset."""
        return any(rule.filter is None for rule in self.rules_of(table))


def fingerprint(rules: tuple[RowsRule, ...], releases: tuple[Release, ...]) -> str:
    """Hash what decides rows and values of a dataset: SHA-256, first 16 hexadecimal digits."""
    shapes = [(r.label, str(r.table), r.key, r.columns, r.stream) for r in releases]
    return hashlib.sha256(msgspec.json.encode((rules, shapes))).hexdigest()[:16]


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
