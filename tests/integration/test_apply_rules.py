"""Apply alone, through the rules: who enters, stays, leaves, is kept or wanted."""

import psycopg
import pytest

from replicator.envelope import Answer
from replicator.requests import KeysRequest, fingerprint
from tests.integration.conftest import StartTarget
from tests.support.published import Change, Published
from tests.support.target import Target, change, uuid

QUESTIONS = "SELECT id FROM polls_question ORDER BY id"
TEXTS = "SELECT id, question_text, body FROM polls_question ORDER BY id"
PRODUCTS = "SELECT sku FROM shop_product ORDER BY sku"


def question(op: str, pk: int, **columns: object) -> Change:
    return change(op, "polls_question", pk, **columns)  # type: ignore[arg-type]


def ids(target: Target, statement: str) -> list[object]:
    return [row[0] for row in target.rows(statement)]


def test_rows_enter_stay_and_leave_by_the_union_of_two_rules(start_any: StartTarget) -> None:
    target, published = start_any("published-polls")
    target.reach(
        published.transaction(
            question("c", 1, published=True),
            question("c", 2),
            question("c", 3, published=True, priority=9),
        )
    )
    assert ids(target, QUESTIONS) == [1, 3]
    target.reach(published.transaction(question("u", 2, priority=5), question("u", 3, priority=8)))
    assert ids(target, QUESTIONS) == [1, 2, 3]
    target.reach(published.transaction(question("u", 1), question("u", 2, published=True)))
    assert ids(target, QUESTIONS) == [2, 3]
    target.reach(published.transaction(question("d", 2), question("u", 3, priority=4)))
    assert ids(target, QUESTIONS) == []
    assert target.rows('SELECT FROM replicator."public.polls_question"') == []


def test_a_row_of_two_subscriptions_stays_until_both_let_it_go(start: StartTarget) -> None:
    target, published = start("published-polls", "notable-questions")

    def receipts() -> list[object]:
        return target.rows(
            'SELECT r.id, s.dataset FROM replicator."public.polls_question" r '
            "JOIN replicator_subscription s ON s.id = r.subscription_id ORDER BY 1, 2"
        )

    notable = {"question_text": "!", "priority": 0}
    target.reach(published.transaction(question("c", 1, published=True, **notable)))
    assert receipts() == [(1, "notable-questions"), (1, "published-polls")]
    target.reach(published.transaction(question("u", 1, **notable)))
    assert receipts() == [(1, "notable-questions")]
    target.reach(published.transaction(question("u", 1, priority=0, published=True)))
    assert receipts() == [(1, "published-polls")]
    assert ids(target, QUESTIONS) == [1]
    target.reach(published.transaction(question("u", 1, priority=0)))
    assert receipts() == []
    assert ids(target, QUESTIONS) == []


def test_an_unchanged_column_keeps_the_value_held(start_any: StartTarget) -> None:
    target, published = start_any("published-polls")
    target.reach(published.transaction(question("c", 1, published=True, body="long")))
    target.reach(
        published.transaction(
            question("u", 1, question_text="new", published=True, unchanged=["body"])
        )
    )
    assert target.rows(TEXTS) == [(1, "new", "long")]
    target.reach(published.transaction(question("u", 1, unchanged=["body"])))
    assert target.rows(TEXTS) == []
    assert target.wanted == []


def test_an_incomplete_row_that_is_not_held_is_fetched(start: StartTarget) -> None:
    target, published = start("published-polls")
    target.reach(published.transaction(question("u", 1, published=True, unchanged=["body"])))
    assert target.rows(TEXTS) == []
    assert target.wanted == [("public.polls_question", '["1"]')]
    request = target.request(KeysRequest)
    assert request.keys == {"public.polls_question": (("1",),)}
    row = question("r", 1, published=True, question_text="now", body="whole")
    target.answer(published, request, row)
    assert target.rows(TEXTS) == [(1, "now", "whole")]
    assert target.wanted == []


def test_a_wanted_row_that_the_source_lost_is_forgotten(start: StartTarget) -> None:
    target, published = start("published-polls")
    target.reach(published.transaction(question("u", 1, published=True, unchanged=["body"])))
    target.answer(
        published, target.request(KeysRequest), change("d", "polls_question", 1, read=True)
    )
    assert target.wanted == []
    assert target.rows(TEXTS) == []


def test_an_incomplete_row_that_cannot_belong_is_not_fetched(start: StartTarget) -> None:
    target, published = start("published-polls")
    target.reach(published.transaction(question("u", 1, unchanged=["body"])))
    assert target.wanted == []


def test_a_filter_looks_at_the_held_value_of_an_unchanged_column(start: StartTarget) -> None:
    target, published = start("notable-questions")
    target.reach(published.transaction(question("c", 1, question_text="!x", priority=0)))
    target.reach(published.transaction(question("u", 1, priority=0, unchanged=["question_text"])))
    assert ids(target, QUESTIONS) == [1]
    target.reach(published.transaction(question("u", 2, priority=0, unchanged=["question_text"])))
    assert ids(target, QUESTIONS) == [1]
    assert target.wanted == [("public.polls_question", '["2"]')]


def test_a_wanted_row_is_no_base_for_later_changes(start: StartTarget) -> None:
    target, published = start("catalogue")
    supplier = change("c", "shop_supplier", uuid(1), name="one")
    target.reach(published.transaction(supplier, product("c", 1, 1, price="1.00")))
    target.reach(published.transaction(product("u", 1, 2, price="2.00")))
    assert len(target.wanted) == 1
    target.reach(
        published.transaction(product("u", 1, 1, price="3.00", unchanged=["sku", "region"]))
    )
    assert target.rows("SELECT price::text FROM shop_product") == [("1.00",)]
    assert len(target.wanted) == 1


def product(op: str, number: int, supplier: int, **columns: object) -> Change:
    named = {"sku": f"p{number}", "supplier_id": uuid(supplier), **columns}
    return change(op, "shop_product", uuid(number), **named)  # type: ignore[arg-type]


def test_a_row_whose_reference_is_missing_waits_outside(start_any: StartTarget) -> None:
    target, published = start_any("catalogue")
    target.reach(published.transaction(product("c", 1, 7)))
    assert target.rows(PRODUCTS) == []
    assert target.wanted == [("public.shop_product", f'["{uuid(1)}"]')]
    target.answer(
        published,
        target.request(KeysRequest),
        product("r", 1, 7),
        change("r", "shop_supplier", uuid(7), name="seven"),
    )
    assert ids(target, PRODUCTS) == ["p1"]
    assert target.wanted == []


def test_a_held_row_whose_new_reference_is_missing_keeps_its_old_version(
    start: StartTarget,
) -> None:
    target, published = start("catalogue")
    supplier = change("c", "shop_supplier", uuid(1), name="one")
    target.reach(published.transaction(supplier, product("c", 1, 1)))
    target.reach(published.transaction(product("u", 1, 7, sku="moved")))
    assert ids(target, PRODUCTS) == ["p1"]
    assert target.wanted == [("public.shop_product", f'["{uuid(1)}"]')]
    seven = change("r", "shop_supplier", uuid(7), name="seven")
    target.answer(published, target.request(KeysRequest), seven, product("r", 1, 7, sku="moved"))
    assert ids(target, PRODUCTS) == ["moved"]


def test_a_row_that_points_at_a_leaving_one_leaves_with_it_and_is_fetched(
    start: StartTarget,
) -> None:
    target, published = start("catalogue")
    supplier = change("c", "shop_supplier", uuid(1), name="one")
    target.reach(published.transaction(supplier, product("c", 1, 1)))
    target.reach(published.transaction(change("d", "shop_supplier", uuid(1))))
    assert target.rows(PRODUCTS) == []
    assert target.wanted == [("public.shop_product", f'["{uuid(1)}"]')]


@pytest.mark.usefixtures("either_way")
def test_rows_that_point_at_each_other_come_in_any_order(start: StartTarget) -> None:
    target, published = start("pages", "shop")
    target.reach(
        published.transaction(
            change("c", "pages_page", 3, slug="c", parent_id=2),
            change("c", "pages_page", 2, slug="b", parent_id=1),
            change("c", "pages_page", 1, slug="a"),
            change("c", "shop_team", 1, name="one", captain_id=1),
            change("c", "shop_member", 1, team_id=1),
        )
    )
    assert target.rows("SELECT id, parent_id FROM pages_page ORDER BY id") == [
        (1, None),
        (2, 1),
        (3, 2),
    ]
    assert target.rows("SELECT captain_id FROM shop_team") == [(1,)]
    target.reach(
        published.transaction(
            change("d", "shop_team", 1),
            change("d", "shop_member", 1),
            *(change("d", "pages_page", pk) for pk in (1, 2, 3)),
        )
    )
    assert target.rows("SELECT FROM pages_page UNION ALL SELECT FROM shop_team") == []
    assert target.wanted == []


def test_a_row_may_point_at_itself(start: StartTarget) -> None:
    target, published = start("shop")
    target.reach(
        published.transaction(
            change("c", "shop_supplier", uuid(1)), product("c", 1, 1, replaced_by_id=uuid(1))
        )
    )
    assert ids(target, PRODUCTS) == ["p1"]
    target.reach(published.transaction(change("d", "shop_product", uuid(1))))
    assert target.rows(PRODUCTS) == []


# Rows of the target's own


def with_draft(target: Target, published: Published) -> None:
    """A product of ours, and a local draft that points at it."""
    supplier = change("c", "shop_supplier", uuid(1), name="one")
    target.reach(published.transaction(supplier, product("c", 1, 1), product("c", 2, 1)))
    target.execute(f"INSERT INTO shop_draft (product_id, text) VALUES ('{uuid(1)}', '')")


def test_a_row_that_a_local_one_needs_is_kept_until_that_goes(start_any: StartTarget) -> None:
    target, published = start_any("catalogue")
    with_draft(target, published)
    target.reach(
        published.transaction(
            change("d", "shop_product", uuid(1)), change("d", "shop_product", uuid(2))
        )
    )
    assert ids(target, PRODUCTS) == ["p1"]
    receipts = 'SELECT subscription_id, id::text FROM replicator."public.shop_product"'
    assert target.rows(receipts) == [(0, uuid(1))]
    target.execute("DELETE FROM shop_draft")
    # Nothing but marks comes any more.
    published.mark()
    target.until(lambda: target.rows(PRODUCTS) == [], "the kept row goes")
    assert target.rows(receipts) == []


def test_what_a_kept_row_points_at_is_kept_too(start: StartTarget) -> None:
    target, published = start("catalogue")
    with_draft(target, published)
    target.reach(
        published.transaction(
            *(change("d", "shop_product", uuid(n)) for n in (1, 2)),
            change("d", "shop_supplier", uuid(1)),
        )
    )
    assert ids(target, PRODUCTS) == ["p1"]
    assert ids(target, "SELECT name FROM shop_supplier") == ["one"]
    target.execute("DELETE FROM shop_draft")
    published.mark()
    target.until(lambda: target.rows("SELECT FROM shop_supplier") == [], "both go")
    assert target.rows(PRODUCTS) == []


def test_a_kept_row_that_comes_back_is_ours_again(start: StartTarget) -> None:
    target, published = start("catalogue")
    with_draft(target, published)
    target.reach(published.transaction(change("d", "shop_product", uuid(1))))
    target.reach(published.transaction(product("c", 1, 1, price="9.00")))
    assert target.rows("SELECT price::text FROM shop_product WHERE sku = 'p1'") == [("9.00",)]
    assert target.rows(
        'SELECT count(*) FROM replicator."public.shop_product" WHERE subscription_id = 0'
    ) == [(0,)]


def test_a_local_row_of_a_replicated_table_keeps_what_it_needs(start: StartTarget) -> None:
    target, published = start("pages")
    target.reach(published.transaction(change("c", "pages_page", 1, slug="a")))
    target.execute(
        "INSERT INTO pages_page (id, parent_id, slug, title, body, live) "
        "VALUES (100, 1, 'local', '', '', true)"
    )
    target.reach(published.transaction(change("d", "pages_page", 1)))
    assert ids(target, "SELECT id FROM pages_page ORDER BY id") == [1, 100]
    target.reach(published.transaction(Change("t", "public.pages_page")))
    assert ids(target, "SELECT id FROM pages_page ORDER BY id") == [1, 100]


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "RESTRICT"])
def test_no_foreign_key_action_takes_a_local_row_along(start: StartTarget, action: str) -> None:
    target, published = start(
        "catalogue",
        prepare="CREATE TABLE note (product uuid REFERENCES shop_product ON DELETE " + action + ")",
    )
    with_draft(target, published)
    target.execute(f"INSERT INTO note VALUES ('{uuid(2)}')")
    target.reach(
        published.transaction(
            change("d", "shop_product", uuid(1)), change("d", "shop_product", uuid(2))
        )
    )
    assert ids(target, PRODUCTS) == ["p1", "p2"]
    assert target.rows("SELECT product::text FROM note") == [(uuid(2),)]


def test_a_local_row_committed_meanwhile_keeps_what_it_points_at(start: StartTarget) -> None:
    target, published = start(
        "catalogue",
        prepare="CREATE TABLE note (product uuid REFERENCES shop_product ON DELETE CASCADE)",
    )
    with_draft(target, published)
    with psycopg.connect(target.connection.info.dsn) as other:
        other.execute("INSERT INTO note VALUES (%s)", (uuid(2),))
        commit = published.transaction(change("d", "shop_product", uuid(2)))
        target.until(
            lambda: (
                target.rows(
                    "SELECT FROM pg_stat_activity "
                    "WHERE application_name = 'replicator apply' AND wait_event_type = 'Lock' "
                    "AND datname = current_database()"
                )
                != []
            ),
            "apply waits for the other session",
        )
        other.commit()
    target.reach(commit)
    assert ids(target, PRODUCTS) == ["p1", "p2"]
    assert target.rows("SELECT product::text FROM note") == [(uuid(2),)]


# Answers that are not for this plan


@pytest.mark.parametrize("wrong", ["target", "plan"])
def test_an_answer_to_another_target_or_plan_counts_for_nothing(
    start: StartTarget, wrong: str
) -> None:
    target, published = start("published-polls")
    target.reach(published.transaction(question("u", 1, published=True, unchanged=["body"])))
    request = target.request(KeysRequest)
    plan = fingerprint(request.plan)
    answer = {
        "target": Answer("other", request.id, plan),
        "plan": Answer("stage", request.id, "0" * 16),
    }[wrong]
    row = question("r", 1, published=True, body="whole")
    target.reach(published.transaction(row, Change("m", ""), answer=answer))
    assert target.rows(TEXTS) == []
    assert target.wanted == [("public.polls_question", '["1"]')]
