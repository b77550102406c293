"""How SQL follows an edge, from the row that points and from the row pointed at.

A generic foreign key points at a table if its content type is one of the table's; its key may be
written as text. Pure but for `psycopg.sql`.
"""

from collections.abc import Callable

from psycopg import sql

from replicator.plan import CONTENT_TYPES, Edge, Generic
from replicator.sql_parts import Sql, all_of, column, equal, identifier

_READ = {
    "integer": (
        r"^(0|-?[1-9][0-9]{0,18})$",
        # Of 19 digits not all are a bigint.
        "CASE WHEN {0}::numeric BETWEEN -9223372036854775808 AND 9223372036854775807 "
        "THEN {0}::bigint END",
    ),
    "uuid": (r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", "{0}::uuid"),
}
"""Of which form a key is that is written as text, and how it is read. Other texts, and other
spellings of the same key, point at nothing: Django would not write them."""


def points_at(edge: Edge, alias: str, other: str) -> Sql:
    """Whether the row of an alias points at the row of another; an index can find the former."""
    generic = edge.generic
    if generic is None:
        return equal(edge.columns, alias, edge.to_columns, other)
    key = column(edge.to_columns[0], other)
    if generic.written:
        key = sql.SQL("{}::text").format(key)
    same = sql.SQL("{} = {}").format(column(edge.columns[0], alias), key)
    return all_of([same, of_kind(generic, column(generic.column, alias))])


def pointed(edge: Edge, alias: str, value: Callable[[str], Sql] | None = None) -> list[Sql]:
    """Give what the row of an alias points at, pairwise with `to_columns`; NULL: not at the table.

    Args:
        edge: by which it points.
        alias: of the row.
        value: gives a column of the row otherwise than as it stands there.
    """
    read = value or (lambda name: column(name, alias))
    columns = [read(name) for name in edge.columns]
    generic = edge.generic
    if generic is None:
        return columns
    conditions, key = [of_kind(generic, read(generic.column))], columns[0]
    if generic.written:
        form, reading = _READ[generic.written]
        conditions.append(sql.SQL("{} ~ {}").format(key, sql.Literal(form)))
        key = sql.SQL(reading).format(key)
    return [sql.SQL("CASE WHEN {} THEN {} END").format(all_of(conditions), key)]


def of_kind(generic: Generic, value: Sql) -> Sql:
    """Whether a content type's key is of one that leads to the table.

    The keys are looked up once for each statement: they are others in every environment.
    """
    names = sql.SQL(", ").join(
        sql.SQL("({}, {})").format(*map(sql.Literal, name.split("."))) for name in generic.names
    )
    return sql.SQL(
        "{} = ANY (ARRAY(SELECT ck.id FROM {} ck WHERE (ck.app_label, ck.model) IN ({})))"
    ).format(value, identifier(CONTENT_TYPES), names)
