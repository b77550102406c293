"""Looking at the target: until it shows what is expected, and whether it equals the source."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from django.db.models import QuerySet

from replicator.demo.processes import Daemon
from replicator.stop import Stop

PAUSE = 0.002
"""Seconds between two looks; it bounds how exact a latency is."""


class Late(Exception):
    """The target did not show a change in time."""


class Watch:
    """Waits for changes in the target.

    Args:
        daemons: must keep running meanwhile.
        stop: ends the waiting.
        limit: seconds that a change may take.
    """

    def __init__(self, daemons: Sequence[Daemon], stop: Stop, limit: float = 20.0) -> None:
        self._daemons = daemons
        self._stop = stop
        self._limit = limit

    def until(self, expected: object, look: Callable[[], object]) -> tuple[float, list[object]]:
        """Look until `expected` is seen.

        Returns:
            Milliseconds it took, and every different answer on the way, the expected one last.

        Raises:
            Late: it was not seen in time.
            Stopped: a daemon has ended.
            KeyboardInterrupt: it is to stop.
        """
        began = time.monotonic()
        seen: list[object] = []
        while True:
            answer = look()
            if not seen or seen[-1] != answer:
                seen.append(answer)
            waited = time.monotonic() - began
            if answer == expected:
                return waited * 1000, seen
            if waited > self._limit:
                raise Late(f"expected {expected}, but the target still shows {answer}")
            for daemon in self._daemons:
                daemon.require()
            if self._stop.wait(PAUSE):
                raise KeyboardInterrupt


class Difference(NamedTuple):
    """How many rows of one model differ.

    Attributes:
        rows: rows that the source's queryset has.
        missing: of them, not in the target.
        extra: in the target, but not of them.
        different: on both sides with unequal values.
    """

    model: str
    rows: int
    missing: int
    extra: int
    different: int

    @property
    def is_none(self) -> bool:
        """Say whether both sides are equal."""
        return not (self.missing or self.extra or self.different)


def compare(wanted: "QuerySet[Any]", held: "QuerySet[Any]") -> Difference:
    """Compare every column of two querysets on one model, row by row."""
    theirs, ours = _rows(wanted), _rows(held)
    return Difference(
        wanted.model._meta.object_name or "",
        len(theirs),
        len(theirs.keys() - ours.keys()),
        len(ours.keys() - theirs.keys()),
        sum(theirs[key] != ours[key] for key in theirs.keys() & ours.keys()),
    )


def _rows(queryset: "QuerySet[Any]") -> dict[object, tuple[object, ...]]:
    columns = [field.attname for field in queryset.model._meta.concrete_fields]
    return {row[0]: row[1:] for row in queryset.values_list("pk", *columns)}
