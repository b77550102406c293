"""Which rows a fetch reads beside those that were asked for. Pure.

A row that enters a dataset brings its tree along, and must find there what it points at. So an
answer is *closed*: from each row read, links lead to further rows to read, until nothing new turns
up: down to children and to rows that wait for it, up to rows that it pulls in. From a key that has
no row, links lead down all the same: what waits there must be told.

The module asks for lookups and is told what they found; it reads nothing itself.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from replicator.plan import ChildrenRule, DatasetPlan, Edge, Generic, ReferencedRule, TableName
from replicator.relations import gates, pulls

Values = tuple[str, ...]
"""Values of some columns as Postgres' text."""


_Way = tuple[TableName, tuple[str, ...], Generic | None]


class Link(NamedTuple):
    """From a row of `table`, read the rows of `to` whose `to_columns` equal its `columns`.

    And which are generic foreign keys to `table`, if `generic` is given.
    """

    table: TableName
    columns: tuple[str, ...]
    to: TableName
    to_columns: tuple[str, ...]
    generic: Generic | None = None


class Lookup(NamedTuple):
    """Rows to read: those of `table` whose `columns` have one of `values`, and are `generic`."""

    table: TableName
    columns: tuple[str, ...]
    values: tuple[Values, ...]
    generic: Generic | None = None


def links(datasets: Sequence[DatasetPlan]) -> tuple[Link, ...]:
    """Give the links to follow for all datasets of a plan, each once."""
    found: dict[Link, None] = {}
    for dataset in datasets:
        found |= dict.fromkeys(map(_up, _pulling(dataset)))
        for rule in dataset.rules:
            if isinstance(rule, ChildrenRule):
                found |= dict.fromkeys(map(_down, rule.edges))
    found |= dict.fromkeys(map(_down, sorted(gates(datasets), key=str)))
    tables = {release.table for dataset in datasets for release in dataset.releases}
    return tuple(link for link in found if {link.table, link.to} <= tables)


def _pulling(dataset: DatasetPlan) -> Iterator[Edge]:
    for release in dataset.releases:
        for key in release.foreign_keys:
            edge = key.edge_from(release.table)
            if pulls(dataset, edge):
                yield edge
    yield from (rule.edge for rule in dataset.rules if isinstance(rule, ReferencedRule))


def _up(edge: Edge) -> Link:
    return Link(edge.table, edge.columns, edge.to, edge.to_columns)


def _down(edge: Edge) -> Link:
    return Link(edge.to, edge.to_columns, edge.table, edge.columns, edge.generic)


class Closure:
    """What has been read, and what is still to be read.

    Args:
        links: the links to follow.
    """

    def __init__(self, links: Sequence[Link]) -> None:
        self._links: dict[TableName, list[Link]] = {}
        for link in links:
            self._links.setdefault(link.table, []).append(link)
        self._reached = {link.to for link in links}
        self._read: set[tuple[TableName, Values]] = set()
        self._asked: set[tuple[_Way, Values]] = set()
        self._frontier: dict[_Way, list[Values]] = {}

    @property
    def follows(self) -> bool:
        """Whether there are links; without any, no row is read twice and none need be noted."""
        return bool(self._links)

    def reaches(self, table: TableName) -> bool:
        """Whether a link leads to a table; if not, no row of it is read twice."""
        return table in self._reached

    def columns_of(self, table: TableName) -> tuple[str, ...]:
        """Columns of a table that `note` looks at."""
        followed = [link.columns for link in self._links.get(table, ())]
        return tuple(dict.fromkeys(column for columns in followed for column in columns))

    def note(self, table: TableName, key: Values, row: Mapping[str, str | None]) -> bool:
        """Take note of a row that was read.

        Args:
            table: its table.
            key: its primary key.
            row: at least the columns that `columns_of` names.

        Returns:
            Whether it is new; a row that has been read before is not to be answered again.
        """
        if (table, key) in self._read:
            return False
        self._read.add((table, key))
        self.follow(table, [row])
        return True

    def follow(self, table: TableName, rows: Iterable[Mapping[str, str | None]]) -> None:
        """Take note of where rows lead to that are read once; those that lead alike may be one.

        Args:
            table: their table.
            rows: at least the columns that `columns_of` names.
        """
        for row in rows:
            for link in self._links.get(table, ()):
                self._follow(link, [row[column] for column in link.columns])

    def note_missing(self, table: TableName, key: Mapping[str, str]) -> None:
        """Take note of a key that was asked for and has no row.

        Args:
            table: its table.
            key: the primary key, by column.
        """
        for link in self._links.get(table, ()):
            if set(link.columns) <= key.keys():
                self._follow(link, [key[column] for column in link.columns])

    def _follow(self, link: Link, found: Sequence[str | None]) -> None:
        values = tuple(value for value in found if value is not None)
        way = (link.to, link.to_columns, link.generic)
        if len(values) < len(found) or (way, values) in self._asked:
            return
        self._asked.add((way, values))
        self._frontier.setdefault(way, []).append(values)

    def lookups(self) -> list[Lookup]:
        """Give what is to be read next, and forget it; nothing: the answer is closed."""
        steps, self._frontier = self._frontier, {}
        return [
            Lookup(table, columns, tuple(values), generic)
            for (table, columns, generic), values in steps.items()
        ]
