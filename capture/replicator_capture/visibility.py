"""Which decoded commits snapshots do not see yet. Pure; used by one thread at a time.

A commit is in the WAL, and so decoded, before it is visible to snapshots; with a synchronous
standby away, long before. A fetch that reads in between would miss it and nothing would repeat it,
so capture remembers those commits, and never confirms a position beyond the first of them: the
next run must be able to decode it again.

Source: https://www.postgresql.org/docs/current/functions-info.html (pg_snapshot)
"""

from collections.abc import Sequence
from typing import NamedTuple

from replicator.positions import Lsn
from replicator_capture.assemble import Commitment

_CYCLE = 1 << 32
_HALF = 1 << 31
_TOGETHER = 256
"""Commits that are first looked at as one."""


class Snapshot(NamedTuple):
    """What pg_current_snapshot() gives; ids are 64-bit, counted over wraparounds.

    Attributes:
        xmin: every transaction below has ended and is visible (or rolled back).
        xmax: no transaction from here on is visible.
        running: those in between that are not visible.
    """

    xmin: int
    xmax: int
    running: frozenset[int]


def parse_snapshot(text: str) -> Snapshot:
    """Read Postgres' form, `xmin:xmax:xip,xip…`.

    Raises:
        ValueError: `text` is not of that form.
    """
    xmin, xmax, running = text.split(":")
    return Snapshot(int(xmin), int(xmax), frozenset(int(xid) for xid in running.split(",") if xid))


def widen(xid: int, near: int) -> int:
    """Give the 64-bit id nearest to `near` of which `xid` is the lower half."""
    wide = near - near % _CYCLE + xid
    if wide - near > _HALF and wide >= _CYCLE:
        return wide - _CYCLE
    if near - wide > _HALF:
        return wide + _CYCLE
    return wide


def visible(xid: int, snapshot: Snapshot) -> bool:
    """Say whether a committed transaction with this 32-bit id is seen by the snapshot."""
    wide = widen(xid, snapshot.xmax)
    return wide < snapshot.xmin or (wide < snapshot.xmax and wide not in snapshot.running)


class Unseen:
    """Decoded commits that no snapshot has been known to see, in commit order."""

    def __init__(self) -> None:
        self._commits: list[Commitment] = []

    def add(self, commits: Sequence[Commitment]) -> None:
        """Note commits as they are decoded."""
        self._commits += commits

    def settle(self, snapshot: Snapshot) -> None:
        """Forget what the snapshot sees: later ones see it too.

        There may be a hundred thousand of them, and nearly all are seen: they are looked at one by
        one only next to those that are not.
        """
        commits, self._commits = self._commits, []
        for start in range(0, len(commits), _TOGETHER):
            some = commits[start : start + _TOGETHER]
            xids = [commit.xid for commit in some]
            if not _all_visible(min(xids), max(xids), snapshot):
                self._commits += [c for c in some if not visible(c.xid, snapshot)]

    def first(self) -> Lsn | None:
        """Commit LSN of the first of them, beyond which nothing may be confirmed."""
        return self._commits[0].lsn if self._commits else None

    def commits(self) -> list[Commitment]:
        """All of them, in commit order."""
        return list(self._commits)

    def __len__(self) -> int:
        return len(self._commits)


def confirmable(acknowledged: Lsn, unseen: Lsn | None) -> Lsn:
    """Give the position that may be confirmed to the slot.

    Args:
        acknowledged: the highest `to` that the log has stored.
        unseen: commit LSN of the first decoded commit that snapshots do not see.
    """
    return acknowledged if unseen is None else min(acknowledged, unseen)


def _all_visible(low: int, high: int, snapshot: Snapshot) -> bool:
    """Say whether all 32-bit ids from `low` to `high` are seen; False may also mean: perhaps.

    Widened they follow one another as well, unless a wraparound lies between them.
    """
    first, last = widen(low, snapshot.xmax), widen(high, snapshot.xmax)
    return (
        last - first == high - low
        and last < snapshot.xmax
        and not any(first <= xid <= last for xid in snapshot.running)
    )
