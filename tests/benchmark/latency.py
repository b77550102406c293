"""L: how long after its commit a small transaction can be seen in the target, and whether whole."""

import threading
import time
from dataclasses import dataclass, field
from typing import NamedTuple

from psycopg import pq
from psycopg.pq.abc import PGresult

from tests.benchmark.sites import Connection, Site, open_connection

RATE = 200
"""Transactions a second."""
SIZE = 5
"""Rows a transaction."""
WARM_UP = 15.0
"""Seconds of the same traffic before that, unmeasured: of either system."""
SECONDS = 20.0
PATIENCE = 30.0
POLL = 0.001

_NEW = b"SELECT batch, count(*) FROM parcels_parcel WHERE id > $1::bigint GROUP BY batch"
_BY_INDEX = """
SET enable_seqscan = off; SET enable_bitmapscan = off; SET max_parallel_workers_per_gather = 0
"""
_INSERT = b"""
INSERT INTO parcels_parcel
    (depot, batch, weight, paid, returned, sent_at, changed_at, label, note)
SELECT n, $1::integer, n, false, false, now(), now(), 'small', 'left with neighbour ' || n
FROM generate_series(1, 5) AS n
"""


class Expected(NamedTuple):
    """What the reader looks for: `number` transactions from `first` on, of ids beyond `floor`."""

    first: int
    number: int
    floor: int


@dataclass
class Seen:
    """What the reader has seen.

    Attributes:
        at: when each transaction was first seen, by batch number.
        torn: transactions of which a part was seen first.
    """

    at: dict[int, float] = field(default_factory=dict)
    torn: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Latency:
    """The result: milliseconds from COMMIT sent to first seen, in ascending order."""

    milliseconds: list[float]
    torn: int

    def percentile(self, share: float) -> float:
        """Give the value that this share of the transactions does not exceed."""
        values = self.milliseconds
        return values[min(len(values) - 1, int(share * len(values)))]


def measure(site: Site, seconds: float, poll: float = POLL) -> Latency:
    """Write at a steady rate, and read at the target all the while.

    Args:
        site: where.
        seconds: how long.
        poll: seconds between two looks; a transaction is seen as much later at most.

    Raises:
        AssertionError: a transaction has not come after half a minute.
    """
    number = max(1, int(seconds * RATE))
    seen, done = Seen(), threading.Event()
    with open_connection(site.source) as source, open_connection(site.target) as target:
        row = source.execute(
            "SELECT coalesce(max(batch), 0) + 1, coalesce(max(id), 0) FROM parcels_parcel"
        ).fetchone()
        first, floor = (int(row[0]), int(row[1])) if row else (1, 0)
        expected = Expected(first, number, floor)
        reader = threading.Thread(target=_read, args=(target, seen, expected, done, poll))
        reader.start()
        try:
            sent = _write(source, first, number)
            reader.join(PATIENCE)
        finally:
            done.set()
            reader.join()
    if len(seen.at) < number:
        raise AssertionError(f"{number - len(seen.at)} of {number} transactions did not come")
    delays = sorted((seen.at[batch] - sent[batch]) * 1000 for batch in sent)
    return Latency(delays, len(seen.torn))


def _write(source: Connection, first: int, number: int) -> dict[int, float]:
    """Commit a transaction every 5 ms; gives when each COMMIT was sent."""
    sent: dict[int, float] = {}
    statement = _Statement(source, _INSERT)
    begin = time.perf_counter()
    for turn in range(number):
        time.sleep(max(0.0, begin + turn / RATE - time.perf_counter()))
        _checked(source.pgconn.exec_(b"BEGIN"))
        statement.execute(first + turn)
        sent[first + turn] = time.perf_counter()
        _checked(source.pgconn.exec_(b"COMMIT"))
    return sent


def _checked(result: PGresult) -> PGresult:
    if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
        raise AssertionError(result.get_error_message())
    return result


class _Statement:
    """A prepared statement with one number, by libpq itself.

    psycopg's cursors would take a noticeable part of a small machine.
    """

    def __init__(self, connection: Connection, text: bytes) -> None:
        self._pgconn = connection.pgconn
        self._name = b"benchmark"
        _checked(self._pgconn.prepare(self._name, text))

    def execute(self, number: int) -> list[tuple[int, ...]]:
        """Give the rows. Raises AssertionError: it failed."""
        result = _checked(self._pgconn.exec_prepared(self._name, [b"%d" % number]))
        return [
            tuple(int(result.get_value(row, column) or b"") for column in range(result.nfields))
            for row in range(result.ntuples)
        ]


def _read(
    target: Connection, seen: Seen, expected: Expected, done: threading.Event, poll: float
) -> None:
    """Look for new transactions until all have come."""
    first, number, floor = expected
    counted = first
    # While a backfill fills the table, the planner knows nothing of it: it would read all of it.
    target.execute(_BY_INDEX)
    statement = _Statement(target, _NEW)
    while len(seen.at) < number and not done.is_set():
        found = statement.execute(floor + (counted - first) * SIZE)
        now = time.perf_counter()
        for batch, count in found:
            if count < SIZE:
                seen.torn.add(batch)
            else:
                seen.at.setdefault(batch, now)
        while counted in seen.at:
            counted += 1
        time.sleep(poll)
