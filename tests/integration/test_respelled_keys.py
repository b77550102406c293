"""Wanted rows of which the key may be spelled in several ways, such as 5 and 5.0 as numeric."""

from replicator.requests import KeysRequest
from tests.integration.conftest import StartTarget
from tests.support.target import change

NUMERIC = (
    "ALTER TABLE pages_page ALTER id DROP IDENTITY; ALTER TABLE pages_page ALTER id TYPE numeric"
)
PAGES = "SELECT id::text, title, body FROM pages_page"


def test_an_answer_in_another_spelling_strikes_the_wanted_row_off(start: StartTarget) -> None:
    target, published = start("pages", prepare=NUMERIC)
    # Keys of other tables are no numbers.
    target.execute(
        "INSERT INTO replicator_wantedrow (source, stream, table_name, row_key, reason) "
        "VALUES ('prod', 'main', 'public.other', '[\"x\"]', '')"
    )
    target.reach(published.transaction(change("u", "pages_page", "5", unchanged=("body",))))
    assert ("public.pages_page", '["5"]') in target.wanted
    read = change("r", "pages_page", "5.0", body="whole")
    target.answer(published, target.request(KeysRequest), read)
    assert target.wanted == [("public.other", '["x"]')]
    assert target.rows(PAGES) == [("5.0", "t", "whole")]


def test_the_row_of_a_key_that_is_wanted_in_another_spelling_is_no_base(start: StartTarget) -> None:
    target, published = start("pages", prepare=NUMERIC)
    target.reach(published.transaction(change("c", "pages_page", "5", body="old")))
    target.execute(
        "INSERT INTO replicator_wantedrow (source, stream, table_name, row_key, reason) "
        "VALUES ('prod', 'main', 'public.pages_page', '[\"5.0\"]', '')"
    )
    request = target.request(KeysRequest)
    event = change("u", "pages_page", "5", title="new", unchanged=("body",))
    target.reach(published.transaction(event))
    assert target.rows(PAGES) == [("5", "t", "old")]
    read = change("r", "pages_page", "5", title="new", body="new")
    target.answer(published, request, read)
    assert target.wanted == []
    assert target.rows(PAGES) == [("5", "new", "new")]
