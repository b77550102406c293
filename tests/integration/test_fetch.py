"""Fetches under concurrent writes: an answer and the stream agree, exactly."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator.envelope import Record, Value
from replicator.plan import TableName
from replicator_capture.fetch import Fetcher
from replicator_capture.task import Task
from replicator_capture.visibility import Snapshot, visible
from tests.conftest import SampleFactory
from tests.support.capture_run import Asker, Tape, capture_settings, capture_task, capturing
from tests.support.processes import wait_until
from tests.support.replay import State, Transaction, apply, transactions

ANSWERS = 240
QUESTION, CHOICE, USER = "polls_question", "polls_choice", "auth_user"


@pytest.fixture
def log_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/log.sqlite3"


@pytest.fixture
def source(sample_database: SampleFactory) -> str:
    return sample_database("source")


@pytest.fixture
def task(source: str, log_url: str) -> Task:
    return capture_task(source, capture_settings(log_url))


@contextmanager
def writing(conninfo: str, seeds: range) -> Iterator[None]:
    """Have several sessions write at random while the body runs."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            write_at_random(conninfo, random.Random(seed), stop)
        except BaseException as error:  # noqa: BLE001 (handed over to the test)
            errors.append(error)

    threads = [threading.Thread(target=work, args=[seed]) for seed in seeds]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors, errors


KEYS = 60


def write_at_random(conninfo: str, rng: random.Random, stop: threading.Event) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        while not stop.is_set():
            try:
                with connection.transaction():
                    for _ in range(rng.choice([1, 1, 1, 2, 5])):
                        write_once(connection, rng)
            except (
                psycopg.errors.DeadlockDetected,
                psycopg.errors.IntegrityError,
                psycopg.errors.ObjectInUse,
            ):
                pass
            stop.wait(rng.choice([0, 0, 0.001, 0.005]))


def write_once(connection: psycopg.Connection, rng: random.Random) -> None:
    key, dice = rng.randint(1, KEYS), rng.random()
    author = rng.choice([None, 1, 2])
    values = (f"text {rng.random()}", rng.random() < 0.5, rng.randint(0, 9), author)
    if dice < 0.35:
        connection.execute(
            "INSERT INTO polls_question (id, question_text, published, priority, author_id, body,"
            " pub_date) VALUES (%s, %s, %s, %s, %s, '', now()) ON CONFLICT (id) DO UPDATE SET"
            " question_text = excluded.question_text, published = excluded.published",
            [key, *values],
        )
    elif dice < 0.6:
        connection.execute(
            "UPDATE polls_question SET question_text = %s, published = %s, priority = %s,"
            " author_id = %s WHERE id = %s",
            [*values, key],
        )
    elif dice < 0.75:
        connection.execute("DELETE FROM polls_choice WHERE question_id = %s", [key])
        connection.execute("DELETE FROM polls_question WHERE id = %s", [key])
    elif dice < 0.8:
        connection.execute(
            "UPDATE polls_question SET id = %s WHERE id = %s", [rng.randint(1, KEYS), key]
        )
    elif dice < 0.99:
        connection.execute(
            "UPDATE auth_user SET email = %s WHERE id = %s", [values[0], rng.choice([1, 2])]
        )
    elif rng.random() < 0.3:
        connection.execute("TRUNCATE polls_question, polls_choice, polls_vote")


def add_users(conninfo: str) -> None:
    with psycopg.connect(conninfo) as connection:
        for number in (1, 2):
            connection.execute(
                "INSERT INTO auth_user (id, username, email, password, is_superuser, first_name,"
                " last_name, is_staff, is_active, date_joined)"
                " VALUES (%s, %s, '', '', false, '', '', false, true, now())",
                [number, f"user {number}"],
            )


Asked = dict[str, "set[Value] | int"]
"""Keys of questions that were asked for, or behind which a page of published ones begins."""


def check_answer(state: State, answer: Transaction, asked: "set[Value] | int") -> None:
    """Compare the answer with the stream's own state at its position.

    Args:
        state: of the tables by the stream's events before it.
        answer: its records.
        asked: see `Asked`.
    """
    own: State = {}
    named: set[tuple[str, Value]] = set()
    if not isinstance(asked, int):
        named |= {(QUESTION, key) for key in asked}
    for record in answer.records:
        apply(own, record)
        if record.op == "r":
            assert record.after is not None
            named.add((record.source.table, record.after["id"]))
    if isinstance(asked, int):
        last = answer.records[-1].answer
        assert last is not None
        upto = last.last_key[0] if last.last_key is not None else KEYS
        for key, row in state.get(QUESTION, {}).items():
            if row["published"] and asked < key <= upto:  # type: ignore[operator]
                named.add((QUESTION, key))
    for table, key in sorted(named, key=str):
        assert own.get(table, {}).get(key) == state.get(table, {}).get(key), (table, key)
    read = [(r.source.table, r.after) for r in answer.records if r.op == "r" and r.after]
    users = {row["id"] for table, row in read if table == USER}
    authors = {row["author_id"] for table, row in read if table == QUESTION} - {None}
    assert authors == users, "what a row points to is read with it, once"
    assert len(read) == len({(table, row["id"]) for table, row in read})


def replay(records: list[Record], asked: Asked) -> int:
    """Check every answer on the tape; give their number."""
    state: State = {}
    checked = 0
    for transaction in transactions(records):
        request = transaction.request
        if request is None:
            for record in transaction.records:
                apply(state, record)
        elif request in asked:
            check_answer(state, transaction, asked[request])
            checked += 1
    return checked


def test_the_snapshot_is_taken_behind_the_lock(source: str) -> None:
    """Or a migration that was waited for would show what is no longer there."""
    nothing: Any = None
    table, found = TableName("public", "polls_question"), list[Snapshot]()
    with psycopg.connect(source) as other, psycopg.connect(source, autocommit=True) as connection:
        fetcher = Fetcher(connection, nothing, nothing, nothing, nothing)

        def look() -> None:
            with connection.transaction():
                found.append(fetcher._lock_and_snapshot([table]))

        other.execute("LOCK TABLE polls_question IN ACCESS EXCLUSIVE MODE")
        row = other.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
        assert row is not None
        looking = threading.Thread(target=look)
        looking.start()
        with psycopg.connect(source, autocommit=True) as third:
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s"
            pid = connection.info.backend_pid
            wait_until(lambda: third.execute(waiting, [pid]).fetchone() == (1,), 5, "it waits")
        other.commit()
        looking.join()
    assert visible(row[0] % (1 << 32), found[0])


def test_answers_are_exact_under_concurrent_writes(task: Task, source: str, log_url: str) -> None:
    rng, tape = random.Random(1), Tape.of(log_url)
    asked: Asked = {}
    with capturing(task):
        add_users(source)
        tape.wait_for(lambda r: r.op == "c")
        asker = Asker(log_url)
        with writing(source, range(3)):
            for _ in range(ANSWERS // 8):
                batch = []
                for _ in range(8):
                    if rng.random() < 0.7:
                        keys = set(rng.sample(range(1, KEYS + 1), rng.randint(1, 20)))
                        batch.append(asker.keys(["polls"], {f"public.{QUESTION}": sorted(keys)}))
                        asked[batch[-1]] = set(keys)
                    else:
                        limit = rng.randint(1, 40)
                        batch.append(asker.page("published-polls", rule=1, limit=limit))
                        asked[batch[-1]] = 0
                for request in batch:
                    tape.answer(request)
    assert replay(tape.wind(), asked) == ANSWERS
    closing = [r.answer for r in tape.records if r.answer and r.op == "m"]
    assert not [answer for answer in closing if answer.refused]
    repeated = [r for r in tape.records if r.answer and r.op in "cut"]
    assert repeated, "no event had to be repeated: the writers are too slow to prove anything"


def test_pages_that_are_read_ahead_are_exact(
    task: Task, source: str, log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[None] = []
    tell = Fetcher._tell_ahead
    monkeypatch.setattr(Fetcher, "_tell_ahead", lambda *a: (told.append(None), tell(*a))[1])
    tape, asked = Tape.of(log_url), Asked()
    with capturing(task):
        add_users(source)
        tape.wait_for(lambda r: r.op == "c")
        asker = Asker(log_url)
        with writing(source, range(3)):
            after = 0
            for number in range(120):
                request = asker.page("published-polls", rule=1, after=after, limit=5)
                asked[request] = after
                closing = tape.answer(request)[-1].answer
                assert closing is not None
                after = int(str((closing.last_key or (0,))[0]))
                time.sleep(0.03 if number % 3 else 0)
    assert replay(tape.wind(), asked) == 120
    assert len(told) > 30
    repeated = [r for r in tape.records if r.answer and r.op in "cut"]
    assert repeated, "no event had to be repeated: the writers are too slow to prove anything"


LOCKED = """
SELECT FROM pg_locks WHERE relation = 'polls_question'::regclass AND mode = 'AccessShareLock'
AND pid <> pg_backend_pid()
"""


def test_a_page_that_is_read_ahead_in_vain_is_soon_forgotten(
    task: Task, source: str, log_url: str
) -> None:
    tape = Tape.of(log_url)
    with capturing(task), psycopg.connect(source, autocommit=True) as connection:
        for key in range(1, 20):
            connection.execute(
                "INSERT INTO polls_question (id, question_text, published, body, pub_date)"
                " VALUES (%s, '', true, '', now())",
                [key],
            )
        asker = Asker(log_url)
        tape.answer(asker.page("published-polls", rule=1, limit=5))
        wait_until(lambda: bool(connection.execute(LOCKED).fetchall()), 5, "it is read ahead")
        wait_until(lambda: not connection.execute(LOCKED).fetchall(), 5, "it is forgotten")
        for after, limit in ((5, 5), (10, 3), (7, 5)):
            # As it was expected; of another size; behind another key.
            request = asker.page("published-polls", rule=1, after=after, limit=limit)
            *read, closing = tape.answer(request)
            assert closing.answer is not None
            assert closing.answer.last_key == (after + limit,)
            found = [record.after["id"] for record in read if record.after]
            assert found == [*range(after + 1, after + limit + 1)]
