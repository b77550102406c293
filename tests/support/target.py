"""A target of the sample project: a worker in a thread, and a look at its database.

Blocks on Postgres and the log; every wait has a limit.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg

from replicator.envelope import Answer, Op, Value
from replicator.http import Health
from replicator.log import open_log
from replicator.requests import KeysRequest, PageRequest, fingerprint, parse
from replicator.settings import ReplicatorSettings, requests_topic
from replicator.stop import Stop
from replicator_apply.state import Place
from replicator_apply.subscriptions import store_declared
from replicator_apply.worker import Worker
from tests.support.published import Change, Published

Row = tuple[Any, ...]
PLACE = Place("prod", "main")
TIME = "2026-01-02 03:04:05.678901+00"

KEYS = {
    "shop_stock": ("product_id",),
    "shop_watch": ("user_id", "product_id"),
    "pages_article": ("page_ptr_id",),
}
DEFAULTS: dict[str, dict[str, Value]] = {
    "auth_user": {"username": "u", "email": "u@example.com"},
    "pages_article": {"summary": "", "read_minutes": 1},
    "pages_page_tags": {},
    "pages_page": {
        "parent_id": None,
        "slug": "s",
        "title": "t",
        "body": "",
        "live": True,
    },
    "pages_tag": {"name": "n"},
    "polls_question": {
        "question_text": "?",
        "body": "",
        "published": False,
        "priority": None,
        "pub_date": TIME,
        "author_id": None,
    },
    "polls_choice": {"question_id": 1, "choice_text": "c", "rank": 1, "votes": 0},
    "polls_vote": {"choice_id": 1, "voter_email": "v@example.com", "weight": "1", "cast_at": TIME},
    "shop_supplier": {"name": "s"},
    "shop_product": {
        "sku": "k",
        "region": "eu",
        "supplier_id": None,
        "replaced_by_id": None,
        "price": "1.00",
        "active": True,
    },
    "shop_stock": {"amount": 0},
    "shop_watch": {},
    "shop_order": {"number": "1", "customer_id": None},
    "shop_orderline": {"amount": 1},
    "shop_team": {"name": "t", "captain_id": None},
    "shop_member": {"team_id": 1, "name": "m"},
}


def uuid(number: int) -> str:
    """Give one of the keys of tables whose keys are UUIDs."""
    return f"00000000-0000-4000-8000-{number:012x}"


def change(
    op: Op,
    table: str,
    *key: Value,
    unchanged: Sequence[str] = (),
    read: bool = False,
    **columns: Value,
) -> Change:
    """Make a row event; columns that are not named have the table's defaults."""
    after: dict[str, Value] | None = None
    if op in "cur":
        named = dict(zip(KEYS.get(table, ("id",)), key, strict=True))
        after = {**named, **DEFAULTS[table], **columns}
        for name in unchanged:
            after.pop(name)
    return Change(op, f"public.{table}", key, after, tuple(unchanged), read)


_DATABASE = "(SELECT oid FROM pg_database WHERE datname = current_database())"


class Target:
    """A worker in a thread, and a look at its database.

    Args:
        conninfo: of its database, which the ORM's alias `default` must lead to.
        log: URL of the log.
        datasets: what it subscribes to.
        more: of each subscription: on_clash, fuse.
    """

    def __init__(self, conninfo: str, log: str, *datasets: str, **more: Any) -> None:
        self.settings = ReplicatorSettings.model_validate(
            {
                "ENVIRONMENT": "stage",
                "LOG": log,
                "SUBSCRIPTIONS": [
                    {"source": "prod", "dataset": dataset, **more} for dataset in datasets
                ],
            }
        )
        self.log = open_log(log)
        self.log.create(requests_topic(*PLACE, "stage"))
        self.connection = psycopg.connect(conninfo, autocommit=True)
        self.place = PLACE
        self.failures: list[BaseException] = []
        self._stop: Stop | None = None
        self._seen = 0
        self._requests: list[KeysRequest | PageRequest] = []
        self._answered: set[str] = set()

    def skip_backfill(self) -> None:
        """Subscribe, and take the first backfill for done."""
        store_declared(self.connection, self.settings, self.place)
        self.connection.execute(
            "UPDATE replicator_backfillrun SET state = 'finished', finished_at = now()"
        )

    def start(self) -> None:
        """Run a worker; it may be called again after `stop`."""
        self._stop = stop = Stop()
        self.failures.clear()

        def run() -> None:
            try:
                Worker(self.settings, self.place, stop, Health()).run()
            except BaseException as error:  # noqa: BLE001 (shown by the test)
                self.failures.append(error)

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def begin(self) -> None:
        """Start, and wait until the worker has its place in the stream."""
        self.start()
        self.until(lambda: bool(self.rows("SELECT 1 FROM replicator_streamposition")), "a position")

    def stop(self, *, followed: bool = False) -> None:
        """End the worker, if one runs; `followed`: another one stands by and takes its lock."""
        if self._stop is not None:
            self._stop.set()
            self._thread.join(10)
            self._stop.close()
            self._stop = None
            if followed:
                return
            # Its session ends a moment later, and holds the stream's lock until then.
            locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            # Whatever ended the worker: its test knows, or looks.
            failures, self.failures = self.failures, []
            self.until(
                lambda: self.rows(f"{locks} AND database = {_DATABASE}") == [(0,)], "unlocked"
            )
            self.failures = failures

    def close(self) -> None:
        """End the worker and the connection."""
        self.stop()
        self.connection.close()

    def rows(self, statement: str) -> list[Row]:
        """Give what a statement selects."""
        return self.connection.execute(statement).fetchall()

    def execute(self, statement: str) -> None:
        """Change the target locally."""
        self.connection.execute(statement)

    @property
    def stopped(self) -> str:
        """Why the stream stands; "" if it does not."""
        found = self.rows("SELECT stopped_reason FROM replicator_streamposition")
        return str(found[0][0]) if found else ""

    @property
    def wanted(self) -> list[Row]:
        """Table and key of each wanted row."""
        return self.rows("SELECT table_name, row_key FROM replicator_wantedrow ORDER BY 1, 2")

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 15) -> None:
        """Wait for a condition."""
        end = time.monotonic() + seconds
        while not condition():
            if self.failures:
                raise self.failures[0]
            if time.monotonic() > end:
                state = self.rows("SELECT * FROM replicator_streamposition")
                raise AssertionError(f"not within {seconds} s: {what}; {state}")
            time.sleep(0.02)

    def reach(self, commit: int) -> None:
        """Wait until a commit is applied."""

        def there() -> bool:
            found = self.rows("SELECT next_lsn, stopped_reason FROM replicator_streamposition")
            assert not found or not found[0][1], found[0][1]
            return bool(found) and found[0][0] > commit

        self.until(there, f"position beyond {commit}")

    def until_stopped(self, reason: str) -> None:
        """Wait until the stream stands for a reason that contains these words."""
        self.until(lambda: reason in self.stopped, f"stopped because {reason}")

    def _arrived(self) -> Iterator[KeysRequest | PageRequest]:
        """Give the requests that came since the last call, repetitions of answered ones aside."""
        reader = self.log.reader(requests_topic(*PLACE, "stage"))
        reader.seek(0)  # type: ignore[arg-type]
        messages = [r for chunk in reader.poll(0.1) for r in chunk.records]
        reader.close()
        new, self._seen = messages[self._seen :], len(messages)
        for _, value in new:
            message = parse(value)
            if isinstance(message, KeysRequest | PageRequest) and message.id not in self._answered:
                yield message

    def request(self, kind: type, seconds: float = 10) -> Any:
        """Wait for the next request of a kind; those of other kinds are kept for later."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.failures:
                raise self.failures[0]
            self._requests += self._arrived()
            for message in self._requests:
                if isinstance(message, kind):
                    self._requests = [r for r in self._requests if r.id != message.id]
                    return message
            time.sleep(0.02)
        raise AssertionError(f"no {kind.__name__} came")

    def answer(
        self,
        published: Published,
        request: KeysRequest | PageRequest,
        *changes: Change,
        **more: Any,
    ) -> None:
        """Publish the answer to a request, and wait until it is applied."""
        self._answered.add(request.id)
        self._requests = [r for r in self._requests if r.id != request.id]
        answer = Answer("stage", request.id, fingerprint(request.plan), **more)
        self.reach(published.transaction(*changes, Change("m", ""), answer=answer))

    def backfilled(self, published: Published, *pages: tuple[Change, ...]) -> None:
        """Answer the pages of a backfill, one per rule, and wait for its end."""
        for rows in pages or ((),):
            self.answer(published, self.request(PageRequest), *rows)
        self.until(
            lambda: (
                {state for (state,) in self.rows("SELECT state FROM replicator_backfillrun")}
                <= {"finished", "cancelled"}
            ),
            "backfill finished",
        )
