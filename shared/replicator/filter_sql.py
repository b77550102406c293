"""From a filter to SQL, over whatever holds the columns: a table, staged rows, merged rows.

Pure but for `psycopg.sql`. The session must have the pinned settings (UTC, ISO dates,
`standard_conforming_strings`), as all of ours do: constants are input texts of their types.
"""

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

from psycopg import sql

from replicator.plan import (
    TEXT_TYPES,
    And,
    Compare,
    Filter,
    IsNull,
    Listed,
    Lookup,
    Not,
    Or,
    Sampled,
)

ColumnSql = Callable[[str], sql.Composable]
"""Gives the expression that stands for a column, of the column's own type."""

CHOSEN = sql.Identifier("public", "replicator_chosenrow")
"""Where a target keeps the keys that the source has chosen; see `replicator.models`."""
_OPERATORS: dict[Lookup, str] = {"exact": "=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_AFFIXES: dict[Lookup, tuple[str, str]] = {
    "startswith": ("", "%"),
    "contains": ("%", "%"),
    "endswith": ("%", ""),
}
_LIKE_SPECIAL = str.maketrans({"\\": r"\\", "%": r"\%", "_": r"\_"})


def filter_sql(condition: Filter | None, column: ColumnSql) -> sql.Composable:
    """Render a filter as one boolean expression, in parentheses where needed.

    Args:
        condition: the filter; None passes every row.
        column: gives the expression of a column.
    """
    match condition:
        case None:
            return sql.SQL("TRUE")
        case And(parts):
            return _joined(parts, " AND ", "TRUE", column)
        case Or(parts):
            return _joined(parts, " OR ", "FALSE", column)
        case Not(part):
            return sql.SQL("(NOT {})").format(filter_sql(part, column))
        case Compare():
            return _compare(condition, column(condition.column))
        case IsNull() | Sampled() | Listed():
            return _other(condition, column)


def _other(condition: IsNull | Sampled | Listed, column: ColumnSql) -> sql.Composable:
    if isinstance(condition, IsNull):
        return sql.SQL("({} IS NULL)").format(column(condition.column))
    key = [column(name) for name in condition.columns]
    if isinstance(condition, Listed):
        return sql.SQL(
            "EXISTS (SELECT FROM {} listed WHERE listed.subscription_id = {} "
            "AND listed.rule = {} AND listed.row_key = {})"
        ).format(CHOSEN, condition.subscription, condition.rule, key_text(key))
    hashed = key_hash(key, condition.seed)
    return sql.SQL("({} < {}::bytea)").format(hashed, sql.Literal(_limit(condition.percent)))


def key_text(key: Iterable[sql.Composable]) -> sql.Composable:
    """Write a key as text: a JSON array of the text of each of its values."""
    return sql.SQL("{}::text").format(key_json(key))


def key_json(key: Iterable[sql.Composable]) -> sql.Composable:
    """Write a key as a jsonb array of the text of each of its values."""
    cells = sql.SQL(", ").join(sql.SQL("{}::text").format(value) for value in key)
    return sql.SQL("jsonb_build_array({})").format(cells)


def key_hash(key: Sequence[sql.Composable], seed: str) -> sql.Composable:
    """Hash a primary key: the same bytes in every database, whatever its encoding is.

    Args:
        key: its columns, none of them NULL, of types of `plan.ONE_SPELLING`.
        seed: another one gives another hash.
    """
    # With the length before each text, else ("a:b", "c") would be ("a", "b:c").
    parts = [sql.SQL("pg_catalog.length({0}::text), {0}::text").format(column) for column in key]
    return sql.SQL(
        "pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.concat_ws(':', {}::text, {}), 'UTF8'))"
    ).format(sql.Literal(seed), sql.SQL(", ").join(parts))


def _limit(percent: str) -> str:
    """Give the first hash, as input text, that is beyond a share of all hashes."""
    return f"\\x{int(Decimal(percent) / 100 * 2**64):016x}"


def _joined(
    parts: tuple[Filter, ...], operator: str, of_none: str, column: ColumnSql
) -> sql.Composable:
    if not parts:
        return sql.SQL(of_none)
    rendered = sql.SQL(operator).join(filter_sql(part, column) for part in parts)
    return sql.SQL("({})").format(rendered)


def _compare(condition: Compare, column: sql.Composable) -> sql.Composable:
    lookup, values = condition.lookup, condition.values
    if lookup in _AFFIXES:
        return _like(lookup, values[0], column)
    left = _collated(column, condition.type)
    constants = [_constant(value, condition.type) for value in values]
    if lookup == "range":
        return sql.SQL("({} BETWEEN {} AND {})").format(left, *constants)
    if lookup != "in":
        return sql.SQL("({} {} {})").format(left, sql.SQL(_OPERATORS[lookup]), constants[0])
    if not constants:
        return sql.SQL("FALSE")
    return sql.SQL("({} IN ({}))").format(left, sql.SQL(", ").join(constants))


def _like(lookup: Lookup, value: str, column: sql.Composable) -> sql.Composable:
    before, after = _AFFIXES[lookup]
    pattern = before + value.translate(_LIKE_SPECIAL) + after
    text = _collated(sql.SQL("{}::text").format(column), "text")
    return sql.SQL("({} LIKE {})").format(text, _constant(pattern, "text"))


def _collated(column: sql.Composable, kind: str) -> sql.Composable:
    return sql.SQL('{} COLLATE "C"').format(column) if kind in TEXT_TYPES else column


def _constant(text: str, kind: str) -> sql.Composable:
    # The type's name comes from Django's fields and is one of a closed list (`replicator.where`).
    return sql.SQL("{}::{}").format(sql.Literal(text), sql.SQL(kind))
