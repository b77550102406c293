"""Frames of the replication stream, byte for byte; what a session's errors mean."""

import struct
from typing import Any

import pytest

from replicator.errors import (
    BadMessage,
    ConfigurationError,
    DatabaseUnavailable,
    Refused,
    ReplicatorError,
)
from replicator.positions import Lsn
from replicator_capture.frames import (
    KeepAlive,
    Take,
    parse_keep_alive,
    status_update,
    take_frames,
    take_frames_plainly,
)
from replicator_capture.pgoutput import POSTGRES_EPOCH_US
from replicator_capture.wal import SlotBusy, start_command, stream_error


def test_status_update() -> None:
    assert status_update(Lsn(0x1_0000_0010), Lsn(16), POSTGRES_EPOCH_US + 258) == bytes.fromhex(
        "72 0000000100000010 0000000000000010 0000000000000010 0000000000000102 00"
    )


def test_a_status_update_may_ask_for_a_sign_of_life() -> None:
    assert status_update(Lsn(5), Lsn(9), POSTGRES_EPOCH_US, reply=True)[-1] == 1


def test_never_less_is_received_than_confirmed() -> None:
    assert struct.unpack("!cQQQqB", status_update(Lsn(5), Lsn(9), POSTGRES_EPOCH_US))[1:4] == (
        9,
        9,
        9,
    )


@pytest.mark.parametrize("reply", [0, 1])
def test_keep_alive(reply: int) -> None:
    frame = b"k" + struct.pack("!QqB", 77, 5, reply)
    assert parse_keep_alive(frame) == KeepAlive(Lsn(77), bool(reply))
    for wrong in (frame[:-1], frame + b"\0", b"z" + frame[1:], b""):
        with pytest.raises(BadMessage):
            parse_keep_alive(wrong)


def data(start: int, end: int, message: bytes) -> bytes:
    return b"w" + struct.pack("!QQq", start, end, 5) + message


def arrived(*frames: bytes, ended: bool = False) -> Take:
    """Give frames as psycopg does, and then nothing."""
    left = [*frames]

    def take(_: int) -> tuple[int, memoryview]:
        if not left:
            return -1 if ended else 0, memoryview(b"")
        frame = left.pop(0)
        return len(frame), memoryview(frame)

    return take


TAKES = pytest.mark.parametrize("taker", {take_frames, take_frames_plainly})


@TAKES
def test_frames_are_taken_until_none_is_there(taker: Any) -> None:
    messages: list[bytes] = [b"before"]
    take = arrived(data(70, 90, b"Bxy"), data(95, 0, b""))
    assert taker(take, messages, 10, 100) == (0, b"", 53, 95)
    assert messages == [b"before", b"Bxy", b""]
    assert taker(arrived(ended=True), messages, 10, 100) == (-1, b"", 0, 0)


@TAKES
def test_no_more_frames_are_taken_than_are_enough(taker: Any) -> None:
    take, messages = arrived(*(data(n, n, b"abc") for n in range(9))), list[bytes]()
    assert taker(take, messages, 2, 1_000) == (1, b"", 56, 1)
    assert taker(take, messages, 9, 29) == (1, b"", 56, 3)
    assert len(messages) == 4


@TAKES
@pytest.mark.parametrize("other", [b"k" + bytes(17), b"w" + bytes(23), b"w", b"Z" + bytes(40)])
def test_another_frame_is_given_as_it_is(taker: Any, other: bytes) -> None:
    messages: list[bytes] = []
    take = arrived(data(1, 1, b"a"), other, data(2, 2, b"b"))
    assert taker(take, messages, 10, 100) == (len(other), other, 26, 1)
    assert taker(take, messages, 10, 100) == (0, b"", 26, 2)
    with pytest.raises(BadMessage):
        parse_keep_alive(other[:17])


def test_start_command_quotes_its_names() -> None:
    assert start_command('s"lot', 'it\'s "p"', 0x16_B374_D848) == (
        'START_REPLICATION SLOT "s""lot" LOGICAL 16/B374D848 '
        "(proto_version '1', publication_names '\"it''s \"\"p\"\"\"', messages 'true')"
    )


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("55006", SlotBusy),
        ("42704", Refused),
        ("55000", Refused),
        ("58P01", Refused),
        ("28000", ConfigurationError),
        ("42501", ConfigurationError),
        ("57P01", DatabaseUnavailable),
        ("08006", DatabaseUnavailable),
        ("", DatabaseUnavailable),
        ("XX000", Refused),
    ],
)
def test_what_a_session_s_errors_mean(state: str, kind: type[ReplicatorError]) -> None:
    error = stream_error(state, "ERROR:  so it is\nDETAIL:  more\n")
    assert type(error) is kind
    assert str(error).endswith("so it is")
    assert error.remedy
