"""Unique indexes of every kind: a row of ours that the source has lost stands in the way."""

import pytest

from replicator.requests import PageRequest
from replicator_apply.state import start_run
from tests.integration.conftest import StartTarget
from tests.integration.test_apply_stream import TAGS, tag
from tests.support.published import Change
from tests.support.target import Target, change

DROP = "ALTER TABLE pages_tag DROP CONSTRAINT pages_tag_name_key; "
KINDS = {
    "plain": "SELECT 1",
    "partial": DROP + "CREATE UNIQUE INDEX ON pages_tag (name) WHERE name <> '{}'",
    "expression": DROP + "CREATE UNIQUE INDEX ON pages_tag (lower(name), (id % 1))",
    "deferred": DROP + "ALTER TABLE pages_tag ADD UNIQUE (name) DEFERRABLE INITIALLY DEFERRED",
    "deferrable": DROP + "ALTER TABLE pages_tag ADD UNIQUE (name) DEFERRABLE",
}

WHAT = {"partial": "the unique index on name", "expression": "the unique index on lower(("}


@pytest.mark.parametrize("kind", KINDS)
def test_an_old_version_on_a_unique_value_leaves(start: StartTarget, kind: str) -> None:
    target, published = start("pages", prepare=KINDS[kind])
    target.reach(published.transaction(tag(1, "a")))
    target.stop()
    (subscription,) = target.rows("SELECT id FROM replicator_subscription")[0]
    with target.connection.cursor() as cursor:
        start_run(cursor, subscription, "rebase")
    target.start()
    # Behind a gap: the source has deleted row 1, and row 2 has its name.
    target.answer(published, target.request(PageRequest), tag(2, "a", "r"))
    assert target.rows(TAGS) == [(2, "a")]
    assert target.wanted == [("public.pages_tag", '["1"]')]


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_swapped(start: StartTarget, kind: str) -> None:
    target, published = start("pages", prepare=KINDS[kind])
    target.reach(published.transaction(tag(1, "a"), tag(2, "b")))
    target.reach(published.transaction(tag(1, "b", "u"), tag(2, "a", "u")))
    assert target.rows(TAGS) == [(1, "b"), (2, "a")]


@pytest.mark.parametrize("kind", KINDS)
def test_a_local_row_on_the_value_is_told_of(start: StartTarget, kind: str) -> None:
    local = "; INSERT INTO pages_tag (id, name) VALUES (100, 'mine')"
    target, published = start("pages", prepare=KINDS[kind] + local)
    published.transaction(tag(3, "mine"))
    target.until(lambda: bool(target.stopped), "stopped")
    assert "local row(s) of table public.pages_tag" in target.stopped
    assert WHAT.get(kind, "the unique column(s) name that") in target.stopped


def swap_priorities_beside_null(start: StartTarget, nulls: str) -> Target:
    """Where a unique index is partial, swap its values, and bring a row beside a local one."""
    index = f"CREATE UNIQUE INDEX ON polls_question (priority) {nulls} WHERE published"
    local = (
        "INSERT INTO polls_question (id, question_text, body, published, pub_date) "
        "VALUES (100, '', '', true, now())"
    )
    target, published = start("polls", prepare=f"{index}; {local}")

    def question(op: str, pk: int, priority: int | None) -> Change:
        return change(op, "polls_question", pk, published=True, priority=priority)

    target.reach(published.transaction(question("c", 1, 1), question("c", 2, 2)))
    published.transaction(question("u", 1, 2), question("u", 2, 1), question("c", 3, None))
    return target


def test_null_is_in_nobodys_way_in_a_partial_index(start: StartTarget) -> None:
    target = swap_priorities_beside_null(start, "")
    rows = [(1, 2), (2, 1), (3, None), (100, None)]
    statement = "SELECT id, priority FROM polls_question ORDER BY id"
    target.until(lambda: target.rows(statement) == rows, "all are here")
    assert target.stopped == ""


def test_null_is_in_the_way_in_a_partial_index_that_says_so(start: StartTarget) -> None:
    target = swap_priorities_beside_null(start, "NULLS NOT DISTINCT")
    target.until_stopped("1 local row(s) of table public.polls_question hold values of the unique")
