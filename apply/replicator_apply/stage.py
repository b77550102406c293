"""A batch → staging tables, one row per key. Blocks on Postgres.

Rows of which every column came are set 0; the others are grouped by the columns that they lack,
which are few groups, so that each takes one statement. A large transaction is staged in rounds
and merged once at the end.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

import psycopg

from replicator_apply.collapse import TableChanges, key_cells
from replicator_apply.copytext import DELIMITER, chunk, escaped_line, line_function
from replicator_apply.decode import EventReader, Row
from replicator_apply.plan import Table
from replicator_apply.state import Place
from replicator_apply.table_sql import TableSql

Cursor = psycopg.Cursor[Any]

WHOLE = 0
MANY = 1_000
"""Staged rows from which on the planner is told of them: it takes the table for a small one."""
WORN = 300
"""Rows deleted from the temporary tables of a table after which these are made anew: their dead
versions are read each time, and no vacuum comes to them."""
KEY_ONLY = -1
"""Set of staged rows of which only the key is there."""


@dataclass
class Staged:
    """A table of which the staging table holds changes.

    Attributes:
        sets: which columns the rows of each set lack; the first: none.
        rounds: how often something was staged.
        size: rows staged, those of all rounds.
        truncated: whether the table was emptied in the batch.
        filled: whether there may be candidates.
        keeps: whether there may be rows that are kept for local ones, which are tried again.
    """

    table: Table
    sql: TableSql
    sets: list[tuple[int, ...]] = field(default_factory=lambda: [()])
    rounds: int = 0
    size: int = 0
    truncated: bool = False
    filled: bool = False
    keeps: bool = True

    def set_number(self, missing: tuple[int, ...]) -> int:
        """Give the number of the set of rows that lack the columns at these places."""
        if missing not in self.sets:
            self.sets.append(missing)
        return self.sets.index(missing)

    def columns(self, number: int) -> tuple[str, ...]:
        """Name the columns that came with a set."""
        missing = self.sets[number]
        return tuple(c for i, c in enumerate(self.table.columns) if i not in missing)

    def missing(self, number: int) -> tuple[str, ...]:
        """Name the columns that a set lacks."""
        return tuple(self.table.columns[i] for i in self.sets[number])


class StagingTables:
    """The session's staging tables; made when first needed, outside of a batch's transaction.

    A transaction empties at its end those that it has used. `ON COMMIT DELETE ROWS` would truncate
    all that the session has, however few it has used.
    """

    def __init__(self, connection: psycopg.Connection[Any], place: Place) -> None:
        self._connection, self._place = connection, place
        self._statements: dict[int, TableSql] = {}
        self._made: dict[int, TableSql] = {}
        self._used: dict[int, int] = {}
        self._worn: dict[int, int] = {}

    def statements(self, table: Table) -> TableSql:
        """Give a table's statements; its staging table need not be there."""
        known = self._statements.get(table.number)
        if known is None or known.table is not table:
            known = self._statements[table.number] = TableSql(table, *self._place)
        return known

    def prepare(self, table: Table) -> TableSql:
        """Make the staging table unless it is there; give the table's statements."""
        statements = self.statements(table)
        if self._made.get(table.number) is not statements:
            self._connection.execute(statements.drop_temporary)
            self._connection.execute(statements.create_stage, prepare=False)
            self._connection.execute(statements.create_candidates, prepare=False)
            self._made[table.number] = statements
            self._worn[table.number] = 0
        return statements

    def use(self, table: Table, rows: int) -> None:
        """Note that rows are staged, or candidates: in this transaction, about so many."""
        self._used[table.number] = self._used.get(table.number, 0) + rows

    def empty(self, cursor: Cursor) -> None:
        """Empty what the transaction has used, at its end."""
        for number, rows in self._used.items():
            text = self._made[number]
            if rows < MANY:
                cursor.execute(text.empty_temporary, prepare=False)
                found = cursor.rowcount
                while cursor.nextset():
                    found += cursor.rowcount
                self._worn[number] += max(rows, found)
            if rows >= MANY or self._worn[number] >= WORN:
                cursor.execute(text.renew_temporary, prepare=False)
                self._worn[number] = 0
        self._used.clear()

    def forget(self) -> None:
        """Take note that the transaction was rolled back: what it staged is gone."""
        for number, rows in self._used.items():
            self._worn[number] += rows
        self._used.clear()


def stage(cursor: Cursor, staged: Staged, changes: TableChanges) -> None:
    """COPY a table's changes into its staging table, as one more round."""
    staged.filled = True
    if changes.truncated:
        staged.truncated = True
        cursor.execute(staged.sql.compose("DELETE FROM {stage}"))
    groups: dict[_Kind, list[Row]] = defaultdict(list)
    for rows, born in ((changes.born, True), (changes.changed, False)):
        for key, row in rows.items():
            kind = _Kind(
                staged.set_number(changes.reader.missing(row)),
                key in changes.read,
                born and not staged.truncated,
                not born and key not in changes.replaced,
            )
            groups[kind].append(row)
    for kind, group in groups.items():
        _copy_group(cursor, staged, changes.reader, kind, group)
    if changes.gone:
        _copy_gone(cursor, staged, changes)
    staged.rounds += 1
    staged.size += changes.size


class _Kind(NamedTuple):
    """What rows that are copied together have in common, as their control columns tell it."""

    number: int
    read: bool
    born: bool
    base: bool


def _copy_group(
    cursor: Cursor, staged: Staged, reader: EventReader, kind: _Kind, rows: list[Row]
) -> None:
    """COPY rows of one kind."""
    columns = staged.columns(kind.number)
    fields = [f"c{reader.columns.index(name)}" for name in columns]
    whole = kind.number == WHOLE
    control = (kind.number, staged.rounds, True, whole, kind.read, kind.born, kind.base)
    start = "".join(f"{cell}{DELIMITER}" for cell in control)
    with cursor.copy(staged.sql.copy_stage_columns(columns)) as copy:
        copy.write(chunk(rows, fields, line_function(fields), start))


def _copy_gone(cursor: Cursor, staged: Staged, changes: TableChanges) -> None:
    with cursor.copy(staged.sql.copy_stage_columns(staged.table.key)) as copy:
        copy.write(
            "".join(
                escaped_line(
                    (KEY_ONLY, staged.rounds, False, True, read, False, False, *key_cells(key))
                )
                for key in changes.gone
                for read in (key in changes.read,)
            )
        )


def merge_rounds(cursor: Cursor, staged: Staged) -> None:
    """Leave one row per key, its columns merged; then add what a TRUNCATE removed."""
    if staged.rounds > 1:
        cursor.execute(staged.sql.analyze)
    if staged.rounds > 1 and cursor.execute(staged.sql.staged_twice).fetchone():
        for turn in range(1, staged.rounds):
            _merge_round(cursor, staged, turn)
        cursor.execute(staged.sql.carry_read)
        cursor.execute(staged.sql.carry_born)
        cursor.execute(staged.sql.older_rounds)
    if staged.table.respelled:
        cursor.execute(staged.sql.not_born)
        cursor.execute(staged.sql.respelled)
    if staged.truncated:
        cursor.execute(staged.sql.stage_truncated)


def _merge_round(cursor: Cursor, staged: Staged, turn: int) -> None:
    """Complete the rows of one round from the round before it that has them."""
    pairs = product(range(1, len(staged.sets)), range(len(staged.sets)))
    for newer, older in pairs:
        lacks, older_lacks = staged.sets[newer], staged.sets[older]
        taken = tuple(staged.table.columns[i] for i in lacks if i not in older_lacks)
        if taken:
            both = staged.set_number(tuple(i for i in lacks if i in older_lacks))
            cursor.execute(staged.sql.merge_round(turn, taken, newer, older, both))
