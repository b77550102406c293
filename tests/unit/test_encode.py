"""The generated row encoders say what the plain decoder and `envelope.encode` say."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.errors import BadMessage, Refused
from replicator.plan import ForeignKey, Release, TableName
from replicator_capture.encode import ReadEncoder, TableEncoder, unknown_columns
from replicator_capture.pgoutput import UNCHANGED, Relation, Text, decode
from replicator_capture.rowtext import generate_line_reader, json_text, plain_line
from tests.support.plain_capture import (
    delete_message,
    insert_message,
    plain_rows,
    relation_message,
    update_message,
)

_INT8, _INT4, _BOOL, _TEXT, _NUMERIC, _BYTEA = 20, 23, 16, 25, 1700, 17
TABLE = TableName("public", "t")


def _relation(columns: Sequence[tuple[str, int, bool]], identity: str = "d") -> Relation:
    relation = decode(relation_message(columns, identity=identity))
    assert isinstance(relation, Relation)
    return relation


def _release(
    *columns: str, key: tuple[str, ...] = ("id",), excluded: tuple[str, ...] = ()
) -> Release:
    return Release("app.T", TABLE, key, columns, excluded)


_PLAIN = [("id", _INT4, True), ("body", _TEXT, False), ("ok", _BOOL, False)]


def _encoder(identity: str = "d") -> TableEncoder:
    columns = _PLAIN if identity == "d" else [(n, t, identity == "f") for n, t, _ in _PLAIN]
    return TableEncoder(_relation(columns, identity), _release("id", "body", "ok"))


def test_insert_byte_for_byte() -> None:
    [(key, head)] = _encoder().insert(insert_message([b"7", 'a"\n\\ü😀'.encode(), b"f"]))
    assert key == b'["public.t",7]'
    assert head == (
        '{"op":"c","before":null,"after":{"id":7,"body":"a\\"\\n\\\\ü😀","ok":false},'.encode()
    )


def test_null_at_the_end_of_a_message() -> None:
    assert _encoder().insert(insert_message([b"7", None, None])) == (
        (
            b'["public.t",7]',
            b'{"op":"c","before":null,"after":{"id":7,"body":null,"ok":null},',
        ),
    )


def test_update_names_what_was_not_sent() -> None:
    assert _encoder().update(update_message([b"7", UNCHANGED, b"t"])) == (
        (
            b'["public.t",7]',
            b'{"op":"u","before":null,"after":{"id":7,"ok":true},"unchanged":["body"],',
        ),
    )


def test_a_changed_key_is_a_delete_and_a_create() -> None:
    message = update_message([b"8", UNCHANGED, None], [b"7", None, None], "K")
    assert _encoder().update(message) == (
        (b'["public.t",7]', b'{"op":"d","before":{"id":7},"after":null,'),
        (
            b'["public.t",8]',
            b'{"op":"c","before":null,"after":{"id":8,"ok":null},"unchanged":["body"],',
        ),
    )


def test_full_identity_fills_what_was_not_sent() -> None:
    message = update_message([b"7", UNCHANGED, b"t"], [b"7", b"long", b"f"], "O")
    assert _encoder("f").update(message) == (
        (
            b'["public.t",7]',
            b'{"op":"u","before":{"id":7,"body":"long","ok":false},'
            b'"after":{"id":7,"body":"long","ok":true},',
        ),
    )


def test_a_toasted_key_is_filled_from_the_old_key() -> None:
    encoder = TableEncoder(
        _relation([("id", _TEXT, True), ("n", _INT4, False)]), _release("id", "n")
    )
    message = update_message([UNCHANGED, b"2"], [b"long", None], "K")
    assert encoder.update(message) == (
        (
            b'["public.t","long"]',
            b'{"op":"u","before":{"id":"long"},"after":{"id":"long","n":2},',
        ),
    )


def test_delete_shows_the_identity_only() -> None:
    assert _encoder().delete(delete_message([b"7", None, None])) == (
        (b'["public.t",7]', b'{"op":"d","before":{"id":7},"after":null,'),
    )


def test_truncate() -> None:
    assert _encoder().truncate() == (
        b'["public.t"]',
        b'{"op":"t","before":null,"after":null,',
    )


def test_unreleased_columns_never_leave() -> None:
    relation = _relation([("id", _INT4, True), ("secret", _TEXT, True), ("n", _INT4, True)], "f")
    encoder = TableEncoder(relation, _release("id", "n"))
    old, new = [b"1", b"hidden", b"2"], [b"1", b"hidden too", b"3"]
    rows = [
        *encoder.insert(insert_message(old)),
        *encoder.update(update_message(new, old, "O")),
        *encoder.delete(delete_message(old, "O")),
    ]
    assert rows[1][1].startswith(b'{"op":"u","before":{"id":1,"n":2},"after":{"id":1,"n":3}')
    assert b"hidden" not in repr(rows).encode()
    assert b"secret" not in repr(rows).encode()


def test_names_are_escaped() -> None:
    table = TableName("public", '%s"')
    relation = _relation([('"%b', _INT4, True), ("100%", _TEXT, False)])
    encoder = TableEncoder(relation, Release("a.T", table, ('"%b',), ('"%b', "100%")))
    assert encoder.update(update_message([b"1", UNCHANGED])) == (
        (
            b'["public.%s\\"",1]',
            b'{"op":"u","before":null,"after":{"\\"%b":1},"unchanged":["100%"],',
        ),
    )


def test_a_released_column_that_is_gone_is_refused_by_name() -> None:
    with pytest.raises(Refused, match="no column body, ok") as caught:
        TableEncoder(_relation([("id", _INT4, True)]), _release("id", "body", "ok"))
    assert caught.value.remedy


def test_columns_that_the_code_does_not_know() -> None:
    relation = _relation([*_PLAIN, ("secret", _TEXT, False), ("new", _TEXT, False)])
    release = _release("id", "body", "ok", excluded=("secret",))
    assert unknown_columns(relation, release) == ("new",)


@pytest.mark.parametrize("identity", ["i", "n"])
def test_an_identity_without_the_key_is_refused_when_it_matters(identity: str) -> None:
    encoder = TableEncoder(
        _relation([("id", _INT4, False), ("code", _TEXT, identity == "i")], identity),
        _release("id", "code"),
    )
    assert encoder.insert(insert_message([b"1", b"a"]))[0][0] == b'["public.t",1]'
    messages = [update_message([b"1", b"a"]), update_message([b"1", b"b"], [None, b"a"], "K")]
    for message in messages:
        with pytest.raises(Refused, match="primary key"):
            encoder.update(message)
    with pytest.raises(Refused, match="primary key"):
        encoder.delete(delete_message([None, b"a"]))


def test_an_identity_index_that_has_the_key() -> None:
    encoder = TableEncoder(
        _relation([("id", _INT4, True), ("code", _TEXT, True), ("n", _INT4, False)], "i"),
        _release("id", "code", "n"),
    )
    message = update_message([b"1", b"b", b"2"], [b"1", b"a", None], "K")
    assert encoder.update(message)[0][1] == (
        b'{"op":"u","before":{"id":1,"code":"a"},"after":{"id":1,"code":"b","n":2},'
    )


# Against the plain twin


class Case(NamedTuple):
    """A table, its release and a message of it."""

    relation: Relation
    release: Release
    message: bytes


_TEXTS = {
    _INT8: st.integers(-(2**63), 2**63 - 1).map(lambda n: b"%d" % n),
    _INT4: st.integers(-(2**31), 2**31 - 1).map(lambda n: b"%d" % n),
    _BOOL: st.sampled_from([b"t", b"f"]),
    _TEXT: st.text(st.characters(exclude_categories=["Cs"])).map(str.encode),
    _NUMERIC: st.sampled_from([b"NaN", b"-1.50", b"Infinity"]),
    _BYTEA: st.binary(max_size=4).map(lambda data: b"\\x" + data.hex().encode()),
}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Tables of one to six columns in any identity, with a message that fits them."""
    types = draw(st.lists(st.sampled_from(sorted(_TEXTS)), min_size=1, max_size=6))
    names = draw(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
            min_size=len(types),
            max_size=len(types),
            unique=True,
        )
    )
    identity = draw(st.sampled_from("dif"))
    flags = [identity == "f" or draw(st.booleans()) for _ in types]
    relation = _relation(list(zip(names, types, flags, strict=True)), identity)
    key = draw(st.permutations(names))[: draw(st.integers(1, len(names)))]
    released = [name for name in names if name in key or draw(st.booleans())]
    release = Release("app.T", TABLE, tuple(key), tuple(released))
    return Case(relation, release, draw(_messages(relation)))


def _rows(relation: Relation, *, old: bool) -> st.SearchStrategy[tuple[Text, ...]]:
    """Rows of a table; only new ones lack TOASTed values."""
    lacking = [] if old else [st.just(UNCHANGED)]
    return st.tuples(
        *(st.one_of(_TEXTS[column.type], st.none(), *lacking) for column in relation.columns)
    )


@st.composite
def _messages(draw: st.DrawFn, relation: Relation) -> bytes:
    old = draw(_rows(relation, old=True))
    if relation.identity != "f":
        keyed = zip(old, relation.columns, strict=True)
        old = tuple(text if column.key else None for text, column in keyed)
    kind = "O" if relation.identity == "f" else "K"
    match draw(st.sampled_from(["insert", "delete", "update", "update from"])):
        case "insert":
            return insert_message(draw(_rows(relation, old=True)))
        case "delete":
            return delete_message(old, kind)
        case "update":
            return update_message(draw(_rows(relation, old=False)))
        case _:
            new = draw(_rows(relation, old=False))
            same = draw(st.lists(st.booleans(), min_size=len(new), max_size=len(new)))
            mixed = [o if keep else n for o, n, keep in zip(old, new, same, strict=True)]
            return update_message(mixed, old, kind)


def _fast_rows(case: Case) -> list[tuple[bytes, bytes]]:
    encoder = TableEncoder(case.relation, case.release)
    return list(encoder.by_letter[case.message[0]](case.message))


@given(cases())
@settings(max_examples=600)
def test_fast_and_plain_agree(case: Case) -> None:
    try:
        expected = plain_rows(case.message, case.relation, case.release)
    except Refused:
        with pytest.raises(Refused):
            _fast_rows(case)
        return
    assert _fast_rows(case) == expected


@given(cases(), st.data())
def test_a_damaged_message_is_refused_or_says_the_same_as_the_plain_twin(
    case: Case, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(5, len(case.message) - 1))
    tail = data.draw(st.binary(max_size=6))
    damaged = case._replace(message=case.message[:cut] + tail)
    try:
        _fast_rows(damaged)
    except (BadMessage, Refused):
        return
    decode(damaged.message)


# Rows that a fetch read


def test_rows_of_a_fetch_look_like_rows_of_the_stream() -> None:
    release = _release("id", "body", "ok")
    block = b'7\ta"\t\\N\n8\tx\\ty\tt\n'
    first, second = ReadEncoder(release, [_INT4, _TEXT, _BOOL]).rows(block)
    for row, values in ((first, [b"7", b'a"', None]), (second, [b"8", b"x\ty", b"t"])):
        [(key, head)] = _encoder().insert(insert_message(values))
        assert row == (key, head.replace(b'"op":"c"', b'"op":"r"'))


@st.composite
def copied_rows(draw: st.DrawFn) -> tuple[list[int], list[bytes | None]]:
    """Types of some columns, and values as Postgres' text."""
    types = draw(st.lists(st.sampled_from(sorted(_TEXTS)), min_size=1, max_size=6))
    texts = [draw(st.one_of(_TEXTS[kind], st.none())) for kind in types]
    return types, texts


@given(copied_rows())
@settings(max_examples=600)
def test_a_line_of_copy_is_read_as_its_plain_twin_reads_it(
    row: tuple[list[int], list[bytes | None]],
) -> None:
    types, texts = row
    line = b"\t".join(map(copied, texts))
    assert generate_line_reader(tuple(types))(line) == plain_line(types, line)
    assert plain_line(types, line) == tuple(map(json_text, types, texts))


@given(copied_rows(), st.binary(max_size=3), st.data())
def test_a_damaged_line_is_refused_if_it_has_not_the_columns(
    row: tuple[list[int], list[bytes | None]], noise: bytes, data: st.DataObject
) -> None:
    types, texts = row
    whole = b"\t".join(map(copied, texts))
    cut = data.draw(st.integers(0, len(whole)))
    line = whole[:cut] + noise + whole[cut:]
    try:
        values = generate_line_reader(tuple(types))(line)
    except BadMessage:
        return
    assert len(values) == len(types) == line.count(b"\t") + 1


def copied(text: bytes | None) -> bytes:
    """Write a value as COPY does."""
    if text is None:
        return b"\\N"
    for character, letter in zip(b"\\\b\f\n\r\t\v", b"\\bfnrtv", strict=True):
        text = text.replace(bytes([character]), b"\\" + bytes([letter]))
    return text


def test_a_key_that_a_fetch_did_not_find() -> None:
    release = _release("id", "lang", "n", key=("lang", "id"))
    assert ReadEncoder(release, [_INT4, _TEXT, _INT4]).missing([b"de", b"7"]) == (
        b'["public.t","de",7]',
        b'{"op":"d","before":{"lang":"de","id":7},"after":null,',
    )


@pytest.mark.parametrize("line", [b"7\t\xff\tt", b"7\ta\tx", b"7", b"7\t7\tt\t7", b"7\ta\t"])
def test_a_row_of_another_form_is_refused(line: bytes) -> None:
    with pytest.raises(BadMessage):
        ReadEncoder(_release("id", "body", "ok"), [_INT4, _TEXT, _BOOL]).rows(line + b"\n")


# References that travel by name


def _named(identity: str = "d") -> TableEncoder:
    columns = [("id", _INT4, identity != "n"), ("kind", _INT4, identity == "f")]
    columns.append(("body", _TEXT, identity == "f"))
    kinds = TableName("public", "django_content_type")
    release = Release(
        "app.T",
        TABLE,
        ("id",),
        ("id", "kind", "body"),
        foreign_keys=(ForeignKey(("kind",), kinds, ("id",), nullable=True, natural=True),),
    )
    names = {b"3": b'"app.page"', b"4": b'"app.tag"'}
    return TableEncoder(_relation(columns, identity), release, {kinds: lambda k: names.get(k, b"")})


def test_a_key_that_differs_between_environments_is_written_as_a_name() -> None:
    [(_, head)] = _named().insert(insert_message([b"7", b"3", b"x"]))
    assert head == (b'{"op":"c","before":null,"after":{"id":7,"kind":"app.page","body":"x"},')
    [(_, head)] = _named().insert(insert_message([b"7", None, b"x"]))
    assert head == b'{"op":"c","before":null,"after":{"id":7,"kind":null,"body":"x"},'


def test_one_of_which_the_name_is_not_known_is_unchanged() -> None:
    [(_, head)] = _named().insert(insert_message([b"7", b"9", b"x"]))
    assert head == (b'{"op":"c","before":null,"after":{"id":7,"body":"x"},"unchanged":["kind"],')


def test_it_is_not_taken_from_the_old_row() -> None:
    message = update_message([b"7", b"9", b"x"], old=[b"7", b"3", b"y"], kind="O")
    [(_, head)] = _named("f").update(message)
    assert head == (
        b'{"op":"u","before":{"id":7,"kind":"app.page","body":"y"},'
        b'"after":{"id":7,"body":"x"},"unchanged":["kind"],'
    )
