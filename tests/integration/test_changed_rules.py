"""A dataset that other code declares otherwise: what belongs by the old rules alone goes."""

from collections.abc import Callable

import pytest
from django.db.models import Q

from replicator import Children, Dataset, Referenced, Rows, declare
from replicator.declare import Rule
from replicator.envelope import Op
from replicator.requests import KeysRequest, PageRequest
from tests.integration.conftest import StartTarget
from tests.support.published import Change, Published
from tests.support.sample.polls.models import Choice, Question
from tests.support.target import Target, change

Declare = Callable[..., None]


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


def test_rows_of_a_table_without_rules_any_more_go(start: StartTarget, declared: Declare) -> None:
    declared(Rows("auth.User"), Rows("shop.Order"))
    target, published = start("changing")
    target.reach(published.transaction(user("c", 1, "a1"), user("c", 2, "a2")))
    target.reach(published.transaction(change("c", "shop_order", 1, customer_id=1)))
    declared(Rows("auth.User"))
    target.stop()
    target.start()
    target.backfilled(published, (user("r", 1, "a1"), user("r", 2, "a2")))
    assert target.rows("SELECT id FROM shop_order") == []
    assert target.rows("SELECT * FROM replicator.\"public.shop_order\"") == []
