"""One turn of the capture loop: read, assemble, append, confirm.

The daemon calls `Pump.turn` until it is told to stop. A turn waits at most the time given for
input, and never for the log, but for the appends of a long answer (`Publisher.publish_answer`).
"""

import time
from collections.abc import Callable
from typing import Final

from replicator.positions import Lsn
from replicator_capture.assemble import Assembler
from replicator_capture.publish import Publisher
from replicator_capture.visibility import confirmable
from replicator_capture.wal import WalStream

BUSY_ROWS: Final = 500
"""Records that wait to be appended when the input runs dry, of a stream that will go on."""
LINGER_S: Final = 0.005
"""Seconds that they may wait for more."""
LATE_S: Final = 0.1
LATE_LINGER_S: Final = 0.03
"""A stream that is so many seconds behind may wait this many: it wants large appends."""
FILLING_S: Final = 0.2
"""Seconds behind a page of a backfill in which the next one is expected: a target is filled."""
FILLING_LINGER_S: Final = 0.03
"""Seconds that any change may wait meanwhile: in the target that is filled it waits for pages
anyway, and each append takes time from the filling. Other targets of the stream wait, too."""
FEW_MESSAGES: Final = 500
NAP_S: Final = 0.001
"""Seconds in which a busy stream that has brought few messages is let run: to read each one as it
is sent costs more, here and in the walsender that has to wake us, than the message."""
_LOG_PAUSE_S: Final = 0.002
_FULL_PAUSE_S: Final = 0.2


class Pump:
    """Ties stream, assembler and publisher together.

    Args:
        stream: where messages come from.
        assembler: what turns them into records.
        publisher: where those go.
        unseen: gives the commit LSN of the first transaction that snapshots do not see yet;
            nothing beyond it is confirmed. None: all are seen.
        lag: age of the last commit that was read, seconds.
    """

    def __init__(
        self,
        stream: WalStream,
        assembler: Assembler,
        publisher: Publisher,
        unseen: Callable[[], Lsn | None] = lambda: None,
        lag: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._stream, self._assembler, self._publisher = stream, assembler, publisher
        self._unseen, self._lag = unseen, lag
        self._busy_since: float | None = None

    def turn(self, timeout: float) -> int:
        """Do what there is to do; with nothing to do, wait at most `timeout` seconds for input.

        Returns:
            How many messages were read.

        Raises:
            DatabaseUnavailable, Refused, BadMessage: as `WalStream.receive` and `Assembler.feed`.
            LostLog: an append failed.
        """
        room = self._publisher.has_room()
        messages = self._stream.receive() if room else []
        if messages:
            self._assembler.feed(messages)
        # Without room, what is waited for is the log.
        lingers = room and not messages and self._lingers()
        if self._publisher.flush(dry=not messages and not lingers):
            self._busy_since = None
        self.confirm()
        self._stream.tick()
        busy = self._assembler.pending >= BUSY_ROWS
        if busy and (lingers or 0 < len(messages) < FEW_MESSAGES):
            self._stream.pause(min(timeout, NAP_S))
        elif lingers:
            self._stream.wait(min(timeout, LINGER_S))
        elif not messages:
            self._rest(timeout)
        return len(messages)

    def _lingers(self) -> bool:
        """Whether a busy stream, which is dry for a moment, is waited for: small appends are dear.

        Here, in the log, and in each target. A stream of small changes is not kept waiting, unless
        a target is filled.
        """
        now = time.monotonic()
        busy = self._assembler.pending >= BUSY_ROWS
        filling = now - self._publisher.filled < FILLING_S and self._assembler.pending > 0
        if self._publisher.urgent or not (busy or filling):
            self._busy_since = None
            return False
        if self._busy_since is None:
            self._busy_since = now
        late = busy and self._lag() > LATE_S
        patience = LATE_LINGER_S if late else FILLING_LINGER_S if filling else LINGER_S
        return now - self._busy_since < patience

    def confirm(self) -> None:
        """Let the slot forget what is stored in the log and seen by every snapshot."""
        stored = self._publisher.acknowledged()
        if stored is not None:
            self._stream.confirm(confirmable(stored, self._unseen()))

    def _rest(self, timeout: float) -> None:
        if not self._publisher.has_room():
            self._publisher.wait(min(timeout, _FULL_PAUSE_S))
        elif self._assembler.pending:
            # Small appends are dear, so the next one waits for the one before, but not longer.
            self._publisher.wait(min(timeout, _LOG_PAUSE_S))
        else:
            self._stream.wait(timeout)
