"""What a target tells its source of its lag."""

import pytest

from replicator_apply.reports import BEATS_WITHIN, lag_of
from replicator_capture import beat


@pytest.mark.parametrize(
    ("age", "dry", "lag"),
    [
        (7.6, True, 0.0),
        (7.6, False, 7.6),
        (BEATS_WITHIN + 1, True, BEATS_WITHIN + 1),
        (None, True, None),
        (None, False, None),
    ],
)
def test_nothing_lags_behind_a_dry_log_of_a_source_that_beats(
    age: float | None, dry: bool, lag: float | None
) -> None:
    assert lag_of(age, dry=dry) == lag


def test_a_source_that_runs_beats_often_enough() -> None:
    assert beat.EVERY < BEATS_WITHIN
