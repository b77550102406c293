"""One batch, one target transaction: fence, rows, receipts, wanted rows, position.

A batch is some whole source transactions. What a large one brings is collapsed and staged in
rounds, so that memory stays bounded; it is evaluated and written once. Blocks on Postgres.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import Any

import psycopg
from psycopg import sql

from replicator.envelope import Mark
from replicator.errors import Clash, Unwritable
from replicator.plan import TableName
from replicator.positions import Lsn, Offset, Position
from replicator.postgres import is_passing
from replicator_apply.ahead import one_ahead
from replicator_apply.arriving import Arriving, GivenUp
from replicator_apply.assemble import Transaction
from replicator_apply.choice import Choice, choices_of
from replicator_apply.collapse import Round, TableChanges, collapse
from replicator_apply.decode import Parsed, prefix_of
from replicator_apply.direct import (
    DirectWriter,
    Unexpected,
    Unsure,
    may_write_directly,
    write_directly,
)
from replicator_apply.fenced import FencedCursor, fenced
from replicator_apply.plan import Table, TargetPlan
from replicator_apply.receipts import GrowingReceipts
from replicator_apply.rules import Rules
from replicator_apply.sequences import Sequences
from replicator_apply.sieve import Sieve
from replicator_apply.stage import Staged, StagingTables, merge_rounds, stage
from replicator_apply.state import Place, StoredPosition
from replicator_apply.table_sql import TableSql
from replicator_apply.trial import Batch as Trial
from replicator_apply.trial import trial
from replicator_apply.write import Written, naming, unwritable, write

Cursor = psycopg.Cursor[Any]

ROUND = 20_000
ROUND_BYTES = 32 << 20
"""Events that are collapsed at once, and bytes of those that come from a spool."""


@dataclass(slots=True)
class Batch:
    """Whole source transactions, in order, at least one.

    Attributes:
        transactions: all of them, those of others' answers among them.
        stored: what the position row says before.
        next: `N` after.
        offset: where in the log to read on after.
        rows: row events of all transactions.
        mark: the newest mark among them.
        new_run: whether capture has started again before the last of them.
        collapsed: its changes by table, once they are.

    If the rest of its only transaction still comes, `next`, `offset`, `rows`, `mark` and `new_run`
    count only once it is whole: see `become`.
    """

    transactions: Sequence[Transaction]
    stored: StoredPosition
    next: Lsn
    offset: Offset
    rows: int
    mark: Mark | None = None
    new_run: bool = False
    collapsed: Round | None = None

    @property
    def arriving(self) -> Arriving | None:
        """What takes the rounds of its only transaction, if it is written as it arrives."""
        return self.transactions[0].arriving

    def become(self, whole: "Batch") -> None:
        """Take over what is known now that the transaction is whole."""
        self.transactions, self.rows = whole.transactions, whole.rows
        self.next, self.offset = whole.next, whole.offset
        self.mark, self.new_run = whole.mark, whole.new_run

    @property
    def spooled(self) -> bool:
        """Whether one of the transactions is too large for memory."""
        return any(transaction.spool for transaction in self.transactions)

    def close(self) -> None:
        """Free what the transactions hold on disk."""
        for transaction in self.transactions:
            transaction.close()

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
        filling: tables that a backfill fills, of which each row may enter alone.
        unsettled: tables of which every change needs a verdict: some of their rows are suspect or
            kept, or wanted though all of them belong.
        kept: tables with rows that are kept for local ones, which are tried again with every mark;
            None: it is not known.
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
        self._receipts = GrowingReceipts(connection, plan)
        self._writers: dict[TableName, DirectWriter] = {}
        self._unspooled = 0
        self._alive = alive
        self.plan = plan
        self.unsettled: Collection[TableName] = frozenset()
        self.filling: Collection[TableName] = frozenset()
        self.kept: Collection[TableName] | None = None

    def collapse(self, batch: Batch) -> None:
        """Do all that needs no connection for a batch that fits into memory; else `apply` does.

        So it can be done while the batch before is written.
        """
        if batch.spooled or batch.rows > ROUND or batch.collapsed is not None or batch.arriving:
            return
        batch.collapsed = self._round_of(self._events(batch))

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
        self._alive()
        if batch.arriving is not None:
            written = self._try_directly(batch, None, finish)
            if written is None:
                raise GivenUp
        else:
            written = self._apply_whole(batch, finish)
        self._receipts.note(written.rows)
        return written

    def _apply_whole(self, batch: Batch, finish: Finish) -> Written:
        self.collapse(batch)
        if batch.collapsed is not None:
            first, only = batch.collapsed, [batch.collapsed]
        else:
            first, only = next(self._rounds(self._events(batch), batch.transactions), {}), None
        retry_kept = self.kept and any(t.size == 0 for t in batch.transactions)
        direct = not retry_kept and not self._choosing(batch) and self._is_direct(first)
        del first
        written = self._try_directly(batch, only, finish) if direct else None
        return self._write_by_rules(batch, only, finish) if written is None else written

    def begin_rounds(self, transaction: Transaction) -> bool:
        """Take what has come of a transaction as a first round; False: its rows need verdicts."""
        first = self._round_of(transaction.events)
        if not self._is_direct(first):
            return False
        transaction.arriving = Arriving(self._round_of)
        transaction.arriving.put_round(first, len(transaction.events))
        return True

    def _round_of(self, events: Iterable[Parsed]) -> Round:
        """Collapse events, and make ahead what is copied."""
        changes: Round = {}
        collapse(events, changes, self._open_table)
        for prefix, part in changes.items():
            writer = self._writers.get(self.plan.by_prefix[prefix].name)
            if writer is not None:
                writer.prepare(part)
        return changes

    def _try_directly(
        self, batch: Batch, only: list[Round] | None, finish: Finish
    ) -> Written | None:
        """Write a batch without verdicts; None: it must take the other way."""
        try:
            return self._write_directly(batch, only, finish)
        except (Unexpected, Clash, Unwritable):
            return None
        except psycopg.DatabaseError as error:
            if is_passing(error):
                raise
            return None

    @contextmanager
    def trial(self, cursor: Cursor, answer: Transaction, choice: Choice | None) -> Iterator[Trial]:
        """Evaluate an answer as if it were applied; see `trial.trial`."""
        rounds = self._rounds(self._events_of(answer), [answer])
        with (
            _planned_anew(self._connection),
            trial(cursor, self.plan, self._staging, rounds, choice) as batch,
        ):
            yield batch

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

    @contextmanager
    def _rounds_of(self, batch: Batch, only: list[Round] | None) -> Iterator[Iterable[Round]]:
        """Give a batch's rounds, the next one read while the caller writes this one."""
        if only is not None:
            yield only
            return
        if batch.arriving is not None:
            yield batch.arriving.rounds()
            return
        rounds = one_ahead(self._rounds(self._events(batch), batch.transactions))
        # Two readers must not meet in one spool.
        with closing(rounds):
            yield rounds

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
            table = tables.get(prefix_of(key))
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
        """Whether some changes need no verdict, and no TRUNCATE comes before them."""
        if any(part.truncated for part in changes.values()):
            return False
        return not changes or bool(self._direct_parts(changes))

    def _direct_parts(self, changes: Round) -> list[TableName]:
        """List the tables of which some changes need no verdict."""
        tables = self.plan.by_prefix
        return [
            tables[prefix].name
            for prefix, part in changes.items()
            if may_write_directly(tables[prefix], part, self.unsettled)
        ]

    def _write_directly(self, batch: Batch, only: list[Round] | None, finish: Finish) -> Written:
        """Write the only round, or one round after the other, as the source did.

        What of the only round needs verdicts is left to the rules, in the same transaction.
        """
        self._prepare_writers(only)
        unsure = Unsure(self.filling, any(map(self._is_ours, batch.transactions)))
        written = Written()
        with self._transaction(batch, finish) as cursor, self._rounds_of(batch, only) as rounds:
            if only is None:
                # Its rows may still have to arrive.
                cursor.begin()
            for changes in rounds:
                self._alive()
                part, left = self._write_round(cursor, changes, unsure)
                written.merge(part)
                if only is None:
                    if left:
                        raise Unexpected
                    self._truncate_stages_of(cursor, changes)
                elif left:
                    self._empty_stages_of(cursor, changes)
                    written.merge(self._judge(cursor, self._staged(left), [left]))
                    written.judged = True
        return written

    def _prepare_writers(self, only: list[Round] | None) -> None:
        """Make staging tables and writers, of the tables changed or, if not known yet, of all."""
        tables = self.plan.by_prefix
        changed = list(tables.values() if only is None else map(tables.__getitem__, only[0]))
        for table in changed:
            if table.name not in self._writers:
                use = partial(self._staging.use, table)
                self._writers[table.name] = DirectWriter(self._staging.prepare(table), use)
        if not all(table.direct for table in changed):
            # Some of it may be left to the rules.
            for table in self._tied({table.name for table in changed}):
                self._staging.prepare(table)

    def _write_round(self, cursor: Cursor, changes: Round, unsure: Unsure) -> tuple[Written, Round]:
        """Write what needs no verdict; give what is left."""
        tables = self.plan.by_prefix
        parts = {tables[prefix].name: part for prefix, part in changes.items()}
        direct = self.plan.parents_first(self._direct_parts(changes))
        sieve = Sieve(cursor, self._statements, parts)
        batch = {name: (self._writers[name], parts[name]) for name in direct}
        written, left = write_directly(cursor, batch, sieve, self._sequences, unsure)
        left |= {name: part for name, part in parts.items() if name not in batch}
        return written, {self.plan.tables[name].prefix: part for name, part in left.items()}

    @cached_property
    def _statements(self) -> dict[TableName, TableSql]:
        return {name: self._staging.statements(t) for name, t in self.plan.tables.items()}

    def _truncate_stages_of(self, cursor: Cursor, changes: Round) -> None:
        """Empty the staging tables of a large round, for the next one."""
        if changes:
            stages = [self.plan.by_prefix[prefix].stage for prefix in changes]
            cursor.execute(sql.SQL("TRUNCATE {}").format(sql.SQL(", ").join(stages)))

    def _empty_stages_of(self, cursor: Cursor, changes: Round) -> None:
        """Take what is written off the staging tables, for the rest to follow."""
        tables = [self.plan.by_prefix[prefix].name for prefix in changes]
        texts = [self._statements[name].empty_stage for name in tables]
        cursor.execute("; ".join(texts), prepare=False)

    # The way through the rules -------------------------------------------------------------------

    def _write_by_rules(self, batch: Batch, only: list[Round] | None, finish: Finish) -> Written:
        choosing = self._choosing(batch)
        staged = self._staged(only[0] if only else None, choosing=bool(choosing))
        try:
            with self._transaction(batch, finish) as cursor, self._rounds_of(batch, only) as rounds:
                cursor.begin()
                return self._judge(cursor, staged, rounds, choosing)
        except psycopg.DatabaseError as error:
            if is_passing(error):
                raise
            raise unwritable(error) from error

    def _tied(self, changed: set[TableName]) -> list[Table]:
        """List the tables that rules may look at when these have changed."""
        return self.plan.tied({*changed, *self.unsettled})

    def _staged(self, changes: Round | None, *, choosing: bool = False) -> dict[TableName, Staged]:
        """Make the staging tables of what changed, None: of all, and of what is tied to it."""
        names = set(self.plan.tables)
        if changes is not None:
            names = {self.plan.by_prefix[prefix].name for prefix in changes}
        if choosing:
            # A page without a row tells something, too.
            names |= self.plan.selecting
        keeping = self.plan.tables if self.kept is None else self.kept
        return {
            t.name: Staged(t, self._staging.prepare(t), keeps=t.name in keeping)
            for t in self._tied(names)
        }

    def _judge(
        self,
        cursor: Cursor,
        staged: dict[TableName, Staged],
        rounds: Iterable[Round],
        choosing: Sequence[Transaction] = (),
    ) -> Written:
        """Stage changes, have the rules judge them, and write what they say."""
        tables = self.plan.by_prefix
        for changes in rounds:
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
                self._staging.use(one.table, one.size)
        return written

    # The target transaction ----------------------------------------------------------------------

    @contextmanager
    def _transaction(self, batch: Batch, finish: Finish) -> Iterator[FencedCursor]:
        """Begin with the fence, which goes with the first statement; end with the position."""
        try:
            with fenced(self._connection, self._place, batch.stored) as cursor:
                with _planned_anew(self._connection):
                    yield cursor
                # What follows may ask the session by other cursors, too.
                cursor.begin()
                finish(cursor)
                self.empty_stages(cursor)
                cursor.commit(batch.following, batch.committed_ms)
        finally:
            self._staging.forget()

    def empty_stages(self, cursor: Cursor) -> None:
        """Leave nothing staged at the end of a transaction."""
        self._staging.empty(cursor)


@contextmanager
def _planned_anew(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Have statements planned for the tables as they are.

    A plan that was prepared while a table was small would be kept until the table is analysed.
    """
    threshold, connection.prepare_threshold = connection.prepare_threshold, None
    try:
        yield
    finally:
        connection.prepare_threshold = threshold
