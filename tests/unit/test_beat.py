"""The nonce and its order."""

import pytest

from replicator.positions import EpochId
from replicator_capture import beat

EPOCH = EpochId("0123abcd")


def test_survives_the_message() -> None:
    one = beat.first(EPOCH)
    assert beat.parse(one.nonce) == one
    assert beat.from_content(beat.content_of(one)) == one


def test_order_tells_a_restored_database() -> None:
    one = beat.first(EPOCH)
    two = one.next(EpochId("ffffffff"))
    assert two.follows(one)
    assert two.follows(two)
    assert not one.follows(two)
    assert not one.next(EPOCH).follows(two)


@pytest.mark.parametrize(
    "content", [b"", b"beat:", b"beat:x.1.y", b"\xff\x00", b"0123abcd.1.01234567"]
)
def test_strangers_are_ignored(content: bytes) -> None:
    assert beat.from_content(content) is None
