"""Frames of the replication stream, byte for byte; what a session's errors mean."""

import struct

import pytest

from replicator.errors import (
    BadMessage,
    ConfigurationError,
    DatabaseUnavailable,
    Refused,
    ReplicatorError,
)
from replicator.positions import Lsn
from replicator_capture.frames import KeepAlive, parse_keep_alive, parse_wal_end, status_update
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


def test_wal_end() -> None:
    frame = b"w" + struct.pack("!QQq", 70, 90, 5)
    assert parse_wal_end(frame + b"B") == 90
    assert parse_wal_end(b"w" + struct.pack("!QQq", 70, 0, 5)) == 70
    with pytest.raises(BadMessage):
        parse_wal_end(frame[:-1])


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
