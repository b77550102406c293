"""A large transaction that is written while the rest of it arrives.

It is committed on the source already, and most often the rest is here within seconds. The reading
thread puts rounds in, the writing thread takes them out, inside one target transaction that is
committed when all of it is here. Whatever speaks against it ends it: what was written is rolled
back, and the transaction is read again from the log and kept until it is whole.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from replicator_apply.collapse import Round
from replicator_apply.decode import Parsed

PART_EVENTS: Final = 10_000
PART_BYTES: Final = 8 << 20
"""Events, or bytes of records, that make a round."""
WAITING: Final = 1
"""Rounds that wait to be written; whoever reads waits then, so that memory stays bounded."""


class GivenUp(Exception):
    """A transaction cannot be written before it is whole: read it again."""


class Arriving:
    """Rounds of one transaction, from the thread that reads to the one that writes.

    Whoever writes calls `close` in the end, however it ends: else the reader waits for ever.

    Args:
        collapse: makes a round of events.

    Attributes:
        count: row events that were put in.
        put_at: when the last round was, by the monotonic clock.
    """

    def __init__(self, collapse: Callable[[Sequence[Parsed]], Round]) -> None:
        self._collapse = collapse
        self._changed = threading.Condition()
        self._rounds: deque[Round] = deque()
        self._whole = self._over = False
        self.count, self.put_at = 0, time.monotonic()

    def put(self, events: Sequence[Parsed]) -> None:
        """Add the next events; waits while enough are waiting.

        Raises:
            GivenUp: nobody writes them any more.
        """
        self.put_round(self._collapse(events), len(events))

    def put_round(self, made: Round, events: int) -> None:
        """As `put`, of events that are collapsed already."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or len(self._rounds) < WAITING)
            if self._over:
                raise GivenUp
            self._rounds.append(made)
            self.count, self.put_at = self.count + events, time.monotonic()
            self._changed.notify_all()

    def end(self) -> None:
        """Say that all of it was put in."""
        with self._changed:
            self._whole = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Say that the rest will not come: `rounds` raises GivenUp. After `end`, nothing."""
        with self._changed:
            self._over = self._over or not self._whole
            self._changed.notify_all()

    def close(self) -> None:
        """Say that no more is written, and forget what waits."""
        with self._changed:
            self._over = True
            self._rounds.clear()
            self._changed.notify_all()

    def rounds(self) -> Iterator[Round]:
        """Give all rounds, and wait for them.

        Raises:
            GivenUp: the rest will not come.
        """
        while (made := self._next()) is not None:
            yield made

    def _next(self) -> Round | None:
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._rounds or self._whole)
            if self._over:
                raise GivenUp
            made = self._rounds.popleft() if self._rounds else None
            self._changed.notify_all()
            return made
