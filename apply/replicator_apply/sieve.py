"""Sorts a batch's changes: those that need no verdict, those that the rules must judge.

A new row is settled if what holds it, and what it pulls in or points at, is ours already: a look
at receipts tells. A changed row of ours is settled if nothing changed by which it is tied to
others, a deleted one if nothing goes with it. A row that is nobody's, and that nothing holds, is no
concern of this target at all, unless what holds it may yet enter. The rest is left to the rules,
which look at it as at a batch behind this one; both are one target transaction. What a fetch has
read is theirs. What is wanted needs no care: what its old version is tied to is what it was tied to
all along, and the answer looks at it anew.

Blocks on Postgres.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from operator import attrgetter
from typing import Any, NamedTuple

import psycopg

from replicator.plan import TableName
from replicator_apply.collapse import TableChanges, key_cells
from replicator_apply.decode import Cell, Row
from replicator_apply.plan import Support, Table
from replicator_apply.table_sql import TableSql

Cursor = psycopg.Cursor[Any]
Rows = dict[bytes, Row]
Lacking = dict[Support, frozenset[Any]]
"""Values of a support's edge, one or a tuple of several, under which no row is ours."""


class Sorted(NamedTuple):
    """One table's changes.

    Attributes:
        settled: need no verdict; of changed rows, only those of ours that keep their ties.
        rest: what the rules must judge.
    """

    settled: TableChanges
    rest: TableChanges


def may_be_settled(table: Table, changes: TableChanges) -> bool:
    """Whether some of a table's changes may need no verdict."""
    settled = table.settled
    return (
        (bool(changes.born) and settled.supports is not None)
        or (bool(changes.changed) and settled.steady)
        or (bool(changes.gone) and settled.leaves)
    )


class Sieve:
    """Sorts the changes of one batch, table by table, parents first.

    Args:
        cursor: in the batch's transaction.
        statements: of every table of the plan.
        batch: the changes.
    """

    def __init__(
        self,
        cursor: Cursor,
        statements: Mapping[TableName, TableSql],
        batch: Mapping[TableName, TableChanges],
    ) -> None:
        self._cursor, self._statements = cursor, statements
        # Until a table is sorted, all that happens to it may be left to the rules.
        self._open = dict(batch)
        self._keys: dict[TableName, frozenset[Any]] = {}

    def leave(self, name: TableName, rest: TableChanges) -> None:
        """Take note of what is left of a table to the rules."""
        self._keys.pop(name, None)
        self._open[name] = rest

    def sort(self, table: Table, changes: TableChanges) -> Sorted:
        """Sort a table's changes."""
        settled = TableChanges(changes.reader)
        rest = TableChanges(changes.reader, born=changes.born)
        rest.replaced, rest.read = changes.replaced, changes.read
        rest.changed, rest.gone = changes.changed, changes.gone
        apart = changes.read
        if table.settled.supports is not None:
            settled.born, rest.born = self._sort_born(table, *_whole(changes.born, changes, apart))
        if table.settled.steady and not table.respelled:
            settled.changed, rest.changed = _whole(changes.changed, changes, apart)
        if table.settled.leaves and not any(key.acts for key in table.shape.incoming):
            settled.gone = {key: None for key in changes.gone if key not in apart}
            rest.gone = {key: None for key in changes.gone if key in apart}
        return Sorted(settled, rest)

    def _sort_born(self, table: Table, whole: Rows, rest: Rows) -> tuple[Rows, Rows]:
        """Move what the rules must judge of whole new rows to the rest."""
        lacking = self._lacking(table, table.settled.supports or (), whole.values())
        if not lacking:
            return whole, rest
        unsure = _among(table, lacking, whole)
        settled = {key: row for key, row in whole.items() if key not in unsure}
        if table.settled.alone:
            unsure = self._held_perhaps(table, lacking, unsure)
        return settled, rest | unsure

    def left_of_changed(self, table: Table, rows: Sequence[Row], left: Iterable[int]) -> set[int]:
        """Say which of the changed rows that were not written the rules must judge.

        Args:
            table: the table.
            rows: all that are staged.
            left: numbers of those that were not written.
        """
        numbers = set(left)
        if not numbers or not table.settled.nobodys:
            return numbers
        found = self._cursor.execute(self._statements[table.name].foreign)
        foreign = {n: rows[n] for (n,) in found if n in numbers}
        lacking = self._lacking(table, table.settled.holders, foreign.values())
        held = self._held_perhaps(table, lacking, foreign)
        return numbers - (foreign.keys() - held.keys())

    # What holds a row ----------------------------------------------------------------------------

    def _lacking(self, table: Table, supports: Iterable[Support], rows: Iterable[Row]) -> Lacking:
        """Find the values of each support under which no row is ours, if there are any."""
        found: Lacking = {}
        known = list(rows)
        for support in supports:
            get = _getter(table, support)
            values = list({get(row) for row in known})
            given = [value for value in values if _is_given(value)]
            absent = {given[n - 1] for n in self._absent(table, support, given)}
            if support.holds and len(given) < len(values):
                absent |= {value for value in values if not _is_given(value)}
            if absent:
                found[support] = frozenset(absent)
        return found

    def _absent(self, table: Table, support: Support, values: Sequence[Any]) -> list[int]:
        if not values:
            return []
        statements, columns = self._statements[table.name], support.edge.columns
        cells = [values] if len(columns) == 1 else list(zip(*values, strict=True))
        begin, end = statements.lacking(support, self._statements)
        found = self._cursor.execute(begin + statements.arrays(columns, cells) + end, prepare=False)
        return [number for (number,) in found]

    def _held_perhaps(self, table: Table, lacking: Lacking, rows: dict[Any, Row]) -> dict[Any, Row]:
        """Give the rows that something holds, or may yet hold that is not sorted."""
        tests = [
            [
                (_getter(table, support), lacking.get(support, frozenset()), self._still(support))
                for support in table.settled.holders
                if support.subscription == membership.subscription
            ]
            for membership in table.memberships
        ]
        return {
            key: row
            for key, row in rows.items()
            # For one of the subscriptions, none of the rows that must all hold it is out for good.
            if not all(
                not holders
                or any(
                    (v := get(row)) in absent and v not in still for get, absent, still in holders
                )
                for holders in tests
            )
        }

    def _still(self, support: Support) -> "frozenset[Any] | _Everything":
        """Give the values of an edge under which a row may yet enter in this batch."""
        edge, to = support.edge, self._statements[support.edge.to].table
        changes = self._open.get(edge.to)
        if changes is None or not changes.size:
            return frozenset()
        if edge.to_columns != to.key or to.respelled:
            return EVERYTHING
        if edge.to not in self._keys:
            keys = (key for part in _parts(changes) for key in part)
            cells = map(tuple, map(key_cells, keys))
            self._keys[edge.to] = frozenset(c[0] if len(c) == 1 else c for c in cells)
        return self._keys[edge.to]


class _Everything:
    """A set that holds every value."""

    def __contains__(self, _: object) -> bool:
        return True


EVERYTHING = _Everything()


def _parts(changes: TableChanges) -> tuple[Iterable[bytes], ...]:
    return changes.born, changes.changed, changes.gone


def _whole(rows: Rows, changes: TableChanges, apart: Set[bytes]) -> tuple[Rows, Rows]:
    """Part rows of which every column came, and that are not to be kept apart, from the others."""
    strict = changes.reader.row_type
    whole = {k: row for k, row in rows.items() if type(row) is strict and k not in apart}
    if len(whole) == len(rows):
        return whole, {}
    return whole, {k: row for k, row in rows.items() if k not in whole}


def _among(table: Table, lacking: Lacking, rows: Rows) -> Rows:
    """Give the rows that have one of these values."""
    tests = [(_getter(table, support), values) for support, values in lacking.items()]
    return {k: row for k, row in rows.items() if any(get(row) in v for get, v in tests)}


def _getter(table: Table, support: Support) -> "attrgetter[Any]":
    """Read the columns of a support's edge from a row: one value, or a tuple of several."""
    columns = table.reader.columns
    return attrgetter(*(f"c{columns.index(name)}" for name in support.edge.columns))


def _is_given(value: Cell | tuple[Cell, ...]) -> bool:
    """Whether no part of it is NULL."""
    return None not in value if type(value) is tuple else value is not None
