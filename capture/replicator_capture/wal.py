"""The walsender's stream: CopyData frames in, pgoutput messages out, status updates back.

`WalStream` is the connection (psycopg's libpq wrapper, in its nonblocking mode); the layout of the
frames is in `replicator_capture.frames`. It keeps no row and confirms nothing by itself. Only
`open`, `wait` (a given time) and `close` block.

Source: https://www.postgresql.org/docs/current/protocol-replication.html
"""

import select
import time
from collections.abc import Callable, Mapping
from typing import Final, Self

from psycopg import OperationalError, generators, pq, sql
from psycopg.pq.abc import PGconn, PGresult

from replicator.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    Refused,
    ReplicatorError,
)
from replicator.positions import Lsn
from replicator.session import Session
from replicator_capture.frames import (
    KeepAlive,
    parse_keep_alive,
    status_update,
    take_frames,
)

STATUS_EVERY_S: Final = 1.0
ASK_AFTER_S: Final = 10.0
"""Seconds without a frame after which the server is asked for a sign of life."""
SILENCE_S: Final = 300.0
"""Seconds without one, though asked, after which the connection is given up. A server that works
through a large transaction looks at what it is asked every wal_sender_timeout / 2 or so."""
SHUTDOWN_ASKS: Final = 50
RECEIVE_MESSAGES: Final = 3_000
RECEIVE_BYTES: Final = 1_000_000
SCARCE_BYTES: Final = 4_096
"""Bytes of messages that one look at the socket brings at least while more has arrived."""

_SLOT_BUSY = "55006"
_SLOT_OR_PUBLICATION_GONE = frozenset({"42704", "55000", "58P01"})
_PASSING_CLASSES = frozenset({"", "08", "53", "57", "58"})


class SlotBusy(DatabaseUnavailable):
    """Another process streams from the slot."""

    remedy = "One capture per stream is enough; this one waits until the other one ends."


def start_command(slot: str, publication: str, start: int = 0) -> str:
    """Write START_REPLICATION; a `start` of 0 means where the slot was confirmed."""
    names = '"' + publication.replace('"', '""') + '"'
    return (
        sql.SQL(
            "START_REPLICATION SLOT {} LOGICAL {} "
            "(proto_version '1', publication_names {}, messages 'true')"
        )
        .format(
            sql.Identifier(slot),
            sql.SQL(f"{start >> 32:X}/{start & 0xFFFFFFFF:X}"),
            sql.Literal(names),
        )
        .as_string()
    )


class WalStream:
    """A replication session that streams from one slot.

    Args:
        pgconn: a connection in COPY_BOTH mode.
        confirmed: where the slot stands; `confirm` moves it on.
        clock: monotonic seconds.
        wall_clock_us: microseconds since 1970.
    """

    def __init__(
        self,
        pgconn: PGconn,
        confirmed: Lsn,
        clock: Callable[[], float] = time.monotonic,
        wall_clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._pgconn = pgconn
        self._session: Session | None = None
        self._confirmed = confirmed
        self._received = confirmed
        self._clock = clock
        self._wall_clock_us = wall_clock_us
        self._status_due = clock()
        self._asked, self._asked_since = 0, clock()
        self._heard = clock()
        self._in_vain_since: float | None = None
        self._poll = select.poll()
        self._poll.register(pgconn.socket, select.POLLIN)
        pgconn.nonblocking = 1

    @classmethod
    def open(
        cls, parameters: Mapping[str, str], slot: str, publication: str, confirmed: Lsn
    ) -> Self:
        """Connect and start streaming where the slot was confirmed.

        Args:
            parameters: of `replicator.postgres.connection_parameters`.
            slot: its name.
            publication: its name.
            confirmed: the slot's confirmed_flush_lsn.

        Raises:
            SlotBusy: another process streams from the slot.
            DatabaseUnavailable: Postgres is away.
            Refused: slot or publication are gone, or the slot's WAL is.
            ConfigurationError: the role must not replicate.
        """
        try:
            # Not libpq's own functions: those hold up all threads until the server answers.
            session = Session.open({**parameters, "replication": "database"})
        except OperationalError as error:
            raise stream_error("", str(error)) from error
        try:
            session.pgconn.send_query(start_command(slot, publication).encode())
            result = session.wait(generators.execute(session.pgconn))[0]
        except OperationalError as error:
            session.close()
            raise stream_error("", str(error)) from error
        if result.status != pq.ExecStatus.COPY_BOTH:
            session.close()
            raise _result_error(result)
        stream = cls(session.pgconn, confirmed)
        stream._session = session
        return stream

    @property
    def received(self) -> Lsn:
        """How far the server has sent its WAL (what it left out included)."""
        return self._received

    @property
    def confirmed(self) -> Lsn:
        """What the status updates tell the slot."""
        return self._confirmed

    def receive(self) -> list[bytes]:
        """Give the pgoutput messages that have arrived, without waiting; none: the input is dry.

        At most RECEIVE_MESSAGES, and no more once RECEIVE_BYTES are exceeded. Keep-alives are
        dealt with.

        Raises:
            DatabaseUnavailable: the connection broke or is silent, or the walsender was ended.
            Refused: the slot was invalidated, or the publication dropped.
            BadMessage: a frame is neither WAL data nor a keep-alive.
        """
        messages: list[bytes] = []
        left, heard, came = RECEIVE_BYTES, False, SCARCE_BYTES
        try:
            while len(messages) < RECEIVE_MESSAGES and left > 0:
                length, other, size, end = take_frames(
                    self._pgconn.get_copy_data, messages, RECEIVE_MESSAGES, left
                )
                left -= size
                came += size
                if size or other:
                    heard = True
                    self._received = max(self._received, Lsn(end))
                if other:
                    self._keep_alive(parse_keep_alive(other))
                elif length < 0:
                    raise self._ended()
                elif length == 0 and came < SCARCE_BYTES:
                    break
                elif length == 0:
                    self._pgconn.consume_input()
                    came = 0
        except OperationalError as error:
            raise stream_error("", str(error)) from error
        if messages:
            self._asked = 0
        self._notice_silence(heard=heard)
        return messages

    def wait(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the server to send something; say whether it did."""
        return bool(self._poll.poll(timeout * 1000))

    def pause(self, seconds: float) -> None:
        """Let the server send for a while, whatever comes."""
        time.sleep(seconds)

    def confirm(self, position: Lsn) -> None:
        """Let the slot forget everything before `position`; it is told with the next status."""
        self._confirmed = max(self._confirmed, position)

    def tick(self, *, now: bool = False) -> None:
        """Send a status update if the last one is a second old, the server asked, or `now`.

        Raises:
            DatabaseUnavailable: the connection broke.
        """
        time_now = self._clock()
        if not now and time_now < self._status_due:
            return
        asks = time_now - self._heard > ASK_AFTER_S
        if asks and self._in_vain_since is None:
            self._in_vain_since = time_now
        status = status_update(self._received, self._confirmed, self._wall_clock_us(), reply=asks)
        try:
            self._pgconn.put_copy_data(status)
            self._pgconn.flush()
        except OperationalError as error:
            raise stream_error("", str(error)) from error
        self._status_due = time_now + STATUS_EVERY_S

    def close(self, timeout: float = 2.0) -> None:
        """Tell the slot what is confirmed, end the stream, and read what is still on its way.

        What is read here was not confirmed and comes again. A broken connection is no error.
        """
        try:
            self.tick(now=True)
            self._pgconn.put_copy_end()
            self._drain(self._clock() + timeout)
        except (ReplicatorError, OperationalError):
            return
        finally:
            self._pgconn.finish()

    def _drain(self, until: float) -> None:
        while (left := until - self._clock()) > 0:
            self._pgconn.flush()
            length, _ = self._pgconn.get_copy_data(1)
            if length < 0:
                return
            if length == 0:
                self.wait(left)
                self._pgconn.consume_input()

    def _keep_alive(self, sign: KeepAlive) -> None:
        self._received = max(self._received, sign.wal_end)
        if sign.reply:
            self.tick(now=True)
            self._notice_shutdown()

    def _notice_silence(self, *, heard: bool) -> None:
        """Raise DatabaseUnavailable if the server was asked for long, and nothing comes."""
        now = self._clock()
        if heard:
            self._heard, self._in_vain_since = now, None
        elif self._in_vain_since is not None and now - self._in_vain_since > SILENCE_S:
            raise DatabaseUnavailable(
                f"The replication stream has been silent for {SILENCE_S:.0f} s.",
                remedy="Check the network between; the daemon connects anew.",
            )

    def _notice_shutdown(self) -> None:
        """Raise DatabaseUnavailable if the server asks again and again.

        A server that shuts down waits until all of its WAL is confirmed, which we never do on an
        idle stretch, and asks for it with every answer. Otherwise it asks only after half of
        wal_sender_timeout without a status.
        """
        now = self._clock()
        if not self._asked or now - self._asked_since > STATUS_EVERY_S:
            self._asked, self._asked_since = 0, now
        self._asked += 1
        if self._asked >= SHUTDOWN_ASKS:
            raise DatabaseUnavailable(
                "Postgres is shutting down.", remedy="The daemon tries again until it is back."
            )

    def _ended(self) -> ReplicatorError:
        result = self._pgconn.get_result()
        if result is None or result.status != pq.ExecStatus.FATAL_ERROR:
            return DatabaseUnavailable(
                "Postgres ended the replication stream.",
                remedy="It is probably shutting down; the daemon tries again.",
            )
        return _result_error(result)


def _result_error(result: PGresult) -> ReplicatorError:
    state = result.error_field(pq.DiagnosticField.SQLSTATE) or b""
    return stream_error(state.decode(), result.get_error_message())


def stream_error(state: str, message: str) -> ReplicatorError:
    """Say what an error of the replication session means.

    Args:
        state: SQLSTATE, "" if the connection broke.
        message: the server's or libpq's.
    """
    lines = message.strip().splitlines()
    text = f"Postgres ended the replication stream: {lines[0] if lines else 'no reason given'}"
    if state == _SLOT_BUSY:
        return SlotBusy(text)
    if state in _SLOT_OR_PUBLICATION_GONE:
        return Refused(
            text,
            remedy="What the slot held is lost; `replicator capture --new-epoch` begins anew and "
            "every target backfills.",
        )
    if state == "42501" or state.startswith("28"):
        return ConfigurationError(
            text, remedy="The role of REPLICATOR['DATABASE'] needs LOGIN and REPLICATION."
        )
    if state[:2] in _PASSING_CLASSES:
        return DatabaseUnavailable(text, remedy="The daemon tries again.")
    return Refused(text, remedy="Look into the server's log; nothing was confirmed.")
