r"""Rows → COPY text, a chunk at a time. Pure.

Columns are parted by \x01 and NULL is a marker drawn anew at each start, so that a chunk is checked
as a whole for the few characters that need care; only a chunk that has one is escaped value by
value. Source: https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from psycopg import sql

from replicator.speed import twin
from replicator_apply.decode import Cell, Row

DELIMITER = "\x01"
NULL = "\x02" + secrets.token_hex(4)
OPTIONS = sql.SQL("(FORMAT text, DELIMITER {}, NULL {})").format(DELIMITER, NULL)
"""What goes behind `COPY … FROM STDIN`."""

_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", DELIMITER: "\\" + DELIMITER})

_copy_lines: Callable[..., bytes] | None = twin("copy_lines", None)

Line = Callable[[Row, str], str]
"""Gives a row's line, unescaped; the second argument stands before the first column."""


def line_function(fields: Sequence[str]) -> Line:
    """Generate the function that writes the named fields of a row as one line."""
    cells = DELIMITER.join(f"{{N if (v := row.{name}) is None else v}}" for name in fields)
    namespace: dict[str, Any] = {"N": NULL}
    source = f"def line(row, start):\n    return f'{{start}}{cells}\\n'\n"
    exec(source, namespace)  # noqa: S102 (field names are c0, c1, …, made by `decode`)
    function: Line = namespace["line"]
    return function


def chunk(rows: Iterable[Row], fields: Sequence[str], line: Line, start: str = "") -> bytes:
    """Write rows as COPY text.

    Args:
        rows: the rows; every field named must be set.
        fields: names of the fields, in the order of the columns.
        line: `line_function(fields)`.
        start: cells that stand before the row's own, escaped, each followed by the delimiter.
    """
    if _copy_lines is not None:
        ends = NULL.encode(), DELIMITER.encode()
        return _copy_lines(rows, tuple(fields), start.encode(), *ends)
    return chunk_plainly(rows, fields, line, start)


def chunk_plainly(rows: Iterable[Row], fields: Sequence[str], line: Line, start: str = "") -> bytes:
    """As `chunk`, without the compiled twin."""
    lines = [line(row, start) for row in rows]
    text = "".join(lines)
    if is_clean(text, len(lines), len(fields) - 1 + start.count(DELIMITER)):
        return text.encode()
    cells = ([getattr(row, name) for name in fields] for row in rows)
    return "".join(start + escaped_line(row) for row in cells).encode()


def picked(text: bytes, numbers: Iterable[int]) -> bytes:
    """Give some lines of COPY text by their numbers, from 0: a newline in a value is escaped."""
    lines = text.split(b"\n")
    return b"".join([lines[number] + b"\n" for number in numbers])


def numbered_chunk(rows: Iterable[Row], fields: Sequence[str], line: Line, start: str) -> bytes:
    """As `chunk`, with a cell between `start` and the row's own: the row's number, from 0."""
    lines = [line(row, f"{start}{n}{DELIMITER}") for n, row in enumerate(rows)]
    text = "".join(lines)
    if is_clean(text, len(lines), len(fields) + start.count(DELIMITER)):
        return text.encode()
    cells = ([n, *(getattr(row, name) for name in fields)] for n, row in enumerate(rows))
    return "".join(start + escaped_line(row) for row in cells).encode()


def is_clean(text: str, rows: int, delimiters: int) -> bool:
    """Whether no value of the chunk holds a character that COPY would take for its own."""
    return (
        "\\" not in text
        and "\r" not in text
        and text.count("\n") == rows
        and text.count(DELIMITER) == rows * delimiters
    )


def escaped_line(cells: Iterable[Cell]) -> str:
    """Write one line value by value: the plain form, for any values."""
    return DELIMITER.join(escaped(cell) for cell in cells) + "\n"


def escaped(cell: Cell) -> str:
    """Write one value."""
    if cell is None:
        return NULL
    return cell.translate(_ESCAPES) if type(cell) is str else str(cell)
