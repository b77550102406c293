"""From Q to filter to SQL; what cannot be decided from the row's own columns is refused."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest
from django.db.models import Exists, F, Q
from django.db.models.functions import Lower, Now
from psycopg import sql

from replicator.compiler import compile_release
from replicator.declare import OptIn
from replicator.errors import WrongDeclaration
from replicator.filter_sql import filter_sql
from replicator.plan import And, Compare, IsNull, Not, Or, Release, columns_of
from replicator.where import compile_where
from tests.support.sample.kinds.models import Reading, Specimen
from tests.support.sample.pages.models import Article, Page, Remark
from tests.support.sample.polls.models import Choice, Question, Vote
from tests.support.sample.shop.models import Product


def release_of(model, *exclude: str) -> Release:
    return compile_release(OptIn(model._meta.label, None, exclude, "main"))


def compiled(model, where, *exclude: str):
    return compile_where(model, where, release_of(model, *exclude))


def of(column: str, lookup: str, *values: str, kind: str = "integer") -> Compare:
    return Compare(column, lookup, values, kind)


UUID_ = UUID("6ec2d9a3-1f66-4a3a-9e5f-9f4bb6a2a111")
PUBLISHED = of("published", "exact", "true", kind="boolean")


@pytest.mark.parametrize("where", [None, Q()])
def test_no_condition_is_no_filter(where):
    assert compiled(Question, where) is None


@pytest.mark.parametrize(
    ("model", "where", "expected"),
    [
        (Question, Q(published=True), PUBLISHED),
        (Question, Q(pk=3), of("id", "exact", "3", kind="bigint")),
        (Choice, Q(question=3), of("question_id", "exact", "3", kind="bigint")),
        (Choice, Q(question_id__in=[3, 3, 12]), of("question_id", "in", "12", "3", kind="bigint")),
        (Choice, Q(question=Question(pk=7)), of("question_id", "exact", "7", kind="bigint")),
        (Choice, Q(question__id=7), of("question_id", "exact", "7", kind="bigint")),
        (Product, Q(supplier=UUID_), of("supplier_id", "exact", str(UUID_), kind="uuid")),
        (Article, Q(pk=5), of("page_ptr_id", "exact", "5", kind="bigint")),
        (Question, Q(priority=None), IsNull("priority")),
        (Question, Q(priority__isnull=False), Not(IsNull("priority"))),
        (Question, Q(priority__in=[]), of("priority", "in")),
        (Question, Q(priority__in=[None, 1]), of("priority", "in", "1")),
        (Question, Q(priority__range=(1, 5)), of("priority", "range", "1", "5")),
        (
            Question,
            ~Q(priority=1),
            Not(And((of("priority", "exact", "1"), Not(IsNull("priority"))))),
        ),
        (Question, ~Q(published=True), Not(PUBLISHED)),
        (
            Question,
            Q(published=True) & (Q(pk=1) | Q(pk=2)),
            And(
                (
                    PUBLISHED,
                    Or(
                        (
                            of("id", "exact", "1", kind="bigint"),
                            of("id", "exact", "2", kind="bigint"),
                        )
                    ),
                )
            ),
        ),
        (
            Question,
            Q(question_text__contains="50%_\\"),
            of("question_text", "contains", "50%_\\", kind="varchar"),
        ),
        (
            Question,
            Q(pub_date__gte=datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))),
            of("pub_date", "gte", "2026-01-01T00:00:00+00:00", kind="timestamp with time zone"),
        ),
        (Specimen, Q(exact=Decimal("1.5")), of("exact", "exact", "1.5", kind="numeric")),
        (Specimen, Q(raw=b"\x00\xff"), of("raw", "exact", "\\x00ff", kind="bytea")),
        (Specimen, Q(day=date(2026, 2, 3)), of("day", "exact", "2026-02-03", kind="date")),
        (
            Specimen,
            Q(lasting__lt=timedelta(days=-1, microseconds=5)),
            of("lasting", "lt", "-1 days 0 seconds 5 microseconds", kind="interval"),
        ),
        (Vote, Q(ip_address="::1"), of("ip_address", "exact", "::1", kind="inet")),
        (Specimen, Q(mood=None), IsNull("mood")),
        (Reading, Q(sensor=1), of("sensor", "exact", "1")),
    ],
)
def test_compiled(model, where, expected):
    assert compiled(model, where) == expected


@pytest.mark.parametrize(
    ("model", "where", "reason"),
    [
        (Choice, Q(question__published=True), "another table"),
        (Question, Q(choices__rank=1), "another table"),
        (Question, Q(choices=None), "another table"),
        (Question, ~Q(choices__rank=1), "subquery|expression|several"),
        (Question, Q(pub_date__year=2026), "transforms"),
        (Question, Q(question_text__iexact="x"), "iexact"),
        (Question, Q(question_text__icontains="x"), "icontains"),
        (Question, Q(question_text__regex="x"), "regex"),
        (Question, Q(priority=F("id")), "expression or a subquery"),
        (Question, Q(pub_date__lt=Now()), "expression or a subquery"),
        (Question, Q(priority__in=[F("id")]), "expression or a subquery"),
        (Question, Q(pk__in=Choice.objects.values("question")), "expression or a subquery"),
        (Question, Q(Exists(Choice.objects.all())), "an expression"),
        (Question, Q(question_text=Lower("body")), "expression or a subquery"),
        (Question, Q(pub_date__lt=lambda: datetime.now(UTC)), "callable"),
        (Question, Q(priority__in=[int]), "callable"),
        (Question, Q(pk=1) ^ Q(priority=2), "XOR"),
        (Question, Q(nothing=1), "nothing"),
        (Question, Q(priority="many"), "priority"),
        (Question, Q(priority=2**31), "out of range"),
        (Question, Q(priority__range=(None, 3)), "priority"),
        (Question, Q(priority__lt=None), "None"),
        (Question, Q(question_text="a\x00b"), "NUL"),
        (Question, Q(priority__startswith="1"), "cannot be compared by startswith"),
        (Specimen, Q(data={"a": 1}), "cannot be compared"),
        (Specimen, Q(data__a=1), "transforms"),
        (Specimen, Q(numbers=[1]), "cannot be compared|not one whose"),
        (Specimen, Q(numbers__contains=[1]), "cannot be compared|not one whose"),
        (Specimen, Q(span__contains=1), "cannot be compared|not one whose"),
        (Specimen, Q(mood="ok"), "kinds_mood"),
        (Specimen, Q(length=3), "not released"),
        (Article, Q(title="x"), "another table"),
        (Page, Q(tags=1), "another table"),
        (Reading, Q(pk=(1, date(2026, 1, 1))), "several"),
        (Remark, Q(content_type=1), "other keys in every environment"),
    ],
)
def test_refused_with_the_reason(model, where, reason):
    with pytest.raises(WrongDeclaration, match=reason) as caught:
        compiled(model, where)
    assert caught.value.check_id == "replicator.E031"
    assert "Allowed are" in caught.value.remedy


def test_an_unreleased_column_may_not_be_looked_at():
    with pytest.raises(WrongDeclaration, match="body is not released"):
        compiled(Question, Q(pk=1) | ~Q(body=""), "body")


def test_columns_of():
    condition = compiled(Question, ~Q(priority=1) | Q(pk__in=[1], published=True))
    assert columns_of(condition) == {"priority", "id", "published"}
    assert columns_of(None) == frozenset()


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (None, "TRUE"),
        (And(()), "TRUE"),
        (Or(()), "FALSE"),
        (of("n", "in"), "FALSE"),
        (of("n", "in", "1", "2"), "(t.\"n\" IN ('1'::integer, '2'::integer))"),
        (of("n", "range", "1", "2"), "(t.\"n\" BETWEEN '1'::integer AND '2'::integer)"),
        (of("n", "lte", "1"), "(t.\"n\" <= '1'::integer)"),
        (
            of("x", "exact", "it's", kind="varchar"),
            "(t.\"x\" COLLATE \"C\" = 'it''s'::varchar)",
        ),
        (
            of("x", "endswith", "5%", kind="varchar"),
            r"""(t."x"::text COLLATE "C" LIKE  E'%5\\%'::text)""",
        ),
        (
            Not(And((IsNull("a"), Or((IsNull("b"), IsNull("c")))))),
            '(NOT ((t."a" IS NULL) AND ((t."b" IS NULL) OR (t."c" IS NULL))))',
        ),
    ],
)
def test_rendered(condition, expected):
    column = lambda name: sql.SQL("t.{}").format(sql.Identifier(name))  # noqa: E731
    assert filter_sql(condition, column).as_string(None) == expected
