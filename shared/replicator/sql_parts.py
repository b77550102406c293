"""Parts of statements that are written in many places: columns, joins and conditions.

Pure but for `psycopg.sql`.
"""

from collections.abc import Iterable, Sequence

from psycopg import sql

from replicator.plan import TableName

Sql = sql.Composable


def identifier(table: TableName) -> sql.Identifier:
    """Name a table."""
    return sql.Identifier(table.schema, table.name)


def column(name: str, alias: str = "") -> Sql:
    """Give one column, with an alias before it."""
    return sql.Identifier(alias, name) if alias else sql.Identifier(name)


def identifiers(names: Iterable[str], alias: str = "") -> Sql:
    """List columns, with an alias before each."""
    return sql.SQL(", ").join(column(name, alias) for name in names)


def equal(names: Sequence[str], alias: str, others: Sequence[str], other: str) -> Sql:
    """Join two aliases on columns, pairwise."""
    return equal_to(names, alias, [column(name, other) for name in others])


def equal_to(names: Sequence[str], alias: str, values: Iterable[Sql]) -> Sql:
    """Write that the columns of an alias have these values, pairwise."""
    return sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(column(name, alias), value)
        for name, value in zip(names, values, strict=True)
    )


def given(values: Iterable[Sql]) -> Sql:
    """Write that none of some values is NULL."""
    return all_of(sql.SQL("{} IS NOT NULL").format(value) for value in values)


def any_of(parts: Iterable[Sql]) -> Sql:
    """Write that one of some conditions holds; none of no conditions does."""
    some = list(parts)
    return sql.SQL("({})").format(sql.SQL(" OR ").join(some)) if some else sql.SQL("FALSE")


def all_of(parts: Iterable[Sql]) -> Sql:
    """Write that all of some conditions hold; no conditions do."""
    some = list(parts)
    return sql.SQL("({})").format(sql.SQL(" AND ").join(some)) if some else sql.SQL("TRUE")
