"""`replicator why`: what holds a row of the target, or what is known of one that is not here."""

import pytest
from django.conf import settings as django_settings

from replicator.cli.arguments import Arguments
from replicator.compiler import compile_release
from replicator.declare import declared_opt_ins
from replicator.errors import ConfigurationError, WrongDeclaration
from replicator_apply import command
from replicator_apply.why import Claim, Why, text_of
from replicator_apply.why_look import look
from tests.integration.conftest import StartTarget
from tests.support.sample.environments import django_database
from tests.support.target import Target, change, uuid


def why(target: Target, label: str, *key: str) -> Why:
    declared = next(each for each in declared_opt_ins() if each.label == label)
    return look(target.connection, compile_release(declared), key)


def claim(found: Why, dataset: str) -> Claim:
    return next(each for each in found.claims if each.dataset == dataset)


def test_a_tree_is_held_by_its_root(start: StartTarget) -> None:
    target, published = start("poll-trees", "published-polls")
    target.reach(
        published.transaction(
            change("c", "auth_user", 7, username="seven"),
            change("c", "auth_user", 8, username="eight"),
            change("c", "polls_question", 1, published=True, author_id=7),
            change("c", "polls_choice", 11, question_id=1),
        )
    )
    found = why(target, "polls.Question", "1")
    assert (found.replicated, found.key) == (True, '["1"]')
    text = text_of(found)
    assert text.startswith("polls.Question 1 is here: replication put it there.\n")
    assert "poll-trees from prod: holds it, by a receipt of generation 1\n" in text
    assert "  ✔ Rows where published = true\n" in text
    assert "  ✘ Rows where priority >= 5\n      it does not pass the filter\n" in text
    text = text_of(why(target, "polls.Choice", "11"))
    assert "✔ Children by polls_choice.question_id\n" in text
    assert "polls_choice.question_id: polls.Question 1\n" in text
    assert "published-polls" not in text
    seven = why(target, "auth.User", "7")
    assert "✔ Referenced by polls_question.author_id\n" in text_of(seven)
    assert "polls_question.author_id: polls.Question 1\n" in text_of(seven)
    eight = why(target, "auth.User", "8")
    assert claim(eight, "poll-trees").generation is None
    assert [each.holds for each in claim(eight, "poll-trees").rules] == [False]
    assert claim(eight, "published-polls").generation == 1


def test_rows_that_are_local_absent_or_under_way(start: StartTarget) -> None:
    target, published = start("poll-trees")
    target.reach(published.transaction(change("u", "polls_question", 1, published=True)))
    wanted = why(target, "polls.Question", "1")
    assert not wanted.replicated
    assert text_of(wanted).startswith("polls.Question 1 is not here yet: it is wanted.\n")
    assert "Wanted from prod for " in text_of(wanted)
    assert "(incomplete)" in text_of(wanted)
    absent = why(target, "polls.Choice", "2")
    assert "does not hold it" in text_of(absent)
    assert "? Children by polls_choice.question_id" in text_of(absent)
    assert "its parents are not known here" in text_of(absent)
    assert "It is not wanted" in text_of(absent)
    assert "\n?: what that hangs on is not known here.\n" in text_of(absent)
    target.execute(
        "INSERT INTO polls_question (id, question_text, body, published, pub_date) "
        "VALUES (9, '', '', true, now())"
    )
    local = why(target, "polls.Question", "9")
    assert not local.replicated
    assert "is here, and is a local row" in text_of(local)
    assert "?:" not in text_of(local)
    target.execute("UPDATE replicator_backfillrun SET state = 'running', finished_at = NULL")
    assert "Its backfill 1 is running: what is not here may still come." in text_of(
        why(target, "polls.Choice", "2")
    )


def test_values_that_stand_aside_count(start: StartTarget) -> None:
    target, published = start("authorless")
    target.reach(published.transaction(change("c", "polls_question", 1, author_id=4)))
    found = why(target, "polls.Question", "1")
    assert [(each.column, each.value) for each in found.nulled] == [("author_id", "4")]
    assert "author_id is NULL until the row that it points at is here: 4.\n" in text_of(found)
    absent = why(target, "auth.User", "4")
    assert absent.lacking == {"polls_question.author_id": 1}
    assert "Rows whose polls_question.author_id is NULL until it is here: 1." in text_of(absent)


def test_a_parent_by_its_true_value(start: StartTarget) -> None:
    target, published = start("sections")
    target.reach(
        published.transaction(
            change("c", "pages_page", 2, title="section", parent_id=1),
            change("c", "pages_page", 3, slug="x", parent_id=2),
        )
    )
    section = claim(why(target, "pages.Page", "2"), "sections")
    assert [each.holds for each in section.rules] == [True, False]
    assert [holder.key for holder in section.rules[1].holders] == [""]
    child = claim(why(target, "pages.Page", "3"), "sections")
    assert [each.holds for each in child.rules] == [False, True]
    assert child.rules[1].holders[0].key == '["2"]'


def test_a_kept_row_tells_what_keeps_it(start: StartTarget) -> None:
    target, published = start("catalogue")
    product = {"sku": "p", "supplier_id": uuid(1)}
    target.reach(
        published.transaction(
            change("c", "shop_supplier", uuid(1), name="one"),
            change("c", "shop_product", uuid(1), **product),
        )
    )
    target.execute(f"INSERT INTO shop_draft (product_id, text) VALUES ('{uuid(1)}', '')")
    target.reach(published.transaction(change("d", "shop_product", uuid(1))))
    found = why(target, "shop.Product", uuid(1))
    assert not found.replicated
    assert found.kept == {"public.shop_draft.product_id": 1}
    assert "kept because of rows that point at it" in text_of(found)


def test_composite_keys_and_suspect_receipts(start: StartTarget) -> None:
    target, published = start("shop")
    target.reach(
        published.transaction(
            change("c", "auth_user", 1),
            change("c", "shop_supplier", uuid(1)),
            change("c", "shop_product", uuid(1), supplier_id=uuid(1)),
            change("c", "shop_watch", 1, uuid(1)),
        )
    )
    target.execute("UPDATE replicator_subscription SET generation = generation + 1")
    found = why(target, "shop.Watch", "1", uuid(1))
    assert found.replicated
    assert "of which the newest is 2: the backfill has not seen it yet" in text_of(found)


def test_a_subscription_that_rests_still_holds_its_rows(start: StartTarget) -> None:
    target, published = start("some-tags")
    target.reach(published.transaction(change("c", "pages_tag", 1, name="a")))
    target.execute("UPDATE replicator_subscription SET declared = false, dataset = 'gone'")
    found = why(target, "pages.Tag", "1")
    assert "Nothing subscribes to it any more" in text_of(found)


@pytest.mark.parametrize("key", [("x",), ("1", "2"), ("99999999999999999999",)])
def test_what_is_no_key_is_refused(start: StartTarget, key: tuple[str, ...]) -> None:
    target, _ = start("poll-trees")
    with pytest.raises(ConfigurationError) as caught:
        why(target, "polls.Question", *key)
    assert caught.value.remedy


def test_the_command_ends_with_what_it_found(
    start: StartTarget, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target, _ = start("kinds")
    entry = django_database(target.connection.info.dsn)
    entry["PASSWORD"] = target.connection.info.password
    monkeypatch.setattr(django_settings, "DATABASES", {"default": entry})
    monkeypatch.setattr(command, "load_settings", lambda: target.settings)

    def run(model: str, key: str) -> int:
        return command.run_why(Arguments(model=model, key=key))

    target.execute("INSERT INTO kinds_reading VALUES (1, '2025-06-01', 2.5)")
    assert run("kinds.Reading", "1,2025-06-01") == 1
    assert "kinds.Reading 1,2025-06-01 is here, and is a local row" in capsys.readouterr().out
    assert run("shop.draft", "1") == 1
    assert "shop.Draft is not opted in" in capsys.readouterr().out
    with pytest.raises(WrongDeclaration):
        run("shop.Nothing", "1")
    with pytest.raises(ConfigurationError, match="sensor, taken_on"):
        run("kinds.Reading", "1")


def test_a_paused_subscription_is_named_where_it_lacks_the_row(start: StartTarget) -> None:
    target, published = start("poll-trees")
    target.reach(published.transaction(change("c", "polls_question", 1, published=True)))
    target.execute("UPDATE replicator_subscription SET paused = true")
    text = text_of(why(target, "polls.Question", "2"))
    assert "poll-trees from prod: does not hold it\n  It is paused" in text
    assert "it belongs to no dataset" not in text
    assert "comes when it is resumed" in text
    assert "poll-trees" not in text_of(why(target, "pages.Tag", "1"))
