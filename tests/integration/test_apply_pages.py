"""Apply alone: pages of a backfill, written without a look at the rules, and what comes beside."""

from collections.abc import Sequence
from typing import Any

import pytest

from replicator.requests import PageRequest
from replicator_apply.collapse import TableChanges
from replicator_apply.direct import Cursor, DirectWriter
from replicator_apply.rules import Rules
from tests.integration.conftest import StartTarget
from tests.support.published import Change, Published
from tests.support.target import Target, change

TAGS = "SELECT id, name FROM pages_tag ORDER BY id"
RECEIPTS = 'SELECT id, generation FROM replicator."public.pages_tag" ORDER BY id'
RULE = 1
"""The rule of `pages` that brings tags."""


def tag(op: str, pk: int, name: str = "") -> Change:
    return change(op, "pages_tag", pk, name=name or f"n{pk}")  # type: ignore[arg-type]


def begun(start: StartTarget) -> tuple[Target, Published]:
    """Start a target whose first backfill is still to come."""
    target, published = start("pages", ready=False)
    target.begin()
    return target, published


def next_page(target: Target) -> PageRequest:
    request: PageRequest = target.request(PageRequest)
    return request


def page_of_tags(target: Target, published: Published, *rows: Change, **more: object) -> None:
    """Answer pages, empty ones but for the tags'."""
    while (request := next_page(target)).rule != RULE:
        target.answer(published, request)
    target.answer(published, request, *rows, **more)


@pytest.mark.usefixtures("either_way")
def test_rows_of_a_page_enter_change_or_are_seen_anew(start: StartTarget) -> None:
    target, published = begun(start)
    target.reach(published.transaction(tag("c", 1), tag("c", 2)))
    page_of_tags(target, published, tag("r", 1, "one"), tag("r", 2), tag("r", 3))
    assert target.rows(TAGS) == [(1, "one"), (2, "n2"), (3, "n3")]
    assert [pk for pk, _ in target.rows(RECEIPTS)] == [1, 2, 3]


def test_pages_need_no_verdict(start: StartTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[None] = []
    settle = Rules.settle
    monkeypatch.setattr(Rules, "settle", lambda rules: (judged.append(None), settle(rules)))
    target, published = begun(start)
    target.reach(published.transaction(tag("c", 7), tag("u", 8)))
    rows = [tag("r", pk) for pk in range(300)]
    page_of_tags(target, published, *rows, tag("c", 7, "again"), tag("d", 8))
    assert target.rows("SELECT count(*) FROM pages_tag") == [(299,)]
    assert target.rows("SELECT name FROM pages_tag WHERE id = 7") == [("again",)]
    assert not judged


@pytest.mark.parametrize("held", [0, 150, 400])
def test_what_is_made_ahead_for_a_page_is_written_for_the_rows_that_are_new_here(
    start: StartTarget, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    made: list[bool] = []
    looked: list[int] = []
    enter, look_for = DirectWriter._enter_many, DirectWriter._look_for

    def noted(
        writer: DirectWriter, cursor: Cursor, changes: TableChanges, ahead: Sequence[str]
    ) -> tuple[int, int]:
        made.append(changes.made is not None and changes.made.entering is not None)
        looked.clear()
        return enter(writer, cursor, changes, ahead)

    def look(writer: DirectWriter, numbers: Sequence[int], rows: Sequence[Any]) -> str:
        looked.append(len(numbers))
        return look_for(writer, numbers, rows)

    monkeypatch.setattr(DirectWriter, "_enter_many", noted)
    monkeypatch.setattr(DirectWriter, "_look_for", look)
    target, published = begun(start)
    target.reach(published.transaction(tag("c", 1_000)))
    page_of_tags(target, published, *[tag("r", pk) for pk in range(held)], last_key=[held])
    # Names that COPY writes otherwise; what was created or changed meanwhile is repeated.
    rows = [tag("r", pk, f"a\n\\{pk}\t") for pk in range(400)]
    target.answer(published, next_page(target), *rows, tag("c", 500, "x\ny"), tag("d", 3))
    names = dict(target.rows(TAGS))
    expected = {pk: f"a\n\\{pk}\t" for pk in range(400) if pk != 3}
    assert names == expected | {500: "x\ny", 1_000: "n1000"}
    assert [pk for pk, _ in target.rows(RECEIPTS)] == sorted(names)
    assert made[-1]
    # One look says that none of a page is here; else there is one for each row.
    assert looked == ([1, 399] if held else [1])


def test_what_a_page_repeats_is_not_staged_any_more_when_it_is_written(start: StartTarget) -> None:
    target, published = begun(start)
    page_of_tags(target, published, tag("c", 7))
    target.reach(published.transaction(tag("u", 7, "new"), tag("u", 8, "other")))
    assert target.rows(TAGS) == [(7, "new"), (8, "other")]


@pytest.mark.usefixtures("either_way")
def test_a_change_before_its_page_enters(start: StartTarget) -> None:
    target, published = begun(start)
    target.reach(published.transaction(tag("u", 5, "changed"), tag("d", 6)))
    assert target.rows(TAGS) == [(5, "changed")]
    page_of_tags(target, published, tag("r", 5, "changed"), tag("r", 6))
    assert target.rows(TAGS) == [(5, "changed"), (6, "n6")]


@pytest.mark.usefixtures("either_way")
def test_a_local_row_in_the_way_of_a_page_is_told(start: StartTarget) -> None:
    target, published = begun(start)
    target.execute("INSERT INTO pages_tag (id, name) VALUES (2, 'local')")
    while (request := next_page(target)).rule != RULE:
        target.answer(published, request)
    with pytest.raises(AssertionError, match=r"1 local row\(s\) of table public.pages_tag"):
        target.answer(published, request, tag("r", 1), tag("r", 2))
    assert target.rows(TAGS) == [(2, "local")]


@pytest.mark.usefixtures("either_way")
def test_the_next_page_is_asked_for_before_this_one_is_applied(start: StartTarget) -> None:
    target, published = begun(start)
    while (request := next_page(target)).rule != RULE:
        target.answer(published, request)
    target.execute("ALTER TABLE pages_tag ADD CONSTRAINT no CHECK (id <> 2)")
    with pytest.raises(AssertionError, match="Postgres refuses a row"):
        target.answer(published, request, tag("r", 1), tag("r", 2), last_key=(2,))
    following = next_page(target)
    assert (following.rule, following.after) == (RULE, (2,))
    target.execute("ALTER TABLE pages_tag DROP CONSTRAINT no")
    target.until(lambda: target.rows(TAGS) == [(1, "n1"), (2, "n2")], "it goes on")
    target.answer(published, following, tag("r", 3))
    assert target.rows(TAGS) == [(1, "n1"), (2, "n2"), (3, "n3")]
