"""A worker that compares and applies nothing: for a dataset that was never applied here.

Such a dataset holds no row, so its comparison is right wherever the target stands; the stream is
read for the answers alone, and the position stays. It does no harm beside a worker that applies:
neither takes the answers that the other asked for. Blocks as `worker.Worker` does.
"""

import time
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import psycopg

from replicator.errors import BadRecord, Stopped
from replicator.http import Health
from replicator.log import Log
from replicator.plan import TableName
from replicator.settings import ReplicatorSettings
from replicator.stop import Stop
from replicator_apply.assemble import Transaction
from replicator_apply.batch import Batch
from replicator_apply.bootstrap import first_position
from replicator_apply.caller import Callers
from replicator_apply.consume import NewEpoch
from replicator_apply.pipeline import Applied
from replicator_apply.plan import TargetPlan
from replicator_apply.state import Place, StoredPosition, load_position, wanted_subscriptions
from replicator_apply.subscriptions import load_plan
from replicator_apply.verify import check_id, compare, end_check, open_checks
from replicator_apply.worker import HOUSEKEEPING, Worker
from replicator_apply.write import Written


class Rehearsal(Worker):
    """Reads one stream, and writes down what its answers would change.

    Args:
        settings, place, stop, health: as of `Worker`.
        also: a subscription that nobody wants yet; with it, another worker may apply the stream.
    """

    def __init__(
        self,
        settings: ReplicatorSettings,
        place: Place,
        stop: Stop,
        health: Health,
        also: int | None = None,
    ) -> None:
        super().__init__(settings, place, stop, health)
        self._also = also

    def _become_active(self, connection: psycopg.Connection[Any]) -> bool:
        return self._also is not None or super()._become_active(connection)

    def _load_plan(self, connection: psycopg.Connection[Any]) -> TargetPlan:
        return load_plan(connection, self._settings, self._place, self._also)

    def _load_or_begin(
        self, connection: psycopg.Connection[Any], log: Log, topic: str
    ) -> StoredPosition | None:
        """Begin where the stream stands, or at the log's end; nothing is stored."""
        with connection.cursor() as cursor:
            stored = load_position(cursor, self._place, self._settings.environment)
        return stored or first_position(log, topic)

    def _calling(self) -> AbstractContextManager[Callers]:
        """Call nothing."""
        return nullcontext(Callers(()))

    def _apply(self, connection: psycopg.Connection[Any], batch: Batch) -> Applied:
        mine = [t for t in batch.transactions if self._answers_us(t)]
        with connection.transaction(), connection.cursor() as cursor:
            for transaction in mine:
                self._compare(cursor, transaction)
            self._applier.empty_stages(cursor)
        return Applied(batch, mine, Written(), 0.0)

    def _begin_large(self, batch: Batch) -> bool:  # noqa: ARG002 (the worker's)
        """Write nothing."""
        return False

    def _settle(self, connection: psycopg.Connection[Any], applied: Applied) -> None:
        applied.batch.close()
        mine = applied.mine
        if mine:
            self._asker.answered(
                ((t.answer.request, t.size) for t in mine if t.answer and not t.answer.refused), 0.0
            )
            self._due = 0.0
            self._outdated = self._housekeeping(connection)

    def _housekeeping(
        self,
        connection: psycopg.Connection[Any],
        looked: Collection[TableName] | None = None,  # noqa: ARG002 (the worker's)
    ) -> bool:
        """Ask for what is compared, and nothing else."""
        now = time.monotonic()
        if now >= self._due:
            self._pipeline.join()
            self._due = now + HOUSEKEEPING
            with connection.cursor() as cursor:
                wanted = wanted_subscriptions(cursor, self._place, self._also)
                self._ask_checks(cursor, {s.id: s.gate for s in wanted})
        return False

    def _settle_subscriptions(self, connection: psycopg.Connection[Any]) -> None:
        """Leave alone what stands: the command has stored what it compares."""

    def _compare(self, cursor: psycopg.Cursor[Any], transaction: Transaction) -> None:
        answer = transaction.answer
        if answer is not None and answer.refused is not None:
            for check in open_checks(cursor, self._place, self._applier.plan):
                if check_id(check) == answer.request:
                    end_check(cursor, check, answer.refused)
        elif transaction.hashed:
            compare(cursor, self._place, self._applier, transaction)

    def _ungate(self, cursor: psycopg.Cursor[Any], *, every: bool) -> None:
        """Leave alone what is refused: asking again begins a backfill."""

    def _tell(self, connection: psycopg.Connection[Any], error: Stopped | BadRecord) -> None:  # noqa: ARG002
        """End, and let the command tell: the stream itself may go on."""
        raise error

    def _change_epoch(self, connection: psycopg.Connection[Any], new: NewEpoch) -> None:  # noqa: ARG002
        raise Stopped(
            "The source has begun another epoch, which apply has not met yet.",
            remedy="Run `replicator apply`, which backfills every subscription.",
        )
