"""Rows of one table, read as Postgres' text by COPY, and encoded. Blocks on the database.

COPY's text is the type's output text, as pgoutput sends it; a cast to text is not (it writes
true for t, and pads addresses).

Source: https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from psycopg import Connection, Copy, sql
from psycopg.abc import PQGen

from replicator.edge_sql import of_kind
from replicator.filter_sql import filter_sql
from replicator.key_order import ordered
from replicator.natural_keys import travelling_sql
from replicator.plan import Generic, Release, RowsRule
from replicator.requests import Key
from replicator.sql_parts import identifier
from replicator_capture.answer_plan import Refusal
from replicator_capture.encode import ReadEncoder
from replicator_capture.rowtext import Texts, parse_line
from replicator_capture.selection_sql import belongs

_TEXT = 25
"""Oid of the type text."""
_NUMBERS = frozenset({"smallint", "integer"})

# With -1, else char(3) and bit(3) would be given as what means char(1) and bit(1).
_COLUMNS = """
SELECT a.attname::text, a.atttypid::int8, format_type(a.atttypid, -1),
       a.attcollation <> 0, c.relkind = 'p'
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid
WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped
"""

_BLOCK = 1 << 16


class Column(NamedTuple):
    """A column as the catalog knows it: type oid, the type's name for SQL, has it a collation."""

    oid: int
    type: str
    collated: bool


def copy_blocks(connection: Connection, query: sql.Composable) -> Iterator[bytes]:
    """Run a query and give its rows as COPY's text: whole lines, some `_BLOCK` bytes at once."""
    statement = sql.SQL("COPY ({}) TO STDOUT").format(query)
    rest = b""
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        while data := connection.wait(_read_much(copy)):
            # The server sends a line at a time, but does not promise to.
            lines, newline, rest = (rest + data).rpartition(b"\n")
            if newline:
                yield lines + newline


def _read_much(copy: Copy) -> PQGen[bytes]:
    """Read what comes, some `_BLOCK` bytes; nothing: it has ended.

    A wait for each line, as `Copy.read` has it, costs as much as all else that is done to a row.
    """
    parts: list[bytes | bytearray | memoryview] = []
    size = 0
    while size < _BLOCK and (data := (yield from copy._read_gen())):
        parts.append(data)
        size += len(data)
    return b"".join(parts)


def rows_of(blocks: Iterable[bytes]) -> Iterator[Texts]:
    """Give the rows of blocks, each as Postgres' text."""
    for block in blocks:
        yield from map(parse_line, block[:-1].split(b"\n"))


def array_literal(values: Sequence[str], type_name: str) -> sql.Composed:
    """Write an array of input texts. The type's name comes from the catalog."""
    escaped = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    text = "{" + ",".join(f'"{value}"' for value in escaped) + "}"
    return sql.SQL("{}::{}[]").format(sql.Literal(text), sql.SQL(type_name))


def key_text(value: int | bool | str) -> str:
    """Give a key's value as Postgres' input text."""
    if isinstance(value, bool):
        return "t" if value else "f"
    return str(value)


class TableRead:
    """Reads released columns of one table, inside the fetch's transaction.

    Args:
        connection: in that transaction, the table locked.
        release: what of the table may leave.

    Raises:
        Refusal: the table, or a released column, is not there.
    """

    def __init__(self, connection: Connection, release: Release) -> None:
        self._connection = connection
        self.release = release
        table = release.table
        rows = connection.execute(_COLUMNS, (table.schema, table.name)).fetchall()
        self._columns = {row[0]: Column(*row[1:4]) for row in rows}
        if any(name not in self._columns for name in release.columns):
            raise Refusal(f"{table} lacks columns that {release.label} releases.")
        # A child of plain inheritance is another table in the stream; a partition is not.
        only = sql.SQL("") if rows[0][4] else sql.SQL("ONLY ")
        self._rows = sql.SQL("{}{}").format(only, identifier(table))
        self._from = sql.SQL("{} AS t").format(self._rows)
        named = release.natural
        types = [_TEXT if name in named else self._columns[name].oid for name in release.columns]
        self.encoder = ReadEncoder(release, types)

    def by_values(
        self,
        columns: Sequence[str],
        values: Sequence[Sequence[str]],
        *,
        generic: Generic | None = None,
        hashes: bool = False,
    ) -> Iterator[bytes]:
        """Read the rows whose columns have one of these values, given as input texts.

        Of generic foreign keys those that lead to the table with these values.
        """
        query = sql.SQL("SELECT {} FROM {} WHERE ({}) IN (SELECT * FROM {}) AND {}").format(
            self._selected(hashes=hashes),
            self._from,
            sql.SQL(", ").join(_column(name) for name in columns),
            self._unnest(columns, values),
            of_kind(generic, _column(generic.column)) if generic else sql.SQL("TRUE"),
        )
        return copy_blocks(self._connection, query)

    def missing(self, keys: Sequence[Sequence[str]]) -> Iterator[bytes]:
        """Give those of the keys that no row has, as output texts."""
        pairs = [
            sql.SQL("{} = k.{}").format(_column(name), sql.Identifier(name))
            for name in self.release.key
        ]
        query = sql.SQL("SELECT DISTINCT * FROM {} WHERE NOT EXISTS (SELECT FROM {} WHERE {})")
        return copy_blocks(
            self._connection,
            query.format(
                self._unnest(self.release.key, keys), self._from, sql.SQL(" AND ").join(pairs)
            ),
        )

    def page(
        self, rule: RowsRule, after: Key | None, limit: int, *, hashes: bool = False
    ) -> Iterator[bytes]:
        """Read rows that belong by the rule, in key order, behind a key.

        Hashes are read in the order that the target has as well; rows in that of the key's index.
        """
        key = sql.SQL(", ").join(
            ordered(_column(name), collated=hashes and self._columns[name].collated)
            for name in self.release.key
        )
        behind = sql.SQL("TRUE")
        if after is not None:
            bounds = sql.SQL(", ").join(sql.Literal(key_text(value)) for value in after)
            behind = sql.SQL("({}) > ({})").format(key, bounds)  # type: ignore[assignment]
        query = sql.SQL("SELECT {} FROM {} WHERE {} AND {} ORDER BY {} LIMIT {}").format(
            self._selected(hashes=hashes),
            self._from,
            belongs(rule, self.release, self._rows),
            behind,
            key,
            sql.Literal(limit),
        )
        return copy_blocks(self._connection, query)

    def estimate(self, rule: RowsRule) -> int:
        """Give how many rows the planner expects to belong by the rule."""
        query = sql.SQL("EXPLAIN (FORMAT JSON) SELECT FROM {} WHERE {}").format(
            self._from, filter_sql(rule.filter, _column)
        )
        row = self._connection.execute(query).fetchone()
        passing = int(row[0][0]["Plan"]["Plan Rows"]) if row else 0
        return passing if rule.selection is None else min(passing, rule.selection.number)

    def _selected(self, *, hashes: bool) -> sql.Composed:
        release = self.release
        cells = [travelling_sql(release, name, _column(name)) for name in release.columns]
        if not hashes:
            return sql.SQL(", ").join(cells)
        keys = [_column(name) for name in self.release.key]
        return sql.SQL(", ").join([*keys, row_hash(cells)])

    def _compared_as(self, name: str) -> str:
        """Name the type that values are read as: numbers may be greater than the column holds."""
        kind = self._columns[name].type
        return "bigint" if kind in _NUMBERS else kind

    def _unnest(self, columns: Sequence[str], values: Sequence[Sequence[str]]) -> sql.Composed:
        arrays = [
            array_literal([row[n] for row in values], self._compared_as(name))
            for n, name in enumerate(columns)
        ]
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        return sql.SQL("unnest({}) AS k ({})").format(sql.SQL(", ").join(arrays), names)


def row_hash(cells: Sequence[sql.Composable]) -> sql.Composed:
    """Compose the hash of a row as verify compares it, over its cells as they travel.

    A row's text has the output text of each column. A cast of a column to text may be something
    else: that of xml shows a declaration that does not travel.
    """
    return sql.SQL("pg_catalog.md5(ROW({})::text)").format(sql.SQL(", ").join(cells))


def _column(name: str) -> sql.Identifier:
    return sql.Identifier("t", name)
