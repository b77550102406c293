"""Rows that a fetch looks up by values of other columns' types."""

from collections.abc import Iterator

import psycopg
import pytest

from replicator.compiler import compile_release
from replicator.declare import OptIn
from replicator.postgres import SESSION_SETTINGS
from replicator_capture.table_read import TableRead, rows_of
from tests.conftest import SampleFactory

REMARK = compile_release(OptIn("pages.Remark", None, (), "main"))
NOTE = compile_release(OptIn("shop.Note", None, (), "main"))


@pytest.fixture
def source(sample_database: SampleFactory) -> Iterator[psycopg.Connection]:
    with psycopg.connect(sample_database(), autocommit=True) as connection:
        for name, value in SESSION_SETTINGS.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        yield connection


@pytest.mark.parametrize("kind", ["smallint", "integer", "bigint"])
def test_a_number_that_a_column_cannot_hold_finds_nothing(
    source: psycopg.Connection, kind: str
) -> None:
    """A generic foreign key may be narrower than the keys of what it leads to."""
    source.execute(f"ALTER TABLE public.pages_remark ALTER object_id TYPE {kind}")
    source.execute(
        "INSERT INTO public.pages_remark (id, object_id, content_type_id, text) "
        "SELECT n, n, min(t.id), '' FROM public.django_content_type t, generate_series(1, 3) n "
        "GROUP BY n"
    )
    with source.transaction():
        read = TableRead(source, REMARK)
        keys = [("2",), (str(2**62),)]
        found = [row[0] for row in rows_of(read.by_values(("object_id",), keys))]
        assert found == [b"2"]
        assert list(rows_of(read.missing(keys))) == [[str(2**62).encode()]]


def test_keys_of_a_fixed_length_are_found(source: psycopg.Connection) -> None:
    source.execute("ALTER TABLE public.shop_note ALTER object_id TYPE char(3)")
    source.execute("INSERT INTO public.shop_note (id, object_id, text) VALUES (1, 'abc', '')")
    with source.transaction():
        read = TableRead(source, NOTE)
        assert [row[0] for row in rows_of(read.by_values(("object_id",), [("abc",)]))] == [b"1"]
