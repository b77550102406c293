"""W9: very many rows enter by one UPDATE, while another table changes 50 times a second.

Either on a table that nothing hangs on, whose rows can be closed at once, or on one of which each
row has a child, so that a fetch brings it. What is measured besides the time: how many requests
that takes and the size of the answers, how late the changes of the other table come, and whether a
reader sees a row without its child. Changes that were committed before the one large transaction
is through are told apart: the stream is whole and in order, so they wait for it.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from replicator.errors import BadRecord
from replicator.log import open_log
from replicator.requests import KeysRequest, parse
from replicator.settings import requests_topic, stream_topic
from tests.benchmark.sites import Connection, Site, open_connection

RATE = 50
"""Changes a second of the other table."""
OTHER = 2
"""Id of the row that changes; 1 is the signal."""
POLL = 0.005
ROWS = 500_000
"""Rows that enter at scale 1."""
WARM_UP = 3.0
AFTERWARDS = 5.0
"""Seconds of the other table's changes before that, and after all have entered."""
WINDOW = 20_000
"""Trees that the reader looks at in one snapshot; the next look takes the next ones."""
LOOK = 0.1


@dataclass(frozen=True)
class Entries:
    """One of the two kinds.

    Attributes:
        name: of the workload.
        title: what it is.
        table: whose rows enter.
        child: the table of their children; None: nothing hangs on them.
    """

    name: str
    title: str
    table: str
    child: str | None = None

    def fill(self, connection: Connection, rows: int) -> None:
        """Begin anew with rows that do not belong yet."""
        tables = "parcels_vote, parcels_choice, parcels_question" if self.child else self.table
        connection.execute(f"TRUNCATE {tables}")
        changed = ", changed_at" if self.child else ""
        now = ", now()" if self.child else ""
        connection.execute(
            f"INSERT INTO {self.table} (id, published, title{changed}) "
            f"SELECT n, false, 'which of the four, number ' || n{now} "
            f"FROM generate_series(1, {rows}) AS n"
        )
        if self.child:
            connection.execute(
                "INSERT INTO parcels_choice (id, question_id, text) "
                f"SELECT n, n, 'the choice of those who like ' || n "
                f"FROM generate_series(1, {rows}) AS n"
            )

    def enter(self, connection: Connection) -> int:
        """Let all of them enter; gives their number."""
        return connection.execute(f"UPDATE {self.table} SET published = true").rowcount

    @property
    def begun(self) -> str:
        """Select something once the large transaction is through."""
        return f"SELECT FROM {'replicator_wantedrow' if self.child else self.table} LIMIT 1"


KINDS = (
    Entries("W9", "rows enter by one UPDATE", "parcels_leaflet"),
    Entries("W9T", "trees enter by one UPDATE", "parcels_question", "parcels_choice"),
)


@dataclass
class Flow:
    """What was seen while rows entered.

    Attributes:
        sent: when each change of the other table was committed.
        seen: when each was first seen, by its number.
        torn: rows without their child.
        looks: how often trees were looked at.
        through: when the large transaction was first seen to be through; None: not yet.
        wanted_bytes: the most that the table of wanted rows took.
    """

    sent: dict[int, float] = field(default_factory=dict)
    seen: dict[int, float] = field(default_factory=dict)
    torn: int = 0
    looks: int = 0
    through: float | None = None
    wanted_bytes: int = 0

    def delays(self, begun: float) -> tuple[list[float], list[float]]:
        """Give the delays of changes committed before and after the large one was through, sorted.

        Args:
            begun: when the large transaction was committed.
        """
        through = self.through or begun
        times = [(at, self.seen[n] - at) for n, at in self.sent.items() if n in self.seen]
        behind = sorted(delay for at, delay in times if begun <= at < through)
        after = sorted(delay for at, delay in times if through <= at)
        return behind, after


@contextmanager
def flowing(site: Site, kind: Entries) -> Iterator[Flow]:
    """Change the other table, and look at the target, while the body runs."""
    flow, done, ended = Flow(), threading.Event(), threading.Event()
    threads = [
        threading.Thread(target=_write, args=(site, flow, done)),
        threading.Thread(target=_read, args=(site, kind, flow, ended)),
        threading.Thread(target=_look, args=(site, kind, flow, done)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield flow
    finally:
        done.set()
        threads[0].join()
        until = time.monotonic() + 30
        while len(flow.seen) < len(flow.sent) and time.monotonic() < until:
            time.sleep(POLL)
        ended.set()
        for thread in threads:
            thread.join()


_NEXT = (
    f"INSERT INTO parcels_signal (id, value) VALUES ({OTHER}, 1) "
    "ON CONFLICT (id) DO UPDATE SET value = parcels_signal.value + 1 RETURNING value"
)
_VALUE = f"SELECT coalesce(max(value), 0) FROM parcels_signal WHERE id = {OTHER}"


def _write(site: Site, flow: Flow, done: threading.Event) -> None:
    with open_connection(site.source) as source:
        source.execute("SET synchronous_commit = off")
        begin, turn = time.perf_counter(), 0
        while not done.wait(max(0.0, begin + turn / RATE - time.perf_counter())):
            turn += 1
            number = _number(source, _NEXT)
            flow.sent[number] = time.perf_counter()


def _read(site: Site, kind: Entries, flow: Flow, ended: threading.Event) -> None:
    """Note when each change is there, and when the large transaction is."""
    with open_connection(site.target) as target:
        last = _number(target, _VALUE)
        while not ended.wait(POLL):
            value, now = _number(target, _VALUE), time.perf_counter()
            for number in range(last + 1, value + 1):
                flow.seen[number] = now
            last = value
            if flow.through is None and target.execute(kind.begun).rowcount:
                flow.through = time.perf_counter()


# Each row's child has the same id. Set against set: the planner knows these tables as empty ones.
_TORN = """
SELECT count(*) FROM (
    SELECT id FROM parcels_question WHERE id BETWEEN %(first)s AND %(last)s
    EXCEPT SELECT question_id FROM parcels_choice WHERE id BETWEEN %(first)s AND %(last)s
) torn
"""
_WANTED_BYTES = "SELECT pg_total_relation_size('replicator_wantedrow')"


def _look(site: Site, kind: Entries, flow: Flow, done: threading.Event) -> None:
    """Look for trees of which a part is missing: some at a time, and the newest ones."""
    first = 1
    with open_connection(site.target) as target:
        while not done.wait(LOOK):
            if kind.child is None:
                continue
            top = _number(target, "SELECT coalesce(max(id), 0) FROM parcels_question")
            for begin in (first, max(1, top - WINDOW)):
                window = {"first": begin, "last": begin + WINDOW}
                row = target.execute(_TORN, window).fetchone()
                flow.torn += int(row[0]) if row else 0
                flow.looks += 1
            first = first + WINDOW if first + WINDOW < top else 1
            flow.wanted_bytes = max(flow.wanted_bytes, _number(target, _WANTED_BYTES))


def _number(connection: Connection, statement: str) -> int:
    row = connection.execute(statement).fetchone()
    return int(row[0]) if row else 0


_STATE = """
SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class c
WHERE c.relnamespace = 'replicator'::regnamespace AND c.relkind = 'r'
"""


def figures(flow: Flow, target: Connection, begun: float, ended: float) -> dict[str, float]:
    """Give what was seen, by name: delays in ms, sizes in MB, times in s."""
    behind, after = flow.delays(begun)
    return {
        "large transaction s": (flow.through or ended) - begun,
        "delay behind it max": _share(behind, 1.0),
        "delays": len(after),
        "delay p50": _share(after, 0.5),
        "p99": _share(after, 0.99),
        "max": _share(after, 1.0),
        "unseen": len(flow.sent) - len(flow.seen),
        "receipts MB": _number(target, _STATE) / 1e6,
        "wanted MB at most": flow.wanted_bytes / 1e6,
        "looks": flow.looks,
    }


def _share(delays: list[float], share: float) -> float:
    """Give the value in ms that this share of sorted delays does not exceed; 0: there is none."""
    return delays[min(len(delays) - 1, int(share * len(delays)))] * 1000 if delays else 0.0


def log_figures(log_url: str, environment: str, records: int, requests: int) -> dict[str, float]:
    """Give what the log has of it, from these offsets on, by name."""
    number, keys = count_requests(log_url, environment, requests)
    rows, size = largest_answer(log_url, environment, records)
    return {
        "requests": number,
        "keys at most": keys,
        "largest answer records": rows,
        "largest answer MB": size / 1e6,
    }


def log_ends(log_url: str, environment: str) -> tuple[int, int]:
    """Give the ends of the topics of records and of the target's requests."""
    log = open_log(log_url, {})
    topics = stream_topic(environment, "main"), requests_topic(environment, "main", "stage")
    records, requests = (int(log.state(topic).end) for topic in topics)
    return records, requests


def count_requests(log_url: str, environment: str, begin: int) -> tuple[int, int]:
    """Give how many requests for keys were sent since, and the most keys of one."""
    found = []
    for _, value in _records(log_url, requests_topic(environment, "main", "stage"), begin):
        try:
            message = parse(value)
        except BadRecord:
            continue
        if isinstance(message, KeysRequest):
            found.append(sum(map(len, message.keys.values())))
    return len(found), max(found, default=0)


def largest_answer(log_url: str, environment: str, begin: int) -> tuple[int, int]:
    """Give the records and the bytes of the largest answer since."""
    rows, size = Counter[str](), Counter[str]()
    for key, value in _records(log_url, stream_topic(environment, "main"), begin):
        place = value.rfind(b',"answer":')
        if place >= 0:
            request = json.loads(value[place + 10 : -1])["request"]
            rows[request] += 1
            size[request] += len(key) + len(value)
    if not size:
        return 0, 0
    [(request, most)] = size.most_common(1)
    return rows[request], most


def _records(log_url: str, topic: str, begin: int) -> Iterator[tuple[bytes, bytes]]:
    log = open_log(log_url, {})
    reader, end = log.reader(topic), log.state(topic).end
    reader.seek(type(end)(begin))
    behind = begin
    try:
        while behind < end:
            for chunk in reader.poll(1.0):
                behind = int(chunk.offsets[-1]) + 1
                yield from chunk.records
    finally:
        reader.close()
