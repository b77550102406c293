"""Chunks of the log → batches of whole transactions. Pure, but for the spool and for who is called.

Sorts the records: rows of held tables are parsed whole, all others only for their place in the
stream. Marks and epochs are noticed on the way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from replicator.envelope import Answer, EpochStart, Mark
from replicator.errors import Hole
from replicator.log import Chunk
from replicator.positions import EpochId, Offset, RunId
from replicator_apply.arriving import GivenUp
from replicator_apply.assemble import Assembler, Transaction
from replicator_apply.batch import Batch
from replicator_apply.decode import NO_TABLE, Event, EventReader, Skimmed, prefix_of, skim
from replicator_apply.state import StoredPosition

_HASHED = b'{"op":"h"'

BATCH_ROWS, BATCH_BYTES = 10_000, 32 << 20
"""Row events, or bytes of them, after which a batch is handed over though more has arrived."""


@dataclass(frozen=True, slots=True)
class NewEpoch:
    """The stream goes on in another epoch; the batch before it must be applied first.

    Attributes:
        start: what its first record tells.
        offset: the record behind that one.
    """

    start: EpochStart
    offset: Offset


@dataclass
class Consumer:
    """Collects transactions until a batch is taken.

    Attributes:
        assembler: puts transactions together.
        readers: of the held tables' events, by the beginning of their records' keys.
        stored: what the position row says once the batches that were taken are applied.
        hole: what is missing before the next transaction; None once a later run has told it.
    """

    assembler: Assembler
    readers: dict[bytes, EventReader]
    stored: StoredPosition
    hole: Hole | None = None
    _mark: Mark | None = None
    _new_run: bool = False
    _run: RunId | None = None
    _transactions: list[Transaction] = field(default_factory=list)
    _rows: int = 0
    _bytes: int = 0
    _answers: list[Answer] = field(default_factory=list)
    _large: Batch | None = None

    @property
    def epoch(self) -> EpochId:
        """The epoch that is read."""
        return self.assembler.epoch

    @property
    def rows(self) -> int:
        """Row events that wait to be taken."""
        return self._rows

    @property
    def answers(self) -> Sequence[Answer]:
        """Answers that wait to be taken, to whomever."""
        return self._answers

    @property
    def pending(self) -> bool:
        """Whether a batch can be taken."""
        return bool(self._transactions)

    def feed(
        self,
        chunk: Chunk,
        hand_over: Callable[[], None],
        on_large: Callable[[Batch], bool] = lambda _: False,
    ) -> NewEpoch | None:
        """Take a chunk's records.

        Gives the start of another epoch, if it meets one: the rest of the chunk is not taken.

        Args:
            chunk: of the log.
            hand_over: called whenever a batch is full, and before `on_large`.
            on_large: called with a transaction that is too large for memory, as a batch that is not
                whole yet: sets what takes its rounds, if they can be written as they come, and says
                so. The next batch that is taken is this one then, whole.

        Raises:
            BadRecord, Stopped: as the readers.
            GivenUp: what was begun cannot go on.
        """
        self.assembler.on_large = partial(self._begin, hand_over, on_large)
        goes_on, records = self.assembler.goes_on, chunk.records
        index, prefix, reader = 0, NO_TABLE, None
        while index < len(records):
            key, value = records[index]
            if not key.startswith(prefix):  # mostly it is the table of the record before
                prefix = prefix_of(key)
                reader = self.readers.get(prefix)
            if reader is not None:
                room = BATCH_ROWS - self._rows, BATCH_BYTES - self._bytes
                until, done = self.assembler.take_all(chunk, index, prefix, reader, room)
                if done is not None:
                    self._collect(done, chunk.resume, hand_over)
                if until > index:
                    index = until
                    continue
            if reader is None or not goes_on(key, value, reader):
                new_epoch = self._take(chunk, index, reader, hand_over)
                if new_epoch is not None:
                    return new_epoch
            index += 1
        return None

    def _take(
        self,
        chunk: Chunk,
        index: int,
        reader: EventReader | None,
        hand_over: Callable[[], None],
    ) -> NewEpoch | None:
        """Take one record, read whole or, if its table is not held here, skimmed."""
        offset, (key, value) = chunk.offsets[index], chunk.records[index]
        event: Event | Skimmed
        if reader is None or value.startswith(_HASHED):
            event = skimmed = skim(value)
            if skimmed.epoch is not None and skimmed.epoch.id != self.assembler.epoch:
                return NewEpoch(skimmed.epoch, Offset(offset + 1))
            mark, keep = skimmed.mark, event.op == "h"
        else:
            event, mark, keep = reader.read(value), None, True
        try:
            done = self.assembler.feed(offset, key, value, event, keep)
        except Hole as hole:
            # Reading goes on behind it, for a later run may tell what is missing.
            self.hole = self.hole or hole
            return None
        if done is not None:
            # A mark closes its transaction; repeated, or behind a hole, it tells of the past.
            self._mark = mark or self._mark
            self._collect(done, chunk.resume, hand_over)
        return None

    @property
    def _full(self) -> bool:
        return self._rows >= BATCH_ROWS or self._bytes >= BATCH_BYTES

    def _begin(
        self,
        hand_over: Callable[[], None],
        on_large: Callable[[Batch], bool],
        so_far: Transaction,
    ) -> bool:
        """Have a transaction written before all of it has come, if that can be done."""
        if self._large is not None or self.hole is not None:
            return False
        if self.pending:
            hand_over()
        batch = Batch([so_far], self.stored, so_far.next, so_far.resume, 0)
        if on_large(batch):
            self._large = batch
        return self._large is not None

    def _collect(self, done: Transaction, resume: Offset, hand_over: Callable[[], None]) -> None:
        """Take a whole transaction in, and hand the batch over if it is full with it."""
        if self._large is not None and done is not self._large.transactions[0]:
            # Another run tells of what lies before it, or of itself.
            done.close()
            raise GivenUp
        self.hole = None
        done.resume = min(done.resume, resume)
        if done.run != self._run:
            self._new_run = self._run is not None
            self._run = done.run
        self._transactions.append(done)
        self._rows += done.size
        self._bytes += done.weight
        if done.answer is not None:
            self._answers.append(done.answer)
        if self._full or done.hashed or done.arriving:
            hand_over()

    def take(self) -> Batch:
        """Give the transactions collected as one batch."""
        last = self._transactions[-1]
        batch = Batch(
            self._transactions,
            self.stored,
            last.next,
            last.resume,
            self._rows,
            self._mark,
            self._new_run,
        )
        if self._large is not None:
            self._large.become(batch)
            batch, self._large = self._large, None
        self._transactions, self._rows, self._bytes, self._answers = [], 0, 0, []
        self.stored, self._mark, self._new_run = batch.following, None, False
        return batch

    def close(self) -> None:
        """Free what is held on disk."""
        for transaction in self._transactions:
            transaction.close()
        self.assembler.close()


def consumer_at(stored: StoredPosition, readers: dict[bytes, EventReader]) -> Consumer:
    """Begin at a position."""
    return Consumer(Assembler(stored.position), readers, stored)
