"""Subscriptions that come and go: what becomes of policies, functions, chosen keys, the sieve."""

import pytest
from django.db.models import Q

from replicator import Children, Dataset, Referenced, Rows, declare
from replicator.datasets import find_dataset
from replicator.requests import KeysRequest, PageRequest
from replicator_apply.connection import connect_target
from replicator_apply.life import ask_to_end, leaving, resume, subscribe
from replicator_apply.plan import LEFT, Settled, TargetPlan
from replicator_apply.rebase import reset_state
from replicator_apply.state import schedule_run
from replicator_apply.subscriptions import load_plan
from replicator_apply.unsubscribe import Ended, Ending, end_all, foresee
from tests.integration.conftest import StartTarget
from tests.integration.test_choices import AGE, CHOSEN, RUNS, begun, page, until_through
from tests.integration.test_on_applied import Listen, listen, quiet, taken
from tests.integration.test_on_leave import CHOICES, PUBLISHED, QUESTIONS, USERS, holders
from tests.integration.test_relations import choice, here, question, user
from tests.integration.test_subscriptions import TREE, ended, frozen, number_of, settled
from tests.support.published import Published
from tests.support.sample.polls.models import Choice, Question, Vote
from tests.support.target import Target, change

__all__ = ["listen"]


@pytest.fixture(autouse=True)
def _datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declare._registry, "datasets", dict(declare._registry.datasets))
    Dataset(
        "kept-trees",
        Rows(Question, where=PUBLISHED, on_leave="keep"),
        Children(Choice, of="question", on_leave="keep"),
        Children(Vote, of="choice"),
        Referenced("auth.User", soft="last_login"),
    )
    Dataset("first-trees", Rows(Question, where=Q(pk__lt=5)), Referenced("auth.User"))
    Dataset("soft-users", Rows("auth.User", soft="last_login"))
    Dataset("all-users", Rows("auth.User"))
    Dataset("first-users", Rows("auth.User", where=Q(pk__lt=10)))
    Dataset(
        "asked",
        Rows(Question, where=PUBLISHED, required=["author"]),
        Rows("auth.User", where=Q(pk__lt=1)),
    )


def foreseen(target: Target, name: str, *, keep_rows: bool = False) -> Ended:
    with connect_target(target.settings) as connection:
        ending = Ending(number_of(target, name), keep_rows)
        return foresee(connection, target.settings, target.place, ending)


def all_gone(target: Target, published: Published) -> None:
    """Answer a backfill's sweep: the source has nothing of what it asks for any more."""
    request: KeysRequest = target.request(KeysRequest)
    keys = (
        (table.removeprefix("public."), int(k)) for table, ks in request.keys.items() for (k,) in ks
    )
    target.answer(published, request, *(change("d", *each, read=True) for each in keys))


def plan_of(target: Target) -> TargetPlan:
    with connect_target(target.settings) as connection:
        return load_plan(connection, target.settings, target.place)


# Policies ----------------------------------------------------------------------------------------


MARKED = (
    "ALTER TABLE auth_user DROP CONSTRAINT auth_user_username_key; "
    "CREATE UNIQUE INDEX ON auth_user (username) WHERE last_login IS NULL"
)


def test_a_paused_row_on_a_value_that_is_unique_among_rows_without_a_mark(
    start: StartTarget,
) -> None:
    target, published = start("soft-users", "first-users", prepare=MARKED)
    target.reach(published.transaction(change("c", "auth_user", 20, username="a")))
    frozen(target, published, "soft-users")
    gone = change("d", "auth_user", 20)
    published.transaction(gone, change("c", "auth_user", 5, username="a"))
    target.until_stopped("of the paused subscription(s) soft-users, still hold values")
    resume(target.connection, number_of(target, "soft-users"))
    target.until(lambda: not target.stopped, "it goes on")


def test_an_ended_subscription_leaves_rows_as_its_rules_say(start: StartTarget) -> None:
    target, published = start("kept-trees", "some-tags")
    target.reach(published.transaction(*TREE))
    found = foreseen(target, "kept-trees")
    assert found.removed == {"public.polls_vote": 1}
    assert found.stay == {
        "public.auth_user": 1,
        "public.polls_choice": 1,
        "public.polls_question": 1,
    }
    assert (found.deleted, found.shared, found.local, found.kept) == (1, 0, {}, {})
    assert target.rows(USERS) == [(4, "u4", False)]
    ended(target, "kept-trees")
    assert here(target) == "c2 q1 u4"
    assert target.rows(USERS) == [(4, "u4", True)]
    assert [holders(target, name) for name in ("polls_question", "polls_choice", "auth_user")] == [
        [(1, LEFT)],
        [(2, LEFT)],
        [(4, LEFT)],
    ]


def test_what_is_said_here_by_others_holds_for_the_rows_of_an_ended_one(start: StartTarget) -> None:
    target, published = start("kept-trees", "first-trees")
    target.reach(published.transaction(question("c", 1), question("c", 6, published=True)))
    assert here(target) == "q1 q6"
    # Nothing but `kept-trees` says it, and it holds for all: the rules of both are one plan.
    ended(target, "first-trees")
    assert here(target) == "q1 q6"
    assert holders(target, "polls_question") == [(1, LEFT), (6, number_of(target, "kept-trees"))]


def test_what_an_ended_subscription_alone_said_holds_for_the_last_time(start: StartTarget) -> None:
    target, published = start("kept-trees", "first-trees")
    target.reach(
        published.transaction(question("c", 6, published=True), question("c", 1, published=True))
    )
    ended(target, "kept-trees")
    first = number_of(target, "first-trees")
    assert holders(target, "polls_question") == [(1, first), (6, LEFT)]
    # From now on nothing is said: what leaves is deleted. What had stayed is left alone.
    target.reach(published.transaction(question("d", 1), question("d", 6)))
    assert target.rows(QUESTIONS) == [(6, "?", None)]


def test_rows_that_stay_are_taken_back_when_it_is_subscribed_to_again(start: StartTarget) -> None:
    target, published = start("kept-trees", "some-tags")
    target.reach(published.transaction(*TREE))
    ended(target, "kept-trees")
    with connect_target(target.settings) as connection:
        subscribe(connection, target.place, find_dataset("kept-trees"), "refuse")
    page = target.request(PageRequest)
    target.answer(
        published,
        page,
        question("r", 1, published=True, author_id=4),
        user("r", 4),
        choice("r", 2, 1),
    )
    again = number_of(target, "kept-trees")
    target.until(lambda: holders(target, "polls_choice") == [(2, again)], "it is taken back")
    assert target.rows(USERS) == [(4, "u4", False)]
    assert holders(target, "auth_user") == [(4, again)]
    assert not target.stopped


def test_rows_that_had_left_become_local_along_with_the_others(start: StartTarget) -> None:
    target, published = start("kept-trees", "soft-users")
    target.reach(published.transaction(*TREE, question("c", 6, published=True), user("c", 5)))
    target.reach(published.transaction(question("u", 6, published=False), user("d", 5)))
    assert holders(target, "polls_question")[1] == (6, LEFT)
    found = foreseen(target, "kept-trees", keep_rows=True)
    assert found == Ended(
        local={"public.polls_question": 2, "public.polls_choice": 1, "public.polls_vote": 1},
        shared=1,
    )
    ended(target, "kept-trees", keep_rows=True)
    assert here(target) == "c2 q1 q6 u4 u5 v3"
    for name in ("polls_question", "polls_choice", "polls_vote"):
        assert holders(target, name) == []
    # Users are another one's: what has left it is not local.
    assert holders(target, "auth_user") == [(4, number_of(target, "soft-users")), (5, LEFT)]
    target.reach(published.transaction(question("d", 1), question("c", 6)))
    assert target.rows(CHOICES) == [(2,)]


def test_a_paused_row_neither_leaves_nor_is_marked(start: StartTarget) -> None:
    target, published = start("kept-trees", "soft-users")
    target.reach(published.transaction(*TREE))
    frozen(target, published, "kept-trees")
    target.reach(published.transaction(change("u", "auth_user", 4, username="new")))
    target.reach(published.transaction(user("d", 4)))
    assert target.rows(USERS) == [(4, "new", False)]
    assert holders(target, "auth_user") == [(4, number_of(target, "kept-trees"))]
    # Resumed, it leaves, and is marked.
    number = number_of(target, "kept-trees")
    assert resume(target.connection, number) is not None
    target.answer(published, target.request(PageRequest))
    all_gone(target, published)
    target.until(lambda: holders(target, "auth_user") == [(4, LEFT)], "it has left")
    assert target.rows(USERS) == [(4, "new", True)]


def test_what_a_paused_subscription_says_of_rows_that_leave_holds_still(start: StartTarget) -> None:
    target, published = start("soft-users", "all-users")
    target.reach(published.transaction(user("c", 4)))
    number = frozen(target, published, "soft-users")
    target.reach(published.transaction(user("c", 5), user("d", 4)))
    target.reach(published.transaction(user("d", 5)))
    assert target.rows(USERS) == [(4, "u4", False), (5, "u5", True)]
    assert holders(target, "auth_user") == [(4, number), (5, LEFT)]


# Resumed, and not brought up to date yet ---------------------------------------------------------


def test_what_a_resumed_row_points_at_is_kept_until_the_row_is_known(start: StartTarget) -> None:
    """Found by the oracle: the row was ours again, and what it pointed at was deleted."""
    target, published = start("first-users", "asked")
    target.reach(published.transaction(user("c", 9), question("c", 1, published=True, author_id=9)))
    assert here(target) == "q1 u9"
    number = frozen(target, published, "asked")
    target.reach(published.transaction(question("u", 1, published=True), user("d", 9)))
    assert here(target) == "q1 u9"
    resume(target.connection, number)
    settled(target, published, number)
    assert here(target) == "q1 u9"
    target.answer(published, target.request(PageRequest), question("r", 1, published=True))
    settled(target, published, number)
    assert here(target) == "q1"


def test_a_row_that_was_missed_is_in_doubt_until_all_of_it_came(start: StartTarget) -> None:
    """Found by the oracle: a part of it came, and the rest was taken for new."""
    target, published = start("asked", "some-tags")
    target.reach(published.transaction(question("c", 1, published=True, body="old")))
    number = frozen(target, published, "asked")
    target.reach(published.transaction(question("u", 1, published=True, body="new")))
    resume(target.connection, number)
    settled(target, published, number)
    parts = change("u", "polls_question", 1, unchanged=("body",), published=True, priority=3)
    target.reach(published.transaction(parts))
    row = "SELECT body, priority FROM polls_question"
    seen = 'SELECT generation FROM replicator."public.polls_question"'
    assert (target.rows(row), target.rows(seen)) == ([("old", 3)], [(1,)])
    page = target.request(PageRequest)
    whole = question("r", 1, published=True, body="new", priority=3)
    target.answer(published, page, whole)
    assert (target.rows(row), target.rows(seen)) == ([("new", 3)], [(2,)])


# Functions ---------------------------------------------------------------------------------------


def test_functions_are_told_of_what_an_ended_subscription_takes_along(
    listen: Listen, start: StartTarget
) -> None:
    votes, users, choices = listen("polls.Vote"), listen("auth.User"), listen("polls.Choice")
    target, published = start("kept-trees", "some-tags")
    target.reach(published.transaction(*TREE))
    quiet(target)
    for told in (votes, users, choices):
        told.clear()
    ended(target, "kept-trees")
    quiet(target)
    assert taken(votes) == [(set(), set(), {3})]
    assert taken(users) == [(set(), {4}, set())]
    # What only stays is as it was.
    assert taken(choices) == []


def test_functions_are_told_nothing_of_rows_that_become_local(
    listen: Listen, start: StartTarget
) -> None:
    votes = listen("polls.Vote")
    target, published = start("kept-trees", "some-tags")
    target.reach(published.transaction(*TREE))
    quiet(target)
    votes.clear()
    ended(target, "kept-trees", keep_rows=True)
    quiet(target)
    assert taken(votes) == []


# The sieve ---------------------------------------------------------------------------------------


def test_nothing_is_written_past_the_rules_where_a_paused_one_has_rows(start: StartTarget) -> None:
    target, published = start("poll-trees", "polls-by-id:1,2", "some-tags")
    before = plan_of(target)
    assert all(table.direct or table.settled.steady for table in before.tables.values())
    tags = [table for table in before.tables.values() if table.name.name == "pages_tag"]
    target.reach(published.transaction(*TREE))
    number = frozen(target, published, "polls-by-id:1,2")
    paused = plan_of(target)
    assert paused.frozen == (number,)
    free = [table for table in paused.tables.values() if table.settled != Settled()]
    assert [(table.name, table.memberships) for table in free] == [
        (table.name, table.memberships) for table in tags
    ]
    assert not any(table.direct for table in paused.tables.values() if table not in free)
    # A choice that moves away stands; one that comes, follows the other subscription alone.
    target.reach(
        published.transaction(
            question("c", 9, published=False),
            choice("u", 2, 9),
            choice("c", 8, 1),
        )
    )
    assert here(target) == "c2 c8 q1 u4 v3"
    assert target.rows("SELECT question_id FROM polls_choice WHERE id = 2") == [(1,)]
    resume(target.connection, number)
    target.answer(published, target.request(PageRequest))
    settled(target, published, number)
    after = plan_of(target)
    assert {n: (t.direct, t.settled) for n, t in after.tables.items()} == {
        n: (t.direct, t.settled) for n, t in before.tables.items()
    }


# Chosen keys -------------------------------------------------------------------------------------


def test_chosen_keys_stand_with_a_paused_subscription_and_are_chosen_anew(
    start: StartTarget,
) -> None:
    target, published = begun(start, 1, 2)
    number = frozen(target, published, "latest-polls")
    target.execute(AGE)
    settled(target, published, number)
    with target.connection.cursor() as cursor:
        # As a worker does that has not seen the pause yet.
        assert not schedule_run(cursor, number, 0, every=0)
    assert target.rows(RUNS) == [("subscribed", "finished", False)]
    assert target.rows(CHOSEN) == [('["1"]',), ('["2"]',)]
    target.reach(published.transaction(question("u", 2, published=False)))
    assert here(target) == "c10 c20 q1 q2"
    assert resume(target.connection, number) is not None
    page(target, published, 1, 3)
    assert target.rows(CHOSEN) == [('["1"]',), ('["3"]',)]
    until_through(target)
    assert here(target) == "c10 c30 q1 q3"


@pytest.mark.parametrize("keep_rows", [False, True])
def test_chosen_keys_go_with_their_subscription(start: StartTarget, keep_rows: bool) -> None:
    target, _ = begun(start, 1, 2)
    target.stop()
    number = number_of(target, "latest-polls")
    ask_to_end(target.connection, number, keep_rows=keep_rows)
    settings = target.settings.model_copy(update={"subscriptions": ()})
    with connect_target(settings) as connection:
        end_all(connection, settings, target.place)
    assert leaving(target.connection, number) is None
    assert target.rows(CHOSEN) == []
    assert here(target) == ("c10 c20 q1 q2" if keep_rows else "")


def test_the_state_of_all_of_it_can_be_reset(start: StartTarget) -> None:
    target, published = begun(start, 1, 2)
    frozen(target, published, "latest-polls")
    target.stop()
    reset_state(target.connection)
    assert target.rows(CHOSEN) == []
    assert target.rows("SELECT 1 FROM replicator_subscription") == []
    assert here(target) == "c10 c20 q1 q2"
