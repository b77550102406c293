"""Apply alone, records written by hand: the plain things, on both paths and every Postgres."""

from collections.abc import Callable

import pytest

from tests.integration.conftest import StartTarget
from tests.support.published import Change
from tests.support.target import change, uuid

TAGS = "SELECT id, name FROM pages_tag ORDER BY id"
RECEIPTS = 'SELECT id FROM replicator."public.pages_tag" ORDER BY id'


def test_rows_come_change_and_go(start_any: StartTarget, either_way: Callable[[], int]) -> None:
    target, published = start_any("pages")
    target.reach(
        published.transaction(
            change("c", "pages_tag", 1, name="one"),
            change("c", "pages_tag", 2, name="two\twith\\care\n"),
        )
    )
    assert target.rows(TAGS) == [(1, "one"), (2, "two\twith\\care\n")]
    target.reach(
        published.transaction(change("u", "pages_tag", 1, name="uno"), change("d", "pages_tag", 2))
    )
    assert target.rows(TAGS) == [(1, "uno")]
    assert target.rows(RECEIPTS) == [(1,)]


def test_the_fast_path_is_taken_where_the_rules_leave_no_choice(
    start: StartTarget, either_way: Callable[[], int], request: pytest.FixtureRequest
) -> None:
    target, published = start("pages")
    target.reach(published.transaction(change("c", "pages_tag", 1)))
    target.reach(published.transaction(change("u", "pages_tag", 1, name="uno")))
    assert either_way() == (2 if "by_rules" in request.node.name else 0)


@pytest.mark.parametrize("ids", [(1,), (1, 2), (7,)])
def test_sequences_stand_behind_the_rows(
    start: StartTarget, either_way: Callable[[], int], ids: tuple[int, ...]
) -> None:
    target, published = start("pages")
    rows = [change("c", "pages_tag", pk, name=str(pk)) for pk in ids]
    target.reach(published.transaction(*rows))
    sequence = "SELECT nextval(pg_get_serial_sequence('pages_tag', 'id'))"
    assert target.rows(sequence) == [(max(ids) + 1,)]


@pytest.mark.usefixtures("either_way")
def test_keys_may_be_uuids_foreign_keys_or_all_columns(start_any: StartTarget) -> None:
    target, published = start_any("shop")
    target.reach(
        published.transaction(
            change("c", "auth_user", 5, username="five"),
            change("c", "shop_supplier", uuid(1), name="one"),
            change("c", "shop_product", uuid(2), supplier_id=uuid(1)),
            change("c", "shop_stock", uuid(2), amount=3),
            change("c", "shop_watch", 5, uuid(2)),
        )
    )
    stock = "SELECT product_id::text, amount FROM shop_stock"
    assert target.rows(stock) == [(uuid(2), 3)]
    assert target.rows("SELECT user_id, product_id::text FROM shop_watch") == [(5, uuid(2))]
    target.reach(
        published.transaction(
            change("u", "shop_stock", uuid(2), amount=4),
            change("u", "shop_watch", 5, uuid(2)),
        )
    )
    assert target.rows(stock) == [(uuid(2), 4)]
    target.reach(
        published.transaction(
            change("d", "shop_watch", 5, uuid(2)), change("d", "shop_stock", uuid(2))
        )
    )
    assert target.rows("SELECT FROM shop_watch UNION ALL SELECT FROM shop_stock") == []
    assert target.rows('SELECT FROM replicator."public.shop_watch"') == []


@pytest.mark.usefixtures("either_way")
def test_a_changed_primary_key_moves_the_row(start: StartTarget) -> None:
    target, published = start("pages")
    target.reach(published.transaction(change("c", "pages_tag", 1, name="one")))
    target.reach(
        published.transaction(change("d", "pages_tag", 1), change("c", "pages_tag", 9, name="one"))
    )
    assert target.rows(TAGS) == [(9, "one")]
    assert target.rows(RECEIPTS) == [(9,)]


@pytest.mark.usefixtures("either_way")
def test_partitions_are_written_through_their_root(start_any: StartTarget) -> None:
    target, published = start_any("kinds")

    def reading(op: str, sensor: int, day: str, value: str = "1.5") -> Change:
        row = {"sensor": sensor, "taken_on": day, "value": value} if op != "d" else None
        return Change(op, "public.kinds_reading", (sensor, day), row)  # type: ignore[arg-type]

    days = [str(d) for (d,) in target.rows("SELECT '2026-03-01'::date")]
    target.reach(published.transaction(reading("c", 1, days[0]), reading("c", 2, days[0])))
    target.reach(published.transaction(reading("u", 1, days[0], "2.5"), reading("d", 2, days[0])))
    assert target.rows("SELECT sensor, taken_on::text, value FROM kinds_reading") == [
        (1, "2026-03-01", 2.5)
    ]


def test_generated_columns_are_computed_here(
    start: StartTarget, either_way: Callable[[], int]
) -> None:
    target, published = start("kinds")
    columns = [
        name
        for (name,) in target.rows(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = 'kinds_specimen'::regclass "
            "AND attnum > 0 AND attgenerated = ''"
        )
    ]
    row = {**dict.fromkeys(columns), "id": 1, "text": "four"}
    target.reach(published.transaction(Change("c", "public.kinds_specimen", (1,), row)))
    length = "SELECT id, length FROM kinds_specimen"
    assert target.rows(length) == [(1, 4)]
    target.reach(
        published.transaction(
            Change("u", "public.kinds_specimen", (1,), {**row, "text": "fifteen"})
        )
    )
    assert target.rows(length) == [(1, 7)]


def test_identity_columns_take_the_sources_values(
    start_any: StartTarget, either_way: Callable[[], int]
) -> None:
    target, published = start_any(
        "pages", prepare="ALTER TABLE pages_tag ALTER id SET GENERATED ALWAYS"
    )
    target.reach(published.transaction(change("c", "pages_tag", 5, name="five")))
    target.reach(published.transaction(change("u", "pages_tag", 5, name="cinq")))
    assert target.rows(TAGS) == [(5, "cinq")]
    target.execute("INSERT INTO pages_tag (name) VALUES ('local')")
    assert target.rows(TAGS) == [(5, "cinq"), (6, "local")]


def test_columns_that_do_not_travel_have_their_fields_defaults(
    start: StartTarget, either_way: Callable[[], int]
) -> None:
    target, published = start("polls")
    target.reach(published.transaction(change("c", "auth_user", 5, username="five")))
    local = "SELECT username, password, is_superuser, is_active, date_joined IS NULL FROM auth_user"
    assert target.rows(local) == [("five", "", False, True, False)]
    target.execute("UPDATE auth_user SET password = 'mine', is_superuser = true")
    target.reach(published.transaction(change("u", "auth_user", 5, username="cinq")))
    assert target.rows(local) == [("cinq", "mine", True, True, False)]


@pytest.mark.usefixtures("either_way")
def test_local_rows_are_never_touched(start: StartTarget) -> None:
    target, published = start(
        "pages", prepare="INSERT INTO pages_tag (id, name) VALUES (100, 'local'), (101, 'mine')"
    )
    target.reach(published.transaction(change("c", "pages_tag", 1, name="one")))
    target.reach(published.transaction(change("d", "pages_tag", 100)))
    assert target.rows(TAGS) == [(1, "one"), (100, "local"), (101, "mine")]
    target.reach(published.transaction(Change("t", "public.pages_tag")))
    assert target.rows(TAGS) == [(100, "local"), (101, "mine")]


@pytest.mark.usefixtures("either_way")
def test_truncate_removes_what_was_there_and_not_what_came_after(start: StartTarget) -> None:
    target, published = start("pages")
    old = [change("c", "pages_tag", pk, name=f"old{pk}") for pk in (1, 2, 3)]
    target.reach(published.transaction(*old))
    target.reach(
        published.transaction(
            change("u", "pages_tag", 1, name="changed"),
            Change("t", "public.pages_tag"),
            change("c", "pages_tag", 2, name="new"),
            change("c", "pages_tag", 4, name="old1"),
        )
    )
    assert target.rows(TAGS) == [(2, "new"), (4, "old1")]
    assert target.rows(RECEIPTS) == [(2,), (4,)]


def test_a_local_row_under_a_replicated_key_stops_the_stream(
    start: StartTarget, either_way: Callable[[], int]
) -> None:
    target, published = start(
        "pages", prepare="INSERT INTO pages_tag (id, name) VALUES (1, 'local')"
    )
    published.transaction(
        change("c", "pages_tag", 1, name="theirs"), change("c", "pages_tag", 2, name="more")
    )
    target.until_stopped("1 local row(s) of table public.pages_tag")
    assert target.rows(TAGS) == [(1, "local")]
    assert "on_clash" in str(target.rows("SELECT stopped_remedy FROM replicator_streamposition"))
    target.execute("DELETE FROM pages_tag")
    target.until(lambda: not target.stopped, "it goes on by itself")
    assert target.rows(TAGS) == [(1, "theirs"), (2, "more")]


@pytest.mark.usefixtures("either_way")
def test_a_local_row_is_adopted_where_that_is_the_policy(start: StartTarget) -> None:
    target, published = start(
        "polls",
        on_clash="adopt",
        prepare="INSERT INTO auth_user (id, username, email, password, is_superuser, is_staff, "
        "is_active, first_name, last_name, date_joined) "
        "VALUES (1, 'local', 'l', 'secret', true, true, true, '', '', now())",
    )
    target.reach(published.transaction(change("c", "auth_user", 1, username="theirs")))
    local = "SELECT username, password, is_superuser FROM auth_user"
    assert target.rows(local) == [("theirs", "secret", True)]
    target.reach(published.transaction(change("d", "auth_user", 1)))
    assert target.rows(local) == []


@pytest.mark.usefixtures("either_way")
def test_a_column_that_only_this_side_has_yet_takes_its_default(start: StartTarget) -> None:
    """The target was migrated first: the source does not know the column."""
    target, published = start(
        "published-polls", prepare="ALTER TABLE polls_question ALTER priority SET DEFAULT 7"
    )

    def question(op: str, text: str) -> Change:
        whole = change(op, "polls_question", 1, published=True, question_text=text)  # type: ignore[arg-type]
        assert whole.after is not None
        del whole.after["priority"], whole.after["body"]
        return whole

    rows = "SELECT question_text, priority, body FROM polls_question"
    target.reach(published.transaction(question("c", "old")))
    assert target.rows(rows) == [("old", 7, "")]
    target.execute("UPDATE polls_question SET priority = 8")
    target.reach(published.transaction(question("u", "new")))
    assert target.rows(rows) == [("new", 8, "")]
    assert target.wanted == []
