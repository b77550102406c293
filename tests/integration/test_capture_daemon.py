"""The capture daemon on a real Postgres and a real log."""

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator.envelope import Record
from replicator.errors import LostLog, Refused
from replicator.positions import parse_lsn
from replicator.requests import KeysRequest, PlanItem
from replicator_capture import beat, facts, fetch, inbox, keeper, prepare, publication, run
from replicator_capture.daemon import Capture
from replicator_capture.startup import LogTail
from replicator_capture.task import Task
from tests.conftest import SampleFactory, StartProcess
from tests.support.capture_run import (
    SOURCE,
    TARGET,
    Asker,
    Running,
    Tape,
    capture_settings,
    capture_task,
    capturing,
    plan_of,
)
from tests.support.kafka import KafkaBroker
from tests.support.postgres import PostgresServer
from tests.support.processes import wait_until
from tests.support.sample.environments import environment


@pytest.fixture
def log_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/log.sqlite3"


def test_every_postgres_through_kafka(
    any_sample_database: SampleFactory, kafka: KafkaBroker
) -> None:
    source = any_sample_database("source")
    environment_name = source.split("dbname=")[1].split()[0].replace("_", "-")
    settings = capture_settings(kafka.url, ENVIRONMENT=environment_name)
    task = capture_task(source, settings)
    tape = Tape.of(kafka.url, environment=environment_name)
    with capturing(task):
        key = insert_question(source, "one")
        tape.wait_for(has_question("one"))
        asker = Asker(kafka.url, environment=environment_name)
        assert tape.answer(asker.keys(["polls"], {"public.polls_question": [key]}))[0].op == "r"
    with capturing(task):
        insert_question(source, "two")
        tape.wait_for(has_question("two"))
    drop_slots(source)
    assert isinstance(Running(Capture(task)).failed(), Refused)


@pytest.fixture
def source(sample_database: SampleFactory) -> str:
    return sample_database("source")


@pytest.fixture
def task(source: str, log_url: str) -> Task:
    return capture_task(source, capture_settings(log_url))


def insert_question(conninfo: str, text: str = "why?") -> int:
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(
            "INSERT INTO polls_question (question_text, body, published, pub_date)"
            " VALUES (%s, '', true, now()) RETURNING id",
            [text],
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_first_epoch_and_restart(task: Task, source: str, log_url: str) -> None:
    tape = Tape.of(log_url)
    with capturing(task):
        insert_question(source, "one")
        tape.wait_for(lambda r: r.after is not None and r.after["question_text"] == "one")
    with capturing(task):
        insert_question(source, "two")
        tape.wait_for(lambda r: r.after is not None and r.after["question_text"] == "two")
    assert [r.op for r in tape.records if r.op == "epoch"] == ["epoch"]
    assert tape.records[0].op == "epoch"
    assert len({r.at.run for r in tape.records if r.op == "c"}) == 2
    position = tape.records[0].at.to
    for record in tape.records[1:]:
        if record.at.to is not None:
            assert record.at.from_ is not None
            assert position is not None
            assert record.at.from_ <= position
            position = max(position, record.at.to)


def has_question(text: str) -> Callable[[Record], bool]:
    return lambda r: r.op == "c" and bool(r.after) and r.after.get("question_text") == text


def slots(conninfo: str) -> list[tuple[str, int]]:
    """Name and confirmed position of the database's slots."""
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute(
            "SELECT slot_name, confirmed_flush_lsn::text FROM pg_replication_slots"
            " WHERE database = current_database()"
        ).fetchall()
    return [(name, parse_lsn(lsn)) for name, lsn in rows]


def drop_slots(conninfo: str) -> None:
    """Drop the slots behind the daemon's back."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for name, _ in slots(conninfo):
            for _ in range(100):
                connection.execute(
                    "SELECT pg_terminate_backend(active_pid, 2000) FROM pg_replication_slots"
                    " WHERE slot_name = %s AND active",
                    [name],
                )
                try:
                    connection.execute("SELECT pg_drop_replication_slot(%s)", [name])
                except psycopg.errors.ObjectInUse:
                    time.sleep(0.01)
                else:
                    break


def test_a_standby_takes_over(task: Task, source: str, log_url: str) -> None:
    tape = Tape.of(log_url)
    first = Running(Capture(task)).ready()
    second = Running(Capture(task))
    insert_question(source, "one")
    tape.wait_for(has_question("one"))
    assert not second.health.readiness()[0]
    first.end()
    second.ready()
    insert_question(source, "two")
    tape.wait_for(has_question("two"))
    second.end()
    assert len({r.at.run for r in tape.records if r.op == "c"}) == 2


def test_a_dropped_slot_is_refused_until_a_new_epoch(task: Task, source: str, log_url: str) -> None:
    tape = Tape.of(log_url)
    with capturing(task):
        insert_question(source, "one")
        tape.wait_for(has_question("one"))
    drop_slots(source)
    insert_question(source, "lost")
    error = Running(Capture(task)).failed()
    assert isinstance(error, Refused)
    assert "--new-epoch" in error.remedy
    with capturing(task, new_epoch=True, reason="slot dropped"):
        insert_question(source, "two")
        tape.wait_for(has_question("two"))
    first, second = (r.epoch for r in tape.records if r.epoch is not None)
    assert first is not None
    assert second is not None
    assert (second.previous, second.reason) == (first.id, "slot dropped")
    with capturing(task):
        pass


def test_a_slot_dropped_under_a_running_capture_is_noticed(task: Task, source: str) -> None:
    running = Running(Capture(task)).ready()
    drop_slots(source)
    assert isinstance(running.failed(), Refused)


def test_a_restored_database_is_refused(task: Task, source: str, log_url: str) -> None:
    tape = Tape.of(log_url)
    with psycopg.connect(source, autocommit=True) as connection:
        with capturing(task):
            tape.wait_for(lambda r: r.op == "m")
        old = connection.execute("SELECT * FROM replicator_beat").fetchone()
        assert old is not None
        with capturing(task):
            seen = len(tape.wind())
            tape.wait_for(lambda r: r.op == "m" and r in tape.records[seen:])
        connection.execute("UPDATE replicator_beat SET nonce = %s", [old[1]])
    error = Running(Capture(task)).failed()
    assert isinstance(error, Refused)
    assert "restored" in str(error)


def test_marks_move_the_slot_while_nothing_is_replicated(
    task: Task, source: str, log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beat, "EVERY", 0.2)
    monkeypatch.setattr(keeper, "LOOK_EVERY", 0.1)
    with capturing(task) as running, psycopg.connect(source, autocommit=True) as connection:
        (before,) = slots(source)
        connection.execute("CREATE TABLE noise AS SELECT generate_series(1, 50000) AS n")
        row = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
        assert row is not None
        assert parse_lsn(row[0]) > before[1]
        running.wait_for(lambda: slots(source)[0][1] >= parse_lsn(row[0]))
    marks = [r for r in Tape.of(log_url).wind() if r.op == "m"]
    assert marks[-1].mark is not None
    assert marks[-1].mark.health["wal_status"] == "reserved"
    assert marks[-1].mark.health["table:public.polls_question"]


def test_a_table_that_joins_again_has_another_token(
    task: Task, source: str, log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("LOOK_EVERY", 0.1), ("CHECK_EVERY", 0.1)):
        monkeypatch.setattr(keeper, name, value)
    monkeypatch.setattr(beat, "EVERY", 0.2)
    tape = Tape.of(log_url)

    def token(r: Record) -> object:
        return r.mark.health.get("table:public.polls_question") if r.mark else None

    with capturing(task), psycopg.connect(source, autocommit=True) as connection:
        first = token(tape.wait_for(token))  # type: ignore[arg-type]
        connection.execute("ALTER PUBLICATION replicator_main DROP TABLE polls_question")
        tape.wait_for(lambda r: token(r) not in (None, first))


READING = "table:public.kinds_reading"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("TRUNCATE kinds_reading_2025", True),
        ("DROP TABLE kinds_reading_2025", True),
        ("ALTER TABLE kinds_reading DETACH PARTITION kinds_reading_2025", True),
        (
            "CREATE TABLE more (LIKE kinds_reading); INSERT INTO more VALUES (1, '2030-01-01', 2); "
            "ALTER TABLE kinds_reading ATTACH PARTITION more"
            " FOR VALUES FROM ('2030-01-01') TO ('2031-01-01')",
            True,
        ),
        (
            "CREATE TABLE more PARTITION OF kinds_reading"
            " FOR VALUES FROM ('2030-01-01') TO ('2031-01-01')",
            False,
        ),
        ("INSERT INTO kinds_reading VALUES (9, '2025-01-01', 2)", False),
    ],
    ids=["truncate", "drop", "detach", "attach", "create", "insert"],
)
@pytest.mark.parametrize("away", [False, True], ids=["seen", "restarted"])
@pytest.mark.usefixtures("_quick")
def test_what_is_done_to_a_partition_gives_its_table_another_token(
    task: Task, source: str, log_url: str, change: str, *, told: bool, away: bool
) -> None:
    def token() -> object:
        with capturing(task) as running:
            return told_by(running, log_url)

    with psycopg.connect(source, autocommit=True) as connection:
        if away:
            before = token()
            connection.execute(change)
            assert (token() != before) is (told or "CREATE" in change)
            return
        with capturing(task) as running:
            before = told_by(running, log_url)
            connection.execute(change)
            if told:
                running.wait_for(lambda: told_by(running, log_url) != before)
            else:
                assert {told_by(running, log_url) for _ in range(4)} == {before}
        connection.execute("INSERT INTO kinds_reading VALUES (8, '2030-01-01', 2)")
        assert told or token() == before


def told_by(running: Running, log_url: str) -> object:
    """Wait for the next mark; give its token of the partitioned table."""
    tape = Tape.of(log_url)
    seen = len(tape.wind())
    found: list[object] = []

    def there() -> bool:
        found[:] = [
            r.mark.health[READING]
            for r in tape.wind()[seen:]
            if r.mark is not None and READING in r.mark.health
        ]
        return bool(found)

    running.wait_for(there)
    return found[-1]


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LOOK_EVERY", 0.1), ("CHECK_EVERY", 0.1)):
        monkeypatch.setattr(keeper, name, value)
    monkeypatch.setattr(beat, "EVERY", 0.2)


def test_a_locked_partition_does_not_hold_capture_up(task: Task, source: str) -> None:
    """As VACUUM FULL and TRUNCATE lock it."""
    with capturing(task):
        pass
    with psycopg.connect(source) as connection:
        connection.execute("LOCK TABLE kinds_reading_2025")
        with capturing(task) as running:
            running.ready()


def test_capture_is_ready_only_while_beats_arrive_in_the_stream(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that is silent looks like one that is idle."""
    monkeypatch.setattr(beat, "EVERY", 4.0)
    monkeypatch.setattr(run, "BEAT_LATE", 1.0)
    monkeypatch.setattr(run, "_SHOW_EVERY", 0.1)
    with capturing(task) as running:
        running.wait_for(lambda: "the last beat" in running.health.readiness()[1])
        assert not running.health.readiness()[0]
        running.ready()


def test_the_first_mark_of_a_run_tells_of_the_tables(
    task: Task, source: str, log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "LOOK_EVERY", 60.0)
    tape = Tape.of(log_url)
    with capturing(task):
        mark = tape.wait_for(lambda r: r.op == "m").mark
    assert mark is not None
    assert mark.health["table:public.polls_question"]


def test_a_walsender_that_is_ended_is_begun_again(task: Task, source: str, log_url: str) -> None:
    tape = Tape.of(log_url)
    with capturing(task) as running:
        insert_question(source, "one")
        tape.wait_for(has_question("one"))
        with psycopg.connect(source, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
                " WHERE database = current_database()"
            )
        insert_question(source, "two")
        tape.wait_for(has_question("two"))
        running.ready()


def test_a_role_without_privileges_is_told_what_to_run(
    task: Task, source: str, postgres_server: PostgresServer
) -> None:
    with psycopg.connect(source, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS replicator_plain")
        connection.execute("CREATE ROLE replicator_plain LOGIN REPLICATION")
        connection.execute(
            "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO replicator_plain"
        )
    plain = capture_task(source + " user=replicator_plain", task.settings)
    try:
        error = Running(Capture(plain)).failed()
        assert isinstance(error, Refused)
        assert "replicator prepare source" in error.remedy
        with psycopg.connect(source, autocommit=True) as connection:
            for statement in prepare.statements(connection, "main", task.releases):
                connection.execute(statement.sql)
        with capturing(plain):
            pass
    finally:
        with psycopg.connect(source, autocommit=True) as connection:
            connection.execute("DROP OWNED BY replicator_plain")
            connection.execute("DROP ROLE replicator_plain")


def test_prepare_mends_identities_and_publication(task: Task, source: str) -> None:
    with psycopg.connect(source, autocommit=True) as connection:
        connection.execute("ALTER TABLE polls_question REPLICA IDENTITY NOTHING")
        todo = prepare.statements(connection, "main", task.releases)
        assert any("polls_question lacks its key" in each.problem for each in todo)
        assert prepare.run(connection, todo) == []
        assert prepare.statements(connection, "main", task.releases) == []
        connection.execute("ALTER PUBLICATION replicator_main ADD TABLE auth_group")
        connection.execute("ALTER PUBLICATION replicator_main DROP TABLE polls_question")
        joins, leaves = prepare.statements(connection, "main", task.releases)
        assert joins.needed
        assert not leaves.needed
        prepare.run(connection, [joins, leaves])
        assert prepare.statements(connection, "main", task.releases) == []
        connection.execute("DROP TABLE polls_vote")
        assert any("polls_vote" in each for each in prepare.unreplicable(connection, task.releases))


def test_prepare_source_refuses_a_database_without_the_tables(task: Task, source: str) -> None:
    from tests.support.sample.environments import django_database

    databases = {"default": django_database(source)}
    with psycopg.connect(source, autocommit=True) as connection:
        connection.execute("DROP TABLE polls_vote")
        for sql_only in (True, False):
            with pytest.raises(Refused, match=r"polls_vote of .* is not a table") as caught:
                prepare.prepare_source(task.settings, databases, sql_only=sql_only)
            assert "manage.py migrate" in caught.value.remedy
        assert publication.read(connection, "replicator_main") is None


def test_what_was_prepared_is_told_as_what_was_done(
    task: Task, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.support.sample.environments import django_database

    caplog.set_level("INFO", "replicator_capture")
    prepare.prepare_source(task.settings, {"default": django_database(source)}, sql_only=False)
    assert 'Prepared: CREATE PUBLICATION "replicator_main" FOR TABLE' in caplog.text


def test_prepare_source_only_says_what_it_would_run(task: Task, source: str) -> None:
    from tests.support.sample.environments import django_database

    databases = {"default": django_database(source)}
    texts = prepare.prepare_source(task.settings, databases, sql_only=True)
    assert any(text.startswith("CREATE PUBLICATION") for text in texts)
    assert any("GRANT SELECT" in text for text in texts)
    assert prepare.prepare_source(task.settings, databases, sql_only=False)
    assert prepare.prepare_source(task.settings, databases, sql_only=False) == []


def test_answers_of_every_kind(task: Task, source: str, log_url: str) -> None:
    key = insert_question(source, "one")
    tape = Tape.of(log_url)
    with capturing(task):
        asker = Asker(log_url)
        table = "public.polls_question"
        read, gone, closing = tape.answer(asker.keys(["polls"], {table: [key, key + 100]}))
        assert (read.op, gone.op, closing.op) == ("r", "d", "m")
        assert read.after is not None
        assert read.after["question_text"] == "one"
        assert gone.before == {"id": key + 100}
        assert (read.at.from_, closing.at.from_ is None) == (None, False)
        hashed, closing = tape.answer(asker.keys(["polls"], {table: [key, key + 1]}, hashes=True))
        assert [entry.key for entry in hashed.hashes] == [(key,)]
        (closing,) = tape.answer(asker.page("published-polls", rule=1, after=key))
        assert closing.answer is not None
        assert closing.answer.last_key is None
        hashed, closing = tape.answer(asker.page("published-polls", rule=1, limit=1, hashes=True))
        assert closing.answer is not None
        assert closing.answer.last_key == (key,)
        assert closing.answer.estimated is not None
        # Of all rows of the rule: its first page tells.
        closing = tape.answer(asker.page("published-polls", rule=1, limit=1, after=key - 1))[-1]
        assert closing.answer is not None
        assert (closing.answer.last_key, closing.answer.estimated) == ((key,), None)


def test_refusals(task: Task, source: str, log_url: str) -> None:
    tape = Tape.of(log_url)

    def reason(request: str) -> str:
        closing = tape.answer(request)[-1]
        assert closing.answer is not None
        return closing.answer.refused or ""

    with capturing(task):
        asker = Asker(log_url)
        question = {"public.polls_question": [1]}
        assert "in no dataset" in reason(asker.keys(["polls"], {"public.shop_draft": [1]}))
        assert "in no dataset" in reason(asker.keys(["kinds"], question))
        plan = (PlanItem(dataset="polls", fingerprint="0" * 16),)
        assert "differently" in reason(asker.keys([], question, plan=plan))
        plan = (PlanItem(dataset="drafts", fingerprint="0" * 16),)
        assert "no dataset" in reason(asker.keys([], question, plan=plan))
        assert "no rule" in reason(asker.page("polls", rule=99))
        assert "refused to read" in reason(
            asker.keys(["polls"], {"public.polls_question": ["x'); DROP TABLE polls_vote; --"]})
        )
        assert reason(asker.keys(["polls"], question)) == ""


def test_what_was_refused_is_answered_once_the_cause_is_mended(
    task: Task, source: str, log_url: str
) -> None:
    tape = Tape.of(log_url)
    plan = plan_of(["polls"])
    keys = {"public.polls_vote": ((1,),)}
    request = KeysRequest(target=TARGET, id="again", plan=plan, keys=keys)
    with capturing(task), psycopg.connect(source, autocommit=True) as connection:
        asker = Asker(log_url)
        connection.execute("ALTER TABLE polls_vote RENAME TO polls_elsewhere")
        asker.send(request)
        (refusal,) = tape.answer("again")
        assert refusal.answer is not None
        assert "refused to read" in (refusal.answer.refused or "")
        connection.execute("ALTER TABLE polls_elsewhere RENAME TO polls_vote")
        asker.send(request)
        answered = tape.wait_for(
            lambda r: r.answer is not None and r.at.to is not None and r.answer.refused is None, 10
        )
        assert answered.answer is not None
        assert answered.answer.request == "again"


def insert_large_questions(source: str) -> None:
    """Insert ten questions whose hashes take seconds."""
    with psycopg.connect(source) as connection:
        connection.execute(
            "INSERT INTO polls_question (id, question_text, body, published, pub_date)"
            " SELECT n, '', repeat('x', 30000000), true, now() FROM generate_series(1, 10) AS n"
        )


def test_a_page_that_takes_too_long_is_refused(
    task: Task, source: str, log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "STATEMENT_TIMEOUT", 0.2)
    insert_large_questions(source)
    tape = Tape.of(log_url)
    with capturing(task):
        asker = Asker(log_url)
        request = asker.page("published-polls", rule=1, hashes=True)
        (closing,) = tape.answer(request, timeout=60)
        assert closing.answer is not None
        assert closing.answer.refused == (
            "reading a page took longer than 0.2 s: "
            "index the columns that the dataset's filter looks at"
        )
        (closing,) = tape.answer(asker.page("published-polls", rule=1, after=10, hashes=True))
        assert closing.answer is not None
        assert closing.answer.refused is None, "the next one is none the worse"


def test_rows_by_key_that_take_too_long_are_refused(
    task: Task, source: str, log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "STATEMENT_TIMEOUT", 0.2)
    insert_large_questions(source)
    tape = Tape.of(log_url)
    with capturing(task):
        asker = Asker(log_url)
        keys = {"public.polls_question": list(range(1, 11))}
        (closing,) = tape.answer(asker.keys(["polls"], keys, hashes=True), timeout=60)
        assert closing.answer is not None
        assert (closing.answer.refused or "").startswith(
            "reading rows by key, with all that hangs on them, took longer than 0.2 s: index "
        )
        few = asker.keys(["polls"], {"public.polls_question": [99]}, hashes=True)
        assert tape.answer(few)[-1].answer.refused is None  # type: ignore[union-attr]


def test_a_target_gets_only_the_datasets_it_may_ask_for(source: str, log_url: str) -> None:
    settings = capture_settings(log_url, TARGETS={TARGET: ["kinds"], "dev": ["polls"]})
    tape = Tape.of(log_url)
    with capturing(capture_task(source, settings)):
        request = Asker(log_url).keys(["polls"], {"public.polls_question": [1]})
        (closing,) = tape.answer(request)
        assert closing.answer is not None
        assert closing.answer.refused is not None
        assert "TARGETS" in closing.answer.refused
        tape.answer(Asker(log_url, target="dev").keys(["polls"], {"public.polls_question": [1]}))


def test_garbage_on_the_requests_topic_is_ignored(task: Task, source: str, log_url: str) -> None:
    tape = Tape.of(log_url)
    with capturing(task):
        asker = Asker(log_url)
        asker.send_bytes(b"\xff not json")
        asker.send_bytes(b"{}")
        stranger = Asker(log_url)
        stranger.target = "somebody"
        unanswered = stranger.keys(["polls"], {"public.polls_question": [1]})
        tape.answer(asker.keys(["polls"], {"public.polls_question": [1]}))
    assert unanswered not in {r.answer.request for r in tape.records if r.answer}


def test_a_fetch_waits_for_a_truncate_in_progress(task: Task, source: str, log_url: str) -> None:
    key, tape = insert_question(source, "one"), Tape.of(log_url)
    with capturing(task), psycopg.connect(source) as connection:
        connection.execute("TRUNCATE polls_question, polls_choice, polls_vote")
        connection.execute(
            "INSERT INTO polls_question (id, question_text, body, published, pub_date)"
            " VALUES (%s, 'after', '', true, now())",
            [key],
        )
        request = Asker(log_url).keys(["polls"], {"public.polls_question": [key]})
        time.sleep(1)
        assert not [r for r in tape.wind() if r.answer]
        connection.commit()
        read = tape.answer(request)[0]
        assert read.op == "r"
        assert read.after is not None
        assert read.after["question_text"] == "after"


def test_what_is_asked_once_capture_is_ready_is_heard(
    task: Task, source: str, log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the thread that listens may begin later."""
    key, tape, listen = insert_question(source, "one"), Tape.of(log_url), inbox.listen

    def late(*arguments: Any) -> None:
        time.sleep(1)
        listen(*arguments)

    monkeypatch.setattr(inbox, "listen", late)
    with capturing(task):
        request = Asker(log_url).keys(["polls"], {"public.polls_question": [key]})
        assert tape.answer(request)[0].op == "r"


def test_a_request_whose_answer_was_lost_is_answered_again(
    task: Task, source: str, log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, tape = insert_question(source, "one"), Tape.of(log_url)

    def die(*_: object) -> None:
        raise LostLog("killed after the message's commit, before the answer")

    with monkeypatch.context() as patched:
        patched.setattr(run.Run, "_publish", die)
        dying = Running(Capture(task)).ready()
        request = Asker(log_url).keys(["polls"], {"public.polls_question": [key]})
        assert isinstance(dying.failed(), LostLog)
    with capturing(task):
        again = Asker(log_url).keys(["polls"], {"public.polls_question": [key]})
        assert tape.answer(again)[0].op == "r"
    assert request not in {r.answer.request for r in tape.records if r.answer}


def test_commits_that_snapshots_do_not_see_hold_fetches_and_the_slot_back(
    own_postgres: PostgresServer, log_url: str
) -> None:
    from tests.support.sample.databases import migrated_database

    name = migrated_database(own_postgres)
    source = own_postgres.conninfo(name)
    own_postgres.execute(f"ALTER DATABASE {name} SET synchronous_commit = local")
    own_postgres.execute("ALTER SYSTEM SET synchronous_standby_names = 'away'")
    own_postgres.execute("SELECT pg_reload_conf()")
    key, tape = insert_question(source, "seen"), Tape.of(log_url)
    task = capture_task(source, capture_settings(log_url))
    with capturing(task) as running, psycopg.connect(source) as waiting:
        waiting.execute("SET synchronous_commit = on")
        waiting.execute("UPDATE polls_question SET question_text = 'unseen'")
        pid = waiting.info.backend_pid
        committing = threading.Thread(target=waiting.commit)
        committing.start()
        unseen = tape.wait_for(lambda r: r.op == "u")
        request = Asker(log_url).keys(["polls"], {"public.polls_question": [key]})
        insert_question(source, "later")
        tape.wait_for(has_question("later"))
        time.sleep(2)
        assert not [r for r in tape.wind() if r.answer]
        assert slots(source)[0][1] <= unseen.source.lsn
        with psycopg.connect(source, autocommit=True) as connection:
            connection.execute("SELECT pg_cancel_backend(%s)", [pid])
        committing.join()
        read = tape.answer(request)[0]
        assert read.after is not None
        assert read.after["question_text"] == "unseen"
        running.wait_for(lambda: slots(source)[0][1] > unseen.source.lsn)


@pytest.mark.parametrize("prepares", [True, False], ids=["creating topics", "reading the end"])
def test_the_command_ends_soon_while_kafka_hangs_at_its_start(
    process: StartProcess, source: str, kafka: KafkaBroker, *, prepares: bool
) -> None:
    with kafka.proxy() as network:
        network.deafen()
        url = f"kafka://127.0.0.1:{network.port}"
        replicator = {
            "ENVIRONMENT": SOURCE,
            "LOG": url,
            "TARGETS": {TARGET: ["*"]},
            "AUTO_PREPARE": prepares,
        }
        command = process("replicator", "capture", env=environment(source, replicator))
        wait_until(lambda: network.connections > 1, 20, "capture does not turn to Kafka")
        began = time.monotonic()
        command.send(signal.SIGTERM)
        assert command.wait(10) == 0
        assert time.monotonic() - began < 5


def test_a_standby_leaves_the_log_alone(
    task: Task, source: str, log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    monkeypatch.setattr(facts, "STANDBY_EVERY", 0.05)
    with capturing(task):
        insert_question(source, "one")
        Tape.of(log_url).wait_for(has_question("one"))
        original = facts.read_tail

        def read_tail(*arguments: Any) -> LogTail:
            looks.append(arguments)
            return original(*arguments)

        monkeypatch.setattr(facts, "read_tail", read_tail)
        standby = Running(Capture(task))
        standby.wait_for(lambda: len(looks) == 1)
        time.sleep(1)
        standby.end()
    assert len(looks) == 1


def test_the_command_ends_cleanly_on_sigterm(
    process: StartProcess, source: str, log_url: str
) -> None:
    replicator = {"ENVIRONMENT": SOURCE, "LOG": log_url, "TARGETS": {TARGET: ["*"]}}
    command = process("replicator", "capture", env=environment(source, replicator))
    Tape.of(log_url).wait_for(lambda r: r.op == "m")
    insert_question(source, "one")
    Tape.of(log_url).wait_for(has_question("one"))
    began = time.monotonic()
    command.send(signal.SIGTERM)
    assert command.wait(10) == 0
    assert time.monotonic() - began < 5
