"""Apply alone: transactions that are staged in rounds, with the same keys in several of them."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from replicator.http import Health
from replicator_apply import assemble, batch
from replicator_apply.copytext import OPTIONS, chunk, line_function
from replicator_apply.decode import EventReader
from tests.conftest import DatabaseFactory
from tests.integration.conftest import StartTarget
from tests.support.published import Change
from tests.support.target import change, uuid

PAGES = "SELECT id, title, body FROM pages_page ORDER BY id"


@pytest.fixture(params=["events", "bytes"])
def small_rounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spool and round after a few events, or a few bytes."""
    if request.param == "events":
        monkeypatch.setattr(assemble, "SPOOL_AFTER", 3)
        monkeypatch.setattr(batch, "ROUND", 4)
    else:
        monkeypatch.setattr(assemble, "SPOOL_BYTES", 1_000)
        monkeypatch.setattr(batch, "ROUND_BYTES", 1_000)


def test_a_transaction_of_more_rows_than_a_round(
    start: StartTarget, either_way: Callable[[], int]
) -> None:
    target, published = start("pages")
    count = batch.ROUND + 5_000
    rows = [change("c", "pages_tag", pk, name=f"n{pk}") for pk in range(count)]
    again = [change("u", "pages_tag", pk, name=f"again {pk}") for pk in range(0, count, 5_000)]
    gone = [change("d", "pages_tag", pk) for pk in range(1, count, 5_000)]
    target.reach(published.transaction(*rows, *again, *gone))
    assert target.rows("SELECT count(*) FROM pages_tag") == [(count - len(gone),)]
    assert target.rows("SELECT count(*) FROM pages_tag WHERE name LIKE 'again %'") == [
        (len(again),)
    ]
    assert target.rows('SELECT count(*) FROM replicator."public.pages_tag"') == [
        (count - len(gone),)
    ]


@pytest.mark.usefixtures("either_way")
def test_many_rows_go_at_once_whatever_their_key(start: StartTarget) -> None:
    target, published = start("shop")
    owners = [(user, uuid(product)) for user in range(20) for product in range(20)]
    target.reach(
        published.transaction(
            change("c", "shop_supplier", uuid(1)),
            *(change("c", "auth_user", n, username=f"u{n}") for n in range(20)),
            *(
                change("c", "shop_product", uuid(n), supplier_id=uuid(1), sku=f"k{n}")
                for n in range(20)
            ),
            *(change("c", "shop_watch", *key) for key in owners),
        )
    )
    missing = (99, uuid(99))
    gone = [change("d", "shop_watch", *key) for key in [*owners[:390], missing]]
    target.reach(published.transaction(*gone))
    held = "SELECT user_id, product_id::text FROM {} ORDER BY 1, 2"
    assert target.rows(held.format("shop_watch")) == owners[390:]
    assert target.rows(held.format('replicator."public.shop_watch"')) == owners[390:]


@pytest.mark.usefixtures("either_way")
def test_many_rows_of_a_key_of_one_column_go_at_once(start: StartTarget) -> None:
    target, published = start("pages")
    target.reach(
        published.transaction(*(change("c", "pages_tag", n, name=f"n{n}") for n in range(300)))
    )
    target.execute("INSERT INTO pages_tag (id, name) VALUES (1000, 'local')")
    gone = [change("d", "pages_tag", n) for n in [*range(290), 1000, 2000]]
    target.reach(published.transaction(*gone))
    left = [*range(290, 300), 1000]
    assert target.rows("SELECT id FROM pages_tag ORDER BY id") == [(n,) for n in left]
    assert target.rows('SELECT count(*) FROM replicator."public.pages_tag"') == [(10,)]


@pytest.mark.usefixtures("either_way")
def test_a_long_batch_shows_that_it_is_alive(
    start: StartTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned, inside = Health.turned, []
    apply = batch.Applier.apply
    monkeypatch.setattr(batch, "ROUND", 4)
    monkeypatch.setattr(
        Health, "turned", lambda health: (turned(health), turns.append(bool(inside)))
    )

    def noted(*arguments: Any) -> object:
        inside.append(True)
        try:
            return apply(*arguments)
        finally:
            inside.clear()

    turns: list[bool] = []
    monkeypatch.setattr(batch.Applier, "apply", noted)
    target, published = start("pages")
    target.reach(
        published.transaction(*(change("c", "pages_page", pk, slug=f"s{pk}") for pk in range(40)))
    )
    assert sum(turns) >= 10


@pytest.mark.usefixtures("small_rounds", "either_way")
def test_the_last_word_on_each_key_counts(start: StartTarget) -> None:
    target, published = start("pages")
    target.reach(
        published.transaction(*(change("c", "pages_tag", n, name=f"o{n}") for n in (1, 2)))
    )
    fill = [change("c", "pages_tag", n, name=f"fill{n}") for n in range(100, 104)]
    target.reach(
        published.transaction(
            change("u", "pages_tag", 1, name="one"),
            change("d", "pages_tag", 2),
            change("c", "pages_tag", 3, name="three"),
            *fill,
            change("d", "pages_tag", 1),
            change("c", "pages_tag", 2, name="back"),
            change("u", "pages_tag", 3, name="drei"),
            *(change("d", "pages_tag", n) for n in range(100, 104)),
            change("c", "pages_tag", 1, name="again"),
            change("d", "pages_tag", 3),
            change("c", "pages_tag", 4, name="three"),
        )
    )
    assert target.rows("SELECT id, name FROM pages_tag ORDER BY id") == [
        (1, "again"),
        (2, "back"),
        (4, "three"),
    ]
    assert target.rows('SELECT id FROM replicator."public.pages_tag" ORDER BY id') == [
        (1,),
        (2,),
        (4,),
    ]


def page(op: str, pk: int, *unchanged: str, **columns: object) -> Change:
    row = {"slug": f"p{pk}", **columns}
    return change(op, "pages_page", pk, unchanged=unchanged, **row)  # type: ignore[arg-type]


@pytest.mark.usefixtures("small_rounds")
@pytest.mark.parametrize("held", [True, False])
def test_columns_are_merged_over_the_rounds(start: StartTarget, held: bool) -> None:
    target, published = start("pages")
    if held:
        target.reach(published.transaction(page("c", 1, title="t0", body="b0")))
    begin = [] if held else [page("c", 1, title="t0", body="b0")]
    fill = [page("c", pk) for pk in range(10, 14)]
    target.reach(
        published.transaction(
            *begin,
            page("u", 1, "body", "title", live=False),
            *fill,
            page("u", 1, "title", body="b1", live=False),
            *(page("u", pk) for pk in range(10, 14)),
            page("u", 1, "body", title="t2", live=False),
            *(page("d", pk) for pk in range(10, 14)),
            page("u", 1, "body", "title", live=True),
        )
    )
    assert target.rows(PAGES) == [(1, "t2", "b1")]
    assert target.rows("SELECT live FROM pages_page") == [(True,)]
    assert target.wanted == []


@pytest.mark.usefixtures("small_rounds", "either_way")
def test_a_truncate_between_rounds_removes_what_came_before(start: StartTarget) -> None:
    target, published = start("pages")
    target.reach(published.transaction(change("c", "pages_tag", 1, name="held")))
    rows = [change("c", "pages_tag", pk, name=f"n{pk}") for pk in range(2, 9)]
    after = [change("c", "pages_tag", pk, name=f"a{pk}") for pk in range(8, 15)]
    target.reach(published.transaction(*rows, Change("t", "public.pages_tag"), *after))
    assert [n for (n,) in target.rows("SELECT id FROM pages_tag ORDER BY id")] == [*range(8, 15)]


def test_every_character_comes_through_copy(database: DatabaseFactory) -> None:
    reader = EventReader("public.t", ("id", "a", "b"), ("id",))
    characters = [chr(n) for n in (*range(1, 0x2100), 0xFEFF, 0xFFFF, 0x1F600)]
    texts = [*characters, *(f"x{c}\\{c}N" for c in characters), "", "\\N", "\\.", "\\."]
    rows = [reader.row_type(n, text, None) for n, text in enumerate(texts)]
    fields = ["c0", "c1", "c2"]
    with psycopg.connect(database()) as connection:
        connection.execute("CREATE TABLE t (id integer, a text, b text)")
        for part in (rows, *([row] for row in rows[:200])):
            with connection.cursor() as cursor:
                statement = psycopg.sql.SQL("COPY t FROM STDIN {}").format(OPTIONS)
                with cursor.copy(statement) as copy:
                    copy.write(chunk(part, fields, line_function(fields)))
        found = connection.execute("SELECT id, a, b FROM t").fetchall()
    assert found[: len(texts)] == [(n, text, None) for n, text in enumerate(texts)]
    assert found[len(texts) :] == found[:200]


def test_rows_that_enter_an_empty_table_are_looked_up_by_its_index(start: StartTarget) -> None:
    target, published = start("some-tags")
    target.execute("VACUUM ANALYZE pages_tag")
    count = 3_000
    rows = [change("u", "pages_tag", pk, name=f"a{pk}") for pk in range(100, 100 + count)]
    target.reach(published.transaction(*rows))
    assert target.rows("SELECT count(*) FROM pages_tag") == [(count,)]
    seen = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'pages_tag' AND n_tup_ins = {}"
    # The worker's session tells what it did once it has been idle for a while.
    target.until(lambda: target.rows(seen.format(count)) != [], "statistics")
    [(scans,)] = target.rows(seen.format(count))
    assert scans < 20


def test_small_batches_leave_nothing_staged_and_little_behind(start: StartTarget) -> None:
    target, published = start("some-tags")
    for turn in range(60):
        names = [f"{'ab'[turn % 2]}{turn}-{pk}" for pk in range(40)]
        rows = [change("u", "pages_tag", 100 + pk, name=name) for pk, name in enumerate(names)]
        target.reach(published.transaction(*rows))
    assert target.rows("SELECT count(*) FROM pages_tag") == [(0,)]
    [(size,)] = target.rows(
        "SELECT sum(pg_relation_size(oid)) FROM pg_class WHERE relpersistence = 't' "
        "AND relkind = 'r' AND relname ~ '^replicator_(stage|candidate)'"
    )
    assert size < 20 * 8192
