"""Values for columns that do not travel, of rows that are new here. Blocks on Postgres.

A column that the source does not release and that has no default in the database takes the default
of its model field, as it would in a row made by the ORM; that of a callable is drawn when the plan
is loaded.
"""

from typing import Any

import psycopg
from django.db import connections
from psycopg import sql

from replicator.compiler import find_model
from replicator.errors import Unfit
from replicator.plan import Release
from replicator_apply.catalog import TableShape

_WITH_DEFAULT = """
SELECT a.attname FROM pg_attribute a
 WHERE a.attrelid = %s AND (a.atthasdef OR a.attidentity <> '')
"""


def defaults(
    connection: psycopg.Connection[Any], release: Release, shape: TableShape, alias: str
) -> dict[str, str]:
    """Give the text of a value for each column of a new row that nothing else fills.

    Raises:
        Unfit: a column that does not travel must not be NULL and has no default.
    """
    filled = {row[0] for row in connection.execute(_WITH_DEFAULT, (shape.oid,))}
    missing = [
        column
        for name, column in shape.columns.items()
        if name not in release.columns and name not in filled and not column.generated
    ]
    fields = {field.column: field for field in find_model(release.label)._meta.concrete_fields}
    texts = {}
    for column in missing:
        value = None
        if (field := fields.get(column.name)) is not None:
            value = field.get_db_prep_save(field.get_default(), connections[alias])
        if value is not None:
            statement = sql.SQL("SELECT {}::{}::text").format(value, sql.SQL(column.type))
            row = connection.execute(statement).fetchone()
            texts[column.name] = str(row[0]) if row else ""
        elif column.not_null:
            raise Unfit(
                f"Column {column.name} of {release.table} must not be NULL, does not travel and "
                "has no default: new rows cannot be written.",
                remedy="Release the column, or give its field or the database a default.",
            )
    return texts


_DEFAULTS = """
SELECT a.attname::text, pg_get_expr(d.adbin, d.adrelid)
  FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
 WHERE d.adrelid = %s AND a.attgenerated = ''
"""


def absent_values(
    connection: psycopg.Connection[Any], release: Release, shape: TableShape, alias: str
) -> dict[str, str]:
    """Give the text that a new row has in each column that its source does not have yet.

    That is where this environment was migrated first. The database's default, or else that of the
    model's field; columns without either are left out: they are NULL.
    """
    expressions = dict(connection.execute(_DEFAULTS, (shape.oid,)).fetchall())
    fields = {field.column: field for field in find_model(release.label)._meta.concrete_fields}
    texts: dict[str, sql.Composable] = {}
    for name in release.columns:
        column = shape.columns.get(name)
        # One that is not here is refused by `make_plan`.
        if column is None or name in release.key or column.sequence:
            continue
        if name in expressions:
            texts[name] = sql.SQL("({})::text").format(sql.SQL(expressions[name]))
        elif (field := fields.get(name)) is not None:
            value = field.get_db_prep_save(field.get_default(), connections[alias])
            texts[name] = sql.SQL("{}::{}::text").format(value, sql.SQL(column.type))
    if not texts:
        return {}
    row = connection.execute(sql.SQL("SELECT {}").format(sql.SQL(", ").join(texts.values())))
    cells = zip(texts, row.fetchone() or (), strict=True)
    return {name: cell for name, cell in cells if cell is not None}
