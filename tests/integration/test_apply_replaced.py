"""Another row under the key of one that is gone: it has none of that one's columns."""

import pytest

from replicator_apply import batch
from tests.integration.conftest import StartTarget
from tests.support.target import change

Change = tuple[object, ...]


def page(op, number, **columns):
    return change(op, "pages_page", number, **{"slug": f"s{number}", **columns})


TWO_PAGES = (
    page("c", 1, title="one", body="BODY OF ONE"),
    page("c", 2, title="two", body="BODY OF TWO"),
)
TAKEN_OVER = (
    # UPDATE pages_page SET id = 2 WHERE id = 1, and page 2 is gone; the body was not sent.
    change("d", "pages_page", 2),
    change("d", "pages_page", 1),
    page("c", 2, slug="s1", title="one", unchanged=("body",)),
)
BODY = "SELECT title, body FROM pages_page WHERE id = 2"


def test_a_row_that_takes_over_a_key_is_fetched(start: StartTarget) -> None:
    target, published = start("pages")
    target.reach(published.transaction(*TWO_PAGES))
    target.reach(published.transaction(*TAKEN_OVER))
    assert target.wanted == [("public.pages_page", '["2"]')]
    # The old version stands meanwhile; never a mixture of both rows.
    assert target.rows(BODY) in ([("two", "BODY OF TWO")], [])


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_rounds_do_not_mix_two_rows(
    start: StartTarget, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(batch, "ROUND", size)
    target, published = start("pages")
    target.reach(published.transaction(*TWO_PAGES))
    changes = (page("u", 2, title="two'", body="NEW BODY OF TWO"), page("c", 9), *TAKEN_OVER)
    target.reach(published.transaction(*changes))
    assert target.wanted == [("public.pages_page", '["2"]')]
    assert target.rows(BODY) in ([("two", "BODY OF TWO")], [])


def test_after_truncate_the_held_row_is_no_base(start: StartTarget) -> None:
    target, published = start("pages")
    target.reach(published.transaction(*TWO_PAGES))
    new = page("c", 2, title="new", unchanged=("body",))
    target.reach(published.transaction(change("t", "pages_page"), new))
    assert target.wanted == [("public.pages_page", '["2"]')]
    assert target.rows(BODY) in ([("two", "BODY OF TWO")], [])
