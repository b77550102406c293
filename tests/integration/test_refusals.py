"""What the source refuses, or does not answer, is told, whatever was asked for."""

import pytest

from replicator.requests import KeysRequest, PageRequest
from replicator_apply import asking
from tests.integration.conftest import StartTarget
from tests.integration.test_apply_stream import tag
from tests.support.published import Published
from tests.support.target import Target, change

REFUSED = "SELECT wanted_refused FROM replicator_streamposition"
ANSWERED = "SELECT wanted_answered_at IS NOT NULL FROM replicator_streamposition"
NOTES = "SELECT state, note FROM replicator_backfillrun"


def test_a_refusal_of_wanted_rows_is_kept_until_they_come(start: StartTarget) -> None:
    target, published = start("pages")
    target.reach(published.transaction(change("u", "pages_page", 5, unchanged=("body",))))
    assert target.rows(ANSWERED) == [(False,)]
    target.answer(published, target.request(KeysRequest), refused="deploy the same code")
    assert target.rows(REFUSED) == [("deploy the same code",)]
    assert target.rows(ANSWERED) == [(True,)]
    assert target.wanted != []
    target.execute("UPDATE replicator_wantedrow SET asked_at = NULL")
    target.answer(published, target.request(KeysRequest), change("r", "pages_page", 5))
    assert target.rows(REFUSED) == [("",)]
    assert target.wanted == []


def test_wanted_rows_that_are_refused_are_asked_for_in_parts(
    start: StartTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "FIRST_KEYS", 4)
    target, published = start("pages")
    pages = [change("u", "pages_page", pk, unchanged=("body",)) for pk in range(1, 9)]
    target.reach(published.transaction(*pages))
    first, second = target.request(KeysRequest), target.request(KeysRequest)
    assert [len(each.keys["public.pages_page"]) for each in (first, second)] == [4, 4]
    target.answer(published, first, refused="too slow")
    assert target.rows(REFUSED) == [("too slow",)]
    target.execute("UPDATE replicator_wantedrow SET asked_at = NULL")
    third = target.request(KeysRequest)
    assert len(third.keys["public.pages_page"]) == 2


@pytest.mark.parametrize(("about", "note"), [("some-tags", ""), ("live-roots", "not the same")])
def test_a_page_that_is_refused_for_another_dataset_has_no_note_of_it(
    start: StartTarget, about: str, note: str
) -> None:
    target, published = start("live-roots", "some-tags", ready=False)
    target.begin()
    request = target.request(PageRequest)
    while request.dataset != "live-roots":
        request = target.request(PageRequest)
    target.answer(published, request, refused="not the same", refused_datasets=(about,))
    assert target.rows("SELECT dataset, gate FROM replicator_subscription WHERE gate <> ''") == [
        (about, "not the same")
    ]
    notes = (
        "SELECT r.note FROM replicator_backfillrun r JOIN replicator_subscription s "
        "ON s.id = r.subscription_id WHERE s.dataset = 'live-roots'"
    )
    assert target.rows(notes) == [(note,)]


def test_wanted_rows_that_are_refused_for_a_dataset_are_asked_for_without_it(
    start: StartTarget,
) -> None:
    target, published = start("pages", "published-polls")
    target.reach(published.transaction(change("u", "pages_page", 5, unchanged=("body",))))
    request = target.request(KeysRequest)
    about = ("published-polls",)
    target.answer(published, request, refused="not the same", refused_datasets=about)
    assert target.rows(REFUSED) == [("",)]
    target.execute("UPDATE replicator_wantedrow SET asked_at = NULL")
    assert [item.dataset for item in target.request(KeysRequest).plan] == ["pages"]


def sweep(start: StartTarget) -> tuple[Target, Published, KeysRequest]:
    """Let a run ask for two suspects."""
    target, published = start("some-tags", ready=False)
    target.begin()
    for rows in ((tag(1, op="r"), tag(2, op="r")), (tag(1, op="r"), tag(2, op="r"))):
        target.answer(published, target.request(PageRequest), *rows)
    target.until(lambda: ("finished", "") in target.rows(NOTES), "the first backfill is through")
    target.execute("UPDATE replicator_subscription SET generation = generation + 1")
    target.execute(
        "INSERT INTO replicator_backfillrun (subscription_id, generation, reason, rule, sweeping) "
        "SELECT id, generation, 'test', 2, true FROM replicator_subscription"
    )
    return target, published, target.request(KeysRequest)


def test_a_refusal_of_a_sweep_is_noted_in_its_run(start: StartTarget) -> None:
    target, published, request = sweep(start)
    target.answer(published, request, refused="no such dataset")
    assert ("running", "no such dataset") in target.rows(NOTES)


def test_a_sweep_that_is_not_answered_makes_no_progress(
    start: StartTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "FIRST_PATIENCE", 0.05)
    target, _, first = sweep(start)
    target.execute("UPDATE replicator_backfillrun SET updated_at = now() - interval '1 day'")
    later = target.request(KeysRequest)
    while later.id == first.id:
        later = target.request(KeysRequest)
    assert target.rows(
        "SELECT now() - updated_at > interval '1 h' FROM replicator_backfillrun WHERE suspects = 2"
    ) == [(True,)]
