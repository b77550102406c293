"""A dataset that the source refuses is set apart: the other subscriptions go on."""

import time

import pytest

from replicator.datasets import find_dataset
from replicator.errors import WrongDeclaration
from replicator.plan import DatasetPlan
from replicator.requests import KeysRequest, PageRequest
from replicator_apply import state, status, subscriptions
from replicator_apply.life import pause, resume, subscribe
from replicator_apply.reports import make_report
from replicator_apply.runs import (
    begin_backfill,
    begin_verification,
    look_at_backfill,
    look_at_verification,
)
from tests.integration.conftest import StartTarget
from tests.integration.test_apply_stream import tag
from tests.integration.test_relations import here, question, user
from tests.support.published import Published
from tests.support.target import Target, change

GATES = "SELECT dataset, gate FROM replicator_subscription ORDER BY id"
WHY = "declared differently"


def refuse(
    target: Target, published: Published, asked: str, *, others: tuple[str, ...] = ()
) -> None:
    """Answer the page request of a dataset: it is refused, or others of the plan are."""
    request = target.request(PageRequest)
    while request.dataset != asked:
        request = target.request(PageRequest)
    target.answer(published, request, refused=WHY, refused_datasets=others or (asked,))


def told(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    """Give what the log says of an event."""
    return [r.getMessage() for r in caplog.records if getattr(r, "event", "") == event]


def test_the_log_tells_of_streams_backfills_and_standstills(
    start: StartTarget, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "replicator_apply")
    target, published = start("some-tags", ready=False)
    target.execute("INSERT INTO pages_tag (id, name) VALUES (1, 'abc')")
    target.begin()
    assert told(caplog, "stream_begun")[0].startswith("Stream main of prod begins here, at 0/")
    request = target.request(PageRequest)
    assert told(caplog, "backfill") == ["Backfill 1 of some-tags (subscribed) begins."]
    published.transaction(tag(1))
    target.until_stopped("local row")
    target.execute("DELETE FROM pages_tag")
    target.until(lambda: not target.stopped, "it goes on")
    target._requests.insert(0, request)
    target.backfilled(published, (tag(1, op="r"), tag(2, op="r")), ())
    assert told(caplog, "stream_goes_on") == ["Stream main of prod goes on."]
    (end,) = told(caplog, "backfill_complete")
    assert end.startswith("Backfill 1 of some-tags (subscribed) is complete: 2 rows read in ")


def settled(target: Target, published: Published) -> None:
    """Wait until the worker has seen to it that capture has begun a run, the first that it sees."""
    target.reach(published.transaction(tag(7)))
    time.sleep(0.2)


def test_only_the_refused_subscription_waits(start: StartTarget) -> None:
    target, published = start("some-tags", "poll-trees", ready=False)
    target.begin()
    settled(target, published)
    refuse(target, published, "poll-trees")
    assert target.rows(GATES) == [("some-tags", ""), ("poll-trees", WHY)]
    request = target.request(PageRequest)
    # By a plan without it: pages of the refused dataset are not asked for.
    while request.dataset == "poll-trees" or len(request.plan) > 1:
        request = target.request(PageRequest)
    assert [item.dataset for item in request.plan] == ["some-tags"]
    target.answer(published, request, tag(1, op="r"))
    assert target.rows("SELECT id FROM pages_tag ORDER BY id") == [(1,), (7,)]


def test_what_is_held_follows_events_and_nothing_is_asked(start: StartTarget) -> None:
    target, published = start("poll-trees", "some-tags")
    born = user("c", 4), question("c", 1, published=True, author_id=4)
    target.reach(published.transaction(*born))
    target.execute("UPDATE replicator_subscription SET gate = 'x', gated_at = now() WHERE id = 1")
    target.reach(published.transaction(question("u", 1, published=True), question("u", 9)))
    assert here(target) == "q1"
    # It may belong and cannot be told: it would be wanted.
    target.reach(published.transaction(question("u", 9, published=True)))
    assert target.wanted == []
    target.reach(published.transaction(question("d", 1)))
    assert here(target) == ""


def test_it_is_asked_again_after_a_while_and_after_a_restart(
    start: StartTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, published = start("poll-trees", ready=False)
    target.begin()
    settled(target, published)
    refuse(target, published, "poll-trees")
    assert target.rows(GATES) == [("poll-trees", WHY)]
    monkeypatch.setattr(state, "GATE_FOR", 0.0)
    target._answered.clear()
    assert target.request(PageRequest).dataset == "poll-trees"
    monkeypatch.setattr(state, "GATE_FOR", 300.0)
    target.stop()
    target.start()
    target.until(lambda: target.rows(GATES) == [("poll-trees", "")], "no gate after a restart")


def test_wanted_rows_of_other_datasets_are_asked_for(start: StartTarget) -> None:
    target, published = start("pages", "poll-trees")
    settled(target, published)
    target.execute("UPDATE replicator_subscription SET gate = 'x', gated_at = now() WHERE id = 2")
    target.reach(published.transaction(change("u", "pages_page", 5, unchanged=("body",))))
    for _ in range(20):
        request = target.request(KeysRequest)
        if len(request.plan) == 1:
            break  # else it was sent before the gate was seen
        target.execute("UPDATE replicator_wantedrow SET asked_at = NULL")
    assert [item.dataset for item in request.plan] == ["pages"]


def test_it_is_backfilled_once_it_is_asked_for_again(start: StartTarget) -> None:
    """While it was set apart, rows that could not be told whole were not noted as wanted."""
    target, published = start("poll-trees", "some-tags")
    settled(target, published)
    target.execute("UPDATE replicator_subscription SET gate = 'x', gated_at = now() WHERE id = 1")
    time.sleep(0.2)
    target.reach(published.transaction(question("u", 9, published=True)))
    assert target.wanted == []
    target.stop()
    target.start()
    request = target.request(PageRequest)
    assert request.dataset == "poll-trees"
    target.backfilled(published, (question("r", 9, published=True),))
    assert here(target) == "q9"


def test_a_comparison_of_it_ends_and_says_why(start: StartTarget) -> None:
    target, published = start("poll-trees", "some-tags")
    settled(target, published)
    target.execute("UPDATE replicator_subscription SET gate = 'x', gated_at = now() WHERE id = 1")
    check = begin_verification(target.connection, 1)
    target.until(
        lambda: look_at_verification(target.connection, check).state == "cancelled", "it ends"
    )
    assert look_at_verification(target.connection, check).findings == [["refused", "x", ""]]


def test_a_comparison_of_another_dataset_goes_on_without_it(start: StartTarget) -> None:
    target, published = start("some-tags", "poll-trees")
    settled(target, published)
    check = begin_verification(target.connection, 1)
    refuse(target, published, "some-tags", others=("poll-trees",))
    assert look_at_verification(target.connection, check).state == "running"
    target._answered.clear()
    request = target.request(PageRequest)
    while len(request.plan) > 1:
        request = target.request(PageRequest)
    assert [item.dataset for item in request.plan] == ["some-tags"]


def test_whoever_looks_is_told(start: StartTarget) -> None:
    target, published = start("poll-trees")
    settled(target, published)
    target.execute("UPDATE replicator_subscription SET gate = 'not now', gated_at = now()")
    run, _ = begin_backfill(target.connection, 1)
    assert "not now" in look_at_backfill(target.connection, run).note
    with target.connection.cursor() as cursor:
        (told,) = make_report(cursor, target.place, "stage", 0, dry=True).errors
    assert (told.error, told.message) == ("refused", "The source refuses poll-trees: not now")


# What the code that applies does not know -----------------------------------------------------


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of datasets that the code of apply does not have."""
    names: set[str] = set()

    def find(name: str, arguments: str = "") -> DatasetPlan:
        if name in names:
            raise WrongDeclaration(f"There is no dataset {name!r}", check_id="replicator.E033")
        return find_dataset(name, arguments)

    monkeypatch.setattr(subscriptions, "find_dataset", find)
    return names


def test_a_subscription_that_the_code_does_not_know_waits_alone(
    start: StartTarget, unknown: set[str]
) -> None:
    target, published = start("some-tags")
    settled(target, published)
    unknown.add("poll-trees")
    run = subscribe(target.connection, target.place, find_dataset("poll-trees"), "refuse")
    why = "apply runs other code: There is no dataset 'poll-trees'"
    target.until(lambda: target.rows(GATES)[1:] == [("poll-trees", why)], "it waits")
    target.reach(published.transaction(tag(8), question("c", 1, published=True)))
    assert target.rows("SELECT id FROM pages_tag ORDER BY id") == [(7,), (8,)]
    assert here(target) == ""
    assert look_at_backfill(target.connection, run).note == f"It waits: {why}"
    (stream,) = status.collect(target.settings, target.connection)
    (problem,) = stream.problems
    assert problem.what == f"The subscription to poll-trees waits: {why}"
    assert "Restart apply with the code that declares" in problem.remedy
    with target.connection.cursor() as cursor:
        (told,) = make_report(cursor, target.place, "stage", 0, dry=True).errors
    assert told.message == problem.what
    # Looks and restarts change nothing, as long as the code is the same.
    target.stop()
    target.start()
    target.reach(published.transaction(tag(9)))
    assert target.rows(GATES)[1:] == [("poll-trees", why)]
    assert look_at_backfill(target.connection, run).state == "running"
    target.stop()
    unknown.clear()
    target.start()
    target.answer(published, target.request(PageRequest), question("r", 1, published=True))
    assert target.rows(GATES)[1:] == [("poll-trees", "")]
    assert here(target) == "q1"


def test_what_it_holds_stands_and_is_brought_up_to_date(
    start: StartTarget, unknown: set[str]
) -> None:
    target, published = start("some-tags")
    subscribe(target.connection, target.place, find_dataset("poll-trees"), "refuse")
    target.backfilled(published, (question("r", 1, published=True),))
    target.stop()
    unknown.add("poll-trees")
    # It was about to sweep when apply was restarted with the older code.
    target.execute(
        "UPDATE replicator_backfillrun SET state = 'running', sweeping = true, finished_at = NULL "
        "WHERE subscription_id = (SELECT max(id) FROM replicator_subscription)"
    )
    target.start()
    target.reach(published.transaction(tag(7), question("d", 1)))
    assert here(target) == "q1"
    # A pause and its end while the code does not know it keep nobody from going on with it.
    (number,) = target.rows("SELECT id FROM replicator_subscription WHERE gate <> ''")[0]
    pause(target.connection, number)
    target.stop()
    unknown.clear()
    target.start()
    target.until(lambda: target.rows(GATES)[1:] == [("poll-trees", "")], "it is known again")
    resume(target.connection, number)
    target.answer(published, target.request(PageRequest))
    target.answer(published, target.request(KeysRequest), question("d", 1))
    assert here(target) == ""
