"""Wanted rows of which the key may be spelled in several ways, such as 5 and 5.0 as numeric."""

from hashlib import md5

from replicator.envelope import Answer, Op, RowHash, Value
from replicator.requests import KeysRequest, PageRequest, fingerprint
from replicator_apply.runs import begin_verification
from tests.integration.conftest import StartTarget
from tests.support.published import Change
from tests.support.target import change

NUMERIC = (
    "ALTER TABLE pages_page ALTER id DROP IDENTITY; ALTER TABLE pages_page ALTER id TYPE numeric"
)
PAGES = "SELECT id::text, title, body FROM pages_page"


def test_an_answer_in_another_spelling_strikes_the_wanted_row_off(start: StartTarget) -> None:
    target, published = start("pages", prepare=NUMERIC)
    # Keys of other tables are no numbers.
    target.execute(
        "INSERT INTO replicator_wantedrow (source, stream, table_name, row_key, reason) "
        "VALUES ('prod', 'main', 'public.other', '[\"x\"]', '')"
    )
    target.reach(published.transaction(change("u", "pages_page", "5", unchanged=("body",))))
    assert ("public.pages_page", '["5"]') in target.wanted
    read = change("r", "pages_page", "5.0", body="whole")
    target.answer(published, target.request(KeysRequest), read)
    assert target.wanted == [("public.other", '["x"]')]
    assert target.rows(PAGES) == [("5.0", "t", "whole")]


def test_the_row_of_a_key_that_is_wanted_in_another_spelling_is_no_base(start: StartTarget) -> None:
    target, published = start("pages", prepare=NUMERIC)
    target.reach(published.transaction(change("c", "pages_page", "5", body="old")))
    target.execute(
        "INSERT INTO replicator_wantedrow (source, stream, table_name, row_key, reason) "
        "VALUES ('prod', 'main', 'public.pages_page', '[\"5.0\"]', '')"
    )
    request = target.request(KeysRequest)
    event = change("u", "pages_page", "5", title="new", unchanged=("body",))
    target.reach(published.transaction(event))
    assert target.rows(PAGES) == [("5", "t", "old")]
    read = change("r", "pages_page", "5", title="new", body="new")
    target.answer(published, request, read)
    assert target.wanted == []
    assert target.rows(PAGES) == [("5", "new", "new")]


FOUND = "SELECT rows_checked, findings FROM replicator_verifyrun"
NULLED = "SELECT row_key, value FROM replicator_nulledvalue"
PARENTS = "SELECT id::text, parent_id::text FROM pages_page ORDER BY id"


def section(op: Op, key: str, **columns: Value) -> Change:
    return change(op, "pages_page", key, **{"title": "section", "slug": key, **columns})


def test_a_true_value_is_forgotten_with_its_row_in_another_spelling(start: StartTarget) -> None:
    target, published = start("sections", prepare=NUMERIC)
    target.reach(published.transaction(section("c", "5", parent_id=7)))
    assert target.rows(NULLED) == [('["5"]', "7")]
    renewed = (change("d", "pages_page", "5"), section("c", "5.0", parent_id=8))
    target.reach(published.transaction(*renewed))
    assert target.rows(NULLED) == [('["5.0"]', "8")]
    target.reach(published.transaction(section("c", "7")))
    assert target.rows(PARENTS) == [("5.0", None), ("7", None)]
    target.reach(published.transaction(section("c", "8")))
    assert target.rows(PARENTS) == [("5.0", "8"), ("7", None), ("8", None)]


def test_a_true_value_is_found_in_another_spelling(start: StartTarget) -> None:
    both = f"{NUMERIC}; ALTER TABLE pages_page ALTER parent_id TYPE numeric"
    target, published = start("sections", prepare=both)
    target.reach(published.transaction(section("c", "5", parent_id="7.0")))
    # What stands for another table, or another column, is no number.
    target.execute(
        "INSERT INTO replicator_nulledvalue (source, stream, table_name, row_key, column_name, "
        "value) VALUES ('prod', 'main', 'public.other', '[\"x\"]', 'y', 'z')"
    )
    target.reach(published.transaction(section("c", "7")))
    assert target.rows(PARENTS) == [("5", "7.0"), ("7", None)]
    assert target.rows(NULLED) == [('["x"]', "z")]


LETTERS = """
CREATE TYPE letters;
CREATE FUNCTION letters_in(cstring) RETURNS letters
    AS 'textin' LANGUAGE internal IMMUTABLE STRICT;
CREATE FUNCTION letters_out(letters) RETURNS cstring
    AS 'textout' LANGUAGE internal IMMUTABLE STRICT;
CREATE TYPE letters (INPUT = letters_in, OUTPUT = letters_out, LIKE = text, COLLATABLE = true);
CREATE CAST (letters AS text) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (text AS letters) WITHOUT FUNCTION AS ASSIGNMENT;
CREATE FUNCTION letters_cmp(letters, letters) RETURNS int
    AS 'SELECT bttextcmp(lower($1::text), lower($2::text))' LANGUAGE sql IMMUTABLE STRICT;
"""
for number, sign in enumerate(("<", "<=", "=", ">=", ">")):
    LETTERS += f"""
CREATE FUNCTION letters_{number}(letters, letters) RETURNS bool
    AS 'SELECT lower($1::text) {sign} lower($2::text)' LANGUAGE sql IMMUTABLE STRICT;
CREATE OPERATOR {sign} (
    FUNCTION = letters_{number}, LEFTARG = letters, RIGHTARG = letters{", MERGES" * (sign == "=")}
);
"""
LETTERS += """
CREATE OPERATOR CLASS letters_ops DEFAULT FOR TYPE letters USING btree AS OPERATOR 1 <,
    OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 letters_cmp;
ALTER TABLE witness_first ALTER id DROP IDENTITY;
ALTER TABLE witness_first ALTER id TYPE letters USING id::text;
"""
"""As citext is, which not every Postgres here has: equal whatever the case, beside pg_catalog."""


def test_verify_compares_rows_under_one_key_in_two_spellings(start: StartTarget) -> None:
    target, published = start("witness", prepare=LETTERS)
    rows = [Change("c", "public.witness_first", (key,), {"id": key, "number": 1}) for key in "abc"]
    target.reach(published.transaction(*rows))
    # To be fetched anyway: no difference.
    target.execute(
        "INSERT INTO replicator_wantedrow (source, stream, table_name, row_key, reason) "
        "VALUES ('prod', 'main', 'public.witness_first', '[\"C\"]', '')"
    )
    begin_verification(target.connection, 1)
    request = target.request(PageRequest)
    digests = {key: md5(f"({key},1)".encode()).hexdigest() for key in "aB"}
    hashes = [RowHash((key,), digest) for key, digest in digests.items()]
    answer = Answer("stage", request.id, fingerprint(request.plan))
    published.hashes("public.witness_first", hashes, answer)
    target.until(lambda: target.rows(FOUND) != [(0, [])], "compared")
    assert target.rows(FOUND) == [(2, [["different", "public.witness_first", '["b"]']])]
