"""Filters give exactly the ORM's rows, on a real Postgres, for random conditions and NULLs."""

import datetime as dt
import random
from collections.abc import Iterator
from decimal import Decimal
from uuid import UUID

import psycopg
import pytest
from django.db.models import Q
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from psycopg import sql

from replicator.compiler import compile_release
from replicator.declare import OptIn
from replicator.filter_sql import filter_sql
from replicator.where import compile_where
from tests.support.sample.databases import connected
from tests.support.sample.kinds.models import Specimen

UTC = dt.UTC
TEXTS = ["", "a", "ab", "b", "A", "a%", "a_b", "a\\b", "it's", "Ä", "ä", "é", "z ", " ", "\n", "😀"]
POOLS: dict[str, list[object]] = {
    "small": [-1, 0, 1, 2, 32767],
    "whole": [-1, 0, 1, 2**31 - 1, -(2**31)],
    "big": [0, 1, 2**63 - 1],
    "yes": [True, False],
    "real": [0.0, 0.1, 1e300, float("inf"), float("-inf"), float("nan")],
    "exact": [Decimal(0), Decimal("1.5"), Decimal("1.50"), Decimal("-0.0000000001")],
    "line": TEXTS,
    "text": TEXTS,
    "day": [dt.date(1, 1, 1), dt.date(2026, 2, 3), dt.date(9999, 12, 31)],
    "clock": [dt.time(0), dt.time(12, 30, 1, 5), dt.time(23, 59, 59, 999999)],
    "moment": [
        dt.datetime(1970, 1, 1, tzinfo=UTC),
        dt.datetime(2026, 3, 29, 1, 30, 0, 7, tzinfo=UTC),
        dt.datetime(2026, 3, 29, 3, 30, 0, 7, tzinfo=dt.timezone(dt.timedelta(hours=2))),
    ],
    "lasting": [
        dt.timedelta(0),
        dt.timedelta(days=-1, microseconds=1),
        dt.timedelta(days=40, hours=25),
    ],
    "key": [UUID(int=0), UUID(int=1), UUID(int=2**128 - 1)],
    "address": ["10.0.0.1", "::1", "2001:db8::5"],
    "raw": [b"", b"\x00", b"\xff\\x"],
}
RELEASE = compile_release(OptIn("kinds.Specimen", None, (), "main"))


def _leaf(column: str, lookup: str, value: object) -> Q:
    return Q(**{f"{column}__{lookup}": value})


def _leaves(column: str) -> st.SearchStrategy[Q]:
    value = st.sampled_from(POOLS[column])
    ordered = st.sampled_from(["exact", "lt", "lte", "gt", "gte"])
    options = [
        st.builds(_leaf, st.just(column), st.just("isnull"), st.booleans()),
        st.builds(lambda v: Q(**{column: v}), value | st.none()),
        st.builds(_leaf, st.just(column), st.just("in"), st.lists(value | st.none(), max_size=3)),
    ]
    if column != "yes":
        options.append(st.builds(_leaf, st.just(column), ordered, value))
        options.append(st.builds(_leaf, st.just(column), st.just("range"), st.tuples(value, value)))
    if column in ("line", "text"):
        pattern = st.sampled_from(["startswith", "contains", "endswith"])
        options.append(st.builds(_leaf, st.just(column), pattern, value))
    return st.one_of(options)


CONDITIONS = st.recursive(
    st.sampled_from(sorted(POOLS)).flatmap(_leaves),
    lambda inner: (
        st.builds(lambda a, b: a & b, inner, inner)
        | st.builds(lambda a, b: a | b, inner, inner)
        | st.builds(lambda a: ~a, inner)
    ),
    max_leaves=6,
)


@pytest.fixture
def specimens(sample_database) -> Iterator[psycopg.Connection]:
    """A connection to 150 specimens, a third of their values NULL; the ORM is connected, too."""
    conninfo, chance = sample_database(), random.Random(3)
    with connected("default", conninfo), psycopg.connect(conninfo, autocommit=True) as connection:
        Specimen.objects.bulk_create(_specimen(chance) for _ in range(150))
        connection.execute("SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET search_path = ''")
        yield connection


def _specimen(chance: random.Random) -> Specimen:
    return Specimen(
        **{
            column: None if chance.random() < 0.33 else chance.choice(pool)
            for column, pool in POOLS.items()
        }
    )


def _rows_of(connection: psycopg.Connection, where: Q) -> set[int]:
    condition = compile_where(Specimen, where, RELEASE)
    statement = sql.SQL("SELECT s.id FROM public.kinds_specimen s WHERE {}").format(
        filter_sql(condition, lambda column: sql.Identifier("s", column))
    )
    return {row[0] for row in connection.execute(statement)}


def test_random_filters_give_the_rows_of_the_orm(specimens):
    @settings(
        max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
    )
    @given(CONDITIONS)
    def agree(where: Q) -> None:
        expected = set(Specimen._base_manager.filter(where).values_list("pk", flat=True))
        event("none" if not expected else "all" if len(expected) == 150 else "some")
        assert _rows_of(specimens, where) == expected

    agree()


@pytest.mark.parametrize(
    "where",
    [
        ~Q(whole=1),
        ~Q(whole__in=[]),
        ~Q(whole__isnull=True),
        ~(Q(whole=1) | ~Q(line="a")),
        ~Q(whole=1, line__startswith="a"),
        ~~Q(whole__gt=0),
        Q(line__contains="\\"),
        Q(line__endswith="%"),
        Q(whole__gt=1.5) | Q(whole__gte=0.5),
        Q(pk__in=[1, 2, 3]),
    ],
    ids=str,
)
def test_what_negation_and_nulls_have_broken_elsewhere(specimens, where):
    expected = set(Specimen._base_manager.filter(where).values_list("pk", flat=True))
    assert expected
    assert _rows_of(specimens, where) == expected


_HAS_ICU = "SELECT 1 FROM pg_catalog.pg_collation WHERE collname = 'und-x-icu'"


def test_text_is_compared_by_bytes_whatever_the_column_says(any_sample_database):
    conninfo = any_sample_database()
    with connected("default", conninfo), psycopg.connect(conninfo, autocommit=True) as connection:
        if not connection.execute(_HAS_ICU).fetchone():
            pytest.skip("this Postgres is built without ICU: there is no order but by bytes")
        connection.execute(
            'ALTER TABLE kinds_specimen ALTER line TYPE varchar(100) COLLATE "und-x-icu"'
        )
        Specimen.objects.bulk_create(Specimen(line=line) for line in ("B", "a", "Z"))
        names = dict(Specimen.objects.values_list("pk", "line"))
        found = {names[pk] for pk in _rows_of(connection, Q(line__lt="a"))}
        assert not Specimen.objects.filter(line__lt="a").exists()
    assert found == {"B", "Z"}
