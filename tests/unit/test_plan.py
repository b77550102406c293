"""Releases and datasets, compiled from the sample project's models."""

import re
import traceback

import pytest
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.db.models import Q
from django.test.utils import isolate_apps

from replicator import Children, Dataset, Rows, compiler, opt_in, opt_out
from replicator.compiler import compile_release, releases, table_of, unfilled
from replicator.datasets import compile_dataset, find_dataset
from replicator.declare import OptIn, declared_datasets, declared_opt_ins, no_declarations, place_of
from replicator.errors import ConfigurationError, WrongDeclaration
from replicator.plan import CONTENT_TYPES, PERMISSIONS, ForeignKey, OnLeave, RowsRule, TableName
from tests.support.sample.pages.models import Page
from tests.support.sample.polls.models import Choice, Question, Vote


@pytest.fixture(autouse=True)
def _empty_registry():
    with no_declarations():
        yield


def release(label, *, only=None, exclude=()):
    return compile_release(OptIn(label, only, exclude, "main"))


def table(name: str) -> TableName:
    return TableName("public", name)


def test_a_release_of_everything():
    found = release("polls.Choice")
    assert found.label == "polls.Choice"
    assert str(found.table) == "public.polls_choice"
    assert found.key == ("id",)
    assert found.columns == ("id", "question_id", "choice_text", "rank", "votes")
    assert found.excluded == ()
    assert found.foreign_keys == (
        ForeignKey(("question_id",), table("polls_question"), ("id",), nullable=False),
    )
    assert found.unique == (("question_id", "rank"),)


@pytest.mark.parametrize(
    ("given", "columns", "excluded"),
    [
        ({"only": ("rank",)}, ("id", "rank"), ("question_id", "choice_text", "votes")),
        ({"only": ()}, ("id",), ("question_id", "choice_text", "rank", "votes")),
        (
            {"exclude": ("question", "votes")},
            ("id", "choice_text", "rank"),
            ("question_id", "votes"),
        ),
        ({"exclude": ("question_id",)}, ("id", "choice_text", "rank", "votes"), ("question_id",)),
    ],
)
def test_only_and_exclude(given, columns, excluded):
    found = release("polls.Choice", **given)
    assert (found.columns, found.excluded) == (columns, excluded)
    assert found.unique == ()
    assert all(set(key.columns) <= set(columns) for key in found.foreign_keys)


def test_excluded_columns_that_nothing_fills():
    nothing = release("polls.Choice", only=())
    assert unfilled(nothing) == ("question_id", "rank")
    assert unfilled(release("polls.Choice")) == ()
    assert unfilled(release("polls.Vote", exclude=("ip_address", "weight"))) == ()


def test_composite_keys():
    watch = release("shop.Watch")
    assert watch.key == ("user_id", "product_id")
    assert watch.columns == ("user_id", "product_id")
    assert release("kinds.Reading").key == ("sensor", "taken_on")


def test_generated_columns_are_not_released():
    found = release("kinds.Specimen")
    assert found.generated == ("length",)
    assert "length" not in found.columns
    assert "length" not in found.excluded


def test_a_child_table_of_multi_table_inheritance_has_its_own_columns():
    found = release("pages.Article")
    assert found.key == ("page_ptr_id",)
    assert found.columns == ("page_ptr_id", "summary", "read_minutes")
    assert found.foreign_keys[0].to == table("pages_page")


def test_many_to_many_and_one_to_one():
    through = release("pages.Page_tags")
    assert through.columns == ("id", "page_id", "tag_id")
    assert through.unique == (("page_id", "tag_id"),)
    product = release("shop.Product")
    assert product.unique == (("replaced_by_id",), ("sku", "region"))
    assert ForeignKey(("replaced_by_id",), product.table, ("id",), True) in product.foreign_keys
    assert release("shop.Stock").key == ("product_id",)


@pytest.mark.parametrize(
    ("label", "given", "check_id"),
    [
        ("polls.Nothing", {}, "E010"),
        ("nowhere.Question", {}, "E010"),
        ("Question", {}, "E010"),
        ("contenttypes.ContentType", {}, "E011"),
        ("auth.Permission", {}, "E011"),
        ("polls.Question", {"only": ("bdy",)}, "E012"),
        ("polls.Question", {"exclude": ("choices",)}, "E012"),
        ("polls.Question", {"exclude": ("id",)}, "E013"),
        ("shop.Watch", {"exclude": ("user",)}, "E013"),
    ],
)
def test_wrong_opt_ins(label, given, check_id):
    with pytest.raises(WrongDeclaration) as caught:
        release(label, **given)
    assert caught.value.check_id == f"replicator.{check_id}"
    assert caught.value.remedy


def test_a_primary_key_must_not_differ_between_environments(monkeypatch):
    with isolate_apps("tests.support.sample.pages", "django.contrib.contenttypes") as apps:
        monkeypatch.setattr(compiler, "apps", apps)

        class OfKind(models.Model):
            kind = models.OneToOneField(ContentType, models.CASCADE, primary_key=True)

            class Meta:
                app_label = "pages"

        with pytest.raises(WrongDeclaration, match="another key in every") as caught:
            compile_release(OptIn("pages.OfKind", None, (), "main"))
    assert caught.value.check_id == "replicator.E011"


def test_references_by_name():
    remark = release("pages.Remark")
    assert remark.natural == {"content_type_id": table("django_content_type")}
    assert remark.named_by == {CONTENT_TYPES}
    granted = release("auth.Group_permissions")
    assert granted.natural == {"permission_id": PERMISSIONS}
    assert granted.named_by == {CONTENT_TYPES, PERMISSIONS}
    assert table_of(ContentType) == CONTENT_TYPES
    assert table_of(Permission) == PERMISSIONS


def test_releases_of_a_stream_are_ordered():
    opt_in(Vote)
    opt_in("polls.choice")
    opt_in(Page, stream="pages")
    assert [r.label for r in releases("main")] == ["polls.Choice", "polls.Vote"]
    assert [r.stream for r in releases("pages")] == ["pages"]
    assert releases("none") == ()


def test_a_dataset_is_a_union_of_its_rules():
    opt_in(Question)
    opt_in(Choice)
    Dataset("x", Rows(Question, where=Q(pk=1)), Rows("polls.question"), Rows(Choice))
    plan = find_dataset("x")
    assert [rule.label for rule in plan.rules] == [
        "polls.Question",
        "polls.Question",
        "polls.Choice",
    ]
    assert [r.label for r in plan.releases] == ["polls.Question", "polls.Choice"]
    assert plan.rules[1] == RowsRule("polls.Question", None)
    assert plan.rules_of(table("polls_question")) == plan.rules[:2]
    assert plan.rules_of(table("polls_vote")) == ()
    assert plan.release("polls.Choice").table == table("polls_choice")
    with pytest.raises(KeyError):
        plan.release("polls.Vote")


def fingerprint_of(where, **released):
    with no_declarations():
        opt_in(Question, **released)
        return compile_dataset(Dataset("x", Rows(Question, where=where))).fingerprint


def test_the_fingerprint_is_stable_and_tells_plans_apart():
    one = fingerprint_of(Q(priority__in=[3, 1]))
    # Written down: a change of this value makes every target backfill everything.
    assert one == "c3bb2714bbf1ff98"
    assert fingerprint_of(Q(priority__in=(1, 3, 3))) == one
    others = {
        fingerprint_of(None),
        fingerprint_of(Q(priority__in=[3, 2])),
        fingerprint_of(~Q(priority__in=[3, 1])),
        fingerprint_of(Q(priority__in=[3, 1]), exclude=["body"]),
        fingerprint_of(Q(priority__in=[3, 1]), stream="other"),
    }
    assert len(others | {one}) == 6


def test_wrong_datasets():
    opt_in(Question)
    opt_in(Choice, stream="other")
    for dataset, check_id in (
        (Dataset("a", Rows(Vote)), "E030"),
        (Dataset("b", Rows(Question, where=Q(choices=1))), "E031"),
        (Dataset("c", Rows(Question), Rows(Choice)), "E032"),
    ):
        with pytest.raises(WrongDeclaration) as caught:
            compile_dataset(dataset)
        assert caught.value.check_id == f"replicator.{check_id}"
    with pytest.raises(WrongDeclaration, match="no dataset 'd'") as caught:
        find_dataset("d")
    assert "a, b, c" in caught.value.remedy


def test_what_becomes_of_rows_that_leave_is_the_targets_own_matter():
    opt_in("auth.User", only=["email"])
    silent = compile_dataset(Dataset("silent", Rows("auth.User"), Rows("auth.User", Q(pk=1))))
    soft = compile_dataset(
        Dataset("soft", Rows("auth.User"), Rows("auth.User", Q(pk=1), soft="last_login"))
    )
    flag = compile_dataset(Dataset("flag", Rows("auth.User", soft="is_staff"), Rows("auth.User")))
    keep = compile_dataset(Dataset("keep", Rows("auth.User", on_leave="keep")))
    assert silent.on_leave == ()
    assert soft.on_leave == (OnLeave(table("auth_user"), "soft", "last_login"),)
    assert flag.on_leave == (OnLeave(table("auth_user"), "soft", "is_staff", flag=True),)
    assert keep.on_leave == (OnLeave(table("auth_user"), "keep"),)
    assert soft.fingerprint == silent.fingerprint


def test_contradictions_are_refused_at_once():
    opt_in(Question)
    opt_out(Vote)
    Dataset("x", Rows(Question))
    for contradiction in (
        lambda: opt_in("polls.question"),
        lambda: opt_out(Choice, Question),
        lambda: opt_in(Vote),
        lambda: opt_in(Page, only=["id"], exclude=["body"]),
        lambda: Dataset("x", Rows(Question)),
        lambda: Dataset("y"),
        lambda: Dataset("polls:3", Rows(Question)),
    ):
        with pytest.raises(ConfigurationError):
            contradiction()


@pytest.mark.parametrize(
    ("declare", "problem"),
    [
        (lambda: Dataset("x", Question), "Dataset 'x' has a rule that is none"),
        (lambda: Dataset(Question, Rows(Question)), "is malformed"),
        (lambda: Rows(Question, where={"published": True}), "has a dict as its where"),
        (lambda: Rows(Question.objects), "in place of a model"),
        (lambda: opt_in(Question.objects), "in place of a model"),
        (lambda: opt_in(Dataset), "has Dataset in place of a model"),
        (lambda: opt_out(None), "in place of a model"),
        (lambda: opt_in(Question, only=5), "names of fields"),
        (lambda: opt_in(Question, exclude=[Question]), "names of fields"),
        (lambda: opt_in(Question, stream=None), "stream"),
        (lambda: Rows(Question, on_leave="ignore"), "has 'ignore' as its on_leave"),
        (lambda: Rows(Question, soft=True), "soft that is no name"),
        (lambda: Children(Choice, of="x", soft=""), "soft that is no name"),
        (lambda: Rows(Question, on_leave="keep", soft="x"), "has both on_leave and soft"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_with_its_place(declare, problem):
    with pytest.raises(ConfigurationError, match=re.escape(problem)) as caught:
        declare()
    line = declare.__code__.co_firstlineno
    assert f"test_plan.py:{line}: " in str(caught.value)
    assert caught.value.remedy in "".join(traceback.format_exception(caught.value))


def test_a_second_declaration_names_the_place_of_the_first():
    opt_in(Question)
    opted = place_of("polls.question")
    Dataset("x", Rows(Question))
    with pytest.raises(ConfigurationError, match=re.escape(f"opted in already, at {opted}.")):
        opt_out(Question)
    first = declared_datasets()["x"].place
    with pytest.raises(ConfigurationError, match=re.escape(f"declared already, at {first}.")):
        Dataset("x", Rows(Question))


def test_a_name_alone_is_no_list_of_letters():
    opt_in(Question, exclude="body")
    assert declared_opt_ins()[0].exclude == ("body",)


def test_an_empty_registry_gives_the_old_one_back():
    opt_in(Question)
    with no_declarations():
        assert declared_opt_ins() == ()
        assert not declared_datasets()
    assert [declaration.label for declaration in declared_opt_ins()] == ["polls.Question"]
