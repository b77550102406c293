"""The product as users run it: two environments of the sample project, commands as processes."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import SampleFactory, StartProcess
from tests.support.kafka import KafkaBroker
from tests.support.processes import Process, wait_until
from tests.support.sample.environments import environment

TAGS = "SELECT id, name FROM pages_tag WHERE id < 10 OR name LIKE 'a%' ORDER BY id"
LAST_RUN = "SELECT state, rows_done FROM replicator_backfillrun ORDER BY id DESC LIMIT 1"


class Site:
    """One environment: its database, and its commands as processes."""

    def __init__(self, start: StartProcess, conninfo: str, replicator: dict[str, object]) -> None:
        self._start = start
        self._environment = environment(conninfo, replicator)
        self.database = psycopg.connect(conninfo, autocommit=True)

    def configure(self, *, add_path: str, **variables: str) -> None:
        """Have commands started with other environment variables, and a folder to import from."""
        path = os.pathsep.join([add_path, *filter(None, sys.path)])
        self._environment = {**self._environment, **variables, "PYTHONPATH": path}

    def start(self, *command: str, log: str = "") -> Process:
        """Start a command."""
        return self._start("replicator", *command, env=self._environment, log=log)

    def run(self, *command: str, code: int = 0, seconds: float = 60) -> str:
        """Run a command to its end and give what it printed."""
        process = self.start(*command)
        found = process.wait(seconds)
        assert found == code, process.failure(f"ended with {found} instead of {code}")
        return process.output()

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        return self.database.execute(statement).fetchall()

    def execute(self, statement: str) -> None:
        self.database.execute(statement)


class Pair:
    """A source and a target that subscribes to `some-tags`."""

    def __init__(
        self, start: StartProcess, database: SampleFactory, log: str, **subscription: object
    ) -> None:
        source = {"ENVIRONMENT": "prod", "LOG": log, "TARGETS": {"stage": ["*"]}}
        subscribed = {"source": "prod", "dataset": "some-tags", **subscription}
        target = {"ENVIRONMENT": "stage", "LOG": log, "SUBSCRIPTIONS": [subscribed]}
        self.log = log
        self.prod = Site(start, database("prod"), source)
        self.stage = Site(start, database("stage"), target)

    def close(self) -> None:
        self.prod.database.close()
        self.stage.database.close()

    def until_backfilled(self) -> None:
        """Wait until the target's newest backfill is through."""

        def finished() -> bool:
            found = self.stage.rows(LAST_RUN)
            return bool(found) and found[0][0] == "finished"

        wait_until(finished, 60, "the backfill is finished")

    def until_equal(self, seconds: float = 30) -> None:
        """Wait until the target has what the dataset says."""
        wait_until(
            lambda: self.stage.rows(TAGS) == self.prod.rows(TAGS), seconds, "both sides are equal"
        )


@pytest.fixture
def pair(
    process: StartProcess, sample_database: SampleFactory, tmp_path: Path
) -> Iterator[Callable[..., Pair]]:
    """Make a source and a target; no daemon runs yet."""
    made: list[Pair] = []

    def make(log: str = f"sqlite:///{tmp_path}/log.sqlite3", **subscription: object) -> Pair:
        made.append(Pair(process, sample_database, log, **subscription))
        return made[-1]

    yield make
    for each in made:
        each.close()


def many(site: Site, count: int = 60_000) -> None:
    """Fill the source, so that a backfill has some pages."""
    site.execute(f"INSERT INTO pages_tag (name) SELECT 'a' || n FROM generate_series(1, {count}) n")


def use(both: Pair) -> None:
    """Go through the life of rows with both daemons, and end them as a supervisor does."""
    both.prod.execute("INSERT INTO pages_tag (name) VALUES ('before')")
    capture, apply = both.prod.start("capture"), both.stage.start("apply")
    both.until_backfilled()
    both.prod.execute("INSERT INTO pages_tag (name) VALUES ('after'), ('apple')")
    both.prod.execute("UPDATE pages_tag SET name = 'changed' WHERE name = 'before'")
    both.prod.execute("DELETE FROM pages_tag WHERE name = 'after'")
    wait_until(
        lambda: [name for _, name in both.stage.rows(TAGS)] == ["changed", "apple"],
        30,
        "every change arrives",
    )
    told = both.stage.run("verify", "--dataset", "some-tags")
    assert "0 missing, 0 extra, 0 different" in told
    for daemon in (capture, apply):
        began = time.monotonic()
        assert daemon.terminate(10) == 0, daemon.failure("did not end well")
        assert time.monotonic() - began < 5


def test_rows_flow_between_two_environments(pair: Callable[..., Pair]) -> None:
    use(pair())


def test_rows_flow_on_kafka(pair: Callable[..., Pair], kafka: KafkaBroker) -> None:
    use(pair(kafka.url))


def test_verify_finds_just_what_differs_and_backfill_repairs_it(
    pair: Callable[..., Pair],
) -> None:
    both = pair()
    both.prod.execute("INSERT INTO pages_tag (name) SELECT 'a' || n FROM generate_series(1, 50) n")
    both.prod.start("capture")
    both.stage.start("apply")
    both.until_backfilled()
    both.stage.execute("UPDATE pages_tag SET name = 'abroad' WHERE id = 11")
    both.stage.execute("DELETE FROM pages_tag WHERE id = 12")
    both.stage.execute("INSERT INTO pages_tag (id, name) VALUES (500, 'axtra'), (501, 'alocal')")
    both.stage.execute(
        'INSERT INTO replicator."public.pages_tag" '
        "SELECT 500, id, generation FROM replicator_subscription"
    )
    found = both.stage.run("verify", "--dataset", "some-tags", code=1)
    assert "1 missing, 1 extra, 1 different" in found
    assert re.findall(r"(missing|extra|different) +public\.pages_tag \[\"(\d+)\"\]", found) == [
        ("different", "11"),
        ("missing", "12"),
        ("extra", "500"),
    ]
    would = both.stage.run("backfill", "--dataset", "some-tags", "--dry-run", code=1)
    assert "insert 1, update 1 and delete 1" in would
    assert both.stage.rows("SELECT count(*) FROM replicator_backfillrun") == [(1,)]
    assert "Complete" in both.stage.run("backfill", "--dataset", "some-tags")
    both.stage.run("verify", "--dataset", "some-tags")
    assert both.stage.rows("SELECT name FROM pages_tag WHERE id > 100") == [("alocal",)]


@pytest.mark.parametrize("on_clash", ["refuse", "adopt"])
def test_a_dry_run_tells_of_local_rows_before_anything_is_written(
    pair: Callable[..., Pair], on_clash: str
) -> None:
    both = pair(on_clash=on_clash)
    both.prod.execute(
        "INSERT INTO pages_tag (id, name) SELECT n, 'a' || n FROM generate_series(101, 150) n"
    )
    both.stage.execute("INSERT INTO pages_tag (id, name) VALUES (107, 'amine'), (108, 'a108')")
    both.prod.start("capture")
    would = both.stage.run("backfill", "--dataset", "some-tags", "--dry-run", code=1)
    assert "insert 48, update 0 and delete 0" in would
    assert "adopt 2 local rows" in would if on_clash == "adopt" else "2 local rows stand" in would
    assert re.findall(r"local +public\.pages_tag \[\"(\d+)\"\]", would) == ["107", "108"]
    both.prod.execute("INSERT INTO pages_tag (id, name) VALUES (200, 'a200')")
    would = both.stage.run("backfill", "--dataset", "some-tags", "--dry-run", code=1)
    assert "compares, and applies nothing" in would
    assert "insert 49, update 0 and delete 0" in would
    assert both.stage.rows("SELECT count(*) FROM pages_tag") == [(2,)]
    if on_clash == "adopt":
        assert "Complete" in both.stage.run("backfill", "--dataset", "some-tags")
        both.until_equal()
    else:
        stopped = both.stage.run("backfill", "--dataset", "some-tags", code=3)
        assert "Clash" in stopped or "local row(s)" in stopped


def test_ctrl_c_pauses_a_backfill_and_the_same_command_resumes_it(
    pair: Callable[..., Pair],
) -> None:
    both = pair()
    many(both.prod)
    both.prod.start("capture")
    # No apply runs: the command applies the stream meanwhile.
    first = both.stage.start("backfill", "--dataset", "some-tags")
    wait_until(lambda: pages_done(both) > 0, 60, "the first page is here")
    first.send(signal.SIGINT)
    assert first.wait(30) == 1, first.failure("did not pause")
    assert "is paused; `replicator backfill some-tags` goes on with it" in first.output()
    state, done = both.stage.rows(LAST_RUN)[0]
    assert state == "paused"
    last = both.stage.run("backfill", "--dataset", "some-tags")
    assert re.search(r"Going on with run 1\.", last)
    assert "Complete" in last
    assert both.stage.rows("SELECT count(*) FROM replicator_backfillrun") == [(1,)]
    assert both.stage.rows(LAST_RUN)[0][1] > done
    both.until_equal()


def pages_done(both: Pair) -> int:
    try:
        found = both.stage.rows(LAST_RUN)
    except psycopg.errors.UndefinedTable:
        return 0
    return int(found[0][1]) if found else 0


@pytest.mark.parametrize("victim", ["capture", "apply"])
def test_a_backfill_survives_the_death_of_a_daemon(pair: Callable[..., Pair], victim: str) -> None:
    both = pair()
    many(both.prod)
    daemons = {"capture": both.prod.start("capture"), "apply": both.stage.start("apply")}
    wait_until(lambda: pages_done(both) > 0, 60, "the first page is here")
    daemons[victim].kill9()
    assert both.stage.rows(LAST_RUN)[0][0] == "running"
    both.prod.execute("UPDATE pages_tag SET name = 'b' || name WHERE id % 1000 = 0")
    (both.prod if victim == "capture" else both.stage).start(victim)
    both.until_backfilled()
    both.until_equal()


def test_a_blown_fuse_waits_for_confirm(pair: Callable[..., Pair]) -> None:
    both = pair(fuse=1)
    both.prod.execute("INSERT INTO pages_tag (name) VALUES ('one')")
    both.prod.start("capture")
    both.stage.start("apply")
    both.until_backfilled()
    both.stage.execute(
        "INSERT INTO pages_tag (id, name) SELECT n, 'a' || n FROM generate_series(51, 53) n"
    )
    both.stage.execute(
        'INSERT INTO replicator."public.pages_tag" '
        "SELECT n, id, generation FROM replicator_subscription, generate_series(51, 53) n"
    )
    told = both.stage.run("backfill", "--dataset", "some-tags", code=1)
    assert "would ask for 3 rows" in told
    command = re.search(r"replicator confirm (\d+)", told)
    assert command
    assert both.stage.rows("SELECT count(*) FROM pages_tag") == [(4,)]
    look = re.search(r"replicator (verify some-tags --source prod)\n", told)
    assert look
    assert "0 missing, 3 extra" in both.stage.run(*look[1].split(), code=1)
    assert "goes on" in both.stage.run("confirm", command[1])
    both.until_backfilled()
    assert both.stage.rows("SELECT name FROM pages_tag") == [("one",)]
    assert "No run" in both.stage.run("confirm", command[1], code=1)


def test_a_second_apply_stands_by_and_takes_over(pair: Callable[..., Pair]) -> None:
    both = pair()
    both.prod.start("capture")
    first = both.stage.start("apply")
    both.until_backfilled()
    second = both.stage.start("apply")
    second.wait_for_output("standing by")
    first.kill9()
    both.prod.execute("INSERT INTO pages_tag (name) VALUES ('one')")
    both.until_equal()
    assert second.terminate(10) == 0, second.failure("did not end well")


def test_status_and_check_tell_of_both_sides(pair: Callable[..., Pair]) -> None:
    both = pair()
    both.prod.start("capture")
    apply = both.stage.start("apply")
    both.until_backfilled()

    def lags() -> list[object]:
        told = json.loads(both.prod.run("status", "--json"))
        return [report["lag"] for stream in told["source"] for report in stream["targets"]]

    wait_until(lambda: lags() == [0.0], 20, "an idle target that has everything lags by nothing")
    source = json.loads(both.prod.run("status", "--json"))
    target = json.loads(both.stage.run("status", "--json"))
    assert (source["environment"], target["environment"]) == ("prod", "stage")
    assert "some-tags" in json.dumps(target)
    for site in (both.prod, both.stage):
        assert site.run("status")
        assert "E1" not in site.run("check")
    apply.kill9()
    assert "No apply worker runs here." in both.stage.run("status", code=1)


def test_explain_and_why_tell_what_a_dataset_and_a_row_are(pair: Callable[..., Pair]) -> None:
    both = pair()
    both.prod.execute("INSERT INTO pages_tag (name) VALUES ('apple'), ('abacus')")
    both.prod.execute("INSERT INTO pages_tag (id, name) VALUES (99, 'other')")
    both.prod.start("capture")
    both.stage.start("apply")
    both.until_backfilled()
    both.stage.execute("INSERT INTO pages_tag (id, name) VALUES (500, 'local')")
    told = both.prod.run("explain", "--dataset", "some-tags")
    assert "Rows pages.Tag where name starts with 'a'" in told
    assert re.search(r"rows that belong\npages\.Tag .* 2\n", told)
    told = both.stage.run("explain", "--dataset", "some-tags", "--json")
    counts = [{"of": "held from prod", "rows": {"pages.Tag": 2}}]
    assert json.loads(told.splitlines()[-1])["counts"] == counts
    assert "flowchart TD" in both.stage.run("explain", "--dataset", "some-tags", "--mermaid")
    assert "There is no dataset" in both.stage.run("explain", "--dataset", "nothing", code=2)
    assert "✔ Rows where name starts with 'a'" in both.stage.run("why", "pages.Tag", "1")
    assert "is not here" in both.stage.run("why", "pages.Tag", "99", code=1)
    assert "is a local row" in both.stage.run("why", "pages.tag", "500", code=1)
    assert "This is no key" in both.stage.run("why", "pages.Tag", "x", code=2)


NAMES = "SELECT name FROM pages_tag ORDER BY name"


def test_the_latest_rows_are_chosen_again_and_again(pair: Callable[..., Pair]) -> None:
    both = pair(dataset="newest-tags")
    both.prod.execute("INSERT INTO pages_tag (name) VALUES ('b'), ('d'), ('a'), ('c')")
    both.prod.start("capture")
    apply = both.stage.start("apply")
    both.until_backfilled()

    def here() -> str:
        return "".join(name for (name,) in both.stage.rows(NAMES))

    assert here() == "bcd"
    both.prod.execute("INSERT INTO pages_tag (name) VALUES ('e'), ('f')")
    wait_until(lambda: here() == "def", 20, "the next time others are the latest")
    reasons = "SELECT DISTINCT reason FROM replicator_backfillrun ORDER BY 1"
    assert both.stage.rows(reasons) == [("scheduled",), ("subscribed",)]
    # Nobody need be told that it is under way.
    told = json.loads(both.stage.run("status", "--json"))
    assert [stream["problems"] for stream in told["target"]] == [[]]
    assert told["target"][0]["subscriptions"][0]["chosen_age"] < 60
    assert re.search(r"chosen +\d", both.stage.run("status"))
    both.prod.execute("DELETE FROM pages_tag WHERE name = 'f'")
    wait_until(lambda: here() == "cde", 20, "another one takes its place")
    assert "0 missing, 0 extra, 0 different" in both.stage.run("verify", "--dataset", "newest-tags")
    apply.kill9()
    both.prod.execute("INSERT INTO pages_tag (name) VALUES ('g')")
    both.prod.execute("UPDATE pages_tag SET name = 'a0' WHERE name = 'd'")
    both.stage.start("apply")
    wait_until(lambda: here() == "ceg", 30, "a schedule outlives its worker")
    told = both.prod.run("explain", "--dataset", "newest-tags")
    assert "Rows pages.Tag (the 3 latest by name)" in told
    assert re.search(r"rows that belong\npages\.Tag .* 3\n", told)
    assert "(the 3 latest by name)" in both.stage.run("why", "pages.Tag", "1", code=1)


def test_a_sample_stays_the_same_and_a_backfill_draws_it_anew(pair: Callable[..., Pair]) -> None:
    both = pair(dataset="a-few-tags")
    both.prod.execute("INSERT INTO pages_tag (name) SELECT 'a' || n FROM generate_series(1, 40) n")
    both.prod.start("capture")
    both.stage.start("apply")
    both.until_backfilled()
    before = both.stage.rows(TAGS)
    assert len(before) == 3
    both.prod.execute("UPDATE pages_tag SET name = name || '!'")
    both.prod.execute(f"DELETE FROM pages_tag WHERE id = {before[0][0]}")
    kept = [(number, f"{name}!") for number, name in before[1:]]
    wait_until(lambda: both.stage.rows(TAGS) == kept, 20, "rows of the sample are followed")
    told = both.stage.run("verify", "--dataset", "a-few-tags", code=1)
    assert "1 missing, 0 extra, 0 different" in told
    assert "chooses rows of it every 1 day" in told
    would = both.stage.run("backfill", "--dataset", "a-few-tags", "--dry-run", code=1)
    assert "insert 1, update 0 and delete 0 of 3 rows" in would
    assert "Complete: 3 rows held of a-few-tags." in both.stage.run(
        "backfill", "--dataset", "a-few-tags"
    )
    after = both.stage.rows(TAGS)
    assert len(after) == 3
    assert set(kept) < set(after)
    both.stage.run("verify", "--dataset", "a-few-tags")


def test_prepare_prints_or_does_what_needs_privileges(pair: Callable[..., Pair]) -> None:
    both = pair()
    assert "CREATE PUBLICATION" in both.prod.run("prepare", "source", "--sql")
    assert both.prod.rows("SELECT count(*) FROM pg_publication") == [(0,)]
    printed = both.stage.run("prepare", "target", "--sql")
    assert 'CREATE TABLE "replicator"."public.pages_tag"' in printed
    assert both.stage.rows("SELECT to_regnamespace('replicator')") == [(None,)]
    both.prod.run("prepare", "source")
    both.stage.run("prepare", "target")
    assert both.prod.rows("SELECT count(*) FROM pg_publication") == [(1,)]
    assert both.stage.rows("SELECT to_regclass('replicator.\"public.pages_tag\"') IS NULL") == [
        (False,)
    ]
    assert "CREATE" not in both.stage.run("prepare", "target", "--sql")


def test_what_the_source_refuses_is_told_and_waits(pair: Callable[..., Pair]) -> None:
    both = pair()
    slip = both.stage.run("subscribe", "polls-by-id:3", "--source", "produ", code=2)
    assert "The log has nothing of an environment 'produ'" in slip
    assert "The sources of other subscriptions are: prod." in slip
    assert both.stage.rows("SELECT count(*) FROM replicator_subscription") == [(0,)]
    few = {"ENVIRONMENT": "prod", "LOG": both.log, "TARGETS": {"stage": ["some-tags"]}}
    both.prod.configure(add_path="", SAMPLE_REPLICATOR=json.dumps(few))
    both.prod.start("capture")
    both.stage.start("apply")
    both.until_backfilled()
    refused = "The source refuses polls-by-id:3: TARGETS does not allow stage the dataset"
    told = both.stage.run("subscribe", "polls-by-id:3", code=3)
    assert f"{refused} polls-by-id. polls-by-id:3 is subscribed to, and waits." in told
    assert "add the dataset to TARGETS in the source's settings and restart capture" in told
    status = both.stage.run("status", code=1)
    assert status.count("TARGETS does not allow") == 1
    assert status.count("add the dataset to TARGETS") == 1
    would = both.stage.run("subscribe", "polls-by-id:4", "--dry-run", code=3)
    assert "add the dataset to TARGETS" in would


QUESTIONS = """
INSERT INTO polls_question (id, question_text, body, published, pub_date)
SELECT n, '?', '', true, now() FROM generate_series(3, 5) n;
INSERT INTO polls_choice (id, choice_text, rank, votes, question_id) VALUES (1, 'c', 1, 0, 3)
"""
LOCKED = (
    "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = "
    "(SELECT oid FROM pg_database WHERE datname = current_database()))"
)
QUESTION_IDS = "SELECT id FROM polls_question ORDER BY id"
CHOICE_IDS = "SELECT id FROM polls_choice ORDER BY id"


def test_a_dataset_comes_and_goes_while_both_daemons_run(pair: Callable[..., Pair]) -> None:
    both = pair()
    both.prod.execute("INSERT INTO pages_tag (name) VALUES ('apple'), ('banana')")
    both.prod.execute(QUESTIONS)
    both.prod.start("capture")
    both.stage.start("apply")
    both.until_backfilled()
    would = both.stage.run("subscribe", "polls-by-id:3,4", "--dry-run", code=1)
    assert "insert 3, update 0 and delete 0" in would
    assert both.stage.rows("SELECT count(*) FROM replicator_subscription") == [(1,)]
    assert "Complete" in both.stage.run("subscribe", "polls-by-id:3,4")
    assert both.stage.rows(QUESTION_IDS) == [(3,), (4,)]
    assert "already" in both.stage.run("subscribe", "polls-by-id:3,4", code=1)
    both.prod.execute(
        "INSERT INTO polls_choice (id, choice_text, rank, votes, question_id) "
        "VALUES (2, 'c', 1, 0, 4), (3, 'd', 1, 0, 5)"
    )
    wait_until(lambda: both.stage.rows(CHOICE_IDS) == [(1,), (2,)], 30, "it streams")
    told = both.stage.run("status")
    assert "replicator subscribe" in told
    assert "0 missing" in both.stage.run("verify", "--dataset", "polls-by-id:3,4")
    would = both.stage.run("unsubscribe", "polls-by-id:3,4", "--dry-run", code=1)
    assert "deletes 4 rows (public.polls_choice 2, public.polls_question 2)" in would
    assert "Give --yes" in both.stage.run("unsubscribe", "polls-by-id:3,4", code=2)
    assert "is unsubscribed" in both.stage.run("unsubscribe", "polls-by-id:3,4", "--yes")
    assert both.stage.rows(QUESTION_IDS) == []
    assert both.stage.rows("SELECT dataset FROM replicator_subscription") == [("some-tags",)]
    both.stage.run("subscribe", "polls-by-id:3,4")
    kept = both.stage.run("unsubscribe", "polls-by-id:3,4", "--keep-rows")
    assert "4 rows become local ones" in kept
    assert both.stage.rows(QUESTION_IDS) == [(3,), (4,)]
    assert "declare" in both.stage.run("unsubscribe", "some-tags", code=2)
    assert both.stage.run("status")


def test_a_clash_is_ended_by_the_command_that_it_names(pair: Callable[..., Pair]) -> None:
    both = pair()
    both.prod.execute(QUESTIONS)
    both.stage.execute(QUESTIONS)
    both.prod.start("capture")
    both.stage.start("apply")
    both.until_backfilled()
    clash = both.stage.run("subscribe", "polls-by-id:3", code=3)
    assert "by `replicator subscribe NAME --on-clash adopt`" in clash
    would = both.stage.run("subscribe", "polls-by-id:3", "--on-clash", "adopt", "--dry-run", code=1)
    assert "This would change its on_clash from refuse to adopt" in would
    told = both.stage.run("subscribe", "polls-by-id:3", "--on-clash", "adopt")
    assert "Changed its on_clash from refuse to adopt" in told
    both.until_backfilled()
    assert "already. Nothing was" in both.stage.run("subscribe", "polls-by-id:3", code=1)
    declared = both.stage.run("subscribe", "some-tags", "--on-clash", "adopt", code=2)
    assert "'on_clash': 'adopt' in REPLICATOR['SUBSCRIPTIONS']" in declared


def test_a_paused_subscription_stands_still_and_is_brought_up_to_date(
    pair: Callable[..., Pair],
) -> None:
    both = pair()
    both.prod.execute("INSERT INTO pages_tag (name) VALUES ('apple'), ('abacus')")
    both.prod.start("capture")
    apply = both.stage.start("apply")
    both.until_backfilled()
    assert "2 rows would stand" in both.stage.run("pause", "some-tags", "--dry-run")
    assert "Paused: 2 rows" in both.stage.run("pause", "some-tags")
    assert "already" in both.stage.run("pause", "some-tags", code=1)
    assert apply.terminate(10) == 0
    both.stage.start("apply")
    wait_until(lambda: both.stage.rows(LOCKED) == [(True,)], 30, "apply runs")
    both.prod.execute("UPDATE pages_tag SET name = 'avocado' WHERE name = 'apple'")
    both.prod.execute("DELETE FROM pages_tag WHERE name = 'abacus'")
    assert "paused" in both.stage.run("status")
    held = json.loads(both.stage.run("status", "--json"))["target"][0]["subscriptions"][0]
    assert (held["paused"], held["rows"]) == (True, 2)
    assert "is paused" in both.stage.run("backfill", "--dataset", "some-tags", code=3)
    time.sleep(1)
    assert [name for _, name in both.stage.rows(TAGS)] == ["apple", "abacus"]
    assert "look at 2 rows" in both.stage.run("resume", "some-tags", "--dry-run")
    assert "Complete" in both.stage.run("resume", "some-tags")
    both.until_equal()
    assert "not paused" in both.stage.run("resume", "some-tags", code=1)


def test_a_subscription_comes_and_goes_where_no_apply_runs(pair: Callable[..., Pair]) -> None:
    both = pair()
    both.prod.execute(QUESTIONS)
    both.prod.start("capture")
    assert "insert 3," in both.stage.run("subscribe", "polls-by-id:3,4", "--dry-run", code=1)
    assert both.stage.rows("SELECT count(*) FROM replicator_streamposition") == [(0,)]
    assert "goes on" not in both.stage.run("subscribe", "polls-by-id:3,4", "--no-wait")
    assert both.stage.rows(QUESTION_IDS) == []
    both.stage.run("backfill", "--dataset", "polls-by-id:3,4")
    assert both.stage.rows(QUESTION_IDS) == [(3,), (4,)]
    both.stage.run("unsubscribe", "polls-by-id:3,4", "--yes")
    assert both.stage.rows(QUESTION_IDS) == []
    assert "no subscription" in both.stage.run("unsubscribe", "polls-by-id:3,4", code=2)
    assert "no dataset" in both.stage.run("subscribe", "nothing:1", code=2)
