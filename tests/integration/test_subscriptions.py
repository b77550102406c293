"""Subscriptions that come and go while apply runs: paused, resumed, ended with and without rows."""

import contextlib
import threading
from pathlib import Path

import psycopg
import pytest

from replicator.datasets import find_dataset
from replicator.http import Health
from replicator.log import open_log
from replicator.requests import KeysRequest, PageRequest
from replicator.settings import ReplicatorSettings, requests_topic
from replicator.stop import Stop
from replicator_apply import command
from replicator_apply.connection import connect_target
from replicator_apply.life import (
    ask_to_end,
    holdings,
    leaving,
    on_trial,
    pause,
    resume,
    subscribe,
)
from replicator_apply.runs import begin_verification
from replicator_apply.state import Place, known_subscriptions
from replicator_apply.status import collect
from replicator_apply.unsubscribe import Ended, Ending, end_all, foresee
from tests.conftest import SampleFactory
from tests.integration.conftest import StartTarget
from tests.integration.test_relations import choice, here, question, user, vote
from tests.integration.test_two_sources import position
from tests.support.processes import wait_until
from tests.support.published import Change, Published
from tests.support.sample.databases import connected
from tests.support.target import Target, change

TREE = (
    user("c", 4),
    question("c", 1, published=True, author_id=4),
    choice("c", 2, 1),
    vote("c", 3, 2),
)


def number_of(target: Target, name: str) -> int:
    (found,) = (k.id for k in known_subscriptions(target.connection) if k.name == name)
    return found


def frozen(target: Target, published: Published, name: str) -> int:
    """Pause a subscription, and wait until a batch is applied without it."""
    number = number_of(target, name)
    assert pause(target.connection, number)
    assert not pause(target.connection, number)
    return settled(target, published, number)


def settled(target: Target, published: Published, number: int) -> int:
    """Let the worker look at the subscriptions."""
    for _ in range(3):
        target.reach(published.transaction(Change("m", "")))
    return number


def ended(target: Target, name: str, *, keep_rows: bool = False) -> None:
    """End a subscription that the settings name no more."""
    target.stop()
    number = number_of(target, name)
    left = [s for s in target.settings.subscriptions if s.dataset != name]
    target.settings = target.settings.model_copy(update={"subscriptions": tuple(left)})
    ask_to_end(target.connection, number, keep_rows=keep_rows)
    target.execute(f"UPDATE replicator_subscription SET declared = false WHERE id = {number}")
    target.start()
    target.until(lambda: leaving(target.connection, number) is None, "it has ended")


def test_what_is_paused_stands_and_the_rest_follows(start: StartTarget) -> None:
    target, published = start("poll-trees", "polls-by-id:1")
    target.reach(published.transaction(*TREE, question("c", 6, published=True), choice("c", 7, 6)))
    number = frozen(target, published, "poll-trees")
    assert holdings(target.connection, number) == (6, 4)
    target.reach(
        published.transaction(
            question("u", 1, published=True, author_id=4, question_text="new"),
            question("u", 6, published=True, question_text="new"),
            question("c", 8, published=True),
            choice("d", 7, 6),
            vote("d", 3, 2),
        )
    )
    texts = "SELECT id, question_text FROM polls_question ORDER BY 1"
    assert target.rows(texts) == [(1, "new"), (6, "?")]
    # Its vote leaves one subscription, and stands for the paused one.
    assert here(target) == "c2 c7 q1 q6 u4 v3"
    target.stop()
    target.start()
    target.reach(published.transaction(question("d", 6)))
    assert here(target) == "c2 c7 q1 q6 u4 v3"
    assert not target.stopped


def test_a_resumed_subscription_knows_that_others_changed_its_rows(start: StartTarget) -> None:
    """Found by the oracle: a child that had moved meanwhile seemed tied to it as before."""
    target, published = start("poll-trees", "polls-by-id:1,6")
    target.reach(published.transaction(*TREE, question("c", 6)))
    number = frozen(target, published, "poll-trees")
    target.reach(published.transaction(choice("u", 2, 6)))
    assert resume(target.connection, number) is not None
    assert resume(target.connection, number) is None
    page = target.request(PageRequest)
    target.answer(published, page, question("r", 1, published=True, author_id=4), user("r", 4))
    target.answer(published, target.request(KeysRequest), choice("r", 2, 6), vote("r", 3, 2))
    held = 'SELECT subscription_id FROM replicator."public.polls_choice"'
    assert target.rows(held) == [(number_of(target, "polls-by-id:1,6"),)]
    assert here(target) == "c2 q1 q6 u4 v3"


@pytest.mark.parametrize(
    ("index", "what"),
    [
        ("SELECT 1", "unique column(s) name"),
        (
            "ALTER TABLE pages_tag DROP CONSTRAINT pages_tag_name_key; "
            "CREATE UNIQUE INDEX ON pages_tag (upper(name)) WHERE id > 0",
            "unique index on upper((",
        ),
    ],
)
def test_a_value_that_a_paused_row_holds_stops_the_others_until_it_is_resumed(
    start: StartTarget, index: str, what: str
) -> None:
    target, published = start("some-tags", "pages", prepare=index)
    target.reach(published.transaction(change("c", "pages_tag", 1, name="a")))
    number = number_of(target, "some-tags")
    frozen(target, published, "some-tags")
    target.reach(published.transaction(change("u", "pages_tag", 1, name="b")))
    assert target.rows("SELECT name FROM pages_tag") == [("b",)]
    frozen(target, published, "pages")
    resume(target.connection, number)
    target.answer(published, target.request(PageRequest))
    published.transaction(change("c", "pages_tag", 9, name="b"))
    # Now it is `pages` that stands, with a value which the source gives to another row.
    target.until_stopped(f"of the paused subscription(s) pages, still hold values of the {what}")
    assert "`replicator resume pages`" in str(
        target.rows("SELECT stopped_remedy FROM replicator_streamposition")
    )
    resume(target.connection, number_of(target, "pages"))
    target.until(lambda: not target.stopped or "paused" not in target.stopped, "it goes on", 20)


def test_an_ended_subscription_takes_its_rows_along(start: StartTarget) -> None:
    target, published = start("poll-trees", "some-tags")
    target.reach(published.transaction(*TREE, question("c", 6, published=True), choice("c", 7, 6)))
    target.execute(
        "INSERT INTO polls_vote (id, choice_id, voter_email, weight, cast_at) "
        "VALUES (900, 7, 'local', 1, now())"
    )
    number = number_of(target, "poll-trees")
    with connect_target(target.settings) as connection:
        foreseen = foresee(connection, target.settings, target.place, Ending(number, False))
    assert foreseen.removed == {
        "public.auth_user": 1,
        "public.polls_choice": 1,
        "public.polls_question": 1,
        "public.polls_vote": 1,
    }
    assert foreseen.kept == {"public.polls_choice": 1, "public.polls_question": 1}
    assert here(target) == "c2 c7 q1 q6 u4 v3 v900"
    ended(target, "poll-trees")
    assert here(target) == "c7 q6 v900"
    kept = 'SELECT id, subscription_id FROM replicator."public.polls_question"'
    assert target.rows(kept) == [(6, 0)]
    assert target.rows("SELECT count(*) FROM replicator_wantedrow") == [(0,)]


def test_what_another_subscription_holds_stays(start: StartTarget) -> None:
    target, published = start("poll-trees", "polls-by-id:1")
    target.reach(published.transaction(*TREE, question("c", 6, published=True), choice("c", 7, 6)))
    ended(target, "poll-trees")
    assert here(target) == "c2 q1 u4 v3"
    target.reach(published.transaction(question("d", 1), choice("d", 2, 1), vote("d", 3, 2)))
    assert here(target) == ""


def test_what_a_paused_subscription_holds_stays(start: StartTarget) -> None:
    target, published = start("poll-trees", "polls-by-id:1", "some-tags")
    target.reach(published.transaction(*TREE, question("c", 6, published=True)))
    frozen(target, published, "polls-by-id:1")
    ended(target, "poll-trees")
    assert here(target) == "c2 q1 u4 v3"


def test_a_row_that_needed_one_of_the_ended_subscription_goes_along(start: StartTarget) -> None:
    target, published = start("waiting", "poll-trees")
    target.reach(published.transaction(user("c", 14), question("c", 1, author_id=14)))
    assert here(target) == ""
    target.reach(
        published.transaction(
            question("c", 2, published=True, author_id=14), question("c", 3, author_id=14)
        )
    )
    request = target.request(KeysRequest)
    target.answer(
        published,
        request,
        user("r", 14),
        question("r", 2, published=True, author_id=14),
        question("r", 3, author_id=14),
    )
    assert here(target) == "q2 q3 u14"
    ended(target, "poll-trees")
    assert here(target) == ""


def test_rows_left_behind_are_local(start: StartTarget) -> None:
    target, published = start("poll-trees", "polls-by-id:1")
    target.reach(published.transaction(*TREE, question("c", 6, published=True), choice("c", 7, 6)))
    ended(target, "poll-trees", keep_rows=True)
    assert here(target) == "c2 c7 q1 q6 u4 v3"
    receipts = 'SELECT id FROM replicator."public.polls_question"'
    assert target.rows(receipts) == [(1,)]
    target.reach(published.transaction(question("d", 6), choice("d", 7, 6)))
    assert here(target) == "c2 c7 q1 q6 u4 v3"


def test_a_dataset_that_the_code_lost_can_be_left(start: StartTarget) -> None:
    target, published = start("poll-trees", "some-tags")
    target.reach(published.transaction(*TREE))
    target.stop()
    number = number_of(target, "poll-trees")
    target.execute(f"UPDATE replicator_subscription SET dataset = 'gone' WHERE id = {number}")
    ask_to_end(target.connection, number, keep_rows=False)
    with connect_target(target.settings) as connection:
        end_all(connection, target.settings, target.place)
    assert leaving(target.connection, number) is None
    assert here(target) == ""


def test_an_end_is_refused_where_postgres_refuses_it_and_goes_on(start: StartTarget) -> None:
    target, published = start("poll-trees", "some-tags")
    target.reach(published.transaction(*TREE))
    target.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN RAISE EXCEPTION 'no'; END$$; "
        "CREATE TRIGGER no BEFORE DELETE ON polls_vote FOR EACH ROW EXECUTE FUNCTION no()"
    )
    number = number_of(target, "poll-trees")
    target.stop()
    target.settings = target.settings.model_copy(
        update={"subscriptions": target.settings.subscriptions[1:]}
    )
    ask_to_end(target.connection, number, keep_rows=False)
    target.start()
    target.until_stopped("Postgres refuses")
    assert here(target) == "c2 q1 u4 v3"
    target.execute("DROP TRIGGER no ON polls_vote")
    target.until(lambda: here(target) == "", "it has ended")


def test_a_foreseen_end_changes_nothing_and_counts_shared_rows(start: StartTarget) -> None:
    target, published = start("poll-trees", "polls-by-id:1")
    target.reach(published.transaction(*TREE, question("c", 6, published=True)))
    number = number_of(target, "poll-trees")
    with connect_target(target.settings) as connection:
        ending = Ending(number, keep_rows=True)
        found = foresee(connection, target.settings, target.place, ending)
    assert found == Ended(local={"public.polls_question": 1}, shared=4)
    assert here(target) == "c2 q1 q6 u4 v3"


def test_a_stream_that_nothing_was_subscribed_to_is_applied_without_a_restart(
    sample_database: SampleFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "LOOK_EVERY", 0.1)
    conninfo, url = sample_database(), f"sqlite:///{tmp_path}/log.sqlite3"
    log = open_log(url)
    one, two = (Published(log, environment=name) for name in ("one", "two"))
    for published in (one, two):
        log.create(requests_topic(published.environment, "main", "stage"))
        published.transaction(Change("m", ""))
    wish = {"source": "one", "dataset": "some-tags"}
    settings = ReplicatorSettings.model_validate(
        {"ENVIRONMENT": "stage", "LOG": url, "SUBSCRIPTIONS": [wish]}
    )
    stop = Stop()
    with connected("default", conninfo), psycopg.connect(conninfo, autocommit=True) as target:
        thread = threading.Thread(target=command.apply_all, args=(settings, stop, Health()))
        thread.start()
        try:
            wait_until(lambda: position(target, one) >= one.next, 15, "one is applied")
            assert position(target, two) == 0
            subscribe(target, Place("two", "main"), find_dataset("some-tags"), "refuse")
            wait_until(lambda: position(target, two) >= two.next, 15, "two is applied")
        finally:
            stop.set()
            thread.join(10)
            stop.close()


def test_what_a_killed_dry_run_has_stored_is_no_problem_and_goes(start: StartTarget) -> None:
    target, _ = start("some-tags")
    polls, trees = find_dataset("polls", ""), find_dataset("poll-trees", "")
    with (
        connect_target(target.settings) as other,
        connect_target(target.settings) as killed,
        contextlib.suppress(psycopg.OperationalError),
        on_trial(killed, target.place, polls, "refuse") as number,
    ):
        begin_verification(killed, number)
        with on_trial(other, target.place, trees, "refuse"):
            names = [known.name for known in known_subscriptions(other)]
            assert names == ["some-tags", "polls", "poll-trees"]
        (stream,) = collect(target.settings, target.connection)
        assert [held.dataset for held in stream.subscriptions] == ["some-tags"]
        assert not any("polls" in problem.what for problem in stream.problems)
        killed.close()
    target.stop()  # waits until its lock is gone
    assert len(known_subscriptions(target.connection)) == 2
    target.begin()
    target.until(lambda: len(known_subscriptions(target.connection)) == 1, "forgotten")
    assert target.rows("SELECT count(*) FROM replicator_verifyrun") == [(0,)]
