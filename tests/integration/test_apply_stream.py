"""Apply alone: position, fence, holes, epochs, bad records, locks, and rows Postgres refuses."""

import hashlib
import threading
import time
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from prometheus_client import REGISTRY

from replicator.envelope import Answer, At, EpochStart, Record, encode, encode_key
from replicator.errors import DatabaseUnavailable, Refused
from replicator.http import Health
from replicator.positions import EpochId, Lsn, RunId
from replicator.requests import KeysRequest, PageRequest, fingerprint
from replicator_apply import backfill, consume, metrics, pipeline, worker
from replicator_apply.batch import Applier
from replicator_apply.consume import Consumer
from replicator_apply.follow import Follower, worker_for
from replicator_apply.rebase import rebase, reset_state
from replicator_apply.runs import begin_backfill
from tests.integration.conftest import StartTarget
from tests.support.published import Change, Published
from tests.support.target import Target, change

TAGS = "SELECT id, name FROM pages_tag ORDER BY id"


def tag(pk: int, name: str = "", op: str = "c") -> Change:
    return change(op, "pages_tag", pk, name=name or f"n{pk}")  # type: ignore[arg-type]


def names(target: Target) -> list[str]:
    return [str(name) for _, name in target.rows(TAGS)]


def append(published: Published, *records: tuple[bytes, bytes]) -> None:
    published.append(list(records))


# Position and environment


def test_it_goes_on_where_it_was(start: StartTarget) -> None:
    target, published = start("pages")
    target.reach(published.transaction(tag(1)))
    target.stop()
    published.transaction(tag(2))
    commit = published.transaction(tag(1, "uno", "u"))
    target.start()
    target.reach(commit)
    assert target.rows(TAGS) == [(1, "uno"), (2, "n2")]


def test_a_cloned_database_is_refused_until_its_state_is_reset(start: StartTarget) -> None:
    target, published = start("pages")
    target.reach(published.transaction(tag(1)))
    target.stop()
    target.settings = target.settings.model_copy(update={"environment": "dev"})
    target.start()
    with pytest.raises(Refused, match="written by environment 'stage'") as caught:
        target.until(lambda: False, "the refusal")
    assert "reset-state" in caught.value.remedy
    target.stop()
    reset_state(target.connection)
    assert target.rows("SELECT FROM replicator_streamposition") == []
    assert target.rows("SELECT to_regnamespace('replicator')") == [(None,)]
    assert names(target) == ["n1"]


def test_what_another_worker_applied_is_not_applied_again(
    start: StartTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The advisory lock is bypassed: the position row alone must fence them."""
    monkeypatch.setattr(worker, "try_lock", lambda *_: True)
    target, published = start("pages")
    other = Target.__new__(Target)
    other.__dict__.update(target.__dict__)
    other.failures = []
    other.start()
    for n in range(40):
        published.transaction(tag(n), *([tag(n - 1, op="d")] if n else []))
    commit = published.transaction(tag(100))
    target.reach(commit)
    other.stop()
    assert not other.failures
    assert not target.failures
    assert names(target) == ["n39", "n100"]


@pytest.mark.parametrize("table", ["pages_tag", "shop_order"])
def test_nothing_is_applied_to_the_same_position_of_another_epoch(
    start: StartTarget, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    """Nor is the position, where nothing of a transaction is held here."""
    monkeypatch.setattr(worker, "QUIET_ADVANCE", 0.1)
    target, published = start("pages")
    target.reach(published.transaction(tag(1)))
    target.execute("UPDATE replicator_streamposition SET epoch = 'ffffffff'")
    before = target.rows("SELECT next_lsn, log_offset FROM replicator_streamposition")
    published.transaction(change("c", table, 2, **({"name": "n2"} if table == "pages_tag" else {})))
    time.sleep(0.8)
    target.stop()
    assert names(target) == ["n1"]
    assert target.rows("SELECT next_lsn, log_offset FROM replicator_streamposition") == before
    assert not target.failures


def test_nothing_is_applied_from_another_place_in_the_log(
    start: StartTarget, caplog: pytest.LogCaptureFixture
) -> None:
    """Another worker stands at the same position, and has read the log from elsewhere."""
    caplog.set_level("INFO", worker.logger.name)
    target, published = start("pages")
    target.reach(published.transaction(tag(1)))
    target.execute("UPDATE replicator_streamposition SET log_offset = 0")
    target.reach(published.transaction(tag(2)))
    told = [record for record in caplog.records if getattr(record, "event", "") == "overtaken"]
    assert len(told) == 1
    assert names(target) == ["n1", "n2"]
    ((offset,),) = target.rows("SELECT log_offset FROM replicator_streamposition")
    assert offset > 0


def test_a_second_worker_stands_by_and_takes_over(start: StartTarget) -> None:
    target, published = start("pages")
    other = Target.__new__(Target)
    other.__dict__.update(target.__dict__)
    other.failures = []
    other.start()
    target.reach(published.transaction(tag(1)))
    target.stop(followed=True)
    target.failures = other.failures
    target.reach(published.transaction(tag(2)))
    other.stop()
    assert names(target) == ["n1", "n2"]


def test_a_lock_that_the_session_before_still_holds_is_waited_for_shortly(
    start: StartTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "STANDBY", 60.0)
    tries: list[None] = []

    def try_lock(*arguments: Any) -> bool:
        tries.append(None)
        return len(tries) > 2 and original(*arguments)

    original = worker.try_lock
    monkeypatch.setattr(worker, "try_lock", try_lock)
    target, published = start("pages")
    target.reach(published.transaction(tag(1)))


# Holes and epochs


def test_a_hole_that_is_met_again_and_again_counts_once(
    start: StartTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell, told = worker.Worker._tell, []
    monkeypatch.setattr(worker.Worker, "_tell", lambda *args: (told.append(1), tell(*args)))
    target, published = start("pages")
    labels = {"source": "prod", "stream": "main"}

    def holes() -> float:
        return REGISTRY.get_sample_value("replicator_apply_holes_total", labels) or 0.0

    before = holes()
    published.transaction(tag(1), gap=5)
    for times in (1, 2, 3):
        target.until(lambda times=times: len(told) == times, f"the hole is met {times} times")  # type: ignore[misc]
        # Another plan: the stream is read again from the stored position.
        target.execute("UPDATE replicator_subscription SET generation = generation + 1")
    assert holes() == before + 1


def test_a_hole_stops_and_whoever_repeats_the_lost_lets_it_go_on(start: StartTarget) -> None:
    target, published = start("pages")
    target.reach(published.transaction(tag(1)))
    lost = published.records(tag(2))
    later = published.records(tag(3))
    append(published, *later)
    target.until_stopped("Records are missing")
    assert "rebase" in str(target.rows("SELECT stopped_remedy FROM replicator_streamposition"))
    assert names(target) == ["n1"]
    append(published, *lost, *later)
    target.until(lambda: not target.stopped, "it goes on by itself")
    target.reach(published.commit)
    assert names(target) == ["n1", "n2", "n3"]


def test_rebase_goes_on_behind_a_hole_and_backfills(start: StartTarget) -> None:
    target, published = start("some-tags")
    target.reach(published.transaction(tag(1), tag(2)))
    published.transaction(tag(3), gap=5)
    target.until_stopped("Records are missing")
    assert rebase(target.connection, target.settings, target.place)
    rules = (tag(1, op="r"), tag(3, op="r")), (tag(1, op="r"), tag(3, op="r"))
    for page in rules:
        target.answer(published, target.request(PageRequest), *page)
    lost = target.request(KeysRequest)
    assert lost.keys == {"public.pages_tag": (("2",),)}
    target.answer(published, lost, change("d", "pages_tag", 2, read=True))
    assert names(target) == ["n1", "n3"]
    assert not rebase(target.connection, target.settings, target.place)


def test_rebase_refuses_where_no_record_is_missing(start: StartTarget) -> None:
    target, published = start("pages", prepare="INSERT INTO pages_tag VALUES (2, 'mine')")
    published.transaction(tag(2))
    target.until_stopped("local row(s)")
    published.transaction(tag(3))
    with pytest.raises(Refused, match=r"no gap.*local row"):
        rebase(target.connection, target.settings, target.place)
    target.execute("DELETE FROM pages_tag")
    target.until(lambda: names(target) == ["n2", "n3"], "nothing is lost")


def test_a_new_epoch_is_followed_and_backfilled(start: StartTarget) -> None:
    target, published = start("some-tags")
    target.reach(published.transaction(tag(1)))
    old = published.records(tag(66))
    published.epoch, published.run = EpochId("99999999"), RunId(5000)
    published.next = Lsn(5000)
    begins = EpochStart(published.epoch, "0a1b2c3d", Lsn(5000), "7", 1, "test")
    at = At(1, published.epoch, RunId(0), 0, Lsn(5000), Lsn(5000))
    record = Record("epoch", published._source(Lsn(5000), ""), at, epoch=begins)
    append(published, (encode_key(""), encode(record)), *old)
    commit = published.transaction(tag(2))
    target.reach(commit)
    assert target.rows("SELECT epoch FROM replicator_streamposition") == [("99999999",)]
    assert target.rows("SELECT generation FROM replicator_subscription") == [(2,)]
    for _ in range(2):
        target.answer(published, target.request(PageRequest), tag(2, op="r"))
    lost = target.request(KeysRequest)
    assert lost.keys == {"public.pages_tag": (("1",),)}
    target.answer(published, lost, change("d", "pages_tag", 1, read=True))
    assert names(target) == ["n2"]


# What the stream cannot go on with


@pytest.mark.parametrize("what", ["garbage", "version"])
def test_a_bad_record_stops_the_stream_behind_what_came_before(
    start: StartTarget, what: str
) -> None:
    target, published = start("pages")
    good = published.records(tag(1))
    key, value = published.records(tag(2))[0]
    bad = b"secret garbage" if what == "garbage" else value.replace(b'"v":1', b'"v":9')
    append(published, *good, (key, bad))
    target.until_stopped("format version 9" if what == "version" else "not in Replicator's format")
    assert "secret" not in target.stopped
    assert target.rows("SELECT stopped_remedy <> '' FROM replicator_streamposition") == [(True,)]
    target.until(lambda: names(target) == ["n1"], "what came whole before it is applied")


def test_an_unknown_column_stops_until_the_table_has_it(start: StartTarget) -> None:
    target, published = start("pages")
    good = published.records(tag(1))
    newer = published.records(tag(2), tag(3))
    append(published, *good, *((k, v.replace(b'"name"', b'"title"')) for k, v in newer))
    target.until_stopped("public.pages_tag has no column 'title'")
    assert "Migrate" in str(target.rows("SELECT stopped_remedy FROM replicator_streamposition"))
    target.until(lambda: names(target) == ["n1"], "what came whole before it is applied")


def test_a_row_that_postgres_refuses_stops_with_its_table(start: StartTarget) -> None:
    target, published = start("pages", prepare="ALTER TABLE pages_tag ALTER name TYPE varchar(5)")
    published.transaction(tag(1, "too long for it"))
    target.until_stopped("Postgres refuses a row of public.pages_tag: StringDataRightTruncation")
    assert "too long" not in target.stopped
    target.execute("ALTER TABLE pages_tag ALTER name TYPE varchar(50)")
    target.until(lambda: not target.stopped, "it goes on by itself")
    assert names(target) == ["too long for it"]


@pytest.mark.parametrize(
    ("prepare", "error"),
    [
        ("CREATE INDEX odd ON pages_page (body)", "ProgramLimitExceeded"),
        (
            "CREATE SEQUENCE odd; CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS $$"
            "BEGIN PERFORM currval('odd'); RETURN new; END$$; CREATE TRIGGER odd BEFORE INSERT "
            "ON pages_page FOR EACH ROW EXECUTE FUNCTION odd()",
            "ObjectNotInPrerequisiteState",
        ),
        (
            "CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS $$"
            "BEGIN RAISE SQLSTATE '53100'; END$$; CREATE TRIGGER odd BEFORE INSERT "
            "ON pages_page FOR EACH ROW EXECUTE FUNCTION odd()",
            "DiskFull",
        ),
    ],
)
def test_an_error_that_stays_is_not_taken_for_a_lost_connection(
    start: StartTarget, prepare: str, error: str
) -> None:
    target, published = start("pages", prepare=prepare)
    big = "".join(hashlib.sha256(str(n).encode()).hexdigest() for n in range(2_000))
    published.transaction(change("c", "pages_page", 1, body=big))
    target.until_stopped(f"Postgres refuses a row of public.pages_page: {error}")


def test_a_limit_that_is_met_beside_the_stream_is_told(
    start: StartTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(cursor: psycopg.Cursor[Any], *_: Any) -> None:
        cursor.execute("SET statement_timeout = 20; SELECT pg_sleep(5)")

    target, published = start("pages")
    target.reach(published.transaction(tag(1)))
    with monkeypatch.context() as patch:
        patch.setattr(worker, "count_wanted", slow)
        with pytest.raises(DatabaseUnavailable, match="statement timeout"):
            target.until(lambda: False, "it is tried again")
    assert "statement timeout" in target.stopped
    target.stop()
    target.start()
    published.transaction(tag(2))
    target.until(lambda: not target.stopped, "what was noted is gone")


def test_a_trigger_finds_what_it_names_without_a_schema(start: StartTarget) -> None:
    target, published = start(
        "pages",
        prepare="CREATE TABLE seen (name text); "
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN INSERT INTO seen VALUES (NEW.name); RETURN NEW; END$$; "
        "CREATE TRIGGER note AFTER INSERT ON pages_tag FOR EACH ROW EXECUTE FUNCTION note()",
    )
    target.reach(published.transaction(change("c", "pages_tag", 1, name="a")))
    assert target.rows("SELECT name FROM seen") == [("a",)]


@pytest.mark.parametrize("error", ["RAISE EXCEPTION 'no'", "PERFORM 1/0"])
def test_a_trigger_that_fails_stops_with_its_table(start: StartTarget, error: str) -> None:
    target, published = start(
        "pages",
        prepare=f"CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {error}; "
        "RETURN new; END$$; CREATE TRIGGER no BEFORE INSERT ON pages_tag FOR EACH ROW "
        "EXECUTE FUNCTION no()",
    )
    published.transaction(tag(1))
    target.until_stopped("Postgres refuses a row of public.pages_tag")
    target.execute("DROP TRIGGER no ON pages_tag")
    target.until(lambda: not target.stopped, "it goes on by itself")
    assert names(target) == ["n1"]


def test_a_row_whose_foreign_key_leads_out_of_the_dataset_waits(start: StartTarget) -> None:
    target, published = start("live-pages")
    target.reach(published.transaction(change("c", "pages_page", 2, parent_id=1)))
    assert target.rows("SELECT id FROM pages_page") == []
    assert target.wanted == []


# Locks


def be_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = worker.connect_target

    def impatient(*arguments: object) -> psycopg.Connection[object]:
        connection = connect(*arguments)  # type: ignore[arg-type]
        connection.execute("SET lock_timeout = '200ms'")
        return connection

    monkeypatch.setattr(worker, "connect_target", impatient)


def test_it_waits_out_locks_of_local_traffic(
    start: StartTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_impatient(monkeypatch)
    tried = worker.Worker._try
    turned, waits = Health.turned, []

    def trying(*arguments: Any) -> object:
        waits.clear()
        try:
            return tried(*arguments)
        finally:
            waits.append("tried")

    monkeypatch.setattr(worker.Worker, "_try", trying)
    monkeypatch.setattr(Health, "turned", lambda health: (turned(health), waits.append("turned")))
    target, published = start("pages")
    with psycopg.connect(target.connection.info.dsn) as local:
        local.execute("LOCK TABLE pages_tag IN SHARE MODE")
        commit = published.transaction(tag(1))
        target.until(lambda: waits[:2] == ["turned"] * 2, "a sign of life with each try")
        assert not target.stopped
    target.reach(commit)
    assert names(target) == ["n1"]


def test_locks_that_stay_are_told(start: StartTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    be_impatient(monkeypatch)
    monkeypatch.setattr(worker, "DEADLOCK_TRIES", 2)
    target, published = start("pages")
    with psycopg.connect(target.connection.info.dsn) as local:
        local.execute("LOCK TABLE pages_tag IN SHARE MODE")
        commit = published.transaction(tag(1))
        with pytest.raises(DatabaseUnavailable, match="lock timeout"):
            target.until(lambda: False, "it is given up for now")
        assert "lock timeout" in target.stopped
        told = target.rows("SELECT stopped_remedy FROM replicator_streamposition")
        assert "pg_blocking_pids" in str(told)
    target.stop()
    target.start()
    target.until(lambda: not target.stopped, "what was noted is gone")
    target.reach(commit)


def test_it_gets_over_a_deadlock(start: StartTarget) -> None:
    target, published = start("pages")
    target.reach(published.transaction(tag(1), change("c", "pages_page", 1)))
    target.execute("ALTER SYSTEM SET deadlock_timeout = '100ms'")
    target.execute("SELECT pg_reload_conf()")
    with psycopg.connect(target.connection.info.dsn) as local:
        local.execute("UPDATE pages_tag SET name = 'local' WHERE id = 1")
        commit = published.transaction(
            change("u", "pages_page", 1, title="new"), tag(1, "theirs", "u")
        )
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND application_name = 'replicator apply' AND datname = current_database()"
        )
        target.until(lambda: target.rows(waiting) == [(1,)], "apply waits for the local row")

        def cross() -> None:
            try:
                local.execute("UPDATE pages_page SET title = 'local' WHERE id = 1")
                local.commit()
            except psycopg.errors.DeadlockDetected:
                local.rollback()

        crossing = threading.Thread(target=cross)
        crossing.start()
        crossing.join(10)
        assert not crossing.is_alive()
    target.reach(commit)
    assert names(target) == ["theirs"]
    assert target.rows("SELECT title FROM pages_page") == [("new",)]


# Subscriptions


@pytest.mark.parametrize("dataset", ["published-polls", "gone-from-the-code"])
def test_what_the_settings_do_not_declare_any_more_rests(start: StartTarget, dataset: str) -> None:
    target, published = start("pages", "published-polls")
    question = change("c", "polls_question", 1, published=True)
    target.reach(published.transaction(question))
    target.stop()
    target.execute(
        f"UPDATE replicator_subscription SET dataset = '{dataset}' "
        "WHERE dataset = 'published-polls'; UPDATE replicator_backfillrun SET state = 'running'"
    )
    both = target.settings
    pages = tuple(s for s in both.subscriptions if s.dataset == "pages")
    target.settings = both.model_copy(update={"subscriptions": pages})
    target.start()
    target.reach(published.transaction(tag(1), change("d", "polls_question", 1)))
    assert names(target) == ["n1"]
    assert target.rows("SELECT id FROM polls_question") == [(1,)]
    assert target.rows('SELECT id FROM replicator."public.polls_question"') == [(1,)]
    assert target.rows(
        "SELECT s.declared, b.state FROM replicator_subscription s "
        "JOIN replicator_backfillrun b ON b.subscription_id = s.id ORDER BY s.id"
    ) == [(True, "running"), (False, "cancelled")]
    target.stop()
    target.settings = both
    target.start()
    target.until(
        lambda: (
            target.rows(
                "SELECT b.reason FROM replicator_subscription s JOIN replicator_backfillrun b "
                "ON b.subscription_id = s.id WHERE s.dataset = 'published-polls' "
                "AND s.declared AND b.state = 'running'"
            )
            == [("subscribed",)]
        ),
        "what is declared again is backfilled",
    )


# Commands beside a worker


def test_an_old_reason_to_stop_does_not_end_a_command(start: StartTarget) -> None:
    target, published = start("pages")
    target.reach(published.transaction(tag(1)))
    target.stop()
    target.execute("UPDATE replicator_streamposition SET stopped_reason = 'Mended by now.'")
    published.transaction(tag(2))

    def look() -> SimpleNamespace:
        ended = names(target) == ["n1", "n2"]
        return SimpleNamespace(done=0, estimated=None, ended=ended, note="")

    with worker_for(target.settings, target.connection, target.place) as must_work:
        assert not target.stopped
        Follower[Any](target.connection, target.place, "Backfill", must_work).follow(look)


def test_two_commands_at_once_follow_the_same_backfill(start: StartTarget) -> None:
    target, _ = start("pages")
    target.stop()
    ((subscription,),) = target.rows("SELECT id FROM replicator_subscription")
    begun: list[tuple[int, bool]] = []
    waiting = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    dsn = target.connection.info.dsn
    with psycopg.connect(dsn, autocommit=True) as one, psycopg.connect(dsn, autocommit=True) as two:
        second = threading.Thread(target=lambda: begun.append(begin_backfill(two, subscription)))
        with one.transaction():
            first = begin_backfill(one, subscription)
            second.start()
            target.until(lambda: target.rows(waiting) == [(1,)], "the second command waits")
        second.join(10)
    assert begun == [(first[0], True)]


def test_reset_state_refuses_while_a_worker_applies(start: StartTarget) -> None:
    target, published = start("pages")
    with pytest.raises(Refused, match="A worker applies stream main of prod"):
        reset_state(target.connection)
    target.reach(published.transaction(tag(1)))


# Backfills


def test_a_page_of_an_old_plan_does_not_turn_the_run(start: StartTarget) -> None:
    target, published = start("some-tags", ready=False)
    target.begin()
    request = target.request(PageRequest)
    stale = Answer("stage", request.id, "0" * 16)
    target.reach(published.transaction(tag(1, op="r"), Change("m", ""), answer=stale))
    assert target.rows("SELECT rule, rows_done FROM replicator_backfillrun") == [(0, 0)]
    assert names(target) == []
    assert fingerprint(request.plan) != "0" * 16


def test_a_page_without_rows_is_not_kept_waiting(
    start: StartTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "QUIET_ADVANCE", 60.0)
    target, published = start("some-tags", ready=False)
    target.begin()
    request = target.request(PageRequest)
    for environment, plan in (("dev", request.plan), ("stage", ())):
        answer = Answer(environment, request.id, fingerprint(plan))
        published.transaction(Change("m", ""), answer=answer)
    target.backfilled(published, (), ())
    assert target.rows("SELECT rows_done FROM replicator_backfillrun") == [(0,)]


def test_pages_go_on_after_a_restart_in_the_middle(start_any: StartTarget) -> None:
    target, published = start_any("some-tags", ready=False)
    target.begin()
    first = target.request(PageRequest)
    assert (first.rule, first.after) == (0, None)
    target.answer(published, first, tag(1, op="r"), tag(2, op="r"), last_key=(2,), estimated=3)
    second = target.request(PageRequest)
    assert (second.rule, second.after) == (0, (2,))
    target.stop()
    target.start()
    again = target.request(PageRequest)
    assert (again.rule, again.after, again.id) == (0, (2,), second.id)
    target.answer(published, again, tag(3, op="r"))
    target.answer(published, target.request(PageRequest), tag(3, op="r"))
    target.until(
        lambda: target.rows("SELECT state FROM replicator_backfillrun") == [("finished",)],
        "the end",
    )
    assert names(target) == ["n1", "n2", "n3"]


def test_only_rows_of_the_rule_count_as_read(start: StartTarget) -> None:
    target, published = start("published-polls", ready=False)
    target.begin()
    user = change("r", "auth_user", 1, username="ann")
    question = change("r", "polls_question", 1, author_id=1, published=True)
    again = change("c", "polls_question", 1, author_id=1, published=True)
    for rows, done in (((user,), 1), ((again, question, user), 2), ((question, user), 3)):
        target.answer(published, target.request(PageRequest), *rows)
        assert target.rows("SELECT rows_done FROM replicator_backfillrun") == [(done,)]


def refill(target: Target) -> None:
    """Begin a backfill as the command does."""
    from replicator_apply.runs import begin_backfill

    ((number,),) = target.rows("SELECT id FROM replicator_subscription")
    begin_backfill(target.connection, number)


def test_a_sweep_deletes_what_the_source_lost_and_refreshes_the_rest(start: StartTarget) -> None:
    target, published = start("some-tags")
    target.reach(published.transaction(tag(1), tag(2), tag(3)))
    refill(target)
    for _ in range(2):
        target.answer(published, target.request(PageRequest), tag(1, op="r"))
    asked = target.request(KeysRequest)
    assert sorted(asked.keys["public.pages_tag"]) == [("2",), ("3",)]
    gone = change("d", "pages_tag", 2, read=True)
    target.answer(published, asked, tag(3, "fresh", "r"), gone)
    target.until(
        lambda: (
            target.rows("SELECT state FROM replicator_backfillrun ORDER BY id DESC LIMIT 1")
            == [("finished",)]
        ),
        "the end",
    )
    assert target.rows(TAGS) == [(1, "n1"), (3, "fresh")]
    assert target.rows(
        'SELECT count(*) FROM replicator."public.pages_tag" r '
        "JOIN replicator_subscription s USING (generation)"
    ) == [(2,)]


def test_suspects_are_counted_as_a_sweep_begins_and_ends_and_told_in_between(
    start: StartTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    count = backfill._count_suspects

    def counted(*arguments: Any) -> int:
        counts.append(count(*arguments))
        return counts[-1]

    monkeypatch.setattr(backfill, "_count_suspects", counted)
    monkeypatch.setattr(backfill.suspects, "__defaults__", (2,))
    target, published = start("some-tags")
    target.reach(published.transaction(*(tag(n) for n in range(1, 8))))
    refill(target)
    for _ in range(2):
        target.answer(published, target.request(PageRequest))
    newest = "SELECT state, suspects FROM replicator_backfillrun ORDER BY id DESC LIMIT 1"
    for left in (7, 5, 3, 1):
        asked = target.request(KeysRequest)
        assert target.rows(newest) == [("running", left)]
        keys = [int(key) for (key,) in asked.keys["public.pages_tag"]]
        assert len(keys) == min(2, left)
        target.answer(published, asked, *(tag(key, op="r") for key in keys))
    target.until(lambda: target.rows(newest)[0][0] == "finished", "the end")
    assert counts == [7, 0]
    assert len(names(target)) == 7


def test_more_suspects_than_the_fuse_allows_wait_for_a_person(start: StartTarget) -> None:
    target, published = start("some-tags", fuse=1)
    target.reach(published.transaction(tag(1), tag(2)))
    refill(target)
    for _ in range(2):
        target.answer(published, target.request(PageRequest))
    newest = "SELECT state, suspects FROM replicator_backfillrun ORDER BY id DESC LIMIT 1"
    target.until(lambda: target.rows(newest) == [("waiting", 2)], "it waits")
    assert names(target) == ["n1", "n2"]
    target.execute(
        "UPDATE replicator_backfillrun SET confirmed = true, state = 'running' "
        "WHERE state = 'waiting'"
    )
    asked = target.request(KeysRequest)
    gone = [change("d", "pages_tag", pk, read=True) for pk in (1, 2)]
    target.answer(published, asked, *gone)
    target.until(lambda: target.rows(newest)[0][0] == "finished", "the end")
    assert names(target) == []


def test_deletes_of_rows_that_are_not_here_are_counted_but_for_those_that_an_answer_repeats(
    start: StartTarget,
) -> None:
    labels = {"source": "prod", "stream": "main", "table": "public.pages_tag"}

    def absent() -> float:
        return REGISTRY.get_sample_value(metrics.ABSENT.name, labels) or 0

    before = absent()
    target, published = start("pages")
    target.reach(published.transaction(tag(1), tag(2), tag(3)))
    target.reach(published.transaction(tag(1, op="d"), tag(9, op="d")))
    target.until(lambda: absent() == before + 1, "counted")
    target.reach(published.transaction(change("u", "pages_page", 5, unchanged=("body",))))
    asked = target.request(KeysRequest)
    page = change("r", "pages_page", 5)
    target.answer(published, asked, page, tag(1, op="d"), tag(2, op="d"))
    target.reach(published.transaction(tag(8, op="d")))
    target.until(lambda: absent() >= before + 2, "counted")
    assert absent() == before + 2
    assert target.rows(TAGS) == [(3, "n3")]


# Tables that change under the worker


@pytest.mark.parametrize(
    ("change_table", "mend", "reason"),
    [
        (
            "ALTER TABLE pages_tag RENAME TO pages_label",
            "ALTER TABLE pages_label RENAME TO pages_tag",
            "Table public.pages_tag does not exist",
        ),
        (
            "ALTER TABLE pages_tag DROP COLUMN name",
            "ALTER TABLE pages_tag ADD COLUMN name varchar(50)",
            "lacks the column(s) name",
        ),
    ],
)
def test_it_stands_while_a_table_is_not_what_it_was(
    start: StartTarget, change_table: str, mend: str, reason: str
) -> None:
    target, published = start("pages")
    target.reach(published.transaction(tag(1)))
    target.execute(change_table)
    commit = published.transaction(tag(2))
    target.until_stopped(reason)
    ((remedy,),) = target.rows("SELECT stopped_remedy FROM replicator_streamposition")
    assert "migrate" in remedy
    target.execute(mend)
    target.until(lambda: target.stopped == "", "goes on")
    target.reach(commit)
    assert (2, "n2") in target.rows(TAGS)


# A batch that is written aside while the next one is read


@pytest.fixture
def aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write every batch aside, and begin one at every record."""
    monkeypatch.setattr(pipeline, "ASIDE_ROWS", 1)
    monkeypatch.setattr(consume, "BATCH_ROWS", 1)


@pytest.mark.usefixtures("aside")
def test_the_next_batch_is_read_while_one_is_written(
    start: StartTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, published = start("pages")
    target.reach(published.transaction(tag(1)))
    going, read, apply, feed = threading.Event(), threading.Event(), Applier.apply, Consumer.feed

    def slow(applier: Applier, *arguments: Any) -> Any:
        assert read.wait(20), "nothing was read meanwhile"
        return apply(applier, *arguments)

    def noted(consumer: Consumer, *arguments: Any) -> Any:
        if going.is_set():
            read.set()
        return feed(consumer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Applier, "apply", slow)
        patch.setattr(Consumer, "feed", noted)
        published.transaction(tag(2))
        target.until(lambda: bool(threads("write")), "it is written")
        going.set()
        target.reach(published.transaction(tag(3)))
    assert names(target) == ["n1", "n2", "n3"]


def threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


@pytest.mark.usefixtures("aside")
def test_what_follows_a_batch_that_fails_is_not_applied(start: StartTarget) -> None:
    target, published = start("pages")
    target.reach(published.transaction(tag(1)))
    target.execute("ALTER TABLE pages_tag ADD CONSTRAINT no CHECK (id <> 2)")
    for pk in (2, 3, 4):
        published.transaction(tag(pk))
    target.until_stopped("Postgres refuses a row of public.pages_tag")
    assert names(target) == ["n1"]
    target.execute("ALTER TABLE pages_tag DROP CONSTRAINT no")
    target.until(lambda: names(target) == ["n1", "n2", "n3", "n4"], "it goes on where it stood")


@pytest.mark.usefixtures("aside")
def test_it_stops_only_when_what_it_writes_is_written(
    start: StartTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, published = start("pages")
    target.reach(published.transaction(tag(1)))
    begun, apply = threading.Event(), Applier.apply

    def slow(applier: Applier, *arguments: Any) -> Any:
        begun.set()
        time.sleep(0.5)
        return apply(applier, *arguments)

    monkeypatch.setattr(Applier, "apply", slow)
    published.transaction(tag(2))
    assert begun.wait(20)
    target.stop()
    assert names(target) == ["n1", "n2"]
    assert not target.failures
