"""`replicator status` on a real database and a sqlite log, on both sides."""

import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from django.conf import settings as django_settings
from rich.console import Console

from replicator.cli.status import age, as_json, gather, show, size
from replicator.compiler import releases
from replicator.log.port import open_log
from replicator.requests import Report, ReportedError, encode
from replicator.settings import ReplicatorSettings, requests_topic, stream_topic
from replicator.status import SourceStream, Status, TargetReport
from replicator_apply.lock import try_lock
from replicator_apply.state import Place
from replicator_capture import prepare
from tests.conftest import SampleFactory
from tests.support.sample.environments import django_database
from tests.support.wait import until


@pytest.fixture
def conninfo(sample_database: SampleFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    made = sample_database()
    monkeypatch.setattr(django_settings, "DATABASES", {"default": django_database(made)})
    return made


def settings(tmp_path: Path, **more: object) -> ReplicatorSettings:
    log = f"sqlite:///{tmp_path}/log.sqlite3"
    return ReplicatorSettings.model_validate({"ENVIRONMENT": "here", "LOG": log, **more})


def text_of(status) -> str:
    console = Console(width=120, highlight=False, record=True, file=io.StringIO())
    show(status, console)
    return console.export_text()


def test_neither_source_nor_target(conninfo: str, tmp_path: Path) -> None:
    status = gather(settings(tmp_path))
    assert (status.source, status.target) == ((), ())
    assert "neither publishes" in text_of(status)


def test_a_source_before_its_first_start(conninfo: str, tmp_path: Path) -> None:
    status = gather(settings(tmp_path, TARGETS={"there": ["*"]}))
    (stream,) = status.source
    assert stream.slot == ""
    assert stream.targets[0].age is None
    assert [problem.what for _, problem in status.problems()] == [
        "Capture has not begun: there is no slot."
    ]
    assert "→ Run `replicator capture`." in text_of(status)


def test_a_source_with_slot_and_reports(conninfo: str, tmp_path: Path) -> None:
    wanted = settings(tmp_path, TARGETS={"there": ["*"], "silent": ["*"]})
    log = open_log(wanted.log)
    topics = {name: requests_topic("here", "main", name) for name in wanted.targets}
    for topic in (stream_topic("here", "main"), *topics.values()):
        log.create(topic)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_create_logical_replication_slot('replicator_main__0123abcd', 'pgoutput')"
        )
        row = connection.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
        assert row is not None
        prepare.run(connection, prepare.statements(connection, "main", releases("main")))
        connection.execute("CREATE TABLE more AS SELECT generate_series(1, 1000)")
    error = ReportedError(error="Clash", message="A local row is in the way.", remedy="Remove it.")
    reports = {
        "there": Report(
            target="there",
            at_ms=round(time.time() * 1000),
            epoch="0123abcd",
            next=int(row[0]),
            lag_s=0.5,
            counts={"rows": 7},
            errors=(error,),
        ),
        "silent": Report(target="silent", at_ms=round((time.time() - 300) * 1000)),
    }
    for name, report in reports.items():
        writer = log.writer(topics[name])
        writer.append([(b"k", b"garbage"), (b"k", encode(report)), (b"k", b"garbage")], None)
        writer.close(5)
    status = gather(wanted)
    (stream,) = status.source
    assert (stream.slot, stream.epoch) == ("replicator_main__0123abcd", "0123abcd")
    assert stream.behind is not None
    assert stream.behind > 10_000
    silent, there = stream.targets
    assert there.age is not None
    assert there.age < 60
    assert there.behind is not None
    assert 10_000 < there.behind < 10_000_000
    assert there.counts == {"rows": 7}
    assert silent.age == pytest.approx(300, abs=60)
    found = {(where, problem.what.split(" for")[0]) for where, problem in status.problems()}
    assert found == {
        ("stream main", "No capture streams from the slot."),
        ("target there", "A local row is in the way."),
        ("target silent", "It has not reported"),
    }
    text = text_of(status)
    for part in ("rows 7", "→ Remove it.", "replicator.here.main, offsets", "0.5 s"):
        assert part in text
    document = json.loads(as_json(status))
    assert document["source"][0]["targets"][1]["counts"] == {"rows": 7}
    assert len(document["problems"]) == 3


TARGET_STATE = """
INSERT INTO replicator_streamposition
    (environment, source, stream, epoch, next_lsn, log_offset, committed_at, source_report,
     source_report_at)
VALUES ('here', 'prod', 'main', '0123abcd', 4294967296 + 255, 42, now() - interval '3 seconds',
        '{"wal_status": "reserved"}', now() - interval '5 seconds');
INSERT INTO replicator_subscription
    (id, source, stream, dataset, arguments, fingerprint, generation, declared)
VALUES (1, 'prod', 'main', 'polls', '3,4', 'f', 2, true),
       (2, 'prod', 'main', 'all', '', 'f', 1, true);
INSERT INTO replicator_backfillrun (subscription_id, generation, reason, state, rows_done,
    rows_estimated, suspects)
VALUES (1, 2, 'command', 'waiting', 10, 12, 5000);
INSERT INTO replicator_wantedrow (source, stream, table_name, row_key, reason)
VALUES ('prod', 'main', 'public.polls_question', '[1]', 'incomplete');
CREATE SCHEMA IF NOT EXISTS replicator;
CREATE TABLE replicator.one (id bigint, subscription_id int, generation int);
CREATE TABLE replicator.two (id bigint, subscription_id int, generation int);
INSERT INTO replicator.one SELECT n, 1, 1 FROM generate_series(1, 5) n;
INSERT INTO replicator.two SELECT n, 1 + n % 2, 1 FROM generate_series(1, 4) n;
"""

HELD = [{"source": "prod", "dataset": "polls:3,4"}, {"source": "prod", "dataset": "all"}]


@contextmanager
def working(conninfo: str, source: str = "prod") -> Iterator[None]:
    """Hold the lock that a worker has."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        # Postgres may need a moment to end the session that held it before.
        until(lambda: try_lock(connection, Place(source, "main")), lambda: "it is still held")
        yield


def test_a_target(conninfo: str, tmp_path: Path) -> None:
    with psycopg.connect(conninfo) as connection:
        connection.execute(TARGET_STATE)
    wanted = settings(tmp_path, SUBSCRIPTIONS=[*HELD, {"source": "other", "dataset": "x"}])
    with working(conninfo):
        status = gather(wanted)
    other, prod = status.target
    assert (other.source, other.active, prod.active) == ("other", False, True)
    assert other.problems[0].what == "No apply worker runs here. It has not begun."
    assert (prod.position, prod.epoch, prod.log_offset) == ("1/FF", "0123abcd", 42)
    assert prod.commit_age == pytest.approx(3, abs=2)
    assert prod.wanted == 1
    assert prod.source_report == {"wal_status": "reserved"}
    assert [(held.dataset, held.rows) for held in prod.subscriptions] == [
        ("polls:3,4", 7),
        ("all", 2),
    ]
    (problem,) = prod.problems
    assert problem.what.endswith("of polls:3,4 would delete 5,000 rows.")
    assert "replicator confirm" in problem.remedy
    text = text_of(status)
    assert "waiting (command), 10 of about 12 rows" in text
    assert "1/FF of epoch 0123abcd" in text


def test_a_target_that_stopped_or_stands_still(conninfo: str, tmp_path: Path) -> None:
    with psycopg.connect(conninfo) as connection:
        connection.execute(TARGET_STATE)
        connection.execute("DELETE FROM replicator_backfillrun")
    with working(conninfo):
        assert not any(gather(settings(tmp_path, SUBSCRIPTIONS=HELD)).problems())
    with psycopg.connect(conninfo) as connection:
        connection.execute(
            "UPDATE replicator_streamposition SET applied_at = now() - interval '10 minutes'"
        )
    with working(conninfo):
        ((_, still),) = gather(settings(tmp_path, SUBSCRIPTIONS=HELD)).problems()
    assert still.what.startswith("Nothing has been applied for 600 s")
    assert "`replicator capture` runs in prod" in still.remedy
    with psycopg.connect(conninfo) as connection:
        connection.execute(
            "UPDATE replicator_streamposition SET stopped_reason = 'A hole.', stopped_remedy = 'R.'"
        )
    with working(conninfo):
        ((where, stopped),) = gather(settings(tmp_path, SUBSCRIPTIONS=HELD)).problems()
    assert (where, stopped.what, stopped.remedy) == ("source prod, stream main", "A hole.", "R.")


def test_a_target_without_a_worker(conninfo: str, tmp_path: Path) -> None:
    with psycopg.connect(conninfo) as connection:
        connection.execute(TARGET_STATE)
        connection.execute("DELETE FROM replicator_backfillrun")
    with working(conninfo, "elsewhere"):
        status = gather(settings(tmp_path, SUBSCRIPTIONS=HELD))
    ((where, problem),) = status.problems()
    assert (where, problem.what) == ("source prod, stream main", "No apply worker runs here.")
    assert problem.remedy == "Run `replicator apply`."
    assert "not active" in text_of(status)


def test_a_target_that_is_a_copy(conninfo: str, tmp_path: Path) -> None:
    with psycopg.connect(conninfo) as connection:
        connection.execute(TARGET_STATE)
        connection.execute("DELETE FROM replicator_backfillrun")
    copy = settings(tmp_path, SUBSCRIPTIONS=HELD, ENVIRONMENT="copy")
    ((_, problem),) = gather(copy).problems()
    assert "written by environment 'here'" in problem.what
    assert "reset-state" in problem.remedy


def test_a_target_that_waits_for_capture(conninfo: str, tmp_path: Path) -> None:
    with working(conninfo):
        ((_, problem),) = gather(settings(tmp_path, SUBSCRIPTIONS=HELD)).problems()
    assert problem.what == "Apply runs, and has not begun: nothing has come from prod yet."
    assert problem.remedy.startswith("Start `replicator capture` in prod")


def test_a_backfill_that_the_source_does_not_answer(conninfo: str, tmp_path: Path) -> None:
    with psycopg.connect(conninfo) as connection:
        connection.execute(TARGET_STATE)
        connection.execute(
            "UPDATE replicator_backfillrun SET state = 'running', "
            "updated_at = now() - interval '5 minutes'"
        )
    with working(conninfo):
        ((_, silent),) = gather(settings(tmp_path, SUBSCRIPTIONS=HELD)).problems()
    assert "of polls:3,4 has had no answer for 300 s" in silent.what
    assert "TARGETS" in silent.remedy
    with psycopg.connect(conninfo) as connection:
        connection.execute("UPDATE replicator_backfillrun SET note = 'Not so.'")
    with working(conninfo):
        ((_, refused),) = gather(settings(tmp_path, SUBSCRIPTIONS=HELD)).problems()
    assert refused.what.endswith("of polls:3,4: Not so.")


def test_a_subscription_that_is_not_declared_any_more(conninfo: str, tmp_path: Path) -> None:
    with psycopg.connect(conninfo) as connection:
        connection.execute(TARGET_STATE)
    with working(conninfo):
        ((_, problem),) = gather(settings(tmp_path, SUBSCRIPTIONS=HELD[1:])).problems()
    assert problem.what == (
        "Subscription polls:3,4 is not declared any more; its rows stay as they are."
    )


def test_words() -> None:
    assert [size(n) for n in (None, 0, 1023, 1024, 5 * 2**30)] == [
        "unknown",
        "0 B",
        "1,023 B",
        "1 KiB",
        "5 GiB",
    ]
    assert [age(n) for n in (None, 1, 600, 36_000)] == [
        "never",
        "1.0 s ago",
        "10 min ago",
        "10 h ago",
    ]


def test_the_source_is_silent_since_its_last_answer(conninfo: str, tmp_path: Path) -> None:
    subscribed = [{"source": "prod", "dataset": "polls:3,4"}, {"source": "prod", "dataset": "all"}]
    wanted = settings(tmp_path, SUBSCRIPTIONS=subscribed)
    silent = "1 row is wanted, and the source has not answered for"
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(TARGET_STATE)
        connection.execute("UPDATE replicator_wantedrow SET created_at = now() - interval '235 s'")
        assert f"{silent} 235 s." in text_of(gather(wanted))
        answered = "UPDATE replicator_streamposition SET wanted_answered_at = now() - interval "
        connection.execute(f"{answered} '200 s'")
        assert f"{silent} 200 s." in text_of(gather(wanted))
        connection.execute(f"{answered} '1 s'")
        assert silent not in text_of(gather(wanted))


@pytest.mark.parametrize(("lag", "told"), [(3.0, ""), (111.0, "; target there is 111 s behind")])
def test_a_target_that_is_behind_is_named(lag: float, told: str) -> None:
    report = TargetReport("there", age=1.0, lag=lag)
    status = Status("here", (SourceStream("main", targets=(report,)),))
    assert text_of(status).endswith(f"✔ everything runs{told}\n")
