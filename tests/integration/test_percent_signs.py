"""Names of tables and columns that hold percent signs, which mark parameters in statements."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db.models import Q

from replicator import Dataset, Rows, latest, opt_in
from replicator.declare import no_declarations
from replicator.requests import KeysRequest, PageRequest
from replicator_apply import assemble, batch
from replicator_apply.connection import connect_target
from replicator_apply.life import ask_to_end, holdings, pause, resume
from replicator_apply.unsubscribe import Ending, end_all, foresee
from tests.conftest import SampleFactory
from tests.integration.conftest import StartTarget
from tests.integration.test_types import await_backfill, await_equal, await_verified, replicated
from tests.support.any_model import any_model, create_table
from tests.support.published import Change
from tests.support.target import Target

NAMES = {"a%b": "text", "c%s": "text", "%(d)s": "text"}
KEY, TABLE = "%k", "kinds_per%cent"
ROWS = f'SELECT "{KEY}", "a%b", "c%s" FROM "{TABLE}" ORDER BY 1'


def row(op: str, pk: str, a: str, c: str = "", *unchanged: str) -> Change:
    after = {KEY: pk, "a%b": a, "c%s": c, "%(d)s": "d"}
    for name in unchanged:
        after.pop(name)
    return Change(op, f"public.{TABLE}", (pk,), after if op != "d" else None, unchanged)


@pytest.fixture
def create() -> Iterator[str]:
    """Declare datasets of a model with such names; gives the statement that makes its table."""
    with no_declarations(), any_model("Per%cent", {KEY: "text", **NAMES}, KEY) as model:
        opt_in(model)
        Dataset("every", Rows(model))
        Dataset("some", Rows(model, where=Q(**{"a%b": "a"})))
        Dataset("newest", Rows(model, select=latest(2, by="a%b", every="1d")))
        yield create_table(model)


def run_of(target: Target, state: str) -> None:
    newest = "SELECT state FROM replicator_backfillrun ORDER BY id DESC LIMIT 1"
    target.until(lambda: target.rows(newest) == [(state,)], state)


@pytest.mark.parametrize("directly", [True, False])
def test_rows_are_staged_in_rounds_and_swept(
    start: StartTarget, create: str, monkeypatch: pytest.MonkeyPatch, directly: bool
) -> None:
    monkeypatch.setattr(assemble, "SPOOL_AFTER", 3)
    monkeypatch.setattr(batch, "ROUND", 4)
    if not directly:
        monkeypatch.setattr(batch, "may_write_directly", lambda *_: False)
    target, published = start("every", prepare=create)
    fill = [row("c", f"f{n}", "") for n in range(6)]
    gone = [row("d", f"f{n}", "") for n in range(6)]
    again = row("u", "1", "a2", "", "c%s")
    target.reach(published.transaction(row("c", "1", "a", "c"), *fill, again, *gone))
    assert target.rows(ROWS) == [("1", "a2", "c")]
    target.execute("UPDATE replicator_subscription SET generation = generation + 1")
    target.execute(
        "INSERT INTO replicator_backfillrun (subscription_id, generation, reason) "
        "SELECT id, generation, 'test' FROM replicator_subscription"
    )
    target.answer(published, target.request(PageRequest))
    asked = target.request(KeysRequest)
    assert dict(asked.keys) == {f"public.{TABLE}": (("1",),)}
    target.answer(published, asked, Change("d", f"public.{TABLE}", ("1",), None, read=True))
    run_of(target, "finished")
    assert target.rows(ROWS) == []


def test_subscriptions_come_and_go(start: StartTarget, create: str) -> None:
    target, published = start("every", "some", prepare=create)
    target.reach(published.transaction(row("c", "1", "a"), row("c", "2", "b")))
    ids = dict(target.rows("SELECT dataset, id FROM replicator_subscription"))
    assert holdings(target.connection, ids["some"]) == (1, 1)
    assert pause(target.connection, ids["some"])
    target.reach(published.transaction(row("d", "1", ""), row("d", "2", "")))
    target.reach(published.transaction(row("c", "3", "c")))
    assert resume(target.connection, ids["some"])
    target.answer(published, target.request(PageRequest), row("r", "4", "a"))
    target.stop()
    subscriptions = [each for each in target.settings.subscriptions if each.dataset == "some"]
    settings = target.settings.model_copy(update={"subscriptions": subscriptions})
    target.execute(f"UPDATE replicator_subscription SET declared = false WHERE id = {ids['every']}")
    with connect_target(settings) as connection:
        for keep in (False, True):
            foresee(connection, settings, target.place, Ending(ids["every"], keep_rows=keep))
        ask_to_end(connection, ids["every"], keep_rows=True)
        end_all(connection, settings, target.place)
    held = target.rows(f'SELECT DISTINCT subscription_id FROM replicator."public.{TABLE}"')
    assert held == [(ids["some"],)]
    assert ("3", "c", "") in target.rows(ROWS)


def test_rows_are_chosen(start: StartTarget, create: str) -> None:
    target, published = start("newest", ready=False, prepare=create)
    target.begin()
    page = row("r", "1", "a"), row("r", "2", "b")
    target.answer(published, target.request(PageRequest), *page, chosen=2)
    run_of(target, "finished")
    assert [pk for pk, *_ in target.rows(ROWS)] == ["1", "2"]


def test_they_travel_from_end_to_end(sample_database: SampleFactory, tmp_path: Path) -> None:
    pair = sample_database(), sample_database()
    with (
        any_model("Per%cent", {KEY: "text", **NAMES}, KEY) as model,
        replicated([model], pair, f"sqlite:///{tmp_path}/log") as system,
    ):
        insert = "INSERT INTO public.\"{}\" VALUES ('{}', '1%', '%s', '%(x)s')".format
        system.at_source.execute(insert(TABLE, "k1%"))
        system.start("capture")
        system.start("apply")
        await_backfill(system)
        await_equal(system, [model])
        system.at_source.execute(insert(TABLE, "k2%"))
        system.at_source.execute(f'UPDATE public."{TABLE}" SET "a%b" = \'%\'')
        await_equal(system, [model])
        await_verified(system, 2)
