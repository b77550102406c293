"""Children by generic foreign keys: which edges they compile to, and what is refused."""

from collections.abc import Iterator

import pytest

from replicator import Children, Dataset, Rows, opt_in
from replicator.datasets import find_dataset
from replicator.declare import no_declarations
from replicator.errors import WrongDeclaration
from replicator.plan import ChildrenRule, DatasetPlan, Edge, Generic, RowsRule, TableName
from replicator.relations import whole_tables
from replicator_capture.closure import Closure, Lookup, links

REMARKS, NOTES = TableName("public", "pages_remark"), TableName("public", "shop_note")


@pytest.fixture(autouse=True)
def _empty_registry() -> Iterator[None]:
    with no_declarations():
        for label in ("pages.Page", "pages.Article", "pages.Remark", "shop.Note"):
            opt_in(label)
        for label in ("shop.Supplier", "shop.Watch", "shop.Order", "auth.User", "polls.Question"):
            opt_in(label)
        yield


def plan(*rules: Rows | Children) -> DatasetPlan:
    Dataset("x", *rules)
    return find_dataset("x")


def edges(found: DatasetPlan) -> list[tuple[Edge, ...]]:
    return [rule.edges for rule in found.rules if isinstance(rule, ChildrenRule)]


def to(name: str, key: str, generic: Generic, table: TableName = REMARKS) -> Edge:
    return Edge(table, ("object_id",), TableName("public", name), (key,), generic)


def kind(*names: str) -> Generic:
    return Generic("content_type_id", names)


def test_it_leads_to_every_model_of_the_dataset_that_it_can() -> None:
    found = plan(
        Rows("pages.Article"), Rows("shop.Supplier"), Children("pages.Remark", of="target")
    )
    assert edges(found) == [
        (to("pages_article", "page_ptr_id", kind("pages.article")),),
        (to("pages_remark", "id", kind("pages.remark")),),
        (to("pages_page", "id", kind("pages.page")),),
    ]
    assert REMARKS not in whole_tables(found)


def test_keys_written_as_text_and_proxies() -> None:
    found = plan(
        Rows("shop.Supplier"),
        Rows("polls.Question"),
        Rows("shop.Watch"),
        Rows("auth.User"),
        Rows("shop.Order"),
        Children("shop.Note", of="target"),
    )
    written = {each[0].to.name: each[0].generic for each in edges(found)}
    assert written["shop_supplier"] == Generic("content_type_id", ("shop.supplier",), "uuid")
    assert written["shop_order"] == Generic("content_type_id", ("shop.order",), "integer")
    assert "shop_watch" not in written  # its key has two columns


def test_a_generic_relation_names_one_model() -> None:
    found = plan(
        Rows("pages.Page"), Rows("pages.Article"), Children("pages.Remark", of="pages.Page.remarks")
    )
    assert edges(found) == [(to("pages_page", "id", kind("pages.page")),)]
    assert str(edges(found)[0][0]) == "pages_remark.object_id (pages.page)"


def test_with_another_parent_both_must_belong() -> None:
    opt_in("pages.Labelling")
    opt_in("pages.Tag")
    with pytest.raises(WrongDeclaration, match="has no foreign key 'tag'"):
        plan(Rows("pages.Page"), Children("pages.Remark", of=["target", "tag"]))


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ((Rows("shop.Watch"), Children("pages.Remark", of="shop.Watch.x")), "no generic relation"),
        (
            (Rows("pages.Page"), Children("pages.Remark", of="pages.Page.tags")),
            "Those of pages.Page that do: pages.Page.remarks.",
        ),
        ((Rows("pages.Tag"), Children("pages.Remark", of="pages.Page.remarks")), "no rule"),
        ((Rows("shop.Supplier"), Children("pages.Remark", of="nothing")), "target"),
        ((Rows("pages.Page"), Children("shop.Note", of="pages.Page.remarks")), "leads to it"),
    ],
)
def test_refused(rules: tuple[Rows | Children, ...], problem: str) -> None:
    opt_in("pages.Tag")
    with pytest.raises(WrongDeclaration) as caught:
        plan(*rules)
    assert caught.value.check_id == "replicator.E036"
    assert problem in f"{caught.value} {caught.value.remedy}"


def test_both_columns_must_be_released() -> None:
    with no_declarations():
        opt_in("pages.Page")
        opt_in("pages.Remark", exclude=["object_id"])
        with pytest.raises(WrongDeclaration, match="object_id, which is not released"):
            plan(Rows("pages.Page"), Children("pages.Remark", of="target"))


def test_answers_are_closed_by_kind() -> None:
    found = plan(Rows("pages.Page"), Children("pages.Remark", of="pages.Page.remarks"))
    closure = Closure(links([found]))
    closure.note(TableName("public", "pages_page"), ("7",), {"id": "7", "parent_id": None})
    lookups = closure.lookups()
    assert Lookup(REMARKS, ("object_id",), (("7",),), kind("pages.page")) in lookups
    assert isinstance(found.rules[0], RowsRule)
