"""Row selectors: what may be written, what it compiles to, and how it is told."""

from datetime import date, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from django.db.models import Q

from replicator import Dataset, Rows, latest, opt_in, sample
from replicator.datasets import compile_dataset
from replicator.declare import no_declarations
from replicator.drawing import mermaid_of, text_of
from replicator.errors import ConfigurationError, WrongDeclaration
from replicator.explain import explain, readable
from replicator.filter_sql import filter_sql
from replicator.plan import (
    And,
    Compare,
    DatasetPlan,
    LatestRows,
    Or,
    RowsRule,
    Sampled,
    SampledRows,
)
from replicator.relations import whole_tables
from replicator.selectors import Latest, Sample, Share
from replicator_capture.selection_sql import belongs
from tests.support.sample.kinds.models import Specimen
from tests.support.sample.polls.models import Question


@pytest.fixture(autouse=True)
def _empty_registry():
    with no_declarations():
        yield


def plan_of(*rules: Rows, only=None) -> DatasetPlan:
    with no_declarations():
        for label in {rule.label: None for rule in rules}:
            opt_in(label, only=only)
        return compile_dataset(Dataset("x", *rules))


def rule_of(label, **more) -> RowsRule:
    (rule,) = plan_of(Rows(label, **more)).paged
    return rule


def column_of(name):
    from psycopg import sql

    return sql.Identifier("t", name)


# What is written ----------------------------------------------------------------------------------


def test_what_selectors_are():
    assert latest(3, "pub_date") == Latest(3, "pub_date", timedelta(hours=1))
    assert latest(3, by="pub_date", every="15m").every == timedelta(minutes=15)
    assert latest(3, by="pub_date", every=timedelta(days=1)).every == timedelta(days=1)
    assert sample(1000, seed="x", every="90 s") == Sample(1000, "x", timedelta(seconds=90))
    assert sample(percent=5) == Share(Decimal(5))
    assert sample(percent=0.1, seed="s") == Share(Decimal("0.1"), "s")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: latest(0, by="a"), "0 rows"),
        (lambda: latest(True, by="a"), "True rows"),
        (lambda: latest("3", by="a"), "'3' rows"),
        (lambda: latest(3, by=""), "by which column"),
        (lambda: latest(3, by="a", every="soon"), "every 'soon'"),
        (lambda: latest(3, by="a", every="0s"), "every"),
        (lambda: latest(3, by="a", every=60), "every 60"),
        (sample, "either"),
        (lambda: sample(3, percent=3), "either"),
        (lambda: sample(-1), "-1 rows"),
        (lambda: sample(2**31), "2147483648 rows"),
        (lambda: sample(percent=Decimal("1e-999999")), "percent"),
        (lambda: latest(3, by="a", every="9999999999999d"), "every"),
        (lambda: sample(percent=0), "0 percent"),
        (lambda: sample(percent=100.1), "100.1 percent"),
        (lambda: sample(percent="5"), "'5' percent"),
        (lambda: sample(percent=float("nan")), "nan percent"),
        (lambda: sample(3, seed=7), "seed"),
        (lambda: sample(percent=3, every="1h"), "followed live"),
        (lambda: Rows(Question, keys="123"), "a str as its keys"),
        (lambda: Rows(Question, keys=3), "a int as its keys"),
        (lambda: Rows(Question, select=100), "a int as its select"),
        (lambda: Rows(Question, where=3), "a int as its where"),
    ],
)
def test_what_is_no_selector_raises_at_once_and_says_where(make, says):
    with pytest.raises(ConfigurationError, match=says) as caught:
        make()
    assert "test_selectors.py" in str(caught.value)
    assert caught.value.remedy


# What it compiles to ------------------------------------------------------------------------------


def test_keys_are_a_filter():
    assert rule_of(Question, keys=[3, 1, 3]).filter == Compare("id", "in", ("1", "3"), "bigint")
    assert rule_of(Question, keys=[]).filter == Compare("id", "in", (), "bigint")
    assert rule_of(Question, keys=iter([1])).selection is None
    uuid = "00000000-0000-0000-0000-000000000001"
    both = {UUID(int=1), uuid.upper()}
    assert rule_of("shop.Supplier", keys=both).filter == Compare("id", "in", (uuid,), "uuid")
    with no_declarations():
        opt_in("pages.Page")
        opt_in("pages.Article")
        plan = compile_dataset(Dataset("x", Rows("pages.Article", keys=[1])))
    assert plan.paged[0].filter == Compare("page_ptr_id", "in", ("1",), "bigint")


def test_keys_stand_beside_where():
    found = rule_of(Question, where=Q(published=True), keys=[1]).filter
    assert isinstance(found, And)
    assert readable(found) == "published = true and id in (1)"


def test_keys_of_several_columns():
    found = rule_of("kinds.Reading", keys=[(2, date(2026, 1, 1)), (1, date(2026, 1, 2))]).filter
    again = rule_of("kinds.Reading", keys=[[1, date(2026, 1, 2)], (2, date(2026, 1, 1))]).filter
    assert found == again
    assert isinstance(found, Or)
    assert readable(found) == (
        "(sensor = 1 and taken_on = 2026-01-02) or (sensor = 2 and taken_on = 2026-01-01)"
    )
    assert rule_of("shop.Watch", keys=[]).filter == Or(())


def test_the_same_iterator_of_keys_may_be_compiled_twice():
    rule = Rows(Question, keys=(number for number in (1, 2)))
    assert plan_of(rule).fingerprint == plan_of(rule).fingerprint
    assert plan_of(rule).paged[0].filter == Compare("id", "in", ("1", "2"), "bigint")


def test_a_share_is_a_filter_on_the_key():
    found = rule_of(Question, select=sample(percent=0.50, seed="s"))
    assert found == RowsRule("polls.Question", Sampled(("id",), "0.5", "s"))
    assert rule_of("shop.Watch", select=sample(percent=10)).filter == Sampled(
        ("user_id", "product_id"), "10", ""
    )
    everything = plan_of(Rows(Question, select=sample(percent=100)))
    assert everything.paged[0].takes_all
    assert everything.every is None


def test_what_hangs_on_other_rows_is_a_selection():
    plan = plan_of(
        Rows(Question, where=Q(published=True), select=latest(3, by="pub_date", every="6h")),
        Rows("shop.Watch", select=sample(5, seed="s", every="10m")),
    )
    one, other = plan.paged
    assert one.selection == LatestRows(3, "pub_date", "timestamp with time zone")
    assert one.filter == Compare("published", "exact", ("true",), "boolean")
    assert other == RowsRule("shop.Watch", None, SampledRows(5, "s"))
    assert plan.every == 600
    assert whole_tables(plan) == frozenset()
    assert not other.takes_all


def test_a_column_is_named_as_in_a_filter():
    assert rule_of(Question, select=latest(1, by="author")).selection == LatestRows(
        1, "author_id", "integer"
    )


@pytest.mark.parametrize(
    ("label", "more", "check_id", "says"),
    [
        (Question, {"keys": ["x"]}, "E046", "expected a number"),
        (Question, {"keys": [2**70]}, "E046", "out of range"),
        (Question, {"keys": [None]}, "E046", "None"),
        (Question, {"keys": [(1, 2)]}, "E046", "keys of Rows"),
        ("shop.Watch", {"keys": [1]}, "E046", "user_id, product_id"),
        ("shop.Watch", {"keys": [(1, 2, 3)]}, "E046", "user_id, product_id"),
        ("shop.Watch", {"keys": [(1, None)]}, "E046", "user_id, product_id"),
        ("shop.Watch", {"keys": [(1, "no uuid")]}, "E046", "no uuid"),
        (Question, {"select": latest(1, by="nothing")}, "E047", "nothing"),
        (Question, {"select": latest(1, by="choices")}, "E047", "choices"),
        (Specimen, {"select": latest(1, by="data")}, "E047", "has no order"),
        (Specimen, {"select": latest(1, by="length")}, "E047", "not released"),
    ],
)
def test_what_does_not_fit_is_a_finding(label, more, check_id, says):
    with pytest.raises(WrongDeclaration, match=says) as caught:
        rule_of(label, **more)
    assert caught.value.check_id == f"replicator.{check_id}"
    assert caught.value.remedy


def test_a_column_that_stays_cannot_be_ordered_by():
    with pytest.raises(WrongDeclaration, match="not released"):
        plan_of(Rows(Question, select=latest(1, by="pub_date")), only=["question_text"])


@pytest.mark.parametrize("select", [sample(percent=5), sample(5), latest(5, by="id")])
def test_keys_that_may_be_written_in_several_ways_are_refused(monkeypatch, select):
    monkeypatch.setattr("replicator.row_selection.column_type", lambda _: "numeric")
    with pytest.raises(WrongDeclaration, match=r"id \(numeric\)") as caught:
        rule_of(Question, select=select)
    assert caught.value.check_id == "replicator.E047"


def test_the_fingerprint_changes_with_what_is_selected_and_not_with_how_often():
    given = [
        {},
        {"keys": [1]},
        {"keys": [2]},
        {"select": sample(percent=5)},
        {"select": sample(percent=6)},
        {"select": sample(percent=5, seed="x")},
        {"select": sample(5)},
        {"select": sample(6)},
        {"select": sample(5, seed="x")},
        {"select": latest(5, by="pub_date")},
        {"select": latest(5, by="id")},
    ]
    plans = [plan_of(Rows(Question, **more)) for more in given]
    assert len({plan.fingerprint for plan in plans}) == len(given)
    often = plan_of(Rows(Question, select=latest(5, by="id", every="1s")))
    assert often.fingerprint == plans[-1].fingerprint
    assert often.paged[0].name == plans[-1].paged[0].name != plans[-2].paged[0].name


# SQL and words ------------------------------------------------------------------------------------


def test_the_order_is_one_that_an_index_gives():
    plan = plan_of(Rows(Question, select=latest(7, by="pub_date")))
    text = belongs(plan.paged[0], plan.releases[0], column_of("x")).as_string()
    assert 'WHERE TRUE AND "s"."pub_date" IS NOT NULL' in text
    assert 'ORDER BY "s"."pub_date" DESC, "s"."id" DESC LIMIT 7' in text
    assert (
        'COLLATE "C" DESC'
        in belongs(
            rule_of(Question, select=latest(7, by="question_text")),
            plan.releases[0],
            column_of("x"),
        ).as_string()
    )


def test_half_of_all_hashes_are_below_half():
    text = filter_sql(Sampled(("id",), "50", "it's"), column_of).as_string()
    assert "'\\x8000000000000000'::bytea" in text.replace("E'\\\\x", "'\\x").replace(" E", " ")
    assert "'it''s'" in text


def test_selectors_are_told():
    plan = plan_of(
        Rows(Question, keys=[1, 2]),
        Rows(Question, where=Q(published=True), select=latest(1500, by="pub_date", every="90m")),
        Rows("polls.Choice", select=sample(5, seed="s")),
        Rows("polls.Vote", select=sample(percent=5)),
    )
    told = explain(plan)
    text = text_of(told)
    assert "rows are chosen every 1:00:00" in text
    assert "Rows polls.Question where id in (1, 2)" in text
    assert "Rows polls.Question where published = true (the 1,500 latest by pub_date)" in text
    assert "Rows polls.Choice (a sample of 5 (seed 's'))" in text
    assert "Rows polls.Vote where id in a sample of 5 %" in text
    drawn = mermaid_of(told)
    assert "Rows: published = true, the 1,500 latest by pub_date" in drawn
    assert "all rows" not in drawn
