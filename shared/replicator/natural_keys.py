"""Rows of tables that every environment fills by itself: by name, for their keys differ.

The same content type or permission has another primary key in each environment, so a foreign key to
one travels as its name: `polls.question`, `polls.question.add_question`. A reference that dangles,
which only a foreign key without a constraint can, travels as `#17`, and stays dangling. Pure but
for `psycopg.sql`.

Source: https://docs.djangoproject.com/en/5.2/topics/serialization/#natural-keys
"""

from psycopg import sql

from replicator.plan import CONTENT_TYPES, Release, TableName
from replicator.sql_parts import Sql, column, identifier

DANGLING = "#"
"""How the name begins of a row that is not there; the key follows."""


def name_sql(table: TableName, alias: str) -> Sql:
    """Compose the name of a row of an alias."""
    if table == CONTENT_TYPES:
        return sql.SQL("{} || '.' || {}").format(column("app_label", alias), column("model", alias))
    return sql.SQL("(SELECT {} FROM {} nc WHERE nc.id = {}) || '.' || {}").format(
        name_sql(CONTENT_TYPES, "nc"),
        identifier(CONTENT_TYPES),
        column("content_type_id", alias),
        column("codename", alias),
    )


def named_sql(table: TableName, key: Sql, *, dangling: str = "") -> Sql:
    """Compose the name of the row that has a key; NULL for NULL.

    Args:
        table: of the row.
        key: its primary key.
        dangling: the operator before a key that no row has: `-` where those are held negated.
    """
    return sql.SQL(
        "coalesce((SELECT {name} FROM {table} nk WHERE nk.id = {key}), {mark} || {sign}{key})"
    ).format(
        name=name_sql(table, "nk"),
        table=identifier(table),
        key=key,
        mark=sql.Literal(DANGLING),
        sign=sql.SQL(dangling),
    )


def all_names_sql(table: TableName) -> Sql:
    """Select key, as text, and name of all rows."""
    return sql.SQL("SELECT n.id::text, {} FROM {} n").format(
        name_sql(table, "n"), identifier(table)
    )


def travelling_sql(release: Release, name: str, value: Sql, *, dangling: str = "") -> Sql:
    """Compose the value of a column as it travels; `dangling` as in `named_sql`."""
    table = release.natural.get(name)
    return value if table is None else named_sql(table, value, dangling=dangling)
