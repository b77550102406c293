"""One batch, one target transaction: fence, rows, receipts, wanted rows, position.

A batch is some whole source transactions. What a large one brings is collapsed and staged in
rounds, so that memory stays bounded; it is evaluated and written once. Blocks on Postgres.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import psycopg
from psycopg import sql

from replicator.plan import TableName
from replicator.positions import Lsn, Offset, Position
from replicator.postgres import is_passing
from replicator_apply.assemble import Parsed, Transaction
from replicator_apply.choice import Choice, choices_of
from replicator_apply.collapse import TableChanges, collapse
from replicator_apply.direct import DirectWriter, Unexpected, may_write_directly, write_directly
from replicator_apply.plan import TargetPlan
from replicator_apply.rules import Rules
from replicator_apply.sequences import Sequences
from replicator_apply.stage import Staged, StagingTables, merge_rounds, stage
from replicator_apply.state import Place, StoredPosition, advance, fence
from replicator_apply.trial import Batch as Trial
from replicator_apply.trial import trial
from replicator_apply.write import Written, naming, parents_first, unwritable, write

Cursor = psycopg.Cursor[Any]
Round = dict[bytes, TableChanges]

ROUND = 20_000
ROUND_BYTES = 32 << 20
"""Events that are collapsed at once, and bytes of those that come from a spool."""


class Overtaken(Exception):
    """Another worker has applied meanwhile: the position is not the one in memory."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Whole source transactions, in order, at least one.

    Attributes:
        transactions: all of them, those of others' answers among them.
        stored: what the position row says before.
        next: `N` after.
        offset: where in the log to read on after.
    """

    transactions: Sequence[Transaction]
    stored: StoredPosition
    next: Lsn
    offset: Offset

    @property
    def following(self) -> StoredPosition:
        """What the position row says after."""
        return StoredPosition(Position(self.stored.position.epoch, self.next), self.offset)

    @property
    def committed_ms(self) -> int:
        """When the last one was committed on the source, milliseconds since 1970."""
        return self.transactions[-1].committed_ms


Finish = Callable[[Cursor], None]
"""What else belongs to the batch's transaction: progress of backfills."""


class Applier:
    """Writes the batches of one stream through one connection.

    Args:
        connection: of the target, in autocommit mode.
        place: the stream.
        environment: this target.
        plan: what it holds.
        alive: called between the steps of a batch, which may be a long one.

    Attributes:
        plan: what the target holds.
        unsettled: tables with wanted, suspect or kept rows: their changes need verdicts.
        kept: whether any row is kept for local ones: it is tried again with every mark.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        place: Place,
        environment: str,
        plan: TargetPlan,
        alive: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._place = place
        self._environment = environment
        self._staging = StagingTables(connection, place)
        self._sequences = Sequences()
        self._writers: dict[TableName, DirectWriter] = {}
        self._unspooled = 0
        self._alive = alive
        self.plan = plan
        self.unsettled: Collection[TableName] = frozenset()
        self.kept = False

    def apply(self, batch: Batch, finish: Finish) -> Written:
        """Write a batch.

        Raises:
            Overtaken: the stored position is not the batch's.
            Clash, Unwritable: the target cannot take a row; nothing was written.
            psycopg.OperationalError: try again (deadlock, lock timeout), or reconnect.
        """
        if any(transaction.hashed for transaction in batch.transactions):
            # Outside of the transaction: a rollback would take them along.
            for table in self.plan.tables.values():
                self._staging.prepare(table)
        rounds = self._rounds(self._events(batch), batch.transactions)
        first, second = next(rounds, {}), next(rounds, None)
        only = [first] if second is None else None
        retry_kept = self.kept and any(t.size == 0 for t in batch.transactions)
        if not retry_kept and not self._choosing(batch) and self._is_direct(first):
            try:
                return self._write_directly(batch, only, finish)
            except Unexpected:
                pass
            except psycopg.DatabaseError as error:
                if is_passing(error):
                    raise
        return self._write_by_rules(batch, only, finish)

    def trial(
        self, cursor: Cursor, answer: Transaction, choice: Choice | None
    ) -> AbstractContextManager[Trial]:
        """Evaluate an answer as if it were applied; see `trial.trial`."""
        rounds = self._rounds(self._events_of(answer), [answer])
        return trial(cursor, self.plan, self._staging, rounds, choice)

    def _rounds(
        self, events: Iterator[Parsed], transactions: Sequence[Transaction]
    ) -> Iterator[Round]:
        """Collapse events, some at a time."""
        spooled = any(transaction.spool for transaction in transactions)
        while part := list(self._until_large(events) if spooled else islice(events, ROUND)):
            changes: Round = {}
            collapse(part, changes, self._open_table)
            self._alive()
            yield changes

    def _until_large(self, events: Iterator[Parsed]) -> Iterator[Parsed]:
        self._unspooled = 0
        for event in islice(events, ROUND):
            yield event
            if self._unspooled >= ROUND_BYTES:
                return

    def _events(self, batch: Batch) -> Iterator[Parsed]:
        for transaction in batch.transactions:
            if transaction.answer is None or self._is_ours(transaction):
                yield from self._events_of(transaction)

    def _is_ours(self, transaction: Transaction) -> bool:
        """Whether it is an answer to this target and plan, with rows to apply."""
        answer = transaction.answer
        return (
            answer is not None
            and answer.target == self._environment
            and answer.plan == self.plan.fingerprint
            and not transaction.hashed
        )

    def _events_of(self, transaction: Transaction) -> Iterator[Parsed]:
        yield from transaction.events
        if transaction.spool is not None:
            yield from self._spooled(transaction)

    def _spooled(self, transaction: Transaction) -> Iterator[Parsed]:
        tables = self.plan.by_prefix
        if transaction.spool is None:
            return
        for key, value in transaction.spool.records():
            table = tables.get(key[: key.find(b'"', 2) + 1])
            if table is not None:
                self._unspooled += len(value)
                yield key, table.reader.read(value)

    def _open_table(self, prefix: bytes) -> TableChanges | None:
        table = self.plan.by_prefix.get(prefix)
        return None if table is None else TableChanges(table.reader)

    def _choosing(self, batch: Batch) -> list[Transaction]:
        """Give the answers that are pages of rules with a selection."""
        answers = (t for t in batch.transactions if self._is_ours(t))
        return [t for t in answers if t.answer is not None and t.answer.chosen is not None]

    # The fast path -------------------------------------------------------------------------------

    def _is_direct(self, changes: Round) -> bool:
        tables = self.plan.by_prefix
        return all(
            may_write_directly(tables[prefix], part, self.unsettled)
            for prefix, part in changes.items()
        )

    def _write_directly(self, batch: Batch, only: list[Round] | None, finish: Finish) -> Written:
        """Write the only round, or one round after the other, as the source did."""
        self._prepare_writers(only)
        written = Written()
        with self._transaction(batch, finish) as cursor:
            for changes in only or self._rounds(self._events(batch), batch.transactions):
                if only is None and not self._is_direct(changes):
                    raise Unexpected
                written.merge(self._write_round(cursor, changes))
                if only is None:
                    cursor.execute(self._empty_stages)
        return written

    def _prepare_writers(self, only: list[Round] | None) -> None:
        """Make staging tables and writers, of the tables changed or, if not known yet, of all."""
        tables = self.plan.by_prefix
        for table in tables.values() if only is None else map(tables.__getitem__, only[0]):
            if table.name not in self._writers:
                self._writers[table.name] = DirectWriter(self._staging.prepare(table))

    def _write_round(self, cursor: Cursor, changes: Round) -> Written:
        tables = self.plan.by_prefix
        parts = {
            tables[prefix].name: (self._writers[tables[prefix].name], part)
            for prefix, part in changes.items()
        }
        return write_directly(cursor, self._order(list(parts)), parts, self._sequences)

    @property
    def _empty_stages(self) -> str:
        """Empty the staging tables between rounds."""
        stages = [table.stage for table in self.plan.tables.values()]
        return sql.SQL("TRUNCATE {}").format(sql.SQL(", ").join(stages)).as_string()

    def _order(self, names: list[TableName]) -> list[TableName]:
        if len(names) < 2:
            return names
        batch = {n: Staged(self.plan.tables[n], self._writers[n].sql) for n in names}
        return [staged.table.name for staged in parents_first(batch)]

    # The way through the rules -------------------------------------------------------------------

    def _write_by_rules(self, batch: Batch, only: list[Round] | None, finish: Finish) -> Written:
        tables = self.plan.by_prefix
        changed = {tables[p].name for p in only[0]} if only else set(self.plan.tables)
        choosing = self._choosing(batch)
        if choosing:
            # A page without a row tells something, too.
            changed |= self.plan.selecting
        staged = {
            table.name: Staged(table, self._staging.prepare(table))
            for table in self.plan.tied(changed | set(self.unsettled))
        }
        try:
            with self._transaction(batch, finish) as cursor:
                for changes in only or self._rounds(self._events(batch), batch.transactions):
                    for prefix, part in changes.items():
                        with naming(tables[prefix].name):
                            stage(cursor, staged[tables[prefix].name], part)
                for one in staged.values():
                    merge_rounds(cursor, one)
                    self._alive()
                choices = choices_of(cursor, self._place, self.plan, choosing) if choosing else []
                rules = Rules(cursor, self.plan, staged, choices)
                rules.settle()
                self._alive()
                written = write(cursor, rules, staged)
                self._alive()
                for one in staged.values():
                    if one.filled:
                        self._sequences.follow_stage(cursor, one.table)
                return written
        except psycopg.DatabaseError as error:
            if is_passing(error):
                raise
            raise unwritable(error) from error

    # The target transaction ----------------------------------------------------------------------

    @contextmanager
    def _transaction(self, batch: Batch, finish: Finish) -> Iterator[Cursor]:
        """Begin with the fence, end with the position."""
        with self._connection.transaction(), self._connection.cursor() as cursor:
            if fence(cursor, self._place) != batch.stored:
                raise Overtaken
            yield cursor
            finish(cursor)
            advance(cursor, self._place, batch.next, batch.offset, batch.committed_ms)
