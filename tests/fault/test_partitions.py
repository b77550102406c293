"""What is done to whole partitions of the source reaches the target, though no event tells it."""

import psycopg
import pytest

from tests.fault.conftest import Make

ROWS = "SELECT sensor, taken_on::text FROM kinds_reading ORDER BY 1, 2"
TOLD = "SELECT source_report ? 'table:public.kinds_reading' FROM replicator_streamposition"


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ("TRUNCATE kinds_reading_2025", [(2, "2026-01-01")]),
        ("ALTER TABLE kinds_reading DETACH PARTITION kinds_reading_2025", [(2, "2026-01-01")]),
        (
            "CREATE TABLE more (LIKE kinds_reading); INSERT INTO more VALUES (3, '2030-01-01', 1); "
            "ALTER TABLE kinds_reading ATTACH PARTITION more"
            " FOR VALUES FROM ('2030-01-01') TO ('2031-01-01')",
            [(1, "2025-01-01"), (2, "2026-01-01"), (3, "2030-01-01")],
        ),
    ],
    ids=["truncate", "detach", "attach"],
)
@pytest.mark.parametrize("away", [False, True], ids=["running", "away"])
def test_the_target_follows(
    two_environments: Make, change: str, left: list[tuple[int, str]], *, away: bool
) -> None:
    pair = two_environments(datasets=("kinds",))
    with psycopg.connect(pair.source, autocommit=True) as source:
        source.execute(
            "INSERT INTO kinds_reading VALUES (1, '2025-01-01', 1), (2, '2026-01-01', 1)"
        )
        pair.start()
        pair.until(lambda: len(pair.on_target(ROWS)) == 2, "both rows", restart=False)
        pair.until(lambda: pair.on_target(TOLD) == [(True,)], "it knows the token", restart=False)
        if away:
            assert pair.capture.process is not None
            pair.capture.process.terminate()
        source.execute(change)
        if away:
            pair.capture.start()
        pair.until(lambda: pair.on_target(ROWS) == left, "the target has the same", 60)
