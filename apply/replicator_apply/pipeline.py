"""Batches in order: one is written, one waits for it, and the next one is read.

Postgres and Python work at the same time then, in place of waiting for each other by turns. Used
by one thread, which reads; what has to do with the target's connection it does only while nothing
is written.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from replicator_apply.ahead import Aside
from replicator_apply.arriving import Arriving, GivenUp
from replicator_apply.assemble import Transaction
from replicator_apply.batch import Batch
from replicator_apply.write import Written

ASIDE_ROWS: Final = 1_000
"""Row events from which on a batch is written aside: for fewer, to hand over costs too much."""


@dataclass(frozen=True, slots=True)
class Applied:
    """A batch that is written, and what of it is still to be told.

    Attributes:
        batch: the batch.
        mine: the answers to this target among its transactions.
        written: what was written.
        seconds: how long that took.
    """

    batch: Batch
    mine: Sequence[Transaction]
    written: Written
    seconds: float


class Pipeline:
    """What is between the reader and the target.

    Who waits for a batch raises what that batch raised, and what `settle` raises; but for `close`.

    Args:
        apply: writes a batch; called in another thread for a large one.
        settle: called in the caller's thread once a batch is written, before the next one is.
    """

    def __init__(
        self, apply: Callable[[Batch], Applied], settle: Callable[[Applied], None]
    ) -> None:
        self._apply, self._settle = apply, settle
        self._aside = Aside[Applied]()
        self._ready: Batch | None = None
        self._arriving: Arriving | None = None

    @property
    def busy(self) -> bool:
        """Whether a batch is being written, or waits for it to be settled."""
        return self._aside.busy

    @property
    def full(self) -> bool:
        """Whether a batch waits, so that `hand_over` would wait."""
        return self._ready is not None

    @property
    def arriving(self) -> Arriving | None:
        """What takes the batch that is written but not whole yet: `join` would wait for ever."""
        return self._arriving

    def begin(self, batch: Batch) -> None:
        """Begin to write a batch that is not whole yet; all before it must be finished.

        `hand_over` of the same batch says that it is whole.
        """
        self._arriving = batch.arriving
        self._aside.begin(partial(self._write_arriving, batch))

    def _write_arriving(self, batch: Batch) -> Applied:
        try:
            return self._apply(batch)
        finally:
            if batch.arriving is not None:
                batch.arriving.close()

    def _abandon(self) -> None:
        if self._arriving is not None:
            self._arriving.abandon()
            self._arriving = None

    def give_up(self) -> None:
        """Have rolled back what is written of the batch that is not whole, and wait for that.

        Raises what its writing raised, unless that is GivenUp as well.
        """
        self._abandon()
        with suppress(GivenUp):
            self.join()

    def hand_over(self, batch: Batch) -> None:
        """Take the next batch: it waits while the one before is written.

        Waits itself if one waits already, and until a small one is written.
        """
        if batch.arriving is not None:
            batch.arriving.end()
            self._arriving = None
            return
        if self._ready is not None:
            try:
                self.join()
                self.proceed()
            except BaseException:
                batch.close()
                raise
        self._ready = batch
        self.proceed()
        if not _goes_aside(batch):
            self.finish()

    def proceed(self) -> None:
        """Settle the batch that has been written, and begin with the one that waits."""
        applied = None
        if self._aside.ended:
            applied = self._settled()
        if self._ready is None or self._aside.busy:
            return
        batch, self._ready = self._ready, None
        if _goes_aside(batch):
            self._aside.begin(partial(self._apply, batch))
        else:
            try:
                self._settle(self._apply(batch))
            finally:
                batch.close()
        # To free it takes a while, in which the next one is written already.
        del applied

    def wait(self, timeout: float) -> None:
        """Wait until the batch under way is written, at most `timeout` seconds."""
        self._aside.wait(timeout)

    def join(self) -> None:
        """Wait until the batch under way is written, and settle it: the connection is free."""
        self._settled()

    def _settled(self) -> Applied | None:
        try:
            applied = self._aside.join()
            if applied is not None:
                self._settle(applied)
        except BaseException:
            # What waits comes behind what has failed.
            self._drop()
            raise
        return applied

    def _drop(self) -> None:
        if self._ready is not None:
            self._ready.close()
            self._ready = None

    def finish(self) -> None:
        """Wait until all is written and settled."""
        self.join()
        self.proceed()
        self.join()

    def close(self) -> None:
        """Give up what is not whole, and what waits; wait for what is under way."""
        self._abandon()
        self._drop()
        self._aside.close()


def _goes_aside(batch: Batch) -> bool:
    return batch.rows >= ASIDE_ROWS and not batch.spooled
