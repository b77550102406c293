"""The SQL by which the source chooses rows of a rule: so many latest, or a sample of so many. Pure.

The order by a column and the key is written so that an index on the column serves it: backwards,
and with the default place of NULLs, which are left out.
"""

from psycopg import sql

from replicator.filter_sql import filter_sql, key_hash
from replicator.plan import TEXT_TYPES, LatestRows, Release, RowsRule, SampledRows
from replicator.sql_parts import Sql, column, identifiers


def belongs(rule: RowsRule, release: Release, rows: Sql) -> Sql:
    """Write the condition that a row `t` belongs by a rule.

    Args:
        rule: the rule.
        release: of its model.
        rows: what stands before an alias in FROM: the table.
    """
    if rule.selection is None:
        return filter_sql(rule.filter, lambda name: column(name, "t"))
    return sql.SQL("({}) IN (SELECT {} FROM {} s WHERE {} AND {} ORDER BY {} LIMIT {})").format(
        identifiers(release.key, "t"),
        identifiers(release.key, "s"),
        rows,
        filter_sql(rule.filter, lambda name: column(name, "s")),
        _eligible(rule.selection),
        _order(rule.selection, release),
        sql.Literal(rule.selection.number),
    )


def _eligible(selection: LatestRows | SampledRows) -> Sql:
    if isinstance(selection, SampledRows):
        return sql.SQL("TRUE")
    return sql.SQL("{} IS NOT NULL").format(column(selection.by, "s"))


def _order(selection: LatestRows | SampledRows, release: Release) -> Sql:
    key = [column(name, "s") for name in release.key]
    if isinstance(selection, SampledRows):
        return sql.SQL(", ").join([key_hash(key, selection.seed), *key])
    collation = ' COLLATE "C"' if selection.type in TEXT_TYPES else ""
    first = sql.SQL("{}" + collation).format(column(selection.by, "s"))
    return sql.SQL(", ").join(sql.SQL("{} DESC").format(each) for each in (first, *key))
