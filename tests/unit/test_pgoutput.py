"""The plain decoder of pgoutput: each message, and nothing but a clear error for anything else."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import BadMessage, BadRecord
from replicator.positions import Lsn
from replicator_capture.pgoutput import (
    POSTGRES_EPOCH_US,
    UNCHANGED,
    Begin,
    Column,
    Commit,
    Delete,
    Insert,
    Message,
    Origin,
    Relation,
    Truncate,
    Type,
    Update,
    decode,
)
from tests.support.plain_capture import (
    begin_message,
    commit_message,
    delete_message,
    insert_message,
    logical_message,
    relation_message,
    truncate_message,
    update_message,
)

_MESSAGES = [
    (begin_message(0x1_0000_0002, 3, 1_795_168_342_164_124), Begin),
    (commit_message(16, 24, 1_795_168_342_164_124), Commit),
    (b"O" + struct.pack("!Q", 9) + b"stage\0", Origin),
    (relation_message([("id", 23, True), ("naïve", 25, False)]), Relation),
    (b"Y" + struct.pack("!I", 70000) + b"public\0mood\0", Type),
    (insert_message([b"1", None, "ü".encode()]), Insert),
    (update_message([b"1", UNCHANGED]), Update),
    (update_message([b"1", b""], [b"2", None], "K"), Update),
    (delete_message([b"1", None]), Delete),
    (truncate_message(1, 2, options=3), Truncate),
    (logical_message(b"\0\xff"), Message),
]


def test_begin_and_commit_tell_place_and_time() -> None:
    assert decode(_MESSAGES[0][0]) == Begin(Lsn(0x1_0000_0002), 1_795_168_342_164_124, 3)
    assert decode(_MESSAGES[1][0]) == Commit(Lsn(16), Lsn(24), 1_795_168_342_164_124)


def test_a_time_before_2000_is_negative_in_the_stream() -> None:
    assert decode(b"B" + struct.pack("!QqI", 1, -1, 2)) == Begin(Lsn(1), POSTGRES_EPOCH_US - 1, 2)


def test_relation() -> None:
    assert decode(_MESSAGES[3][0]) == Relation(
        77, "public", "t", "d", (Column(True, "id", 23, -1), Column(False, "naïve", 25, -1))
    )


def test_pg_catalog_travels_as_nothing() -> None:
    assert decode(relation_message([], schema="")).schema == "pg_catalog"  # type: ignore[union-attr]
    assert decode(b"Y" + struct.pack("!I", 1) + b"\0int4\0") == Type(1, "pg_catalog", "int4")


def test_unchanged_is_not_null_and_not_empty() -> None:
    update = decode(update_message([None, UNCHANGED, b""]))
    assert update == Update(77, "", (), (None, UNCHANGED, b""))


@pytest.mark.parametrize("kind", ["K", "O"])
def test_old_rows_tell_their_kind(kind: str) -> None:
    assert decode(update_message([b"1"], [b"2"], kind)) == Update(77, kind, (b"2",), (b"1",))
    assert decode(delete_message([b"2"], kind)) == Delete(77, kind, (b"2",))


def test_the_other_messages() -> None:
    assert decode(insert_message([b"1"])) == Insert(77, (b"1",))
    assert decode(truncate_message(1, 2, options=3)) == Truncate((1, 2), True, True)
    assert decode(truncate_message(5, options=2)) == Truncate((5,), False, True)
    assert decode(_MESSAGES[2][0]) == Origin(Lsn(9), "stage")
    assert decode(logical_message(b"\0\xff", transactional=False, lsn=4)) == Message(
        False, Lsn(4), "replicator", b"\0\xff"
    )


@pytest.mark.parametrize(("data", "kind"), _MESSAGES)
def test_every_prefix_and_every_extension_is_refused(data: bytes, kind: type) -> None:
    assert type(decode(data)) is kind
    for end in range(len(data)):
        with pytest.raises(BadMessage):
            decode(data[:end])
    with pytest.raises(BadMessage):
        decode(data + b"\0")


@given(st.binary(max_size=80), st.sampled_from([data[:1] for data, _ in _MESSAGES]))
def test_garbage_gives_a_message_or_a_clear_error(garbage: bytes, letter: bytes) -> None:
    for data in (garbage, letter + garbage):
        with contextlib.suppress(BadMessage):
            decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"Z",
        insert_message([b"1"]).replace(b"N", b"X"),
        insert_message([b"1"]).replace(b"t\0", b"b\0"),
        relation_message([], identity="z"),
        b"O" + bytes(8) + b"\xff\0",
    ],
)
def test_what_is_not_in_the_protocol_is_refused(data: bytes) -> None:
    with pytest.raises(BadMessage):
        decode(data)


def test_no_value_shows_in_the_error() -> None:
    with pytest.raises(BadRecord) as caught:
        decode(insert_message([b"secret"])[:-1])
    assert "secret" not in str(caught.value)
