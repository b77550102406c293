"""A batch → staging tables, one row per key. Blocks on Postgres.

Rows of which every column came are set 0; the others are grouped by the columns that they lack,
which are few groups, so that each takes one statement. A large transaction is staged in rounds
and merged once at the end.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import psycopg

from replicator_apply.collapse import TableChanges, key_cells
from replicator_apply.copytext import DELIMITER, Line, chunk, escaped_line, line_function
from replicator_apply.decode import Row
from replicator_apply.plan import Table
from replicator_apply.statements import TableSql

Cursor = psycopg.Cursor[Any]

WHOLE = 0
MANY = 1_000
"""Staged rows from which on the planner is told of them: it takes the table for a small one."""
KEY_ONLY = -1
"""Set of staged rows of which only the key is there."""


@dataclass
class Staged:
    """A table of which the staging table holds changes.

    Attributes:
        sets: which columns the rows of each set lack; the first: none.
        rounds: how often something was staged.
        size: rows staged, those of all rounds.
        filled: whether the staging table may hold rows.
        truncated: whether the table was emptied in the batch.
    """

    table: Table
    sql: TableSql
    sets: list[tuple[int, ...]] = field(default_factory=lambda: [()])
    rounds: int = 0
    size: int = 0
    filled: bool = False
    truncated: bool = False

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
    """The session's staging tables; made when first needed, outside of a batch's transaction."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._made: dict[int, TableSql] = {}

    def prepare(self, table: Table) -> TableSql:
        """Make the staging table unless it is there; give the table's statements."""
        known = self._made.get(table.number)
        if known is None or known.table is not table:
            statements = TableSql(table)
            self._connection.execute(statements.drop_temporary)
            self._connection.execute(statements.create_stage)
            known = self._made[table.number] = statements
        return known


def stage(cursor: Cursor, staged: Staged, changes: TableChanges) -> None:
    """COPY a table's changes into its staging table, as one more round."""
    staged.filled = True
    if changes.truncated:
        staged.truncated = True
        cursor.execute(staged.sql.compose("DELETE FROM {stage}"))
    groups: dict[int, list[tuple[bytes, Row]]] = defaultdict(list)
    for rows in (changes.born, changes.changed):
        for key, row in rows.items():
            groups[staged.set_number(changes.reader.missing(row))].append((key, row))
    for number, group in groups.items():
        _copy_group(cursor, staged, changes, number, group)
    if changes.gone:
        _copy_gone(cursor, staged, changes)
    staged.rounds += 1
    staged.size += changes.size


def _copy_group(
    cursor: Cursor,
    staged: Staged,
    changes: TableChanges,
    number: int,
    group: list[tuple[bytes, Row]],
) -> None:
    """COPY the rows of one set, those that a fetch has read apart from the others."""
    columns = staged.columns(number)
    fields = [f"c{changes.reader.columns.index(name)}" for name in columns]
    line = line_function(fields)
    with cursor.copy(staged.sql.copy_stage_columns(columns)) as copy:
        for read in (False, True):
            rows = [row for key, row in group if (key in changes.read) is read]
            if rows:
                copy.write(_chunk(rows, fields, line, number, staged.rounds, read=read))


def _chunk(  # noqa: PLR0913 (the control columns, one by one)
    rows: Iterable[Row], fields: list[str], line: Line, number: int, turn: int, *, read: bool
) -> bytes:
    control = (number, turn, True, number == WHOLE, read)
    return chunk(rows, fields, line, "".join(f"{cell}{DELIMITER}" for cell in control))


def _copy_gone(cursor: Cursor, staged: Staged, changes: TableChanges) -> None:
    with cursor.copy(staged.sql.copy_stage_columns(staged.table.key)) as copy:
        copy.write(
            "".join(
                escaped_line(
                    (KEY_ONLY, staged.rounds, False, True, key in changes.read, *key_cells(key))
                )
                for key in changes.gone
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
        cursor.execute(staged.sql.older_rounds)
    if staged.table.respelled:
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
            statement = staged.sql.merge_round(taken, newer, older, both)
            cursor.execute(statement, {"round": turn})
