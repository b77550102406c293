"""Apply alone: records written by hand, a real target."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator.envelope import Answer
from replicator.http import Health
from replicator.log import open_log
from replicator.requests import KeysRequest, PageRequest, fingerprint, parse
from replicator.settings import ReplicatorSettings, requests_topic
from replicator.stop import Stop
from replicator_apply.state import Place
from replicator_apply.worker import Worker
from tests.conftest import SampleFactory
from tests.support.published import Change, Published
from tests.support.sample.databases import connected

TAG = "public.pages_tag"
SUPPLIER = "public.shop_supplier"
PRODUCT = "public.shop_product"


class Target:
    """A worker in a thread, and a look at its database."""

    def __init__(self, conninfo: str, log: str, dataset: str, **subscription: Any) -> None:
        self.settings = ReplicatorSettings.model_validate(
            {
                "ENVIRONMENT": "stage",
                "LOG": log,
                "SUBSCRIPTIONS": [{"source": "prod", "dataset": dataset, **subscription}],
            }
        )
        self.log = open_log(log)
        self.log.create(requests_topic("prod", "main", "stage"))
        self.connection = psycopg.connect(conninfo, autocommit=True)
        self.place = Place("prod", "main")
        self._stop: Stop | None = None
        self._seen = 0

    def start(self) -> None:
        self._stop = stop = Stop()
        self._failure: list[BaseException] = []

        def run() -> None:
            try:
                Worker(self.settings, self.place, stop, Health()).run()
            except BaseException as error:  # noqa: BLE001 (shown by the test)
                self._failure.append(error)

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def stop(self) -> None:
        if self._stop is not None:
            self._stop.set()
            self._thread.join(10)
            self._stop.close()
            self._stop = None

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(statement).fetchall()

    @property
    def stopped(self) -> str:
        """Why the stream stands."""
        found = self.rows("SELECT stopped_reason FROM replicator_streamposition")
        return str(found[0][0]) if found else ""

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 15) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if self._failure:
                raise self._failure[0]
            if time.monotonic() > end:
                state = self.rows("SELECT * FROM replicator_streamposition")
                raise AssertionError(f"not within {seconds} s: {what}; {state}")
            time.sleep(0.02)

    def reach(self, commit: int) -> None:
        """Wait until a commit is applied."""

        def there() -> bool:
            found = self.rows("SELECT next_lsn FROM replicator_streamposition")
            return bool(found) and found[0][0] > commit

        self.until(there, f"position beyond {commit}")

    def requests(self) -> Iterator[KeysRequest | PageRequest]:
        """Give the requests that came since the last call."""
        reader = self.log.reader(requests_topic("prod", "main", "stage"))
        reader.seek(0)
        messages = [r for chunk in reader.poll(0.1) for r in chunk.records]
        reader.close()
        new, self._seen = messages[self._seen :], len(messages)
        for _, value in new:
            message = parse(value)
            if isinstance(message, KeysRequest | PageRequest):
                yield message

    def request(self, kind: type, seconds: float = 10) -> Any:
        """Wait for the next request of a kind."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._failure:
                raise self._failure[0]
            for message in self.requests():
                if isinstance(message, kind):
                    return message
            time.sleep(0.05)
        raise AssertionError(f"no {kind.__name__} came")

    def backfilled(self, published: Published, *pages: tuple[Change, ...]) -> None:
        """Answer the pages of the first backfill, one per rule."""
        for rows in pages or ((),):
            request = self.request(PageRequest)
            answer = Answer("stage", request.id, fingerprint(request.plan))
            commit = published.transaction(*rows, Change("m", ""), answer=answer)
            self.reach(commit)
        self.until(
            lambda: self.rows("SELECT state FROM replicator_backfillrun") == [("finished",)],
            "backfill finished",
        )


@pytest.fixture
def start(
    sample_database: SampleFactory, tmp_path: Path
) -> Iterator[Callable[..., tuple[Target, Published]]]:
    """Start a target of a dataset and give it with its stream."""
    started: list[Target] = []

    def make(dataset: str, **subscription: Any) -> tuple[Target, Published]:
        conninfo = sample_database()
        log = f"sqlite:///{tmp_path}/log.sqlite3"
        target = Target(conninfo, log, dataset, **subscription)
        started.append(target)
        published = Published(target.log)
        stack.append(connected("default", conninfo))
        stack[-1].__enter__()
        return target, published

    stack: list[Any] = []
    yield make
    for target in started:
        target.stop()
        target.connection.close()
    for context in stack:
        context.__exit__(None, None, None)


def supplier(op: Any, pk: int, name: str = "", **more: Any) -> Change:
    return Change(op, SUPPLIER, (pk,), {"id": pk, "name": name or f"s{pk}", **more})


def tag(op: Any, pk: int, name: str) -> Change:
    return Change(op, TAG, (pk,), {"id": pk, "name": name} if op != "d" else None)


PAGES = ((), (), (), (), (), ())


def test_rows_come_change_and_go(start: Any) -> None:
    target, published = start("pages")
    target.start()
    target.backfilled(published, *PAGES)
    target.reach(published.transaction(tag("c", 1, "one"), tag("c", 2, "two\twith\\care\n")))
    assert target.rows("SELECT id, name FROM pages_tag ORDER BY id") == [
        (1, "one"),
        (2, "two\twith\\care\n"),
    ]
    target.reach(published.transaction(tag("u", 1, "uno"), tag("d", 2, "")))
    assert target.rows("SELECT id, name FROM pages_tag ORDER BY id") == [(1, "uno")]
    assert target.rows('SELECT id FROM replicator."public.pages_tag"') == [(1,)]
    assert target.rows("SELECT nextval(pg_get_serial_sequence('pages_tag', 'id'))") == [(3,)]


def test_unique_values_swap(start: Any) -> None:
    target, published = start("pages")
    target.start()
    target.backfilled(published, *PAGES)
    target.reach(published.transaction(tag("c", 1, "a"), tag("c", 2, "b")))
    target.reach(published.transaction(tag("u", 1, "x"), tag("u", 2, "a"), tag("u", 1, "b")))
    assert target.rows("SELECT id, name FROM pages_tag ORDER BY id") == [(1, "b"), (2, "a")]


def test_local_rows_are_refused_then_adopted(start: Any) -> None:
    target, published = start("pages")
    target.connection.execute("INSERT INTO pages_tag VALUES (1, 'local')")
    target.start()
    request = target.request(PageRequest)
    answer = Answer("stage", request.id, fingerprint(request.plan))
    published.transaction(tag("r", 1, "theirs"), Change("m", ""), answer=answer)
    target.until(
        lambda: (
            "1 local row"
            in target.rows("SELECT stopped_reason FROM replicator_streamposition")[0][0]
        ),
        "the clash is told",
    )
    assert target.rows("SELECT name FROM pages_tag") == [("local",)]
