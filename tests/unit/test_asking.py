"""How many wanted keys one request names, and how many rows make a page."""

import pytest

from replicator.requests import MAX_PAGE
from replicator_apply.asking import (
    ANSWER_ROWS,
    ANSWER_SECONDS,
    FEWEST_KEYS,
    FEWEST_ROWS,
    LONG_PAGE_SECONDS,
    PAGE_ROWS,
    PAGE_SECONDS,
    keys_for,
    page_for,
)


@pytest.mark.parametrize(
    ("keys", "rows", "seconds", "expected"),
    [
        (1_000, 2_000, 0.01, ANSWER_ROWS // 2),
        (10, 100_000, 0.01, 1),
        (4_000, 8_000, 2 * ANSWER_SECONDS, 2_000),
        (4_000, 8_000, 1_000 * ANSWER_SECONDS, FEWEST_KEYS),
        # Trees so large that few of them take long.
        (100, 5_000, 1_000 * ANSWER_SECONDS, 200),
    ],
)
def test_an_answer_has_not_too_many_rows_and_takes_not_too_long(
    keys: int, rows: int, seconds: float, expected: int
) -> None:
    assert keys_for(keys, rows, seconds) == expected


@pytest.mark.parametrize(
    ("pace", "now", "expected"),
    [
        (PAGE_SECONDS / 1_024, 2_048, 1_024),
        (PAGE_SECONDS / 20_000, 2_000, 4_000),
        (PAGE_SECONDS / 20_000, MAX_PAGE, MAX_PAGE),
        # A few roots of very large trees.
        (2 * PAGE_SECONDS, 500, FEWEST_ROWS),
        (0.0, 500, 1_000),
        # It stays where it is good enough.
        (PAGE_SECONDS / 1_700, 2_000, 2_000),
        (PAGE_SECONDS / 2_400, 2_000, 2_000),
    ],
)
def test_a_page_takes_not_too_long(pace: float, now: int, expected: int) -> None:
    assert page_for(pace, now) == expected


def test_a_page_has_rows_enough_unless_they_take_long() -> None:
    assert page_for(PAGE_SECONDS / 400, 2_000) == PAGE_ROWS
    assert page_for(LONG_PAGE_SECONDS / 400, 2_000) == 400
    assert page_for(PAGE_SECONDS / 400, 300) == 600
    assert page_for(LONG_PAGE_SECONDS, 2_000) == FEWEST_ROWS
