"""A worker that compares and applies nothing: for a dataset that was never applied here.

Such a dataset holds no row, so its comparison is right wherever the target stands; the stream is
read for the answers alone, and the position stays. Blocks as `worker.Worker` does.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import psycopg

from replicator.errors import Stopped
from replicator_apply.assemble import Transaction
from replicator_apply.batch import Batch
from replicator_apply.caller import Callers
from replicator_apply.consume import NewEpoch
from replicator_apply.verify import check_id, compare, end_check, open_checks
from replicator_apply.worker import Worker


class Rehearsal(Worker):
    """Reads one stream, and writes down what its answers would change."""

    def _calling(self) -> AbstractContextManager[Callers]:
        """Call nothing."""
        return nullcontext(Callers(()))

    def _apply(self, connection: psycopg.Connection[Any], batch: Batch) -> None:
        self._quiet_since = time.monotonic()
        self._consumer.mark = None
        mine = [t for t in batch.transactions if self._answers_us(t)]
        try:
            with connection.transaction(), connection.cursor() as cursor:
                for transaction in mine:
                    self._compare(cursor, transaction)
        finally:
            for transaction in batch.transactions:
                transaction.close()
        if mine:
            self._asker.answered(
                (t.answer.request, t.size) for t in mine if t.answer and not t.answer.refused
            )
            self._due = 0.0
            self._outdated = self._housekeeping(connection)

    def _compare(self, cursor: psycopg.Cursor[Any], transaction: Transaction) -> None:
        answer = transaction.answer
        if answer is not None and answer.refused is not None:
            for check in open_checks(cursor, self._place):
                if check_id(check) == answer.request:
                    end_check(cursor, check, answer.refused)
        elif transaction.hashed:
            compare(cursor, self._place, self._applier, transaction)

    def _ungate(self, cursor: psycopg.Cursor[Any], *, every: bool) -> None:
        """Leave alone what is refused: asking again begins a backfill."""

    def _schedule(self, cursor: psycopg.Cursor[Any]) -> None:
        """Choose nothing: nothing is applied."""

    def _change_epoch(self, connection: psycopg.Connection[Any], new: NewEpoch) -> None:  # noqa: ARG002
        raise Stopped(
            "The source has begun another epoch, which apply has not met yet.",
            remedy="Run `replicator apply`, which backfills every subscription.",
        )
