"""Two sources in one worker: each stream has its own position and touches only its own rows."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from replicator.envelope import Answer
from replicator.http import Health
from replicator.log import Log, open_log
from replicator.requests import PageRequest, fingerprint, parse
from replicator.settings import ReplicatorSettings, requests_topic
from replicator.stop import Stop
from replicator_apply.command import apply_all
from tests.conftest import SampleFactory
from tests.support.processes import wait_until
from tests.support.published import Change, Published
from tests.support.sample.databases import connected

TAG = "public.pages_tag"


@pytest.fixture
def target(sample_database: SampleFactory) -> Iterator[psycopg.Connection]:
    conninfo = sample_database()
    with connected("default", conninfo), psycopg.connect(conninfo, autocommit=True) as connection:
        yield connection


def tag(op: str, pk: int, name: str = "") -> Change:
    return Change(op, TAG, (pk,), {"id": pk, "name": name} if op != "d" else None)  # type: ignore[arg-type]


def answer_page(log: Log, published: Published, target: psycopg.Connection) -> None:
    """Answer the backfill of the only rule with an empty page."""
    topic = requests_topic(published.environment, "main", "stage")
    found: list[PageRequest] = []

    def asked() -> bool:
        reader = log.reader(topic)
        reader.seek(0)
        messages = [parse(value) for chunk in reader.poll(0.1) for _, value in chunk.records]
        reader.close()
        found.extend(m for m in messages if isinstance(m, PageRequest))
        return bool(found)

    wait_until(asked, 15, "a page is asked for")
    answer = Answer("stage", found[0].id, fingerprint(found[0].plan))
    published.transaction(Change("m", ""), answer=answer)
    wait_until(lambda: position(target, published) >= published.next, 15, "the page is applied")


def position(target: psycopg.Connection, published: Published) -> int:
    row = target.execute(
        "SELECT next_lsn FROM replicator_streamposition WHERE source = %s",
        (published.environment,),
    ).fetchone()
    return row[0] if row else 0


@contextmanager
def both_applied(
    target: psycopg.Connection, folder: Path, **subscription: str
) -> Iterator[tuple[Published, Published]]:
    """Apply two sources' streams of the same dataset, their backfills done."""
    url = f"sqlite:///{folder}/log.sqlite3"
    log = open_log(url)
    one, two = (Published(log, environment=name) for name in ("one", "two"))
    for published in (one, two):
        log.create(requests_topic(published.environment, "main", "stage"))
    settings = ReplicatorSettings.model_validate(
        {
            "ENVIRONMENT": "stage",
            "LOG": url,
            "SUBSCRIPTIONS": [
                {"source": s.environment, "dataset": "some-tags", **subscription}
                for s in (one, two)
            ],
        }
    )
    stop = Stop()
    thread = threading.Thread(target=apply_all, args=(settings, stop, Health()))
    thread.start()
    try:
        for published in (one, two):
            answer_page(log, published, target)
        yield one, two
    finally:
        stop.set()
        thread.join(10)
        stop.close()


def reach(target: psycopg.Connection, published: Published) -> None:
    wait_until(lambda: position(target, published) >= published.next, 15, "the stream is applied")


def test_two_sources_share_a_table(target: psycopg.Connection, tmp_path: Path) -> None:
    with both_applied(target, tmp_path) as (one, two):
        one.transaction(tag("c", 1, "a"), tag("c", 2, "b"))
        two.transaction(tag("c", 3, "c"))
        wait_until(lambda: len(names(target)) == 3, 15, "rows of both")
        two.transaction(tag("d", 1), tag("d", 2), tag("u", 3, "cc"))
        one.transaction(tag("d", 2))
        for published in (one, two):
            reach(target, published)
        assert names(target) == [(1, "a"), (3, "cc")]


@pytest.mark.usefixtures("by_rules")
def test_a_row_of_two_sources_stays_until_both_have_deleted_it(
    target: psycopg.Connection, tmp_path: Path
) -> None:
    with both_applied(target, tmp_path, on_clash="adopt") as (one, two):
        for published in (one, two):
            published.transaction(tag("c", 1, "a"))
            reach(target, published)
        one.transaction(tag("d", 1))
        reach(target, one)
        assert names(target) == [(1, "a")]
        two.transaction(tag("d", 1))
        reach(target, two)
        assert names(target) == []


def names(target: psycopg.Connection) -> list[tuple[int, str]]:
    return target.execute("SELECT id, name FROM pages_tag ORDER BY id").fetchall()
