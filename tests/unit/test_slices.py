"""Slices of large values: cut, and joined again whatever stands between them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import BadRecord
from replicator.log.record_batch import HEADER_BYTES, encode_record
from replicator.log.slices import PART, PART_OF, Joiner, cut

LIMIT = 2_000


def slices_of(value, key=b"k"):
    return list(cut((key, value), LIMIT))


@given(st.binary(min_size=1, max_size=9_000), st.integers(min_value=0, max_value=5))
def test_joined_again_at_the_first_offset(value, offset):
    joiner = Joiner()
    results = []
    for number, (record, headers) in enumerate(slices_of(value)):
        assert HEADER_BYTES + len(encode_record(0, record, headers)) <= LIMIT
        results.append(joiner.add(offset + number, record, headers, 0))
    assert results[:-1] == [None] * (len(results) - 1)
    assert results[-1] == (offset, (b"k", value))
    assert joiner.resume(99) == 99


def test_two_writers_slices_do_not_mix():
    first, second = slices_of(b"a" * 5_000), slices_of(b"b" * 5_000)
    joiner = Joiner()
    got = []
    for number, (one, two) in enumerate(zip(first, second, strict=True)):
        got.append(joiner.add(2 * number, *one, 0))
        got.append(joiner.add(2 * number + 1, *two, 0))
    assert [joined for joined in got if joined] == [
        (0, (b"k", b"a" * 5_000)),
        (1, (b"k", b"b" * 5_000)),
    ]


def test_whole_record_passes_while_a_value_is_open():
    joiner = Joiner()
    joiner.add(7, *slices_of(b"a" * 5_000)[0], 0)
    assert joiner.add(8, (b"k", b"v"), {}, 0) == (8, (b"k", b"v"))
    assert joiner.resume(9) == 7


def test_slices_without_their_first_are_skipped():
    joiner = Joiner()
    assert [joiner.add(9, *part, 0) for part in slices_of(b"a" * 5_000)[1:]] == [None, None]
    assert joiner.resume(12) == 12


def test_a_missing_slice_drops_the_value():
    joiner = Joiner()
    first, _, third = slices_of(b"a" * 5_000)
    assert [joiner.add(0, *first, 0), joiner.add(1, *third, 0)] == [None, None]
    assert joiner.resume(2) == 2


def test_abandoned_set_is_given_up_when_the_log_has_moved_on():
    joiner = Joiner()
    first, second, third = slices_of(b"a" * 5_000)
    joiner.add(0, *first, 1_000)
    joiner.expire(121_000)
    assert joiner.resume(5) == 0
    joiner.add(5, *second, 121_000)
    joiner.expire(200_000)
    assert joiner.resume(6) == 0
    joiner.expire(241_001)
    assert joiner.resume(6) == 6
    assert joiner.add(7, *third, 241_001) is None


def test_at_most_four_sets_are_open():
    joiner = Joiner()
    firsts = [slices_of(b"a" * 5_000)[0] for _ in range(50)]
    for number, first in enumerate(firsts):
        joiner.add(number, *first, number)
    assert joiner.resume(50) == 46


@pytest.mark.parametrize(
    "headers",
    [
        {PART: b"1/2"},
        {PART: b"x/2", PART_OF: b"a"},
        {PART: b"0/2", PART_OF: b"a"},
        {PART: b"3/2", PART_OF: b"a"},
        {PART: b"", PART_OF: b"a"},
        {PART: b"1", PART_OF: b"a"},
        {PART: b"1/" + b"9" * 5_000, PART_OF: b"a"},
    ],
)
def test_senseless_headers_are_a_bad_record(headers):
    with pytest.raises(BadRecord):
        Joiner().add(0, (b"k", b"v"), headers, 0)
