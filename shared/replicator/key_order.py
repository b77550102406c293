"""The order in which verify's pages are cut: the same in every database. Pure.

Collations differ between environments, and between releases of the libraries that define them
(https://www.postgresql.org/docs/current/collation.html); the bytes of a text do not.
"""

from psycopg import sql


def ordered(column: sql.Composable, *, collated: bool) -> sql.Composable:
    """Give what a key's column is ordered and compared by.

    Args:
        column: the column.
        collated: its type has a collation: text, char, citext, domains and arrays of them. As
            text, because citext folds case as its database does.
    """
    return sql.SQL('{}::text COLLATE "C"').format(column) if collated else column
