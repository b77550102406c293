"""Apply alone, with rules over relations: trees enter and leave whole."""

from replicator.envelope import Op
from replicator.requests import KeysRequest
from tests.integration.conftest import StartTarget
from tests.support.published import Change, Published
from tests.support.target import Target, change, uuid

EVERYTHING = (
    "SELECT 'question', id FROM polls_question UNION ALL SELECT 'choice', id FROM polls_choice "
    "UNION ALL SELECT 'vote', id FROM polls_vote UNION ALL SELECT 'user', id FROM auth_user "
    "ORDER BY 1, 2"
)


def question(op: str, pk: int, **columns: object) -> Change:
    return change(op, "polls_question", pk, **columns)  # type: ignore[arg-type]


def choice(op: str, pk: int, of: int, **columns: object) -> Change:
    return change(op, "polls_choice", pk, question_id=of, rank=pk, **columns)  # type: ignore[arg-type]


def vote(op: str, pk: int, of: int, **columns: object) -> Change:
    return change(op, "polls_vote", pk, choice_id=of, **columns)  # type: ignore[arg-type]


def user(op: str, pk: int) -> Change:
    return change(op, "auth_user", pk, username=f"u{pk}")  # type: ignore[arg-type]


def here(target: Target) -> str:
    """Name what is here: q1 c2 v3 u4."""
    return " ".join(f"{kind[0]}{number}" for kind, number in target.rows(EVERYTHING))


def asked(target: Target, published: Published, *rows: Change) -> dict[str, list[object]]:
    """Answer the next request for keys; give what it asked for."""
    request = target.request(KeysRequest)
    target.answer(published, request, *rows)
    return {name: [int(key[0]) for key in keys] for name, keys in request.keys.items()}


def test_a_tree_that_is_born_is_written_at_once(start: StartTarget) -> None:
    target, published = start("poll-trees")
    target.reach(
        published.transaction(
            user("c", 4),
            question("c", 1, published=True, author_id=4),
            choice("c", 2, 1),
            vote("c", 3, 2),
            vote("c", 5, 2, weight="0"),
            question("c", 9),
            choice("c", 8, 9),
        )
    )
    assert here(target) == "c2 q1 u4 v3"
    assert target.wanted == []


def test_a_question_enters_with_all_that_hangs_on_it(start: StartTarget) -> None:
    target, published = start("poll-trees")
    old = (user("c", 4), question("c", 1, author_id=4), choice("c", 2, 1), vote("c", 3, 2))
    target.reach(published.transaction(*old))
    assert here(target) == ""
    target.reach(published.transaction(question("u", 1, published=True, author_id=4)))
    # Not half: nothing is here until all of it is.
    assert here(target) == ""
    rows = (
        question("r", 1, published=True, author_id=4),
        choice("r", 2, 1),
        vote("r", 3, 2),
        user("r", 4),
    )
    assert asked(target, published, *rows) == {"public.polls_question": [1]}
    assert here(target) == "c2 q1 u4 v3"
    assert target.wanted == []


def test_a_question_leaves_with_all_that_hung_on_it(start: StartTarget) -> None:
    target, published = start("poll-trees")
    target.reach(
        published.transaction(
            user("c", 4),
            user("c", 5),
            question("c", 1, published=True, author_id=4),
            question("c", 6, published=True, author_id=5),
            choice("c", 2, 1),
            vote("c", 3, 2),
        )
    )
    target.reach(published.transaction(question("u", 1, author_id=4)))
    assert here(target) == "q6 u5"
    assert target.rows('SELECT FROM replicator."public.polls_vote"') == []


def test_a_user_stays_as_long_as_anything_points_at_it(start: StartTarget) -> None:
    target, published = start("poll-trees")
    target.reach(
        published.transaction(
            user("c", 4),
            question("c", 1, published=True, author_id=4),
            question("c", 2, published=True, author_id=4),
        )
    )
    target.reach(published.transaction(question("u", 1, published=True)))
    assert here(target) == "q1 q2 u4"
    target.reach(published.transaction(question("d", 2)))
    assert here(target) == "q1"


def test_a_child_follows_its_parent(start: StartTarget) -> None:
    target, published = start("poll-trees")
    target.reach(
        published.transaction(
            question("c", 1, published=True),
            question("c", 9),
            choice("c", 2, 1),
            vote("c", 3, 2),
            choice("c", 7, 9),
        )
    )
    target.reach(published.transaction(choice("u", 2, 9)))
    assert here(target) == "q1"
    # Back again: what hangs on it must be fetched.
    target.reach(published.transaction(choice("u", 2, 1)))
    assert here(target) == "q1"
    assert asked(target, published, choice("r", 2, 1), vote("r", 3, 2)) == {
        "public.polls_choice": [2]
    }
    assert here(target) == "c2 q1 v3"


def test_an_answer_that_is_overtaken_is_followed_by_another(start: StartTarget) -> None:
    target, published = start("poll-trees")
    target.reach(published.transaction(question("u", 1, published=True)))
    request = target.request(KeysRequest)
    # It was unpublished after the answer's snapshot: the answer repeats that.
    target.answer(published, request, question("r", 1, published=True), question("u", 1))
    assert here(target) == ""
    assert target.wanted == []


def test_a_null_is_written_and_taken_back(start: StartTarget) -> None:
    target, published = start("authorless")
    authors = "SELECT id, author_id FROM polls_question ORDER BY id"
    target.reach(
        published.transaction(
            user("c", 4), user("c", 7), question("c", 1, author_id=7), question("c", 2, author_id=4)
        )
    )
    assert target.rows(authors) == [(1, None), (2, 4)]
    target.reach(published.transaction(question("u", 2, author_id=7)))
    assert target.rows(authors) == [(1, None), (2, None)]
    nulled = "SELECT row_key, value FROM replicator_nulledvalue ORDER BY 1"
    assert target.rows(nulled) == [('["1"]', "7"), ('["2"]', "7")]
    # User 3 comes under key 7: then it is not here; under key 3 it is.
    target.reach(published.transaction(question("u", 1, author_id=3), user("c", 3)))
    assert target.rows(authors) == [(1, 3), (2, None)]
    target.reach(published.transaction(question("d", 2), user("d", 3), question("u", 1)))
    assert target.rows(nulled) == []


def test_a_null_is_taken_back_when_the_row_appears(start: StartTarget) -> None:
    target, published = start("authorless")
    target.reach(published.transaction(question("c", 1, author_id=3)))
    assert target.rows("SELECT author_id FROM polls_question") == [(None,)]
    target.reach(published.transaction(user("c", 3)))
    assert target.rows("SELECT author_id FROM polls_question") == [(3,)]
    assert target.rows("SELECT FROM replicator_nulledvalue") == []
    # And NULL again when it leaves while the source's row still points at it.
    target.reach(published.transaction(user("d", 3)))
    assert target.rows("SELECT author_id FROM polls_question") == [(None,)]


def test_a_row_waits_until_what_it_requires_is_here(start: StartTarget) -> None:
    target, published = start("waiting")
    target.reach(published.transaction(user("c", 9), question("c", 1, author_id=9)))
    assert here(target) == ""
    target.reach(published.transaction(user("c", 3), question("u", 1, author_id=3)))
    # Nothing hangs on it here, so there is nothing to be fetched.
    assert here(target) == "q1 u3"
    target.reach(published.transaction(question("u", 1, author_id=9)))
    assert here(target) == "u3"


PAGES = "SELECT id, parent_id FROM pages_page ORDER BY id"


def page(op: str, pk: int, parent: int | None = None, title: str = "page") -> Change:
    return change(op, "pages_page", pk, parent_id=parent, title=title, slug=f"s{pk}", live=True)  # type: ignore[arg-type]


def test_a_subtree_moves_in_and_out(start: StartTarget) -> None:
    target, published = start("sections")
    target.reach(
        published.transaction(
            page("c", 1),
            page("c", 2, 1, "section"),
            page("c", 3, 2),
            page("c", 4, 3),
            page("c", 5, 1),
            change("c", "pages_article", 4),
        )
    )
    # The root of the section is cut off from what is above it.
    assert target.rows(PAGES) == [(2, None), (3, 2), (4, 3)]
    target.reach(published.transaction(page("u", 3, 5)))
    assert target.rows(PAGES) == [(2, None)]
    assert target.rows("SELECT FROM pages_article") == []
    target.reach(published.transaction(page("u", 5, 2)))
    rows = (page("r", 5, 2), page("r", 3, 5), page("r", 4, 3))
    assert asked(target, published, *rows) == {"public.pages_page": [5]}
    assert target.rows(PAGES) == [(2, None), (3, 5), (4, 3), (5, 2)]


def test_a_link_belongs_when_both_ends_do(start: StartTarget) -> None:
    target, published = start("sections")
    links = "SELECT id FROM pages_page_tags ORDER BY id"
    target.reach(
        published.transaction(
            page("c", 2, None, "section"),
            change("c", "pages_tag", 1, name="a"),
            change("c", "pages_tag", 2, name="b"),
            change("c", "pages_page_tags", 1, page_id=2, tag_id=1),
            change("c", "pages_page_tags", 2, page_id=2, tag_id=2),
        )
    )
    assert target.rows(links) == [(1,)]
    target.reach(published.transaction(change("u", "pages_tag", 1, name="c")))
    assert target.rows(links) == []


SUPPLIES = (
    "SELECT 'supplier', count(*) FROM shop_supplier UNION ALL "
    "SELECT 'product', count(*) FROM shop_product UNION ALL "
    "SELECT 'line', count(*) FROM shop_orderline UNION ALL "
    "SELECT 'order', count(*) FROM shop_order ORDER BY 1"
)
WHOLE = [("line", 1), ("order", 1), ("product", 1), ("supplier", 1)]
ORDER = 4


def supplies(op: Op) -> list[Change]:
    """Give a supplier, its product and a line of an order that is no part of it."""
    return [
        change(op, "shop_supplier", uuid(1), name="s"),
        change(op, "shop_product", uuid(2), supplier_id=uuid(1)),
        change(op, "shop_orderline", 3, product_id=uuid(2), order_id=ORDER),
    ]


def test_a_born_tree_waits_whole_for_what_a_leaf_of_it_points_at(start: StartTarget) -> None:
    target, published = start("supplies")
    target.reach(published.transaction(*supplies("c")))
    # The order is older than the stream, so the line cannot be written; nothing is here without it.
    assert target.rows(SUPPLIES) == [(kind, 0) for kind, _ in WHOLE]
    request = target.request(KeysRequest)
    assert {"public.shop_supplier", "public.shop_orderline"} <= request.keys.keys()
    target.answer(published, request, *supplies("r"), change("r", "shop_order", ORDER))
    assert target.rows(SUPPLIES) == WHOLE
    assert target.wanted == []


def test_a_leaf_that_is_added_waits_alone(start: StartTarget) -> None:
    target, published = start("supplies")
    *above, line = supplies("c")
    target.reach(published.transaction(*above))
    target.reach(published.transaction(line))
    assert target.wanted == [("public.shop_orderline", '["3"]')]
    assert target.rows(SUPPLIES) == [("line", 0), ("order", 0), ("product", 1), ("supplier", 1)]
    rows = supplies("r")[-1], change("r", "shop_order", ORDER)
    target.answer(published, target.request(KeysRequest), *rows)
    assert target.rows(SUPPLIES) == WHOLE


def test_an_answer_is_written_though_a_leaf_of_it_waits(start: StartTarget) -> None:
    target, published = start("supplies")
    target.reach(published.transaction(*supplies("u")[:1]))
    target.answer(published, target.request(KeysRequest), *supplies("r"))
    # Else it would be asked for without an end.
    assert target.wanted == [("public.shop_orderline", '["3"]')]
    assert target.rows(SUPPLIES) == [("line", 0), ("order", 0), ("product", 1), ("supplier", 1)]
