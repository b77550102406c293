"""What is written to the source: by the server itself, in loops that commit.

Every workload gives the number of rows that it changed. None of them leaves the table smaller than
the next one needs.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tests.benchmark import shapes, trees
from tests.benchmark.sites import Connection

_COLUMNS = "depot, batch, weight, paid, returned, sent_at, changed_at, label, note"
_ROW = (
    "n % 97, {batch}, n % 5000, n % 3 = 0, n % 50 = 0, now() - n * interval '1 second', now(), "
    "'parcel-' || lpad(n::text, 12, '0'), 'left with the neighbour at number ' || n % 1000"
)
_INSERT = (
    f"INSERT INTO parcels_parcel ({_COLUMNS}) "
    f"SELECT {_ROW} FROM generate_series({{first}}, {{last}}) AS n"
)


def _insert(batch: str, first: str, last: str) -> str:
    return _INSERT.format(batch=batch, first=first, last=last)


def _loop(times: int, *statements: str) -> str:
    """Repeat statements, one transaction a turn; `i` counts from 0.

    The loop does not wait for the disk; what is committed after it does.
    """
    body = "; ".join(["SET LOCAL synchronous_commit = off", *statements])
    return f"DO $$ BEGIN FOR i IN 0..{times - 1} LOOP {body}; COMMIT; END LOOP; END $$"


def fill(connection: Connection, rows: int) -> None:
    """See to it that the newest `rows` ids of the table are all there."""
    first = _first_of_newest(connection, rows)
    found = connection.execute("SELECT count(*) FROM parcels_parcel WHERE id >= %s", [first])
    row = found.fetchone()
    if rows and (row is None or row[0] < rows):
        connection.execute(_loop(rows // 1000 + 1, _insert("0", "1", "1000")))


def _first_of_newest(connection: Connection, rows: int) -> int:
    row = connection.execute("SELECT coalesce(max(id), 0) FROM parcels_parcel").fetchone()
    return (int(row[0]) if row else 0) - rows + 1


def inserts(connection: Connection, rows: int) -> int:
    """W1: inserts, 100 rows a transaction."""
    times = max(1, rows // 100)
    connection.execute(_loop(times, _insert("i", "i * 100 + 1", "i * 100 + 100")))
    return times * 100


def updates(connection: Connection, rows: int) -> int:
    """W2: updates, 100 rows a transaction."""
    times = max(1, rows // 100)
    first = _first_of_newest(connection, times * 100)
    update = (
        "UPDATE parcels_parcel SET weight = weight + 1, changed_at = now(), note = note || '.' "
        f"WHERE id BETWEEN {first} + i * 100 AND {first} + i * 100 + 99"
    )
    connection.execute(_loop(times, update))
    return times * 100


def mixed(connection: Connection, rows: int) -> int:
    """W3: 60 % inserts, 25 % updates, 15 % deletes, 10 rows a transaction."""
    times = max(2, rows // 10)
    first = _first_of_newest(connection, times * 5)
    updates = first + 2 * times
    connection.execute(
        _loop(
            times,
            _insert("i", "i * 6 + 1", "i * 6 + 6"),
            # Two and three by turns of one, two and one of the other.
            "UPDATE parcels_parcel SET weight = weight + 1, changed_at = now() "
            f"WHERE id BETWEEN {updates} + i * 3 AND {updates} + i * 3 + 1 + i % 2",
            f"DELETE FROM parcels_parcel WHERE id BETWEEN {first} + i * 2 + i % 2 "
            f"AND {first} + i * 2 + 1",
        )
    )
    return times * 10


def one_transaction(connection: Connection, rows: int) -> int:
    """W4: all rows in one transaction, which the caller commits."""
    connection.execute(_insert("0", "1", str(rows)))
    return rows


def one_row_transactions(connection: Connection, rows: int) -> int:
    """W5: one row a transaction."""
    connection.execute(_loop(rows, _insert("i", "i", "i")))
    return rows


_GUESTS = 1_000_000_000
"""Ids from here on are of voters that nobody's vote points at."""


def fill_guests(connection: Connection, rows: int) -> None:
    """See to it that there are so many voters without votes."""
    connection.execute(
        "INSERT INTO parcels_voter (id, name) SELECT n, 'guest ' || n "
        f"FROM generate_series({_GUESTS}, {_GUESTS + rows - 1}) AS n ON CONFLICT DO NOTHING"
    )


def deletes(connection: Connection, rows: int) -> int:
    """W7: deletes of rows that a foreign key may point at, 100 a transaction."""
    times = max(1, rows // 100)
    first = f"{_GUESTS} + i * 100"
    delete = f"DELETE FROM parcels_voter WHERE id BETWEEN {first} AND {first} + 99"
    connection.execute(_loop(times, delete))
    return times * 100


HOT_KEYS = 100


def hot_updates(connection: Connection, rows: int) -> int:
    """W8: updates of 100 rows again and again, 10 a transaction."""
    times = max(1, rows // 10)
    first = _first_of_newest(connection, HOT_KEYS)
    update = (
        "UPDATE parcels_parcel SET weight = weight + 1, changed_at = now() "
        f"WHERE id BETWEEN {first} + i * 10 % {HOT_KEYS} AND {first} + i * 10 % {HOT_KEYS} + 9"
    )
    connection.execute(_loop(times, update))
    return times * 10


@dataclass(frozen=True)
class Workload:
    """A workload of the table in the report.

    Attributes:
        name: as it is asked for.
        title: what it is.
        rows: how many rows it changes at scale 1.
        write: writes them.
        live: written in one transaction while the system runs, the clock begins at its commit;
            else written while the system stands, the clock begins when it goes on.
        before: rows that must be there already, as a share of `rows`.
        fill: brings other rows that must be there, given `rows`.
        trees: on the tables of `trees`, which are filled before and watched meanwhile.
    """

    name: str
    title: str
    rows: int
    write: Callable[[Connection, int], int]
    live: bool = False
    before: float = 0
    fill: Callable[[Connection, int], None] | None = None
    trees: bool = False


WORKLOADS = (
    Workload("W1", "inserts, 100 a transaction", 300_000, inserts),
    Workload("W2", "updates, 100 a transaction", 200_000, updates, before=1),
    Workload("W3", "mixed 60/25/15, 10 a transaction", 200_000, mixed, before=0.5),
    Workload("W4", "one transaction", 500_000, one_transaction, live=True),
    Workload("W5", "one row a transaction", 50_000, one_row_transactions),
    Workload("W6", "trees, 10 a transaction", 200_000, trees.write, fill=trees.fill, trees=True),
    Workload("W7", "deletes, foreign keys checked", 200_000, deletes, fill=fill_guests),
    Workload("W8", "updates of 100 hot rows, 10 a tx", 200_000, hot_updates, before=0.01),
    Workload("S5", "inserts of 5 columns", 300_000, shapes.narrow),
    Workload("S60", "inserts of 60 columns", 50_000, shapes.wide),
    Workload("S1k", "inserts of 1 kB", 100_000, shapes.kilobyte),
    Workload("S100k", "inserts of 100 kB, 10 a transaction", 2_000, shapes.hundred_kilobytes),
    Workload("ST", "inserts to many tables, 10 a tx", 100_000, shapes.many_tables),
)
