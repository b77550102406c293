"""What a source selects: hashes that are the same everywhere, the latest rows, samples, by SQL."""

import datetime as dt
import hashlib
import json
from collections.abc import Iterator
from decimal import Decimal

import psycopg
import pytest
from psycopg import sql

from replicator.compiler import compile_release
from replicator.datasets import find_dataset
from replicator.declare import OptIn
from replicator.filter_sql import filter_sql, key_hash
from replicator.plan import LatestRows, RowsRule, Sampled, SampledRows
from replicator.postgres import SESSION_SETTINGS
from replicator_capture import members
from replicator_capture.selection_sql import belongs
from replicator_capture.table_read import TableRead, rows_of
from tests.conftest import SampleFactory

QUESTION = compile_release(OptIn("polls.Question", None, (), "main"))
WATCH = compile_release(OptIn("shop.Watch", None, (), "main"))
READING = compile_release(OptIn("kinds.Reading", None, (), "main"))

KEYS = {
    "smallint": ("-1", "32767"),
    "integer": ("0", "-2147483648"),
    "bigint": ("9223372036854775807", "7"),
    "uuid": ("00000000-0000-4000-8000-00000000000a",),
    "text": ("", "a:b", "it's", "Ä😀", "back\\slash", "1.0"),
    "varchar(20)": ("ß", " x "),
    "date": ("2026-01-31", "0044-03-15 BC", "infinity"),
    "timestamptz": ("2026-03-29 01:30:00.000007+00",),
    "timestamp": ("2026-03-29 01:30:00",),
    "boolean": ("true",),
    "bytea": ("\\x00ff",),
    "inet": ("10.0.0.1/32", "2001:db8::5/64"),
}
"""Key types whose equal values have one text, and values spelled as a cast to text does."""


@pytest.fixture
def source(any_sample_database: SampleFactory) -> Iterator[psycopg.Connection]:
    with psycopg.connect(any_sample_database(), autocommit=True) as connection:
        for name, value in SESSION_SETTINGS.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        connection.execute("SET search_path = public")
        yield connection


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_has_the_same_hash_in_every_database(source: psycopg.Connection, kind: str) -> None:
    # In Python, so by none of the databases: all of them agree if each agrees with this.
    for text in KEYS[kind]:
        source.execute("DROP TABLE IF EXISTS k")
        source.execute(f"CREATE TABLE k (id {kind} PRIMARY KEY)")
        source.execute(f"INSERT INTO k VALUES ({sql.Literal(text).as_string()}::{kind})")
        ((found,),) = source.execute(
            sql.SQL("SELECT {} FROM k").format(key_hash([sql.SQL("k.id")], "s:1"))
        )
        assert bytes(found) == hashlib.sha256(f"s:1:{len(text)}:{text}".encode()).digest(), text


def test_keys_of_several_columns_are_told_apart(source: psycopg.Connection) -> None:
    hashes = key_hash([sql.SQL("v.a"), sql.SQL("v.b")], "")
    values = "(VALUES ('a:1:b', 'c'), ('a', 'b:1:c'), ('a', 'b'), ('ab', ''), ('', 'ab')) v (a, b)"
    found = source.execute(sql.SQL("SELECT {} FROM " + values).format(hashes)).fetchall()
    assert len(set(found)) == 5


def test_a_share_is_about_as_large_as_it_says_and_grows_with_it(source: psycopg.Connection) -> None:
    def drawn(percent: str, seed: str) -> set[int]:
        condition = filter_sql(Sampled(("n",), percent, seed), sql.Identifier)
        rows = source.execute(
            sql.SQL("SELECT n FROM generate_series(1, 20000) n WHERE {}").format(condition)
        )
        return {row[0] for row in rows}

    tenth, fifth, other = drawn("10", "a"), drawn("20", "a"), drawn("10", "b")
    assert 1800 < len(tenth) < 2200
    assert 3700 < len(fifth) < 4300
    assert tenth < fifth
    assert 120 < len(tenth & other) < 280
    assert 0 < len(drawn("0.1", "")) < 60
    assert len(drawn("99.99", "")) > 19_900


QUESTIONS = """
INSERT INTO auth_user (id, username, email, password, is_superuser, first_name, last_name, is_staff,
    is_active, date_joined)
SELECT n, 'u' || n, '', '', false, '', '', false, true, now() FROM generate_series(1, 9) n;
INSERT INTO polls_question (id, question_text, body, published, priority, pub_date, author_id)
SELECT n, chr(96 + n % 26), '', n % 2 = 0, nullif(n % 5, 0),
    timestamptz '2026-01-01' + (n % 7) * interval '1 day', n % 9 + 1
FROM generate_series(1, {0}) n;
INSERT INTO polls_choice (id, question_id, choice_text, rank, votes)
SELECT n, n, 'c', 1, 0 FROM generate_series(1, {0}) n;
"""


def pages(source: psycopg.Connection, rule: RowsRule, limit: int) -> list[int]:
    """Read all pages of a rule; gives the keys in the order they came in."""
    with source.transaction():
        read = TableRead(source, QUESTION)
        keys: list[int] = []
        while True:
            after = (keys[-1],) if keys else None
            found = [int(texts[0] or b"") for texts in rows_of(read.page(rule, after, limit))]
            keys += found
            if len(found) < limit:
                return keys


@pytest.mark.parametrize("limit", [2, 5, 100])
def test_pages_give_the_latest_rows_in_key_order(source: psycopg.Connection, limit: int) -> None:
    source.execute(QUESTIONS.format(30))
    everything = source.execute("SELECT id, priority, pub_date, published FROM polls_question")
    rows = everything.fetchall()

    by_date = sorted(rows, key=lambda row: (row[2], row[0]), reverse=True)
    rule = RowsRule("polls.Question", None, LatestRows(7, "pub_date", "timestamp with time zone"))
    assert pages(source, rule, limit) == sorted(row[0] for row in by_date[:7])

    by_priority = sorted((r for r in rows if r[1] is not None), key=lambda r: (r[1], r[0]))[-5:]
    rule = RowsRule("polls.Question", None, LatestRows(5, "priority", "integer"))
    assert pages(source, rule, limit) == sorted(row[0] for row in by_priority)

    published = find_dataset("latest-polls").paged[0]
    expected = sorted(row[0] for row in [row for row in by_date if row[3]][:3])
    assert pages(source, published, limit) == expected

    every = RowsRule("polls.Question", None, LatestRows(99, "priority", "integer"))
    assert pages(source, every, limit) == sorted(row[0] for row in rows if row[1] is not None)


def test_a_sample_is_the_same_again_and_changes_little_with_the_rows(
    source: psycopg.Connection,
) -> None:
    source.execute(QUESTIONS.format(40))
    rule = RowsRule("polls.Question", None, SampledRows(10, "s"))
    first = pages(source, rule, 3)
    hashes = {n: hashlib.sha256(f"s:{len(str(n))}:{n}".encode()).digest() for n in range(1, 41)}
    assert first == sorted(sorted(hashes, key=lambda n: hashes[n])[:10])
    assert pages(source, rule, 100) == first
    assert pages(source, RowsRule("polls.Question", None, SampledRows(10, "t")), 100) != first
    gone = first[0]
    source.execute(f"DELETE FROM polls_choice WHERE question_id = {gone}")
    source.execute(f"DELETE FROM polls_question WHERE id = {gone}")
    assert len(set(pages(source, rule, 100)) & set(first)) == 9


def test_keys_of_several_columns_are_selected(source: psycopg.Connection) -> None:
    source.execute(
        "INSERT INTO kinds_reading (sensor, taken_on, value) "
        "SELECT n, date '2026-01-01' + n, n FROM generate_series(1, 9) n"
    )
    with source.transaction():
        read = TableRead(source, READING)
        latest = RowsRule("kinds.Reading", None, LatestRows(3, "taken_on", "date"))
        rows = [texts[0] for texts in rows_of(read.page(latest, None, 10))]
        assert rows == [b"7", b"8", b"9"]
        # A partitioned table, whose rows are those of its partitions.
        some = RowsRule("kinds.Reading", None, SampledRows(3, ""))
        assert len(list(rows_of(read.page(some, None, 10)))) == 3
        assert read.estimate(some) <= 3
        share = RowsRule("kinds.Reading", Sampled(READING.key, "50", ""))
        assert 0 < len(list(rows_of(read.page(share, None, 10)))) < 9


def test_the_latest_rows_are_found_by_an_index(source: psycopg.Connection) -> None:
    source.execute(QUESTIONS.format(3000))
    source.execute(
        "UPDATE polls_question SET pub_date = '2026-01-01'::timestamptz + id * '1 s'::interval"
    )
    source.execute("CREATE INDEX by_date ON polls_question (pub_date); ANALYZE polls_question")
    rule = RowsRule("polls.Question", None, LatestRows(10, "pub_date", "timestamp with time zone"))
    table = sql.Identifier("public", "polls_question")
    statement = sql.SQL("EXPLAIN (FORMAT JSON) SELECT t.* FROM {} t WHERE {}").format(
        table, belongs(rule, QUESTION, table)
    )
    ((plan,),) = source.execute(statement)
    text = json.dumps(plan)
    assert '"Index Name": "by_date"' in text
    assert '"Scan Direction": "Backward"' in text
    assert "Seq Scan" not in text


def test_rows_that_are_selected_are_counted(source: psycopg.Connection) -> None:
    source.execute(QUESTIONS.format(30))
    (found,) = members.count(source, find_dataset("latest-polls"))
    assert found.rows["polls.Question"] == 3
    assert found.rows["polls.Choice"] == 3
    (share,) = members.count(source, find_dataset("half-the-polls"))
    assert 0 < share.rows["polls.Question"] < 24
    (picked,) = members.count(source, find_dataset("picked-polls"))
    assert picked.rows["polls.Question"] == 1
    assert Decimal(find_dataset("latest-polls").every or 0) == dt.timedelta(hours=1).total_seconds()
