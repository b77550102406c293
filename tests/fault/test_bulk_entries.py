"""Very many rows enter by one UPDATE: few requests, whole trees, and the stream flows on."""

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg

from replicator.log import open_log
from replicator.requests import KeysRequest, parse
from replicator.settings import requests_topic
from replicator_apply.asking import FEWEST_KEYS
from tests.support.kafka import KafkaBroker
from tests.support.two_environments import TARGET, TwoEnvironments

Make = Callable[..., TwoEnvironments]

ROWS = 20_000
REQUESTS = ROWS // FEWEST_KEYS + 10
"""Of which a slow machine needs nearly all, and one that is not slow a fourth."""
LATENCY = 15.0
"""Seconds within which another table's change must be through on a busy machine."""

_FILL = f"""
INSERT INTO polls_question (id, question_text, body, published, pub_date)
SELECT n, 'bulk', '', false, now() FROM generate_series(1001, {1000 + ROWS}) AS n;
INSERT INTO polls_choice (id, question_id, choice_text, rank, votes)
SELECT n, n, 'of ' || n, 1, 0 FROM generate_series(1001, {1000 + ROWS}) AS n
"""
_HELD = "SELECT count(*) FROM polls_question WHERE question_text = 'bulk'"
_TORN = (
    "SELECT count(*) FROM polls_question q WHERE question_text = 'bulk' "
    "AND NOT EXISTS (SELECT FROM polls_choice c WHERE c.question_id = q.id)"
)


@dataclass
class Flow:
    """What was seen of another table's stream while rows entered.

    Attributes:
        delays: seconds from each commit until it was seen, of those between the first tree and the
            last.
        torn: questions without their choice that a reader saw.
    """

    delays: list[float] = field(default_factory=list)
    torn: int = 0


def watch(pair: TwoEnvironments, done: threading.Event, flow: Flow) -> None:
    """Commit a team on the source, wait until the target has it, and look at the trees; repeat."""
    number = 0
    with (
        psycopg.connect(pair.source, autocommit=True) as source,
        psycopg.connect(pair.target, autocommit=True) as target,
    ):
        while not done.is_set():
            number += 1
            name = f"bulk {number}"
            source.execute("INSERT INTO shop_team (name) VALUES (%s)", [name])
            began = time.monotonic()
            seen = "SELECT FROM shop_team WHERE name = %s"
            while not target.execute(seen, [name]).rowcount and not done.is_set():
                time.sleep(0.01)
            held = target.execute(_HELD).fetchone()
            torn = target.execute(_TORN).fetchone()
            assert held is not None
            assert torn is not None
            flow.torn += torn[0]
            if 0 < held[0] < ROWS:
                flow.delays.append(time.monotonic() - began)


def asked(pair: TwoEnvironments, log_url: str) -> list[int]:
    """Give how many keys each request for questions has asked for."""
    log = open_log(log_url, {})
    topic = requests_topic(pair.name, "main", TARGET)
    reader = log.reader(topic)
    state = log.state(topic)
    reader.seek(state.begin)
    found, behind = [], int(state.begin)
    try:
        while behind < state.end:
            for chunk in reader.poll(1.0):
                behind = int(chunk.offsets[-1]) + 1
                messages = [parse(value) for _, value in chunk.records]
                requests = [m for m in messages if isinstance(m, KeysRequest)]
                found += [len(r.keys.get("public.polls_question", ())) for r in requests]
    finally:
        reader.close()
    return [number for number in found if number]


def test_rows_enter_by_thousands_while_the_stream_flows(
    two_environments: Make, kafka: KafkaBroker
) -> None:
    name = f"prod-{uuid.uuid4().hex[:8]}"
    pair = two_environments(datasets=("poll-trees", "shop"), log=kafka.url, name=name)
    pair.capture.module = pair.apply.module = "replicator"
    pair.start()
    with psycopg.connect(pair.source, autocommit=True) as source:
        source.execute(_FILL)
    flow, done = Flow(), threading.Event()
    watcher = threading.Thread(target=watch, args=(pair, done, flow))
    watcher.start()
    try:
        pair.on_source("UPDATE polls_question SET published = true RETURNING 1")
        pair.until(
            lambda: pair.on_target(_HELD) == [(ROWS,)] and pair.backfilled(),
            "all have entered",
            120,
            restart=False,
        )
    finally:
        done.set()
        watcher.join()
    assert pair.on_target("SELECT count(*) FROM polls_choice WHERE id > 1000") == [(ROWS,)]
    requests = asked(pair, kafka.url)
    print(f"{len(requests)} requests, {sum(requests)} keys; delays {sorted(flow.delays)}")
    assert sum(requests) >= ROWS
    assert len(requests) <= REQUESTS
    assert flow.torn == 0
    assert flow.delays, "nothing else came through while rows entered"
    assert max(flow.delays) < LATENCY
