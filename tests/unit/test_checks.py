"""The static system checks: each id stands for its mistake, with a hint, and for no other."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.core import checks as django_checks
from django.db import connections, models
from django.db.models import Q
from django.test import override_settings
from django.test.utils import isolate_apps

from replicator import (
    Children,
    Dataset,
    Referenced,
    Rows,
    checks,
    children_for_derived_models,
    dataset,
    on_applied,
    opt_in,
    opt_out,
)
from replicator.checks import static_messages
from replicator.declare import no_declarations
from tests.support.sample.kinds.models import Reading
from tests.support.sample.pages.models import Page
from tests.support.sample.polls.models import Choice, Question

MINIMAL = {"ENVIRONMENT": "stage", "LOG": "kafka://kafka:9092"}


@pytest.fixture(autouse=True)
def _empty_registry():
    with no_declarations(), override_settings(REPLICATOR=MINIMAL):
        yield


def found(*, strict: bool = False, coverage: bool = False) -> dict[str, list[str]]:
    """The findings as texts, by the end of their id."""
    ids: dict[str, list[str]] = {}
    for message in static_messages(strict=strict):
        assert message.hint
        short = message.id.removeprefix("replicator.")
        if coverage or short not in ("W020", "E020"):
            ids.setdefault(short, []).append(message.msg)
    return ids


def test_nothing_declared_is_no_mistake():
    assert found() == {}


def test_the_registered_check_is_run_by_django():
    with override_settings(REPLICATOR={}):
        ids = {message.id for message in django_checks.run_checks(tags=["replicator"])}
    assert "replicator.E001" in ids


def test_every_id_is_in_the_list_of_the_module_and_in_the_documentation():
    folder = Path(checks.__file__).parent
    sources = [folder / "checks.py", folder / "compiler.py", folder / "datasets.py"]
    sources += [folder / "signature.py", folder / "where.py", folder / "rule_sets.py"]
    sources.append(folder / "row_selection.py")
    used = {
        i for path in sources for i in re.findall(r'"replicator\.([EW]\d{3})"', path.read_text())
    }
    documented = Path(__file__).parents[2] / "docs" / "declarations.md"
    assert used == set(re.findall(r"[EW]\d{3}", checks.__doc__))
    assert used == set(re.findall(r"replicator\.([EW]\d{3})", documented.read_text()))


@pytest.mark.parametrize(
    ("settings", "check_id"),
    [
        (None, "E001"),
        (MINIMAL | {"SUBSCRIPTION": []}, "E001"),
        (MINIMAL | {"DATABASE": "nowhere"}, "E002"),
        (MINIMAL | {"SUBSCRIPTIONS": [{"source": "prod", "dataset": "nothing"}]}, "E033"),
        (MINIMAL | {"TARGETS": {"dev": ["nothing", "*"]}}, "E033"),
        (MINIMAL | {"TARGETS": {"dev": ["questions:3"]}}, "E033"),
        (MINIMAL | {"SUBSCRIPTIONS": [{"source": "prod", "dataset": "questions:3"}]}, "E034"),
        (
            MINIMAL | {"SUBSCRIPTIONS": [{"source": "a", "dataset": "questions", "stream": "b"}]},
            "E035",
        ),
    ],
)
def test_settings(settings, check_id):
    opt_in(Question, only=["published"])
    Dataset("questions", Rows(Question))
    with override_settings(REPLICATOR=settings):
        assert set(found()) == {check_id}


@pytest.mark.parametrize(
    ("wish", "check_id"),
    [
        ("by-id:3,4", None),
        ("by-id", None),
        ("by-id:x", "E041"),
        ("by-text", "E041"),
        ("by-text:a,b", "E041"),
        ("by-text:a", "E031"),
        ("choices:1", "E038"),
        ("failing:0", "E042"),
        ("elsewhere:3", "E035"),
    ],
)
def test_what_is_subscribed_to_is_compiled_with_its_arguments(wish, check_id):
    opt_in(Question, only=["published"])
    opt_in(Choice)
    opt_in(Page, stream="pages", exclude=["parent"])
    dataset("by-id")(by_id)
    dataset("by-text")(lambda text: [Rows(Question, where=Q(question_text=text))])
    dataset("choices")(lambda pk: [Rows(Choice, where=Q(pk=int(pk)))])
    dataset("failing")(lambda number: [Rows(Question, where=Q(pk=1 / int(number)))])
    dataset("elsewhere")(lambda pk: [Rows(Page, where=Q(pk=int(pk)))])
    settings = MINIMAL | {"STREAMS": {"main": {}, "pages": {}}}
    with override_settings(REPLICATOR=settings):
        # Nothing is found in them before arguments are known.
        assert found() == {}
    wishes = {"SUBSCRIPTIONS": [{"source": "prod", "dataset": wish}]}
    with override_settings(REPLICATOR=settings | wishes):
        assert set(found()) == ({check_id} if check_id else set())


def by_id(*ids: int):
    """Give the questions of these keys."""
    return [Rows(Question, where=Q(pk__in=ids))]


def test_a_function_for_rows_that_never_come():
    def told(applied):
        """Never called."""

    on_applied("polls.Nothing", told)
    on_applied("polls.question", told)
    messages = static_messages()
    ids = {m.id: m for m in messages if m.id in ("replicator.E010", "replicator.E043")}
    assert "on_applied: There is no model polls.Nothing" in ids["replicator.E010"].msg
    assert "polls.Question" in ids["replicator.E043"].msg
    assert "test_checks.py:" in str(ids["replicator.E043"].obj)
    opt_in(Question)
    assert "E043" not in found()


def test_rules_that_say_different_things_of_rows_that_leave():
    opt_in("auth.User", only=["username"])
    Dataset("said-once", Rows("auth.User"), Rows("auth.User", soft="last_login"))
    assert set(found()) == {"W008"}
    rules = Rows("auth.User", soft="is_staff"), Rows("auth.User", soft="last_login")
    Dataset("soft-in-two-ways", *rules)
    Dataset("kept-or-not", Rows("auth.User", on_leave="keep"), Rows("auth.User", on_leave="delete"))
    messages = found()["E044"]
    assert "soft is_staff, and soft last_login" in messages[0]
    assert "keep, and delete" in messages[1]


def subscribed(*names: str) -> dict[str, list[str]]:
    wishes = [{"source": "prod", "dataset": name} for name in names]
    with override_settings(REPLICATOR=MINIMAL | {"SUBSCRIPTIONS": wishes}):
        return found()


def test_subscriptions_that_say_different_things_of_a_foreign_key():
    opt_in(Question)
    opt_in("auth.User", only=["username"])
    users = Rows("auth.User", where=Q(pk=1))
    Dataset("strict", users, Rows(Question, required=["author"]))
    Dataset("loose", users, Rows(Question, where=Q(pk=1), null=["author"]))
    Dataset("pulled", Rows(Question, where=Q(pk=2)), Referenced("auth.User"))
    assert subscribed("loose", "pulled") == {}
    (message,) = subscribed("strict", "loose")["E037"]
    assert "author_id is null in one and required in another" in message


def test_subscriptions_that_say_different_things_of_rows_that_leave():
    opt_in("auth.User", only=["email"])
    Dataset("soft", Rows("auth.User", where=Q(pk=1), soft="last_login"))
    Dataset("silent", Rows("auth.User", where=Q(pk=2)))
    Dataset("kept", Rows("auth.User", where=Q(pk=3), on_leave="keep"))

    assert subscribed("soft", "silent") == {}
    (message,) = subscribed("soft", "silent", "kept")["E044"]
    assert "rows of auth.User that leave: keep, and soft last_login" in message


@pytest.mark.parametrize(
    "soft", ["nothing", "username", "email", "first_name", "date_joined", "id", "groups"]
)
def test_a_column_that_cannot_mark_rows(soft):
    opt_in("auth.User", only=["username", "email"])
    Dataset("users", Rows("auth.User", soft=soft))
    (message,) = found()["E045"]
    assert repr(soft) in message


def test_unique_values_of_rows_that_stay_are_a_warning():
    opt_in(Choice)
    opt_in(Question, exclude=["author"])
    Dataset("kept", Rows(Question, on_leave="keep"), Rows(Choice))
    assert found() == {}
    Dataset("choices", Rows(Question), Rows(Choice, on_leave="keep"))
    (message,) = found()["W008"]
    assert "question_id, rank" in message


def test_another_database_than_postgres_is_a_warning(tmp_path):
    lite = {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "x"}
    connections.databases["lite"] = connections.configure_settings({"default": {}, "lite": lite})[
        "lite"
    ]
    try:
        with override_settings(REPLICATOR=MINIMAL | {"DATABASE": "lite"}):
            assert set(found()) == {"W002"}
    finally:
        del connections.databases["lite"]


def pulled_in_and_waiting():
    """Questions are pulled in by their choices, and wait for authors whom no rule brings."""
    for model in ("auth.User", Question, Choice):
        opt_in(model)
    Dataset(
        "x",
        Rows(Choice, where=Q(votes=1)),
        Referenced(Question),
        Rows(Question, where=Q(pk=1), required=["author"]),
        Rows("auth.User", where=Q(pk=1)),
    )


def waiting_in_a_ring():
    """Members wait for their team, which is there because of a member."""
    for model in ("shop.Team", "shop.Member"):
        opt_in(model)
    Dataset(
        "x",
        Rows("shop.Member", where=Q(pk=1), required=["team"]),
        Rows("shop.Team", where=Q(pk=1), required=["captain"]),
    )


@pytest.mark.parametrize(
    ("declare", "check_id"),
    [
        (lambda: opt_in("polls.Nothing"), "E010"),
        (lambda: opt_out("polls.Nothing"), "E010"),
        (lambda: opt_in("contenttypes.ContentType"), "E011"),
        (lambda: opt_in("replicator.StreamPosition"), "E011"),
        (lambda: opt_in("replicator.Beat"), "E011"),
        (lambda: opt_in(Question, only=["nothing"]), "E012"),
        (lambda: opt_in(Question, exclude=["id"]), "E013"),
        (lambda: Dataset("x", Rows(Question)), "E030"),
        (lambda: (opt_in(Question), Dataset("x", Rows(Question, where=Q(choices=1)))), "E031"),
        (lambda: opt_in(Question, stream="mian"), "W003"),
        (lambda: opt_in(Reading), "W004"),
        (lambda: (opt_in(Choice), Dataset("x", Rows(Choice))), "E038"),
        (lambda: (opt_in(Choice), Dataset("x", Rows(Choice, required=["votes"]))), "E036"),
        (lambda: (opt_in(Choice), Dataset("x", Rows(Choice, null=["question"]))), "E037"),
        (lambda: (opt_in(Page), Dataset("x", Rows(Page, null=["parent"]))), "W007"),
        (pulled_in_and_waiting, "E039"),
        (waiting_in_a_ring, "E039"),
        (lambda: opt_in(Choice, exclude=["question"]), "W006"),
        (lambda: dataset("x")(lambda **_: []), "E040"),
        (lambda: dataset("x")(lambda: []), "E042"),
        (lambda: dataset("x")(lambda _=5: [Rows(Question)]), "E030"),
    ],
)
def test_declarations(declare, check_id):
    declare()
    assert set(found()) == {check_id}


def test_a_filter_on_an_unreleased_column():
    opt_in(Question, exclude=["body", "author"])
    Dataset("x", Rows(Question, where=Q(body="")))
    (text,) = found()["E031"]
    assert "'x'" in text
    assert "body is not released" in text


def test_a_dataset_on_a_broken_opt_in_is_not_reported_twice():
    opt_in(Question, only=["nothing"])
    Dataset("x", Rows(Question))
    assert found().keys() == {"E012"}


def test_a_finding_names_dataset_and_place_once():
    Dataset("x", Rows(Question))
    opt_in(Choice, only=["nothing"])
    places = {message.id: message.obj for message in static_messages() if message.obj}
    assert places.keys() == {"replicator.E030", "replicator.E012"}
    assert all("test_checks.py:" in place for place in places.values())
    (text,) = found()["E030"]
    assert text.count("Dataset 'x'") == 1


def test_a_dataset_in_two_streams():
    opt_in(Question)
    opt_in(Choice, stream="other")
    Dataset("x", Rows(Question), Rows(Choice))
    assert "E032" in found()


@contextmanager
def known(model: type[models.Model]) -> Iterator[None]:
    """Let labels find a model that was made in isolation, for as long as the context."""
    name, app_models = model._meta.model_name, apps.all_models[model._meta.app_label]
    app_models[name] = model
    apps.clear_cache()
    try:
        yield
    finally:
        del app_models[name]
        apps.clear_cache()


@isolate_apps("tests.support.sample.polls")
def test_proxies_are_refused():
    class Proxy(Question):
        class Meta:
            proxy = True
            app_label = "polls"

    with known(Proxy):
        opt_in(Proxy)
        assert found() == {"E011": ["polls.Proxy is a proxy and has no table"]}


@isolate_apps("tests.support.sample.polls")
def test_two_models_on_one_table():
    class Twin(models.Model):
        class Meta:
            app_label = "polls"
            db_table = "polls_question"

    with known(Twin):
        opt_in(Question)
        opt_in(Twin)
        assert set(found()) == {"E015"}


def test_foreign_keys_that_leave_the_dataset():
    opt_in(Question, exclude=["author"])
    opt_in(Choice)
    opt_in(Page)
    Dataset("whole", Rows(Question), Rows(Choice))
    Dataset("half", Rows(Question, where=Q(published=True)), Rows(Choice))
    Dataset("union", Rows(Question, where=Q(published=True)), Rows(Question), Rows(Choice))
    Dataset("tree", Rows(Page, where=Q(live=True)))
    Dataset("led", Rows(Question, where=Q(published=True)), Children(Choice, of="question"))
    Dataset("cut", Rows(Page, where=Q(live=True), required=["parent"]))
    assert [text.partition(":")[0] for text in found()["E038"]] == [
        "Dataset 'half'",
        "Dataset 'tree'",
    ]
    hints = [str(message.hint) for message in static_messages() if message.id == "replicator.E038"]
    assert 'null=["question"]' in hints[0]
    assert 'null=["parent"]' in hints[1]


@isolate_apps("tests.support.sample.pages")
def test_a_type_that_is_left_out_beside_its_siblings():
    class Event(Page):
        class Meta:
            app_label = "pages"

    opt_in(Page)
    opt_in("pages.Article")
    opt_in("pages.Remark")
    root = Rows(Page, where=Q(live=True), null=["parent"])
    Dataset("articles", root, Children("pages.Article", of="page_ptr"))
    Dataset("no-types", root)
    Dataset("remarks", root, Children("pages.Remark", of="pages.Page.remarks"))
    Dataset(
        "some-remarks",
        root,
        Children("pages.Article", of="page_ptr"),
        Children("pages.Remark", of="pages.Article.remarks"),
    )
    assert found()["W009"] == [
        "Dataset 'some-remarks' takes pages.Article.remarks, and not pages.Page.remarks"
    ]
    with known(Event):
        opt_in(Event)
        Dataset("all-types", root, children_for_derived_models(Page))
        assert found()["W009"] == [
            "Dataset 'articles' takes pages.Article, and not pages.Event",
            "Dataset 'some-remarks' takes pages.Article, and not pages.Event",
            "Dataset 'some-remarks' takes pages.Article.remarks, and not pages.Page.remarks",
        ]
        hints = {message.hint for message in static_messages() if message.id == "replicator.W009"}
        assert any('children_for_derived_models("pages.Page")' in hint for hint in hints)
        assert any('("pages.Page", of="remarks")' in hint for hint in hints)


@isolate_apps("tests.support.sample.polls")
def test_a_type_that_is_left_out_beside_those_of_an_abstract_model():
    class Part(models.Model):
        question = models.ForeignKey(Question, models.CASCADE)

        class Meta:
            abstract = True
            app_label = "polls"

    class Text(Part):
        class Meta:
            app_label = "polls"

    class Image(Part):
        class Meta:
            app_label = "polls"

    class Film(Part):
        class Meta:
            app_label = "polls"

    with known(Text), known(Image), known(Film):
        opt_in(Question, exclude=["author"])
        opt_in(Text)
        opt_in(Image)
        opt_in(Film)
        root = Rows(Question, where=Q(published=True))
        text, image = (Children(model, of="question") for model in (Text, Image))
        Dataset("texts", root, text)
        Dataset("parts", root, text, image)
        Dataset("all", root, children_for_derived_models(Part, of="question"))
        assert found() == {
            "W009": ["Dataset 'parts' takes polls.Text, polls.Image, and not polls.Film"]
        }


def test_coverage_is_a_warning_and_strictly_an_error():
    opt_in(Question)
    opt_out(Choice)
    advised = " ".join(found(coverage=True)["W020"])
    assert "polls.Vote" in advised
    assert "pages.Page_tags" in advised
    assert "auth.User " in advised
    assert "auth.User_groups" in advised
    for decided in ("polls.Question", "polls.Choice"):
        assert decided not in advised
    strictly = found(strict=True, coverage=True)
    assert "W020" not in strictly
    assert " ".join(strictly["E020"]) == advised


def test_models_of_the_framework_need_no_decision():
    advised = " ".join(found(coverage=True)["W020"])
    for framework in (
        "contenttypes",
        "auth.Permission",
        "auth.User_user_permissions",
        "auth.Group_permissions",
        "sessions",
        "admin",
        "replicator.",
    ):
        assert framework not in advised


def test_link_tables_can_be_decided_by_their_through_model():
    opt_in(User.groups.through)
    assert "auth.User_groups" not in " ".join(found(coverage=True)["W020"])
