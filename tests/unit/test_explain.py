"""What `replicator explain` draws, as values, text and flowchart."""

import re

import msgspec
import pytest
from msgspec.structs import replace

from replicator import Children, Dataset, Referenced, Rows, opt_in
from replicator.cli.explain import as_json
from replicator.datasets import compile_dataset, find_dataset
from replicator.declare import declared_datasets, no_declarations
from replicator.drawing import mermaid_of, text_of
from replicator.explain import Count, Explanation, explain, readable
from replicator.plan import And, Compare, IsNull, Not, Or


def drawn(name: str) -> str:
    return text_of(explain(find_dataset(name)))


def test_a_tree_of_rules() -> None:
    text = drawn("poll-trees")
    assert (
        """
Rows polls.Question where published = true
├── Children polls.Choice by polls_choice.question_id
│   └── Children polls.Vote by polls_vote.choice_id where weight > 0
└── Referenced auth.User by polls_question.author_id
"""
        in text
    )
    assert re.search(r"polls\.Vote +public\.polls_vote +id +5 of 6\n", text)
    assert "  polls.Question.author_id  → auth.User  referenced\n" in text


def test_rings_end_and_links_hang_on_both_ends() -> None:
    text = drawn("sections")
    assert (
        """
Rows pages.Page where live = true and title = 'section' [null parent_id]
├── Children pages.Page by pages_page.parent_id (and what hangs on it, as drawn above)
├── Children pages.Article by pages_article.page_ptr_id
└── Children pages.Page_tags by pages_page_tags.page_id and pages_page_tags.tag_id
Rows pages.Tag where name starts with 'a'
└── Children pages.Page_tags by pages_page_tags.page_id and pages_page_tags.tag_id
"""
        in text
    )
    assert "pages.Page.parent_id  → pages.Page  null" in text


def test_several_rules_on_a_model_have_one_tree_below_the_last() -> None:
    with no_declarations():
        for label in ("polls.Question", "polls.Choice"):
            opt_in(label)
        rules = (Rows("polls.Question", null=["author"]), Rows("polls.Question"))
        found = explain(
            compile_dataset(Dataset("x", *rules, Children("polls.Choice", of="question")))
        )
    assert [len(node.hanging) for node in found.rules] == [0, 1]
    assert [node.policies for node in found.rules] == [("null author_id",), ()]
    assert [(e.to, e.policy) for e in found.leaving] == [("public.auth_user", "null")]


def test_every_policy_is_told() -> None:
    with no_declarations():
        opt_in("shop.Product")
        opt_in("shop.OrderLine")
        rows = Rows("shop.OrderLine", required=["order"])
        found = explain(compile_dataset(Dataset("x", rows, Referenced("shop.Product"))))
    assert {f"{e.model}.{e.columns[0]}": e.policy for e in found.leaving} == {
        "shop.OrderLine.order_id": "required",
        "shop.OrderLine.product_id": "referenced",
        "shop.Product.supplier_id": "none!",
        "shop.Product.replaced_by_id": "referenced",
    }


def test_rules_that_hang_on_none_are_drawn_too() -> None:
    with no_declarations():
        for label in ("shop.Team", "shop.Member", "pages.Tag"):
            opt_in(label)
        rules = (Children("shop.Member", of="team"), Children("shop.Team", of="captain"))
        found = explain(compile_dataset(Dataset("x", Rows("pages.Tag"), *rules)))
    assert [node.model for node in found.rules] == ["pages.Tag", "shop.Member"]
    assert found.rules[1].hanging[0].model == "shop.Team"


def test_counts_stand_in_the_table_and_a_note_below() -> None:
    found = explain(find_dataset("poll-trees"))
    counts = (Count("rows that belong", {"polls.Question": 1200, "polls.Choice": 4}),)
    text = text_of(replace(found, counts=counts, note="It is away."))
    assert re.search(r"polls\.Question .* 7 of 7 +1,200\n", text)
    assert re.search(r"\nall +1,204\n", text)
    assert text.endswith("\nRows were not counted: It is away.\n")


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        (Compare("a", "exact", ("it's",), "varchar"), 'a = "it\'s"'),
        (Compare("a", "in", ("1", "3"), "integer"), "a in (1, 3)"),
        (Compare("a", "range", ("1", "2"), "numeric"), "a between 1 and 2"),
        (Compare("a", "gte", ("2026-01-01 00:00",), "date"), "a >= '2026-01-01 00:00'"),
        (Compare("a", "endswith", ("x",), "text"), "a ends with 'x'"),
        (Not(IsNull("a")), "a is not null"),
        (Not(Or((IsNull("a"), IsNull("b")))), "not (a is null or b is null)"),
        (
            And((IsNull("a"), Or((IsNull("b"), IsNull("c"))))),
            "a is null and (b is null or c is null)",
        ),
        (Or(()), "no row"),
        (And(()), "every row"),
    ],
)
def test_filters_are_readable(condition, text) -> None:
    assert readable(condition) == text


NODE = re.compile(r'    n\d+(\["[^"<>`]*(<br/>[^"<>`]*)*"\]|\(\["[^"<>`]*"\]\))')
ARROW = re.compile(r'    n\d+ (-->|-\.->|-\.-x)\|"[^"<>`\n]+"\| n\d+')
STYLE = re.compile(r"    style n\d+ stroke-dasharray: 4")


@pytest.mark.parametrize(
    "name", [n for n, each in declared_datasets().items() if isinstance(each, Dataset)]
)
def test_flowcharts_have_their_syntax(name: str) -> None:
    head, *lines = mermaid_of(explain(find_dataset(name))).splitlines()
    assert head == "flowchart TD"
    for line in lines:
        assert NODE.fullmatch(line) or ARROW.fullmatch(line) or STYLE.fullmatch(line), line
    known = {line.split("[")[0].rstrip("(").strip() for line in lines if NODE.fullmatch(line)}
    assert {
        end for line in lines if ARROW.fullmatch(line) for end in re.findall(r"\bn\d+\b", line)
    } <= known


def test_a_flowchart_quotes_what_filters_hold() -> None:
    hostile = Compare("a", "exact", ('"]; <b> `x` #1\nend',), "text")
    plan = find_dataset("poll-trees")
    rules = (replace(plan.rules[0], filter=hostile), *plan.rules[1:])
    text = mermaid_of(explain(replace(plan, rules=rules)))
    line = text.splitlines()[1]
    assert NODE.fullmatch(line), line
    assert "#quot;" in line
    assert "#lt;b#gt; #96;x#96; #35;1" in line


def test_tables_outside_are_drawn_with_the_policy_that_leads_there() -> None:
    with no_declarations():
        opt_in("polls.Question")
        text = mermaid_of(
            explain(compile_dataset(Dataset("x", Rows("polls.Question", null=["author"]))))
        )
    assert 'n1(["public.auth_user"])' in text
    assert 'n0 -.-x|"author_id: null"| n1' in text


def test_json_is_the_explanation() -> None:
    found = explain(find_dataset("sections"))
    assert msgspec.json.decode(as_json(found), type=Explanation) == found
