"""When a decoded commit counts as visible to a snapshot."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.positions import Lsn
from replicator_capture.visibility import (
    Commit,
    Snapshot,
    Unseen,
    confirmable,
    parse_snapshot,
    visible,
    widen,
)

CYCLE = 1 << 32


def test_parses_postgres_form() -> None:
    assert parse_snapshot("10:20:10,14") == Snapshot(10, 20, frozenset({10, 14}))
    assert parse_snapshot("10:10:") == Snapshot(10, 10, frozenset())


@pytest.mark.parametrize("text", ["", "1:2", "a:b:c", "1:2:3:4"])
def test_refuses_other_forms(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_snapshot(text)


@given(near=st.integers(3, 1 << 50), distance=st.integers(-(1 << 31) + 1, (1 << 31) - 1))
def test_widening_finds_the_nearest(near: int, distance: int) -> None:
    full = near + distance
    if full >= 0:
        assert widen(full % CYCLE, near) == full


def test_visibility_across_a_wraparound() -> None:
    snapshot = Snapshot(5 * CYCLE - 3, 5 * CYCLE + 4, frozenset({5 * CYCLE - 2, 5 * CYCLE + 1}))
    seen = {xid: visible(xid % CYCLE, snapshot) for xid in range(5 * CYCLE - 5, 5 * CYCLE + 6)}
    assert [xid - 5 * CYCLE for xid, is_seen in seen.items() if is_seen] == [
        -5,
        -4,
        -3,
        -1,
        0,
        2,
        3,
    ]


def test_confirms_no_further_than_the_first_unseen() -> None:
    unseen = Unseen()
    for xid, lsn in ((11, 100), (10, 200), (12, 300)):
        unseen.add(Commit(xid, Lsn(lsn), Lsn(lsn + 50)))
    unseen.settle(Snapshot(10, 12, frozenset({10})))
    assert [commit.xid for commit in unseen.commits()] == [10, 12]
    assert confirmable(Lsn(250), unseen.first()) == 200
    unseen.settle(Snapshot(13, 13, frozenset()))
    assert len(unseen) == 0
    assert confirmable(Lsn(250), unseen.first()) == 250
