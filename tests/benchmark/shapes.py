"""S: what tables of other shapes cost, and many tables; see `project.shapes`.

`S5` and `S60` columns, `S1k` and `S100k` bytes a row, `ST` rows spread over many tables, of which
there are as many as `--tables` says.
"""

from tests.benchmark.project.shapes import TABLES, WIDTH
from tests.benchmark.sites import Connection

SHAPE_TABLES = ("narrow", "wide", "bulky", *(f"shard{n:03}" for n in range(TABLES)))

_NARROW = (
    "INSERT INTO parcels_narrow (batch, weight, changed_at, label) "
    "SELECT i, n, now(), 'parcel-' || n FROM generate_series(1, {size}) AS n"
)
_KINDS = ("n", "now()", "n % 2 = 0", "'the text of column number ' || n")
_WIDE = (
    f"INSERT INTO parcels_wide ({', '.join(f'c{n:02}' for n in range(1, WIDTH))}) "
    f"SELECT {', '.join(_KINDS[n % len(_KINDS)] for n in range(1, WIDTH))} "
    "FROM generate_series(1, {size}) AS n"
)
# Text that a compressor does not shrink to nothing: chained hashes in place of a repeated word.
_BULKY = (
    "INSERT INTO parcels_bulky (body) SELECT ("
    "SELECT string_agg(md5(i || ' ' || n || ' ' || k), '') FROM generate_series(1, {words}) AS k"
    ") FROM generate_series(1, {size}) AS n"
)


def _loop(connection: Connection, times: int, body: str) -> None:
    connection.execute(
        f"DO $$ BEGIN FOR i IN 0..{times - 1} LOOP SET LOCAL synchronous_commit = off; {body}; "
        "COMMIT; END LOOP; END $$"
    )


def narrow(connection: Connection, rows: int) -> int:
    """S5: inserts of 5 columns, 100 rows a transaction."""
    times = max(1, rows // 100)
    _loop(connection, times, _NARROW.format(size=100))
    return times * 100


def wide(connection: Connection, rows: int) -> int:
    """S60: inserts of 60 columns, 100 rows a transaction."""
    times = max(1, rows // 100)
    _loop(connection, times, _WIDE.format(size=100))
    return times * 100


def kilobyte(connection: Connection, rows: int) -> int:
    """S1k: inserts of 1 kB, 100 rows a transaction."""
    times = max(1, rows // 100)
    _loop(connection, times, _BULKY.format(size=100, words=32))
    return times * 100


def hundred_kilobytes(connection: Connection, rows: int) -> int:
    """S100k: inserts of 100 kB, 10 rows a transaction."""
    times = max(1, rows // 10)
    _loop(connection, times, _BULKY.format(size=10, words=3200))
    return times * 10


def many_tables(connection: Connection, rows: int) -> int:
    """ST: inserts, 10 rows a transaction, each transaction to the next of many tables."""
    times = max(1, rows // 10)
    insert = (
        "EXECUTE format('INSERT INTO parcels_shard%s (batch, note) "
        "SELECT %s, ''left with neighbour '' || n FROM generate_series(1, 10) AS n', "
        f"lpad((i % {max(1, TABLES)})::text, 3, '0'), i)"
    )
    _loop(connection, times, insert)
    return times * 10
