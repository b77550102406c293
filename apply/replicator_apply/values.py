"""Rows → `VALUES` of an INSERT, for batches that are mostly a COPY's round trips. Pure.

Every value is a quoted constant that Postgres reads by the column's own type, as COPY would. The
session pins `standard_conforming_strings`, so that only the quote needs care.
Source: https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-STRINGS
"""

from collections.abc import Iterable, Sequence

from replicator_apply.decode import Cell, Row

SMALL = 100
"""Rows up to which VALUES are quicker than COPY."""


def values(rows: Iterable[Row], fields: Sequence[str], start: Sequence[Cell] = ()) -> str:
    """Write rows as a list of VALUES.

    Args:
        rows: the rows; every field named must be set.
        fields: names of the fields, in the order of the columns.
        start: cells that stand before each row's own.
    """
    return cells_of([*start, *(getattr(row, name) for name in fields)] for row in rows)


def cells_of(rows: Iterable[Iterable[Cell]]) -> str:
    """Write rows, given as cells, as a list of VALUES."""
    return ", ".join(f"({', '.join(map(constant, cells))})" for cells in rows)


def array(cells: Iterable[Cell]) -> str:
    """Write values, none of them NULL, as an array's input text.

    Source: https://www.postgresql.org/docs/current/arrays.html#ARRAYS-INPUT
    """
    return "{" + ",".join(map(_element, cells)) + "}"


def _element(cell: Cell) -> str:
    if type(cell) is int:
        return str(cell)
    text = str(cell).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def constant(cell: Cell) -> str:
    """Write one value."""
    if cell is None:
        return "NULL"
    return "'" + str(cell).replace("'", "''") + "'"
