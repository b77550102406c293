"""Records → the log, in appends of a good size, and what of them may be confirmed to the slot.

Blocks only while too many appends are in flight in the middle of an answer, and in
`publish_epoch`; meanwhile it keeps calling `between`, which sends the walsender its status.
"""

import math
import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from replicator.envelope import (
    VERSION,
    Answer,
    At,
    EpochStart,
    Mark,
    Record,
    Source,
    encode,
    encode_key,
)
from replicator.errors import LogUnavailable
from replicator.log.port import LogWriter
from replicator.positions import Lsn, RunId
from replicator_capture.assemble import Assembler, Commitment
from replicator_capture.spool import Block

FLUSH_ROWS: Final = 5_000
FLUSH_BYTES: Final = 2_500_000
IN_FLIGHT: Final = 4
FILLING_ROWS: Final = 200
"""Records from which on a page keeps a target busy; one of hashes has fewer."""
_PAUSE_S: Final = 0.2


class Publisher:
    """Moves an assembler's records into the log.

    Args:
        assembler: where the records come from.
        writer: of the stream's topic.
        between: called at least every 0.2 s while this waits for the log; what it raises ends
            the answer, and with it the run: its transaction is never closed.

    Every method raises LostLog once an append has failed: the process must end.
    """

    def __init__(
        self, assembler: Assembler, writer: LogWriter, between: Callable[[], None]
    ) -> None:
        self._assembler, self._writer, self._between = assembler, writer, between
        self._acknowledged: Lsn | None = None
        self.urgent = False
        """Whether the end of an answer waits to be appended."""
        self.filled = -math.inf
        """When a target was last sent a page of a backfill that goes on (monotonic seconds)."""

    def has_room(self) -> bool:
        """Say whether more may be read: fewer than 4 appends are in flight."""
        return self._writer.in_flight() < IN_FLIGHT

    def idle(self) -> bool:
        """Say whether everything assembled has been appended and acknowledged."""
        return not self._assembler.pending and not self._writer.in_flight()

    def flush(self, *, dry: bool) -> bool:
        """Append what is assembled if it is enough, or the input is dry and the log has caught up.

        Does not block. Gives whether it has.
        """
        assembler = self._assembler
        if not assembler.pending:
            return False
        enough = assembler.pending >= FLUSH_ROWS or assembler.size >= FLUSH_BYTES
        if enough or (dry and not self._writer.in_flight()):
            records, until = assembler.take()
            self.urgent = False
            if records:
                self._writer.append(records, until)
                return True
        return False

    def wait(self, timeout: float) -> None:
        """Block until an append is acknowledged, at most `timeout` seconds."""
        self._writer.wait(timeout)

    def acknowledged(self) -> Lsn | None:
        """Highest position of which everything is stored; None: nothing of this run yet."""
        stored = self._writer.acknowledged()
        if stored is not None:
            self._acknowledged = max(stored, self._acknowledged or stored)
        return self._acknowledged

    def publish_mark(self, mark: Mark, commitment: Commitment) -> bool:
        """Tell that nothing happened up to a commit; False: that commit has been told already."""
        return self._assembler.append_mark(mark, commitment)

    def publish_answer(
        self,
        answer: Answer,
        events: Iterable[tuple[Block, bool]],
        commitment: Commitment,
    ) -> bool:
        """Publish an answer as the transaction of its message, however many rows it has.

        Args:
            answer: whom it is for; `last_key`, `estimated` and `refused` go into the closing
                record.
            events: what was read, what was not found, and the repeated events, in this order; the
                flag is False for the last.
            commitment: of the message's transaction.

        Returns:
            False if the stream has told of that commit already (the transaction had rows of its
            own): nothing is published, and the target asks again.
        """
        writer = self._assembler.begin_answer(answer, commitment)
        if writer is None:
            return False
        count = 0
        for block, read in events:
            writer.rows(block.rows, block.table, read=read)
            count += len(block.rows)
            if self._assembler.pending >= FLUSH_ROWS or self._assembler.size >= FLUSH_BYTES:
                self._make_room()
                self.flush(dry=False)
        writer.close()
        # Whoever asked waits for it, and no more of it will come.
        self.urgent = True
        self.flush(dry=True)
        if count >= FILLING_ROWS and answer.last_key is not None:
            self.filled = time.monotonic()
        return True

    def _make_room(self) -> None:
        self._between()
        while not self.has_room():
            self._writer.wait(_PAUSE_S)
            self._between()


def publish_epoch(
    writer: LogWriter,
    start: EpochStart,
    source: Source,
    *,
    timeout: float,
    between: Callable[[], None] = lambda: None,
) -> None:
    """Append an epoch's first record and wait until it is stored.

    It belongs to no run (0), and its `from` and `to` are both where the epoch's slot begins.

    Args:
        writer: of the stream's topic.
        start: the epoch.
        source: environment and database; its lsn is `start.start`.
        timeout: seconds to wait.
        between: called at least every 0.2 s while this waits; what it raises ends the waiting.

    Raises:
        LogUnavailable: it is not known to be stored in time.
        LostLog: it failed.
    """
    at = At(VERSION, start.id, RunId(0), 0, start.start, start.start)
    record = Record("epoch", msgspec.structs.replace(source, lsn=start.start), at, epoch=start)
    writer.append([(encode_key(""), encode(record))], start.start)
    for _ in range(max(1, int(timeout / _PAUSE_S))):
        if not writer.in_flight():
            return
        writer.wait(_PAUSE_S)
        between()
    if writer.in_flight():
        raise LogUnavailable(
            f"The log did not store the epoch's record within {timeout:.0f} s.",
            remedy="Check that the log's brokers are up; capture tries again.",
        )
