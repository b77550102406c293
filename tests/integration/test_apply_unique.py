"""Apply alone: unique values that change hands inside one source transaction."""

import pytest

from tests.integration.conftest import StartTarget
from tests.support.published import Change
from tests.support.target import Target, change, uuid

TAGS = "SELECT id, name FROM pages_tag ORDER BY id"
RANKS = "SELECT id, rank FROM polls_choice ORDER BY id"


def tag(pk: int, name: str, op: str = "u") -> Change:
    return change(op, "pages_tag", pk, name=name)  # type: ignore[arg-type]


def test_values_swap(start_any: StartTarget) -> None:
    target, published = start_any("pages")
    target.reach(published.transaction(tag(1, "a", "c"), tag(2, "b", "c")))
    target.reach(published.transaction(tag(1, "x"), tag(2, "a"), tag(1, "b")))
    assert target.rows(TAGS) == [(1, "b"), (2, "a")]


def test_values_rotate_and_go_to_new_rows(start: StartTarget) -> None:
    target, published = start("pages")
    target.reach(published.transaction(*(tag(n, f"v{n}", "c") for n in (1, 2, 3, 4))))
    target.reach(
        published.transaction(
            change("d", "pages_tag", 4),
            tag(1, "x"),
            tag(2, "v1"),
            tag(3, "v2"),
            tag(1, "v4"),
            tag(5, "v3", "c"),
        )
    )
    assert target.rows(TAGS) == [(1, "v4"), (2, "v1"), (3, "v2"), (5, "v3")]


def choice(pk: int, rank: int, op: str = "u") -> Change:
    return change(op, "polls_choice", pk, question_id=1, rank=rank)  # type: ignore[arg-type]


def choices(start: StartTarget, prepare: str = "") -> tuple[Target, object]:
    target, published = start("polls", prepare=prepare)
    question = change("c", "polls_question", 1)
    rows = [choice(1, 10, "c"), choice(2, 20, "c"), choice(3, 30, "c")]
    votes = [change("c", "polls_vote", pk, choice_id=pk) for pk in (1, 2, 3)]
    target.reach(published.transaction(question, *rows, *votes))
    rotated = (choice(1, -1), choice(3, 10), choice(2, 30), choice(1, 20))
    return target, lambda: target.reach(published.transaction(*rotated))


ROTATED = [(1, 20), (2, 30), (3, 10)]
LOCAL_COLUMN = "ALTER TABLE polls_choice ADD here text NOT NULL DEFAULT 'new'"


def test_columns_of_the_target_survive_a_rotation(start_any: StartTarget) -> None:
    target, rotate = choices(start_any, LOCAL_COLUMN)
    target.execute("UPDATE polls_choice SET here = 'mine ' || id")
    assert callable(rotate)
    rotate()
    assert target.rows(RANKS) == ROTATED
    assert [row[0] for row in target.rows("SELECT here FROM polls_choice ORDER BY id")] == [
        "mine 1",
        "mine 2",
        "mine 3",
    ]


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "RESTRICT", "NO ACTION"])
def test_foreign_keys_with_an_action_take_nothing_along(start: StartTarget, action: str) -> None:
    target, rotate = choices(
        start,
        "CREATE TABLE note (choice bigint REFERENCES polls_choice ON DELETE "
        f"{action}); ALTER TABLE polls_choice ADD CHECK (rank > -5)",
    )
    target.execute("INSERT INTO note SELECT id FROM polls_choice")
    assert callable(rotate)
    rotate()
    assert target.rows(RANKS) == ROTATED
    assert target.rows("SELECT choice FROM note ORDER BY 1") == [(1,), (2,), (3,)]
    assert target.rows("SELECT count(*) FROM polls_vote") == [(3,)]


def test_nulls_that_count_as_equal_swap_too(start_any: StartTarget) -> None:
    target, published = start_any("pages")

    def page(pk: int, slug: str, op: str = "u") -> Change:
        return change(op, "pages_page", pk, slug=slug)  # type: ignore[arg-type]

    target.reach(published.transaction(page(1, "a", "c"), page(2, "b", "c")))
    target.reach(published.transaction(page(1, "x"), page(2, "a"), page(1, "b")))
    assert target.rows("SELECT id, slug FROM pages_page ORDER BY id") == [(1, "b"), (2, "a")]


def test_a_local_row_on_a_unique_value_stops_the_stream(start: StartTarget) -> None:
    target, published = start(
        "pages", prepare="INSERT INTO pages_tag (id, name) VALUES (100, 'mine')"
    )
    published.transaction(tag(1, "mine", "c"))
    target.until_stopped("1 local row(s) of table public.pages_tag hold values")
    assert target.rows(TAGS) == [(100, "mine")]
    target.execute("UPDATE pages_tag SET name = 'yours'")
    target.until(lambda: not target.stopped, "it goes on by itself")
    assert target.rows(TAGS) == [(1, "mine"), (100, "yours")]


def test_an_old_version_on_a_unique_value_makes_room_and_is_fetched(start: StartTarget) -> None:
    """The row that holds the value is wanted: what stands here is older than the stream."""
    target, published = start("catalogue")

    def product(op: str, number: int, sku: str, supplier: int = 1) -> Change:
        row = {"sku": sku, "supplier_id": uuid(supplier)}
        return change(op, "shop_product", uuid(number), **row)  # type: ignore[arg-type]

    supplier = change("c", "shop_supplier", uuid(1))
    target.reach(published.transaction(supplier, product("c", 1, "a")))
    target.reach(published.transaction(product("u", 1, "b", supplier=9)))
    target.reach(published.transaction(product("c", 2, "a")))
    assert target.rows("SELECT id::text, sku FROM shop_product") == [(uuid(2), "a")]
    assert target.wanted == [("public.shop_product", f'["{uuid(1)}"]')]


def test_a_table_of_another_plan_does_not_lend_its_parking(start: StartTarget) -> None:
    target, published = start("pages")
    target.reach(published.transaction(tag(1, "a", "c"), tag(2, "b", "c")))
    target.reach(published.transaction(tag(1, "x"), tag(2, "a"), tag(1, "b")))
    target.execute("ALTER TABLE pages_tag ADD more text NOT NULL DEFAULT 'new'")
    # A new generation, as a backfill has it, makes the worker look at the tables again.
    target.execute("UPDATE replicator_subscription SET generation = generation + 1")
    target.reach(published.transaction(tag(1, "x"), tag(2, "b"), tag(1, "a")))
    assert target.rows("SELECT id, name, more FROM pages_tag ORDER BY id") == [
        (1, "a", "new"),
        (2, "b", "new"),
    ]
