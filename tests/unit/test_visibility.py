"""When a decoded commit counts as visible to a snapshot."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.positions import Lsn
from replicator_capture import visibility
from replicator_capture.assemble import Commitment
from replicator_capture.visibility import (
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


def _commit(xid: int, lsn: int) -> Commitment:
    return Commitment(xid, Lsn(lsn), Lsn(lsn + 50), 0)


def test_confirms_no_further_than_the_first_unseen() -> None:
    unseen = Unseen()
    unseen.add([_commit(11, 100), _commit(10, 200)])
    unseen.add([_commit(12, 300)])
    assert unseen.first() == 100
    unseen.settle(Snapshot(10, 12, frozenset({10})))
    assert [commit.xid for commit in unseen.commits()] == [10, 12]
    assert confirmable(Lsn(250), unseen.first()) == 200
    unseen.settle(Snapshot(13, 13, frozenset()))
    assert len(unseen) == 0
    assert confirmable(Lsn(250), unseen.first()) == 250


@st.composite
def _snapshots(draw: st.DrawFn) -> Snapshot:
    """At the first ids of all, around a wraparound, or anywhere."""
    near = draw(st.sampled_from([20, CYCLE // 2, CYCLE, 5 * CYCLE - CYCLE // 2, 5 * CYCLE]))
    xmax = draw(st.one_of(st.integers(near - 15, near + 15), st.integers(3, 1 << 50)))
    xmin = draw(st.integers(max(3, xmax - 20), xmax))
    running = draw(st.sets(st.integers(xmin, max(xmin, xmax - 1)), max_size=3))
    return Snapshot(xmin, xmax, frozenset(running))


@given(_snapshots(), st.data(), st.integers(1, 6))
@settings(max_examples=1_000)
def test_commits_are_looked_at_together_with_the_same_result(
    snapshot: Snapshot, data: st.DataObject, together: int
) -> None:
    offset = st.one_of(st.integers(-25, 5), st.integers(-15, 15).map(lambda n: n + CYCLE // 2))
    anywhere = st.integers(0, CYCLE - 1)
    xids = st.one_of(offset.map(lambda n: (snapshot.xmax + n) % CYCLE), anywhere)
    commits = [_commit(xid, 9 * n) for n, xid in enumerate(data.draw(st.lists(xids, max_size=20)))]
    unseen = Unseen()
    unseen.add(commits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visibility, "_TOGETHER", together)
        unseen.settle(snapshot)
    assert unseen.commits() == [c for c in commits if not visible(c.xid, snapshot)]


def test_what_lies_below_the_running_ones_is_not_looked_at_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[int] = []

    def looking(xid: int, snapshot: Snapshot) -> bool:
        looked.append(xid)
        return visible(xid, snapshot)

    monkeypatch.setattr(visibility, "visible", looking)
    unseen = Unseen()
    unseen.add([_commit(xid, xid) for xid in range(1_000, 101_000)])
    # A transaction from long ago is no reason to look at those behind it.
    unseen.settle(Snapshot(500, 101_000, frozenset({500, 100_999})))
    assert [commit.xid for commit in unseen.commits()] == [100_999]
    assert len(looked) <= 256
