"""Rules that select a number of rows, at the target: keys are chosen by pages, rows follow live."""

import hashlib
import time
from typing import Any

from replicator.datasets import find_dataset
from replicator.requests import KeysRequest, PageRequest
from replicator_apply import backfill
from replicator_apply.runs import begin_backfill, begin_verification, confirm_run, look_at_backfill
from replicator_apply.why import text_of
from replicator_apply.why_look import look
from tests.integration.conftest import StartTarget
from tests.integration.test_relations import choice, here, question, user, vote
from tests.support.published import Change, Published
from tests.support.target import Target

RUNS = "SELECT reason, state, light FROM replicator_backfillrun ORDER BY id"
CHOSEN = "SELECT row_key FROM replicator_chosenrow ORDER BY 1"
AGE = "UPDATE replicator_backfillrun SET started_at = now() - interval '2 hours'"


def read(pk: int, **columns: Any) -> tuple[Change, ...]:
    """A question with its choice, as an answer has them."""
    return (question("r", pk, published=True, **columns), choice("r", pk * 10, pk))


def trees(*numbers: int) -> tuple[Change, ...]:
    """What a page answers that has chosen these questions: they come before what they bring."""
    parts = [read(number) for number in numbers]
    return (*(part[0] for part in parts), *(row for part in parts for row in part[1:]))


def page(target: Target, published: Published, *numbers: int, **more: Any) -> PageRequest:
    """Answer the next page with these questions and their choices."""
    request: PageRequest = target.request(PageRequest)
    target.answer(published, request, *trees(*numbers), chosen=len(numbers), **more)
    return request


def until_through(target: Target) -> None:
    done = "SELECT FROM replicator_backfillrun WHERE state NOT IN ('finished', 'cancelled')"
    target.until(lambda: target.rows(done) == [], "no run is under way")


def begun(start: StartTarget, *numbers: int, **more: Any) -> tuple[Target, Published]:
    """A target of `latest-polls` whose first backfill has brought these questions."""
    target, published = start("latest-polls", ready=False, **more)
    target.begin()
    page(target, published, *numbers)
    until_through(target)
    return target, published


def refresh(target: Target, published: Published, *numbers: int) -> PageRequest:
    """Let an hour pass, and answer the scheduled page."""
    target.execute(AGE)
    request = page(target, published, *numbers)
    until_through(target)
    return request


def test_the_first_backfill_brings_what_is_chosen(start: StartTarget) -> None:
    target, _ = begun(start, 1, 2, 3)
    assert here(target) == "c10 c20 c30 q1 q2 q3"
    assert target.rows(CHOSEN) == [('["1"]',), ('["2"]',), ('["3"]',)]
    assert target.rows(RUNS) == [("subscribed", "finished", False)]


def test_held_rows_are_followed_and_others_wait_for_the_next_time(start: StartTarget) -> None:
    target, published = begun(start, 1, 2, 3)
    target.reach(
        published.transaction(
            question("c", 4, published=True),
            choice("c", 40, 4),
            choice("c", 11, 1),
            question("u", 2, published=True, question_text="new"),
            question("u", 5, published=True),
        )
    )
    assert here(target) == "c10 c11 c20 c30 q1 q2 q3"
    assert target.wanted == []
    assert target.rows("SELECT question_text FROM polls_question WHERE id = 2") == [("new",)]
    # One is deleted, another does not pass the filter any more: both leave at once.
    target.reach(
        published.transaction(
            choice("d", 30, 3), question("d", 3), question("u", 2, published=False)
        )
    )
    assert here(target) == "c10 c11 q1"
    refresh(target, published, 1, 4, 5)
    assert here(target) == "c10 c11 c40 c50 q1 q4 q5"
    assert target.wanted == []


def test_what_falls_out_leaves_with_its_tree_and_nothing_is_asked_for(start: StartTarget) -> None:
    target, published = begun(start, 1, 2, 3)
    target.reach(published.transaction(vote("c", 7, 20)))
    request = refresh(target, published, 3, 4, 5)
    assert request.rule == 0
    assert here(target) == "c30 c40 c50 q3 q4 q5"
    assert target.rows(CHOSEN) == [('["3"]',), ('["4"]',), ('["5"]',)]
    assert target.rows(RUNS) == [
        ("subscribed", "finished", False),
        ("scheduled", "finished", True),
    ]
    assert target.rows('SELECT DISTINCT generation FROM replicator."public.polls_question"') == [
        (1,)
    ]
    assert target.rows('SELECT FROM replicator."public.polls_vote"') == []
    # Of scheduled runs only the last one is kept.
    refresh(target, published, 3, 4, 5)
    assert len(target.rows(RUNS)) == 2


def test_a_row_that_falls_out_and_changes_in_the_same_batch_leaves(start: StartTarget) -> None:
    target, published = begun(start, 1, 2, 3)
    target.stop()
    target.execute(AGE)
    target.start()
    request = target.request(PageRequest)
    # The answer repeats a change of what it does not choose any more; another one stays the same.
    changed = question("u", 1, published=True, question_text="other")
    target.answer(published, request, *trees(3, 4, 5), changed, chosen=3)
    until_through(target)
    assert here(target) == "c30 c40 c50 q3 q4 q5"


def test_a_key_that_is_taken_again_is_chosen_still(start: StartTarget) -> None:
    target, published = begun(start, 1)
    target.reach(published.transaction(choice("d", 10, 1), question("d", 1)))
    assert here(target) == ""
    target.reach(published.transaction(question("c", 1, published=True), choice("c", 12, 1)))
    assert here(target) == "c12 q1"
    target.reach(published.transaction(question("u", 1, published=False)))
    assert here(target) == ""
    target.reach(published.transaction(question("u", 1, published=True)))
    # What passes again is fetched with its tree.
    assert target.wanted == [("public.polls_question", '["1"]')]
    target.answer(published, target.request(KeysRequest), *read(1), choice("r", 12, 1))
    assert here(target) == "c10 c12 q1"


def test_an_empty_choice_takes_all_out_below_the_fuse(start: StartTarget) -> None:
    target, published = begun(start, 1, 2)
    refresh(target, published)
    assert here(target) == ""
    assert target.rows(CHOSEN) == []


def test_a_choice_that_shrinks_beyond_the_fuse_waits_for_a_person(start: StartTarget) -> None:
    target, published = begun(start, 1, 2, 3, fuse=1)
    # Others in their place are no reason to wait.
    refresh(target, published, 4, 5, 6)
    assert here(target) == "c40 c50 c60 q4 q5 q6"
    target.execute(AGE)
    request = page(target, published, 4)
    newest = "SELECT id, state, suspects FROM replicator_backfillrun ORDER BY id DESC LIMIT 1"
    target.until(lambda: target.rows(newest)[0][1:] == ("waiting", 2), "it waits")
    assert here(target) == "c40 c50 c60 q4 q5 q6"
    number = int(str(target.rows(newest)[0][0]))
    assert look_at_backfill(target.connection, number).ended
    assert target.rows(CHOSEN) == [('["4"]',), ('["5"]',), ('["6"]',)]
    # Nothing is asked for meanwhile.
    time.sleep(0.5)
    target._answered.clear()
    target._seen = 0
    assert [each.id for each in target._arrived()].count(request.id) == 1
    assert confirm_run(target.connection, number)
    # The same page is asked for once more.
    page(target, published, 4)
    until_through(target)
    assert here(target) == "c40 q4"


def test_several_pages_and_a_restart_between(start: StartTarget) -> None:
    target, published = begun(start, 1, 2, 3)
    target.execute(AGE)
    first = page(target, published, 3, last_key=(3,))
    target.until(
        lambda: (
            target.rows("SELECT after_key FROM replicator_backfillrun WHERE light") == [("[3]",)]
        ),
        "one page is through",
    )
    # Nothing leaves before all pages are through.
    assert here(target) == "c10 c20 c30 q1 q2 q3"
    target.stop()
    published.transaction(choice("d", 20, 2), question("d", 2))
    target.start()
    second = page(target, published, 4)
    assert (first.after, second.after) == (None, (3,))
    until_through(target)
    assert here(target) == "c30 c40 q3 q4"


def test_an_answer_to_a_run_that_was_cancelled_chooses_nothing(start: StartTarget) -> None:
    target, published = begun(start, 1, 2)
    target.execute(AGE)
    old = target.request(PageRequest)
    (subscription,) = target.rows("SELECT id FROM replicator_subscription")[0]
    _, resumed = begin_backfill(target.connection, int(str(subscription)))
    assert not resumed
    target.answer(published, old, *trees(3), chosen=1)
    assert here(target) == "c10 c20 q1 q2"
    page(target, published, 2, 4)
    # What the run has not seen is suspect; its answer tells that question 1 is there still.
    until_swept(target, published)
    assert here(target) == "c20 c40 q2 q4"
    assert target.rows(RUNS)[-1] == ("command", "finished", False)


def until_swept(target: Target, published: Published) -> None:
    """Answer whatever the sweep asks for: all of it is on the source still."""

    def through() -> bool:
        states = [str(state) for (_, state, _) in target.rows(RUNS)]
        return set(states) <= {"finished", "cancelled"}

    while not through():
        try:
            request = target.request(KeysRequest, 1)
        except AssertionError:
            continue
        rows = [
            question("r", int(key[0]), published=True)
            if name == "public.polls_question"
            else choice("r", int(key[0]), int(key[0]) // 10)
            for name, keys in request.keys.items()
            for key in keys
        ]
        target.answer(published, request, *rows)


def test_it_is_not_chosen_anew_before_it_is_time(start: StartTarget) -> None:
    target, published = begun(start, 1)
    target.stop()
    target.start()
    target.reach(published.transaction(question("u", 1, published=True, question_text="x")))
    target.execute("UPDATE replicator_backfillrun SET started_at = now() - interval '59 minutes'")
    target.reach(published.transaction(question("u", 1, published=True, question_text="y")))
    assert len(target.rows(RUNS)) == 1


def test_a_row_that_another_rule_holds_stays(start: StartTarget) -> None:
    target, published = start("some-votes", ready=False)
    target.begin()
    votes = [vote("r", n, 20) for n in (1, 2)]
    rest = (choice("r", 20, 2, votes=9), question("r", 2))
    target.answer(published, target.request(PageRequest), *votes, *rest, chosen=2)
    target.answer(published, target.request(PageRequest), choice("r", 30, 3), question("r", 3))
    until_through(target)
    # Choice 20 has too many votes to be here by itself, and its votes wait for it.
    assert here(target) == "c30 q3"
    target.reach(published.transaction(choice("u", 20, 2, votes=1)))
    answered = target.request(KeysRequest)
    assert answered.keys == {"public.polls_choice": (("20",),)}
    target.answer(published, answered, choice("r", 20, 2, votes=1), *votes, question("r", 2))
    # Now the votes are: they were chosen though they could not be here.
    assert here(target) == "c20 c30 q2 q3 v1 v2"


def test_two_datasets_choose_each_for_itself(start: StartTarget) -> None:
    target, published = start("latest-polls", "polls-by-id:1", ready=False)
    target.begin()
    for _ in range(2):
        request = target.request(PageRequest)
        if request.dataset == "latest-polls":
            target.answer(published, request, *trees(1, 2), chosen=2)
        else:
            target.answer(published, request, *trees(1))
    until_through(target)
    assert here(target) == "c10 c20 q1 q2"
    refresh(target, published, 2)
    # The other dataset holds question 1.
    assert here(target) == "c10 c20 q1 q2"
    assert target.rows(
        'SELECT s.dataset, r.id FROM replicator."public.polls_question" r '
        "JOIN replicator_subscription s ON s.id = r.subscription_id ORDER BY 1, 2"
    ) == [("latest-polls", 2), ("polls-by-id", 1)]


def test_verify_tells_what_a_new_choice_would_change(start: StartTarget) -> None:
    target, published = begun(start, 1, 2, 3)
    target.execute("UPDATE polls_choice SET choice_text = '!' WHERE id = 30")
    (subscription,) = target.rows("SELECT id FROM replicator_subscription")[0]
    begin_verification(target.connection, int(str(subscription)))
    request = target.request(PageRequest)
    target.answer(published, request, *trees(2, 3, 4), chosen=3)
    found = target.rows(
        "SELECT state, missing, extra, different, findings FROM replicator_verifyrun"
    )
    assert found[0][:4] == ("finished", 2, 2, 1)
    assert sorted(found[0][4]) == [
        ["different", "public.polls_choice", '["30"]'],
        ["extra", "public.polls_choice", '["10"]'],
        ["extra", "public.polls_question", '["1"]'],
        ["missing", "public.polls_choice", '["40"]'],
        ["missing", "public.polls_question", '["4"]'],
    ]
    # Nothing of it was kept.
    assert here(target) == "c10 c20 c30 q1 q2 q3"
    assert target.rows(CHOSEN) == [('["1"]',), ('["2"]',), ('["3"]',)]


def test_why_tells_whether_a_row_was_chosen(start: StartTarget) -> None:
    target, published = begun(start, 1)
    release = find_dataset("latest-polls").release("polls.Question")
    told = text_of(look(target.connection, release, ["1"]))
    assert "✔ Rows where published = true (the 3 latest by pub_date)" in told
    refresh(target, published, 2)
    target.execute(
        "INSERT INTO polls_question (id, question_text, body, published, pub_date) "
        "VALUES (1, '', '', true, now())"
    )
    told = text_of(look(target.connection, release, ["1"]))
    assert "it was not among them when they were last chosen" in told


def test_a_share_is_followed_row_by_row(start: StartTarget) -> None:
    # Half of all hashes begin with a bit of 0.
    inside = [
        n
        for n in range(1, 60)
        if hashlib.sha256(f"half:{len(str(n))}:{n}".encode()).digest()[0] < 0x80
    ]
    target, published = start("half-the-polls")
    target.reach(published.transaction(*(question("c", n, priority=1) for n in range(1, 60))))
    assert here(target) == " ".join(f"q{n}" for n in inside)
    one, other = inside[0], next(n for n in range(1, 60) if n not in inside)
    target.reach(
        published.transaction(
            choice("c", 1, one),
            choice("c", 2, other),
            question("u", inside[1], priority=0),
            question("u", other, priority=2),
        )
    )
    assert here(target) == " ".join(["c1", *(f"q{n}" for n in inside if n != inside[1])])
    assert target.wanted == []
    assert len(target.rows(RUNS)) == 1


def test_pages_of_other_rules_are_not_asked_for_by_schedule() -> None:
    pages = find_dataset("some-votes").paged
    assert [rule.selection is not None for rule in pages] == [True, False]
    assert backfill.next_selecting(pages) == 0
    assert backfill.next_selecting(pages, 1) is None
    assert user("c", 1).table == "public.auth_user"
