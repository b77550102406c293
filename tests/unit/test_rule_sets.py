"""The helpers of declarations: which rules they stand for, whatever else is declared when."""

import random
import re
from collections.abc import Iterable

import pytest
from django.db.models import Q

from replicator import (
    Children,
    Dataset,
    Referenced,
    Rows,
    children_for_derived_models,
    closure_of,
    opt_in,
    opt_out,
    rows_for_app,
    rows_for_derived_models,
)
from replicator.checks import static_messages
from replicator.closure import Link, Reach
from replicator.datasets import compile_dataset
from replicator.declare import declared_opt_ins, names_of, no_declarations, rules_in_full
from replicator.errors import ConfigurationError, WrongDeclaration
from replicator.plan import (
    ChildrenRule,
    DatasetPlan,
    Edge,
    ForeignKey,
    Generic,
    IsNull,
    ReferencedRule,
    Release,
    RowsRule,
    Rule,
    TableName,
)
from replicator.relations import rings, stuck, undecided
from tests.support.sample.pages.models import Article, Labelling, Page, Tag
from tests.support.sample.polls.models import Choice, Question, Vote
from tests.support.sample.shop.models import Product, Supplier, Team

SAMPLE = declared_opt_ins()


@pytest.fixture(autouse=True)
def _empty_registry():
    with no_declarations():
        yield


def opt_all_in(*without: str) -> None:
    for each in SAMPLE:
        if each.label not in without:
            opt_in(each.label, only=each.only, exclude=None if each.only else each.exclude)


def told(dataset: Dataset) -> list[str]:
    """Write rules as short texts."""
    return [_told(rule) for rule in rules_in_full(dataset.rules)]


def _told(rule) -> str:
    parts = [type(rule).__name__, rule.label]
    if isinstance(rule, Children):
        parts.append("of " + "+".join(names_of(rule.of)))
    if isinstance(rule, Referenced):
        parts.append("via " + " ".join(rule.via))
    if rule.where:
        parts.append("where")
    parts += [f"null {name}" for name in rule.null] + [f"required {n}" for n in rule.required]
    return " ".join(parts)


def assert_sound(dataset: Dataset) -> DatasetPlan:
    plan = compile_dataset(dataset)
    assert (undecided(plan), stuck(plan), rings([plan])) == ([], [], [])
    return plan


# Rows of an app, and of derived models ----------------------------------------------------------


def test_rows_of_an_app_are_its_opted_in_models() -> None:
    dataset = Dataset("pages", rows_for_app("pages"))
    opt_all_in("pages.Remark")
    assert told(dataset) == [
        "Rows pages.Article",
        "Rows pages.Labelling",
        "Rows pages.Page",
        "Rows pages.Page_tags",
        "Rows pages.Tag",
    ]
    assert_sound(dataset)


def test_a_helper_stands_beside_other_rules() -> None:
    opt_all_in()
    dataset = Dataset("polls", rows_for_app("polls"), Referenced("auth.User"))
    assert len(assert_sound(dataset).releases) == 4


def test_rows_of_derived_models_bring_the_rest_of_them() -> None:
    opt_all_in()
    dataset = Dataset("x", rows_for_derived_models(Page))
    assert told(dataset) == ["Rows pages.Article"]
    assert {release.label for release in compile_dataset(dataset).releases} == {
        "pages.Article",
        "pages.Page",
    }
    assert told(Dataset("y", rows_for_derived_models("pages.page"))) == ["Rows pages.Article"]


def test_models_derived_from_an_abstract_one() -> None:
    from django.contrib.auth.models import AbstractUser

    opt_all_in()
    assert told(Dataset("x", rows_for_derived_models(AbstractUser))) == ["Rows auth.User"]


def test_children_for_derived_models_by_the_link_to_the_rest_of_them() -> None:
    opt_all_in()
    rest = Dataset(
        "x", Rows(Page, Q(live=True), null=["parent"]), children_for_derived_models(Page)
    )
    assert told(rest)[1:] == ["Children pages.Article of page_ptr"]
    assert_sound(rest)


def test_children_for_derived_models_by_a_generic_relation() -> None:
    opt_all_in()
    hanging = Dataset(
        "x", Rows(Page), Rows(Article), children_for_derived_models("pages.page", of="remarks")
    )
    assert told(hanging)[2:] == [
        "Children pages.Remark of pages.Page.remarks",
        "Children pages.Remark of pages.Article.remarks",
    ]
    assert_sound(hanging)


def test_children_for_derived_models_by_a_foreign_key() -> None:
    opt_all_in()
    (rule,) = rules_in_full([children_for_derived_models(Page, of=["category", "owner"])])
    assert (rule.label, rule.of) == ("pages.Article", ("category", "owner"))


def test_children_for_models_derived_from_an_abstract_one_need_a_foreign_key() -> None:
    from django.contrib.auth.models import AbstractUser

    opt_all_in()
    with pytest.raises(WrongDeclaration, match=r"auth\.User is not the rest of a row") as caught:
        rules_in_full([children_for_derived_models(AbstractUser)])
    assert caught.value.check_id == "replicator.E036"


@pytest.mark.parametrize(
    ("helper", "check_id", "says"),
    [
        (lambda: rows_for_app("nowhere"), "E010", "no app 'nowhere'"),
        (lambda: rows_for_app("polls"), "E030", "no model of the app is opted in"),
        (lambda: rows_for_derived_models(Page), "E030", "inherits from it is opted in"),
        (lambda: rows_for_derived_models("pages.Nothing"), "E010", "no model pages.Nothing"),
        (lambda: children_for_derived_models(Page), "E030", "inherits from it is opted in"),
        (lambda: closure_of(Question), "E030", "not opted in"),
        (lambda: closure_of(Tag, stop="pages.Nothing"), "E010", "no model pages.Nothing"),
    ],
)
def test_what_a_helper_cannot_find_is_a_finding_of_check(helper, check_id, says) -> None:
    opt_in(Tag)
    Dataset("x", helper())
    found = [message for message in static_messages() if message.id.startswith("replicator.E0")]
    assert [message.id for message in found if message.id != "replicator.E001"] == [
        f"replicator.{check_id}"
    ]
    assert says in found[0].msg
    assert found[0].hint


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: rows_for_app(Question),
        lambda: rows_for_derived_models(5),
        lambda: children_for_derived_models(5),
        lambda: children_for_derived_models(Page, of=[5]),
        lambda: closure_of(Question.objects),
        lambda: closure_of(Question, where={"published": True}),
        lambda: closure_of(Question, stop=[5]),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_with_its_place(wrong) -> None:
    with pytest.raises(ConfigurationError) as caught:
        wrong()
    line = wrong.__code__.co_firstlineno
    assert re.search(rf"test_rule_sets\.py:{line}: ", str(caught.value))


def test_neither_the_order_of_opt_ins_nor_of_apps_matters() -> None:
    def fingerprints(order: Iterable[int]) -> list[str]:
        with no_declarations():
            helpers = [rows_for_app("pages"), rows_for_derived_models(Page), closure_of(Supplier)]
            datasets = [Dataset(f"x{n}", each) for n, each in enumerate(helpers)]
            for number in order:
                each = SAMPLE[number]
                opt_in(each.label, only=each.only, exclude=None if each.only else each.exclude)
            return [compile_dataset(each).fingerprint for each in datasets]

    assert fingerprints(range(len(SAMPLE))) == fingerprints(reversed(range(len(SAMPLE))))


def test_a_broken_opt_in_is_told_once() -> None:
    opt_in(Tag)
    opt_in(Page, exclude=["nothing"])
    Dataset("x", rows_for_app("pages"))
    found = [message.id for message in static_messages() if message.id == "replicator.E012"]
    assert len(found) == 1


# Closures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("declaration", SAMPLE, ids=lambda each: each.label)
@pytest.mark.parametrize("where", [None, Q(pk__isnull=False)], ids=["all", "some"])
def test_the_closure_of_every_sample_model_is_sound(declaration, where) -> None:
    opt_all_in()
    if declaration.label in ("shop.Watch", "kinds.Reading"):
        where = None  # No filter compares several columns at once.
    assert_sound(Dataset("x", closure_of(declaration.label, where)))


def test_a_tree_with_what_it_refers_to() -> None:
    opt_all_in()
    assert told(Dataset("x", closure_of(Question, Q(published=True)))) == [
        "Rows polls.Question where",
        "Children polls.Choice of question",
        "Children polls.Vote of choice",
        "Referenced auth.User via polls.Question.author",
    ]


def test_what_refers_to_a_referenced_row_is_not_taken() -> None:
    opt_all_in()
    assert told(Dataset("x", closure_of(Vote))) == [
        "Rows polls.Vote",
        "Referenced auth.User via polls.Question.author",
        "Referenced polls.Choice via polls.Vote.choice",
        "Referenced polls.Question via polls.Choice.question",
    ]


def test_subtrees_links_and_tables_of_one_object() -> None:
    opt_all_in()
    assert told(Dataset("x", closure_of(Page, Q(title="section")))) == [
        "Rows pages.Page where null parent",
        "Children pages.Page of parent",
        "Children pages.Article of page_ptr",
        "Children pages.Labelling of page",
        "Children pages.Page_tags of page",
        "Children pages.Remark of pages.Article.remarks",
        "Children pages.Remark of pages.Page.remarks",
        "Referenced pages.Tag via pages.Labelling.tag pages.Page_tags.tag",
    ]
    assert "Children pages.Labelling of page" in told(Dataset("y", closure_of(Article)))


def test_generic_relations_are_followed_down_only() -> None:
    opt_all_in()
    assert told(Dataset("up", closure_of("pages.Remark"))) == ["Rows pages.Remark"]
    assert "pages.Remark" not in str(told(Dataset("side", closure_of(Labelling, Q(pk=1)))))
    stopped = Dataset("stopped", closure_of(Page, Q(pk=1), stop="pages.Remark"))
    assert "pages.Remark" not in str(told(stopped))


def test_a_generic_relation_whose_columns_stay_is_not_followed() -> None:
    opt_all_in("pages.Remark")
    opt_in("pages.Remark", exclude=["content_type"])
    assert "pages.Remark" not in str(told(Dataset("x", closure_of(Page))))


def test_a_cycle_of_two_models_is_cut_by_null() -> None:
    opt_all_in()
    assert told(Dataset("x", closure_of(Team, Q(pk=1)))) == [
        "Rows shop.Team where null captain",
        "Children shop.Member of team",
    ]
    assert told(Dataset("y", closure_of("shop.Member", Q(pk=1)))) == [
        "Rows shop.Member where",
        "Referenced shop.Team via shop.Member.team null captain",
    ]


def test_foreign_keys_to_stopped_models_are_null_or_required() -> None:
    opt_all_in("shop.Supplier")
    rules = told(
        Dataset("x", closure_of(Product, Q(active=True), stop=["shop.order", "auth.User"]))
    )
    assert rules == [
        "Rows shop.Product where null replaced_by required supplier",
        "Children shop.Product of replaced_by",
        "Children shop.OrderLine of product required order",
        "Children shop.Stock of product",
        "Children shop.Watch of product required user",
    ]
    assert told(Dataset("y", closure_of(Question, stop="auth.User")))[0].endswith("null author")


def test_what_may_have_to_wait_is_not_pulled_in() -> None:
    opt_all_in("shop.Supplier")
    assert told(Dataset("x", closure_of("shop.Order", stop="auth.User"))) == [
        "Rows shop.Order null customer",
        "Children shop.OrderLine of order required product",
    ]


def test_groups_and_the_admins_log_are_never_entered() -> None:
    opt_all_in()
    opt_in("auth.Group")
    opt_in("auth.User_groups")
    opt_in("admin.LogEntry")
    labels = {rule.label for rule in rules_in_full(Dataset("x", closure_of("auth.User")).rules)}
    assert labels.isdisjoint({"auth.Group", "auth.User_groups", "admin.LogEntry"})
    assert "polls.Vote" in labels
    assert told(Dataset("y", closure_of("auth.Group")))[:2] == [
        "Rows auth.Group",
        "Children auth.User_groups of group",
    ]


def test_only_opted_in_models_and_released_foreign_keys_take_part() -> None:
    opt_in(Question, exclude=["author"])
    opt_in(Vote)
    opt_in("auth.User")
    opt_out(Choice)
    assert told(Dataset("x", closure_of(Question))) == ["Rows polls.Question"]


def test_models_of_other_streams_do_not_take_part() -> None:
    opt_in(Page)
    opt_in(Article)
    opt_in(Labelling, stream="other")
    assert "pages.Labelling" not in str(told(Dataset("x", closure_of(Page))))
    assert compile_dataset(Dataset("y", closure_of(Page))).stream == "main"


# Any models at all ------------------------------------------------------------------------------


def table(label: str) -> TableName:
    return TableName("public", label)


def edge_of(link: Link) -> Edge:
    generic = Generic("kind", (link.to,)) if link.generic else None
    return Edge(table(link.model), (link.field,), table(link.to), ("id",), generic)


def plan_of(reach: Reach, links: list[Link]) -> DatasetPlan:
    """Compile what was reached as `rule_sets` and `datasets` do, without models."""
    members = (*reach.down, *reach.up)
    pulled = [ReferencedRule(link.to, edge_of(link)) for link in sorted(reach.pulled)]
    rules: list[Rule] = [RowsRule(reach.root, None if reach.whole else IsNull("id"))]
    for label in members:
        if not (label == reach.root and reach.whole):
            rules += [ChildrenRule(label, tuple(map(edge_of, way))) for way in reach.under(label)]
    rules += pulled
    for link in links:
        own = [rule for rule in rules if rule.label == link.model]
        under = own and all(isinstance(r, ChildrenRule) and edge_of(link) in r.edges for r in own)
        if link.parent and link.model in members and not under:
            rules.append(ReferencedRule(link.to, edge_of(link)))
    by_field = {(link.model, link.field): edge_of(link) for link in links}
    null = [by_field[label, name] for label in members for name in reach.outside(label)[0]]
    required = [by_field[label, name] for label in members for name in reach.outside(label)[1]]
    releases = tuple(_release(label, links) for label in members)
    return DatasetPlan("x", "main", tuple(rules), releases, "", tuple(null), tuple(required))


def _release(label: str, links: list[Link]) -> Release:
    keys = tuple(
        ForeignKey((link.field,), table(link.to), ("id",), link.nullable, link.guarded)
        for link in links
        if link.model == label and not link.generic
    )
    return Release(label, table(label), ("id",), ("id",), foreign_keys=keys)


def some_links(chance: random.Random) -> list[Link]:
    """Draw foreign keys, generic or not; a model is the rest of one before it, or of none."""
    labels = "abcdef"[: chance.randint(2, 6)]
    links = []
    for number in range(chance.randint(1, 9)):
        model, to = chance.choice(labels), chance.choice(labels)
        nullable = model == to or chance.random() < 0.4
        if chance.random() < 0.2:
            links.append(Link(model, f"f{number}", to, True, False, generic=True))
        else:
            links.append(Link(model, f"f{number}", to, nullable, chance.random() < 0.9))
    for one, other in zip(labels[1:], labels, strict=False):
        if chance.random() < 0.2:
            links.append(Link(one, "parent", other, parent=True))
    return links


def must_wait_at_length(links: list[Link], closed: set[str]) -> bool:
    """Whether a row must point at one that must itself point outside: that may need more rules."""
    steps = {(link.model, link.to) for link in links if link.firm}
    ends = {to for _, to in steps if to in closed}
    while more := {a for a, b in steps if b in ends} - ends:
        ends |= more
    return any(model in ends and link_to in ends - closed for model, link_to in steps)


@pytest.mark.parametrize("seed", range(20))
def test_any_models_give_a_sound_closure(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(200):
        links = some_links(chance)
        closed = {label for label in "bcdef" if chance.random() < 0.15}
        parents = {link.to for link in links if link.parent}
        closed -= parents
        if must_wait_at_length(links, closed):
            continue
        reach = Reach("a", links, frozenset("abcdef") - closed, whole=chance.random() < 0.3)
        plan = plan_of(reach, links)
        assert not any(link.generic for link in reach.pulled)
        assert (undecided(plan), stuck(plan), rings([plan])) == ([], [], []), links


def test_an_object_that_must_wait_for_a_stopped_one_is_told_by_check() -> None:
    links = [
        Link("a", "out", "z"),
        Link("b", "parent", "a", parent=True),
        Link("b", "next", "b", nullable=True),
    ]
    plan = plan_of(Reach("a", links, frozenset("ab")), links)
    assert [(str(pulling), str(out)) for pulling, out in stuck(plan)][:1] == [("b.parent", "a.out")]
