"""What the target's tables look like, as its own catalog tells.

Reads `pg_catalog` (https://www.postgresql.org/docs/current/catalogs.html); blocks on Postgres.
Identifiers in SQL come from here and from Django's models, never from the wire.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from replicator.errors import Unfit
from replicator.plan import ONE_SPELLING, TableName
from replicator.sql_parts import identifier

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its type as SQL writes it, and who fills it.

    `generated`: computed by Postgres, never written; `sequence`: of which the column's default or
    identity takes its values, quoted, "" if none; `collated`: its type has a collation.
    """

    name: str
    type: str
    not_null: bool
    generated: bool
    sequence: str
    collated: bool = False

    @property
    def one_spelling(self) -> bool:
        """Whether equal values are equal texts; 1.0 and 1.00 are not, as numeric."""
        return self.type.partition("(")[0] in ONE_SPELLING


@dataclass(frozen=True, slots=True)
class Constraint:
    """A foreign key as the target enforces it: `columns` of `table` point to `to_columns` of `to`.

    `on_delete` is Postgres' letter: a no action, r restrict, c cascade, n set null, d set default.
    """

    name: str
    table: TableName
    columns: tuple[str, ...]
    to: TableName
    to_columns: tuple[str, ...]
    on_delete: str
    deferrable: bool

    @property
    def acts(self) -> bool:
        """Whether a delete of the row pointed at changes the rows that point at it."""
        return self.on_delete in "cnd"

    @property
    def minds(self) -> bool:
        """Whether a row pointed at cannot even be away inside a transaction."""
        return self.acts or self.on_delete == "r" or not self.deferrable


@dataclass(frozen=True, slots=True)
class PartialUnique:
    """A unique index that is partial or on expressions, as SQL over the table's own columns.

    Attributes:
        values: what is unique: expressions.
        condition: of the rows that are in the index; "true" for all.
        columns: those that it looks at.
        nulls_equal: whether it takes NULL for a value like any other.
    """

    values: tuple[str, ...]
    condition: str
    columns: frozenset[str]
    nulls_equal: bool


@dataclass(frozen=True, slots=True)
class TableShape:
    """A table of the target.

    Attributes:
        oid: its object identifier in this database.
        unique: columns of each unique index that is neither partial nor on an expression, the
            primary key's not among them.
        nulls_equal: those of `unique` that take NULL for a value like any other.
        outgoing: foreign keys of this table.
        incoming: foreign keys of any table that point to this one.
        excludes: whether rows may be in each other's way otherwise: by a partial unique index, one
            on an expression, or an exclusion constraint.
        partial: those of these that are unique indexes.
        deferrable: names of unique and exclusion constraints that may be checked at the end.
    """

    name: TableName
    oid: int
    columns: dict[str, Column]
    key: tuple[str, ...]
    unique: tuple[tuple[str, ...], ...]
    outgoing: tuple[Constraint, ...]
    incoming: tuple[Constraint, ...]
    nulls_equal: frozenset[tuple[str, ...]] = frozenset()
    excludes: bool = False
    partial: tuple[PartialUnique, ...] = ()
    deferrable: tuple[str, ...] = ()

    @property
    def identifier(self) -> sql.Identifier:
        """The table's qualified name, quoted."""
        return identifier(self.name)


_COLUMNS = """
SELECT c.oid, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated <> '',
       coalesce(pg_get_serial_sequence(format('%%I.%%I', n.nspname, c.relname), a.attname), ''),
       a.attcollation <> 0
  FROM pg_attribute a
  JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')
   AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum
"""

_INDEXES = """
SELECT i.indisprimary,
       array(SELECT a.attname::text
               FROM unnest(i.indkey[:i.indnkeyatts - 1]) WITH ORDINALITY k(n, o)
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n ORDER BY k.o),
       i.indnullsnotdistinct,
       i.indpred IS NULL AND i.indexprs IS NULL AND NOT i.indisexclusion
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s
   AND (i.indisunique OR i.indisexclusion)
"""

_PARTIAL = """
SELECT array(SELECT pg_get_indexdef(i.indexrelid, n, false)
               FROM generate_series(1, i.indnkeyatts) n),
       coalesce(pg_get_expr(i.indpred, i.indrelid), 'true'),
       array(SELECT a.attname::text FROM pg_depend d JOIN pg_attribute a
                 ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
              WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid),
       i.indnullsnotdistinct
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s AND i.indisunique AND NOT i.indisexclusion
   AND (i.indpred IS NOT NULL OR i.indexprs IS NOT NULL)
"""

_DEFERRABLE = """
SELECT k.conname FROM pg_constraint k
  JOIN pg_class c ON c.oid = k.conrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s AND k.contype IN ('p', 'u', 'x') AND k.condeferrable
 ORDER BY k.conname
"""

_FOREIGN_KEYS = """
SELECT k.conname, n.nspname, c.relname, fn.nspname, fc.relname,
       array(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(n, o)
               JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n ORDER BY u.o),
       array(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u(n, o)
               JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.n ORDER BY u.o),
       k.confdeltype::text, k.condeferrable
  FROM pg_constraint k
  JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class fc ON fc.oid = k.confrelid JOIN pg_namespace fn ON fn.oid = fc.relnamespace
 WHERE k.contype = 'f' AND k.conparentid = 0
   AND ((n.nspname, c.relname) = (%s, %s) OR (fn.nspname, fc.relname) = (%s, %s))
 ORDER BY k.conname
"""


def read_shape(connection: Connection, table: TableName) -> TableShape:
    """Read one table's shape.

    Raises:
        Unfit: the table is not there, or has no primary key.
    """
    name = (table.schema, table.name)
    found = connection.execute(_COLUMNS, name).fetchall()
    if not found:
        raise Unfit(
            f"Table {table} does not exist in this environment's database.",
            remedy="Run `manage.py migrate` against this database.",
        )
    indexes = connection.execute(_INDEXES, name).fetchall()
    plain = [found[:3] for found in indexes if found[3]]
    key = next((tuple(names) for primary, names, _ in plain if primary), ())
    if not key:
        raise Unfit(
            f"Table {table} has no primary key.", remedy="Give it one, or opt its model out."
        )
    unique = tuple(tuple(names) for primary, names, _ in plain if not primary)
    constraints = [_constraint(row) for row in connection.execute(_FOREIGN_KEYS, name * 2)]
    return TableShape(
        table,
        int(found[0][0]),
        {row[1]: Column(*row[1:]) for row in found},
        key,
        unique,
        tuple(k for k in constraints if k.table == table),
        tuple(k for k in constraints if k.to == table),
        frozenset(tuple(names) for primary, names, equal in plain if equal and not primary),
        excludes=len(plain) < len(indexes),
        partial=tuple(
            PartialUnique(tuple(values), condition, frozenset(columns), equal)
            for values, condition, columns, equal in connection.execute(_PARTIAL, name)
        ),
        deferrable=tuple(row[0] for row in connection.execute(_DEFERRABLE, name)),
    )


def _constraint(row: Sequence[Any]) -> Constraint:
    name, schema, table, to_schema, to_table, columns, to_columns, on_delete, deferrable = row
    return Constraint(
        name,
        TableName(schema, table),
        tuple(columns),
        TableName(to_schema, to_table),
        tuple(to_columns),
        on_delete,
        deferrable,
    )


def read_shapes(connection: Connection, tables: Iterable[TableName]) -> dict[TableName, TableShape]:
    """Read the shapes of some tables; raises as `read_shape`."""
    return {table: read_shape(connection, table) for table in tables}
