"""Unique indexes of every kind: a row of ours that the source has lost stands in the way."""

import pytest

from replicator.requests import PageRequest
from replicator_apply.state import start_run
from tests.integration.conftest import StartTarget
from tests.integration.test_apply_stream import TAGS, tag

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
