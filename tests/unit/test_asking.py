"""How many wanted keys one request names."""

import pytest

from replicator_apply.asking import ANSWER_ROWS, ANSWER_SECONDS, FEWEST_KEYS, keys_for


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
