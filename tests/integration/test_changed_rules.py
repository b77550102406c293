"""A dataset that other code declares otherwise: what belongs by the old rules alone goes."""

from collections.abc import Callable

import pytest
from django.db.models import Q

from replicator import Children, Dataset, Referenced, Rows, declare, latest
from replicator.declare import Rule
from replicator.envelope import Answer, Op
from replicator.requests import KeysRequest, PageRequest, fingerprint
from replicator_apply.runs import begin_verification, confirm_run, look_at_verification
from replicator_apply.status import collect
from tests.integration.conftest import StartTarget
from tests.support.published import Change, Published
from tests.support.sample.polls.models import Choice, Question
from tests.support.target import Target, change

Declare = Callable[..., None]
ORDERS = "SELECT id FROM shop_order ORDER BY id"
USERS = "SELECT id FROM auth_user ORDER BY id"


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> Declare:
    """Declare the dataset `changing`, instead of as it was."""

    def declare_it(*rules: Rule) -> None:
        others = {n: d for n, d in declare._registry.datasets.items() if n != "changing"}
        monkeypatch.setattr(declare._registry, "datasets", others)
        Dataset("changing", *rules)

    return declare_it


def backfill(target: Target, published: Published, pages: int, *swept: Change) -> None:
    """Begin again, by the new rules; no page brings a row, the sweep finds all of them."""
    target.stop()
    target.start()
    for _ in range(pages):
        target.answer(published, target.request(PageRequest))
    target.answer(published, target.request(KeysRequest), *swept)
    newest = "SELECT state FROM replicator_backfillrun ORDER BY id DESC LIMIT 1"
    target.until(lambda: target.rows(newest) == [("finished",)], "backfill finished")


def user(op: Op, pk: int, name: str) -> Change:
    return change(op, "auth_user", pk, username=name)


def choice(op: Op, pk: int, votes: int) -> Change:
    return change(op, "polls_choice", pk, question_id=pk, votes=votes)


def test_a_row_that_passed_the_old_filter_goes_where_others_may_pull_it_in(
    start: StartTarget, declared: Declare
) -> None:
    order, pulled = Rows("shop.Order"), Referenced("auth.User")
    declared(order, pulled, Rows("auth.User", where=Q(username__startswith="a")))
    target, published = start("changing")
    target.reach(published.transaction(user("c", 1, "a1"), user("c", 2, "a2")))
    target.reach(published.transaction(change("c", "shop_order", 1, customer_id=2)))
    assert target.rows("SELECT id FROM auth_user ORDER BY 1") == [(1,), (2,)]
    declared(order, pulled, Rows("auth.User", where=Q(username__startswith="b")))
    line = change("r", "shop_order", 1, customer_id=2)
    rows = user("r", 1, "a1"), user("r", 2, "a2"), line
    backfill(target, published, 2, *rows)
    assert target.rows("SELECT id FROM auth_user ORDER BY 1") == [(2,)]


def test_a_row_that_passed_the_old_filter_goes_where_it_may_be_a_child(
    start: StartTarget, declared: Declare
) -> None:
    questions = Rows(Question, where=Q(published=True), null=["author"])
    every, children = Rows("auth.User"), Children(Choice, of="question")
    declared(questions, every, children, Rows(Choice, where=Q(votes__gte=5), required=["question"]))
    target, published = start("changing")
    shown = change("c", "polls_question", 1, published=True)
    target.reach(published.transaction(shown, choice("c", 1, 7)))
    declared(questions, every, Children(Choice, of="question", where=Q(votes__gte=9)))
    rows = change("r", "polls_question", 1, published=True), choice("r", 1, 7)
    backfill(target, published, 2, *rows)
    assert target.rows("SELECT id FROM polls_question") == [(1,)]
    assert target.rows("SELECT id FROM polls_choice") == []


# Other choices


def tag(op: Op, pk: int, name: str) -> Change:
    return change(op, "pages_tag", pk, name=name)


@pytest.mark.parametrize("model", ["pages.Tag", "auth.User"])
def test_what_was_chosen_stays_until_the_new_choice_comes(
    start: StartTarget, declared: Declare, model: str
) -> None:
    declared(Rows("pages.Tag", select=latest(2, by="name", every="1d")))
    target, published = start("changing", ready=False)
    target.begin()
    request = target.request(PageRequest)
    target.answer(published, request, tag("r", 1, "a"), tag("r", 2, "b"), chosen=2)
    through(target)
    declared(
        *[Rows("auth.User", select=latest(1, by="username", every="1d"))] * (model == "auth.User"),
        Rows("pages.Tag", select=latest(1, by="name", every="1d")),
    )
    again(target)
    target.reach(published.transaction(tag("u", 1, "a2"), tag("u", 3, "c"), user("u", 1, "x")))
    assert target.rows("SELECT id, name FROM pages_tag ORDER BY id") == [(1, "a2"), (2, "b")]
    assert target.rows(USERS) == []
    request = target.request(PageRequest)
    if model == "auth.User":
        target.answer(published, request, user("r", 5, "u"), chosen=1)
        request = target.request(PageRequest)
    target.answer(published, request, tag("r", 3, "c"), chosen=1)
    target.until(lambda: target.rows("SELECT id FROM pages_tag") == [(3,)], "the new choice")


# Tables without rules any more


def order(op: Op, pk: int, customer: int) -> Change:
    return change(op, "shop_order", pk, customer_id=customer, number=str(pk))


def again(target: Target) -> None:
    """Start with other code."""
    target.stop()
    target.start()


def through(target: Target) -> None:
    """Wait until all backfills are."""
    open_runs = "SELECT 1 FROM replicator_backfillrun WHERE state NOT IN ('finished', 'cancelled')"
    target.until(lambda: not target.rows(open_runs), "backfills finished")


def test_rows_of_a_table_without_rules_any_more_go(start: StartTarget, declared: Declare) -> None:
    declared(Rows("auth.User"), Rows("shop.Order"))
    target, published = start("changing")
    target.reach(published.transaction(user("c", 1, "a1"), user("c", 2, "a2")))
    target.reach(published.transaction(order("c", 1, 1)))
    declared(Rows("auth.User"))
    again(target)
    target.backfilled(published, (user("r", 1, "a1"), user("r", 2, "a2")))
    assert target.rows(ORDERS) == []
    assert target.rows('SELECT * FROM replicator."public.shop_order"') == []
    assert target.rows(USERS) == [(1,), (2,)]
    target.reach(published.transaction(user("d", 1, "a1")))
    assert target.rows(USERS) == [(2,)]


def test_they_go_as_those_of_a_subscription_that_ends(
    start: StartTarget, declared: Declare
) -> None:
    declared(Rows("auth.User"), Rows("shop.Order"))
    Dataset("b-users", Rows("auth.User", where=Q(username__startswith="b")))
    target, published = start("changing", "b-users")
    target.reach(published.transaction(*(user("c", n, name) for n, name in enumerate("abcd"))))
    target.reach(published.transaction(order("c", 1, 0), order("c", 2, 1)))
    target.execute("INSERT INTO shop_order (id, number, customer_id) VALUES (9, 'local', 2)")
    kept = {n: d for n, d in declare._registry.datasets.items() if n == "b-users"}
    declared(Rows("pages.Tag"))
    declare._registry.datasets.update(kept)
    again(target)
    target.backfilled(published, ())
    assert target.rows(ORDERS) == [(9,)]
    assert target.rows(USERS) == [(1,), (2,)]  # another one's, and what a local row points at


def test_more_than_the_fuse_allows_wait_and_are_told(start: StartTarget, declared: Declare) -> None:
    declared(Rows("auth.User"), Rows("shop.Order"))
    target, published = start("changing", fuse=1)
    target.reach(published.transaction(user("c", 1, "a1"), order("c", 1, 1), order("c", 2, 1)))
    declared(Rows("auth.User"))
    again(target)
    target.answer(published, target.request(PageRequest), user("r", 1, "a1"))
    newest = "SELECT state, suspects, id FROM replicator_backfillrun ORDER BY id DESC LIMIT 1"
    target.until(lambda: target.rows(newest)[0][:2] == ("waiting", 2), "it waits")
    run = target.rows(newest)[0][2]
    (stream,) = collect(target.settings, target.connection)
    told = [problem.what for problem in stream.problems]
    assert told == [f"Backfill {run} of changing would delete 2 rows."]
    check = begin_verification(target.connection, 1)
    request = target.request(PageRequest)
    answer = Answer("stage", request.id, fingerprint(request.plan))
    published.hashes("public.auth_user", [], answer)
    target.until(lambda: look_at_verification(target.connection, check).ended, "compared")
    found = look_at_verification(target.connection, check)
    assert (found.state, found.extra) == ("finished", 3)
    assert found.findings[1:] == [["extra", "public.shop_order", f'["{n}"]'] for n in (1, 2)]
    assert target.rows(ORDERS) == [(1,), (2,)]
    assert confirm_run(target.connection, run)
    through(target)
    assert target.rows(ORDERS) == []


def test_rows_of_a_table_that_is_not_opted_in_any_more_become_local(
    start: StartTarget,
    declared: Declare,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    declared(Rows("auth.User"), Rows("shop.Order"))
    target, published = start("changing")
    target.reach(published.transaction(user("c", 1, "a1"), order("c", 1, 1)))
    opt_ins = {n: d for n, d in declare._registry.opt_ins.items() if n != "shop.order"}
    monkeypatch.setattr(declare._registry, "opt_ins", opt_ins)
    declared(Rows("auth.User"))
    again(target)
    target.backfilled(published, (user("r", 1, "a1"),))
    assert target.rows(ORDERS) == [(1,)]
    assert target.rows('SELECT * FROM replicator."public.shop_order"') == []
    assert "has held rows of public.shop_order, which is not here any more" in caplog.text


def test_receipts_of_a_table_that_is_gone_are_forgotten(
    start: StartTarget, declared: Declare
) -> None:
    declared(Rows("auth.User"), Rows("pages.Tag"))
    target, published = start("changing")
    target.reach(published.transaction(user("c", 1, "a1"), change("c", "pages_tag", 1)))
    declared(Rows("auth.User"))
    target.stop()
    target.execute("DROP TABLE pages_tag CASCADE")
    target.start()
    target.backfilled(published, (user("r", 1, "a1"),))
    assert target.rows('SELECT * FROM replicator."public.pages_tag"') == []


def test_they_stay_while_another_dataset_that_has_the_table_now_is_filled(
    start: StartTarget, declared: Declare
) -> None:
    declared(Rows("auth.User"), Rows("shop.Order"))
    Dataset("second", Rows("auth.User"))
    target, published = start("changing", "second")
    target.reach(published.transaction(user("c", 1, "a1"), order("c", 1, 1)))
    target.stop()
    declared(Rows("auth.User"))
    declare._registry.datasets.pop("second", None)
    Dataset("second", Rows("auth.User"), Rows("shop.Order"))
    target.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END$$; "
        "CREATE TRIGGER no BEFORE DELETE ON shop_order FOR EACH ROW EXECUTE FUNCTION no()"
    )
    target.start()
    first, other = sorted((target.request(PageRequest) for _ in range(2)), key=dataset_of)
    target.answer(published, first, user("r", 1, "a1"))
    swept = "SELECT 1 FROM replicator_backfillrun WHERE sweeping AND suspects = 1"
    target.until(lambda: bool(target.rows(swept)), "the sweep began")
    target.answer(published, other, user("r", 1, "a1"))
    target.answer(published, target.request(PageRequest), order("r", 1, 1))
    through(target)
    assert target.stopped == ""
    assert target.rows(ORDERS) == [(1,)]
    held = 'SELECT dataset FROM replicator."public.shop_order" r JOIN replicator_subscription s '
    assert target.rows(f"{held} ON s.id = r.subscription_id") == [("second",)]


def dataset_of(request: PageRequest) -> str:
    return request.dataset
