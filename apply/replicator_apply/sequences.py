"""Owned sequences follow the rows that are written, so that the next local insert does not collide.

`setval` is not transactional
(https://www.postgresql.org/docs/current/functions-sequence.html): a batch that is rolled back may
leave a sequence ahead, which does no harm.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import psycopg
from psycopg import sql

from replicator_apply.decode import Row
from replicator_apply.plan import Table

Cursor = psycopg.Cursor[Any]


class Sequences:
    """Advances sequences; remembers how far each is at least, to spare statements."""

    def __init__(self) -> None:
        self._at_least: dict[str, int] = {}

    def follow_rows(self, cursor: Cursor, table: Table, rows: Iterable[Row]) -> None:
        """Advance the sequences of a table beyond the values of these rows."""
        statements, noted = self.statements_for(table, rows)
        for statement in statements:
            cursor.execute(statement)
        self.note(noted)

    def statements_for(self, table: Table, rows: Iterable[Row]) -> tuple[list[str], dict[str, int]]:
        """Give what advances the sequences beyond the values of these rows, and how far it does."""
        noted = {}
        for name, sequence in _owned(table):
            field = f"c{table.columns.index(name)}"
            found = [value for row in rows if type(value := getattr(row, field)) is int]
            if found and max(found) > self._at_least.get(sequence, 0):
                noted[sequence] = max(found)
        return [_setval(sequence, value) for sequence, value in noted.items()], noted

    def note(self, noted: Mapping[str, int]) -> None:
        """Remember how far sequences were advanced."""
        self._at_least |= noted

    def follow_stage(self, cursor: Cursor, table: Table) -> None:
        """Advance the sequences of a table beyond the values of the rows staged for writing."""
        for name, sequence in _owned(table):
            found = cursor.execute(
                sql.SQL("SELECT max({}) FROM {} WHERE _verdict = 'w'").format(
                    sql.Identifier(name), table.stage
                )
            ).fetchone()
            value = int(found[0]) if found and found[0] is not None else 0
            if value > self._at_least.get(sequence, 0):
                cursor.execute(_setval(sequence, value))
                self._at_least[sequence] = value


def _setval(sequence: str, value: int) -> str:
    # The name comes from pg_get_serial_sequence, which quotes it. A sequence that was never used
    # says last_value 1 and has not given it away.
    statement = sql.SQL(
        "SELECT setval({name}, {value}) FROM {sequence} "
        "WHERE last_value < {value} OR last_value = {value} AND NOT is_called"
    )
    return statement.format(
        name=sql.Literal(sequence), value=sql.Literal(value), sequence=sql.SQL(sequence)
    ).as_string()


def _owned(table: Table) -> list[tuple[str, str]]:
    """List the written columns that take their values from a sequence, with its name."""
    columns = table.shape.columns
    return [(name, columns[name].sequence) for name in table.columns if columns[name].sequence]
