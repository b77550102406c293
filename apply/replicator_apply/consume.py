"""Chunks of the log → batches of whole transactions. Pure, but for the assembler's spool.

Sorts the records: rows of held tables are parsed whole, all others only for their place in the
stream. Marks and epochs are noticed on the way.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from replicator.envelope import EpochStart, Mark
from replicator.errors import Hole
from replicator.log import Chunk
from replicator.positions import EpochId, Lsn, Offset, Position, RunId
from replicator_apply.assemble import Assembler, Transaction
from replicator_apply.batch import Batch
from replicator_apply.decode import Event, EventReader, Skimmed, skim

BATCH_ROWS = 10_000
"""Row events after which a batch is handed over though more has arrived."""


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
        mark: the newest mark since the last batch.
        hole: what is missing before the next transaction; None once a later run has told it.
        new_run: whether capture has started again since this was last looked at.
    """

    assembler: Assembler
    readers: dict[bytes, EventReader]
    mark: Mark | None = None
    hole: Hole | None = None
    new_run: bool = False
    _run: RunId | None = None
    _transactions: list[Transaction] = field(default_factory=list)
    _rows: int = 0
    _position: Lsn = field(init=False)

    def __post_init__(self) -> None:
        self._position = self.assembler.position

    @property
    def epoch(self) -> EpochId:
        """The epoch that is read."""
        return self.assembler.epoch

    @property
    def rows(self) -> int:
        """Row events that wait to be taken."""
        return self._rows

    @property
    def pending(self) -> bool:
        """Whether a batch can be taken."""
        return bool(self._transactions)

    def feed(self, chunk: Chunk, hand_over: Callable[[], None]) -> NewEpoch | None:
        """Take a chunk's records; call `hand_over` whenever a batch is full.

        Gives the start of another epoch, if it meets one: the rest of the chunk is not taken.

        Raises:
            BadRecord, Stopped: as the readers.
        """
        readers = self.readers
        for offset, (key, value) in zip(chunk.offsets, chunk.records, strict=True):
            reader = readers.get(key[: key.find(b'"', 2) + 1])
            event: Event | Skimmed
            if reader is None or b'"op":"h"' in value[:12]:
                event = skim(value)
                if event.epoch is not None and event.epoch.id != self.assembler.epoch:
                    return NewEpoch(event.epoch, Offset(offset + 1))
                done = self._assemble(Offset(offset), key, value, event, keep=event.op == "h")
                self.mark = event.mark or self.mark
            else:
                event = reader.read(value)
                done = self._assemble(Offset(offset), key, value, event)
            if done is not None:
                done.resume = min(done.resume, chunk.resume)
                if event.at.run != self._run:
                    self.new_run = self._run is not None
                    self._run = event.at.run
                self._transactions.append(done)
                self._rows += done.size
                if self._rows >= BATCH_ROWS or done.hashed:
                    hand_over()
        return None

    def _assemble(
        self, offset: Offset, key: bytes, value: bytes, event: Event | Skimmed, *, keep: bool = True
    ) -> Transaction | None:
        """Feed a record; behind a hole read on, for a later run may tell what is missing."""
        try:
            done = self.assembler.feed(offset, key, value, event, keep=keep)
        except Hole as hole:
            self.hole = self.hole or hole
            return None
        if done is not None:
            self.hole = None
        return done

    def take(self) -> Batch:
        """Give the transactions collected as one batch."""
        last = self._transactions[-1]
        batch = Batch(self._transactions, self._position, last.next, last.resume)
        self._transactions, self._rows, self._position = [], 0, last.next
        return batch

    def close(self) -> None:
        """Free what is held on disk."""
        for transaction in self._transactions:
            transaction.close()
        self.assembler.close()


def consumer_at(position: Position, readers: dict[bytes, EventReader]) -> Consumer:
    """Begin at a position."""
    return Consumer(Assembler(position), readers)
