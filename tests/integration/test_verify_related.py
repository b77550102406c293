"""Verify where rows belong because of others: whole trees are compared, and nothing is changed."""

from replicator.envelope import Answer, RowHash
from replicator.requests import PageRequest, fingerprint
from replicator_apply.command import _nothing_begun
from replicator_apply.follow import worker_for
from replicator_apply.runs import begin_verification, look_at_verification
from tests.integration.conftest import StartTarget
from tests.integration.test_relations import choice, here, question, user, vote
from tests.support.published import Change
from tests.support.target import Target, change

RUN = "SELECT state, missing, extra, different, findings FROM replicator_verifyrun"
POSITION = "SELECT epoch, next_lsn, log_offset FROM replicator_streamposition"
TREE = (question("r", 1, published=True, author_id=4), choice("r", 2, 1), vote("r", 3, 2))


def begin(target: Target) -> PageRequest:
    (subscription,) = target.rows("SELECT id FROM replicator_subscription")[0]
    begin_verification(target.connection, int(str(subscription)))
    request: PageRequest = target.request(PageRequest)
    assert not request.hashes
    return request


def test_every_kind_of_difference_is_found_and_nothing_is_written(start: StartTarget) -> None:
    target, published = start("poll-trees")
    target.reach(
        published.transaction(
            user("c", 4),
            question("c", 1, published=True, author_id=4),
            choice("c", 2, 1),
            choice("c", 5, 1),
            vote("c", 3, 2),
            question("c", 8, published=True),
        )
    )
    target.execute("DELETE FROM polls_vote; UPDATE polls_choice SET choice_text = '!' WHERE id = 2")
    target.execute('DELETE FROM replicator."public.polls_vote"')
    before = here(target)
    # The source has neither choice 5 nor question 8, and question 9 is not published.
    request = begin(target)
    target.answer(published, request, *TREE, user("r", 4), question("r", 9))
    ((state, missing, extra, different, findings),) = target.rows(RUN)
    assert (state, missing, extra, different) == ("finished", 1, 2, 1)
    assert sorted(findings) == [  # type: ignore[call-overload]
        ["different", "public.polls_choice", '["2"]'],
        ["extra", "public.polls_choice", '["5"]'],
        ["extra", "public.polls_question", '["8"]'],
        ["missing", "public.polls_vote", '["3"]'],
    ]
    assert here(target) == before
    assert target.wanted == []


def test_local_rows_under_keys_of_the_source_are_told_apart(start: StartTarget) -> None:
    target, published = start("poll-trees")
    target.reach(published.transaction(user("c", 4), question("c", 1, published=True)))
    target.execute(
        "INSERT INTO polls_choice (id, question_id, choice_text, rank, votes) "
        "VALUES (2, 1, 'mine', 1, 0)"
    )
    target.answer(published, begin(target), *TREE)
    ((state, missing, *_, findings),) = target.rows(RUN)
    assert (state, missing) == ("finished", 1)
    assert ["local", "public.polls_choice", '["2"]'] in findings  # type: ignore[operator]
    assert target.rows("SELECT local FROM replicator_verifyrun") == [(1,)]


def test_trees_that_were_never_applied_are_compared_without_a_row_being_written(
    start: StartTarget,
) -> None:
    target, published = start("poll-trees", ready=False)
    with (
        _nothing_begun(target.connection, target.settings, target.place),
        worker_for(target.settings, target.connection, target.place, rehearses=True),
    ):
        request = begin(target)
        answer = Answer("stage", request.id, fingerprint(request.plan))
        published.transaction(question("c", 8, published=True))
        published.transaction(*TREE, user("r", 4), Change("m", ""), answer=answer)
        target.until(lambda: target.rows(RUN)[0][:2] == ("finished", 4), "they are compared")
        assert target.rows(POSITION) == []
    assert target.rows("SELECT FROM polls_question") == []
    assert target.rows("SELECT FROM replicator_backfillrun") == []


def test_a_refusal_ends_the_first_comparison(start: StartTarget) -> None:
    target, published = start("poll-trees", ready=False)
    with (
        _nothing_begun(target.connection, target.settings, target.place),
        worker_for(target.settings, target.connection, target.place, rehearses=True),
    ):
        request = begin(target)
        answer = Answer(
            "stage",
            request.id,
            fingerprint(request.plan),
            refused="declared differently",
            refused_datasets=("poll-trees",),
        )
        published.transaction(Change("m", ""), answer=answer)
        target.until(lambda: target.rows(RUN)[0][0] == "cancelled", "it has ended")
    assert target.rows("SELECT FROM replicator_backfillrun") == []


def test_what_a_wanted_row_will_bring_is_not_missing(start: StartTarget) -> None:
    target, published = start("poll-trees")
    born = (user("c", 4), question("c", 1, published=True, author_id=4))
    target.reach(published.transaction(*born))
    # Its author is not here: the old version stands, and both are on their way.
    target.reach(published.transaction(question("u", 1, published=True, author_id=5)))
    assert target.wanted == [("public.polls_question", '["1"]')]
    now = (question("r", 1, published=True, author_id=5), user("r", 5))
    target.answer(published, begin(target), *now)
    assert target.rows(RUN) == [("finished", 0, 0, 0, [])]
    assert here(target) == "q1 u4"


def test_equal_trees_are_equal(start: StartTarget) -> None:
    target, published = start("poll-trees")
    born = (
        user("c", 4),
        question("c", 1, published=True, author_id=4),
        choice("c", 2, 1),
        vote("c", 3, 2),
    )
    target.reach(published.transaction(*born))
    target.answer(published, begin(target), *TREE, user("r", 4))
    assert target.rows(RUN) == [("finished", 0, 0, 0, [])]


def test_a_row_that_waits_is_not_missing(start: StartTarget) -> None:
    target, published = start("waiting")
    target.reach(published.transaction(question("c", 1, author_id=9)))
    target.answer(published, begin(target), question("r", 1, author_id=9))
    target.answer(published, target.request(PageRequest))
    assert target.rows(RUN) == [("finished", 0, 0, 0, [])]


def test_children_of_a_row_that_only_a_repeated_event_tells_of_are_not_extra(
    start: StartTarget,
) -> None:
    target, published = start("poll-trees")
    target.reach(published.transaction(question("c", 1, published=True), choice("c", 2, 1)))
    # The snapshot was taken before question 1 was published: its choices were not read.
    target.answer(published, begin(target), question("u", 1, published=True))
    ((state, *counts, findings),) = target.rows(RUN)
    assert (state, *counts, findings) == ("finished", 0, 0, 0, [])


def test_rows_that_a_fetch_is_to_bring_are_counted(start: StartTarget) -> None:
    target, published = start("poll-trees")
    target.reach(published.transaction(user("c", 4)))
    target.reach(published.transaction(question("u", 1, published=True, author_id=4)))
    assert len(target.wanted) == 1
    target.answer(published, begin(target), *TREE, user("r", 4))
    counts = "SELECT state, missing, left_out FROM replicator_verifyrun"
    assert target.rows(counts) == [("finished", 0, 1)]


def test_rows_that_a_fetch_is_to_bring_are_counted_where_hashes_are_compared(
    start: StartTarget,
) -> None:
    target, published = start("some-tags")
    target.reach(published.transaction(change("u", "pages_tag", 5, unchanged=("name",))))
    assert len(target.wanted) == 1
    (subscription,) = target.rows("SELECT id FROM replicator_subscription")[0]
    run = begin_verification(target.connection, int(str(subscription)))
    rows = [RowHash((key,), "?") for key in (5, 6)]
    while not look_at_verification(target.connection, run).ended:
        request = target.request(PageRequest)
        assert request.hashes
        target._answered.add(request.id)
        answer = Answer("stage", request.id, fingerprint(request.plan))
        published.hashes("public.pages_tag", rows, answer)
        reached = f"SELECT next_lsn >= {published.next} FROM replicator_streamposition"
        target.until(lambda reached=reached: target.rows(reached) == [(True,)], "compared")
        rows = []
    found = look_at_verification(target.connection, run)
    assert (found.rows_checked, found.missing, found.left_out) == (2, 1, 1)
