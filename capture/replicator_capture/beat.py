"""The beat: a one-row table of the source that is given a fresh nonce every ten seconds.

It keeps the slot moving while nothing else changes, lets `status` measure the whole way, and
proves that log and database belong together: a volume that was restored has an older beat than the
log. The nonce says which of two beats is older: `<epoch>.<number>.<random>`.

`write` blocks on the database only, and never on a synchronous standby.
"""

import re
import secrets
from typing import NamedTuple

from psycopg import Connection, sql

from replicator.plan import TableName
from replicator.positions import EpochId
from replicator.sql_parts import identifier

MESSAGE_PREFIX = "replicator"
"""Prefix of the logical messages that capture acts on."""

EVERY = 10.0
"""Seconds between two beats."""

_FORM = re.compile(r"([0-9a-f]{8})\.([0-9]{1,18})\.([0-9a-f]{8})")
_CONTENT = "beat:"


class Beat(NamedTuple):
    """One beat.

    Attributes:
        epoch: the epoch that was being captured.
        number: counts the beats of this database, over epochs.
        salt: eight random hexadecimal digits; two databases that were one part ways here.
    """

    epoch: EpochId
    number: int
    salt: str

    @property
    def nonce(self) -> str:
        """The beat as it stands in the row, the message and the marks."""
        return f"{self.epoch}.{self.number}.{self.salt}"

    def next(self, epoch: EpochId) -> "Beat":
        """Draw the beat after this one."""
        return Beat(epoch, self.number + 1, secrets.token_hex(4))

    def follows(self, other: "Beat") -> bool:
        """Say whether this is `other` or a later beat of the same database."""
        return self == other or (self.number > other.number)


def first(epoch: EpochId) -> Beat:
    """Draw the first beat of a database."""
    return Beat(epoch, 1, secrets.token_hex(4))


def parse(nonce: str) -> Beat | None:
    """Read a nonce; None if it is none of ours."""
    found = _FORM.fullmatch(nonce)
    return Beat(EpochId(found[1]), int(found[2]), found[3]) if found else None


def content_of(beat: Beat) -> bytes:
    """Write what the beat's logical message says."""
    return (_CONTENT + beat.nonce).encode()


def from_content(content: bytes) -> Beat | None:
    """Read a message's content; None if it is not a beat's."""
    text = content.decode("ascii", errors="replace")
    return parse(text.removeprefix(_CONTENT)) if text.startswith(_CONTENT) else None


def read(connection: Connection, table: TableName) -> Beat | None:
    """Read the newest beat of the database; None if there has never been one."""
    statement = sql.SQL("SELECT nonce FROM {} WHERE id = 1").format(identifier(table))
    row = connection.execute(statement).fetchone()
    return parse(row[0]) if row else None


def write(connection: Connection, table: TableName, beat: Beat) -> None:
    """Store the beat and emit its message, in one transaction."""
    statement = sql.SQL(
        "INSERT INTO {} (id, nonce, at) VALUES (1, {}, pg_catalog.clock_timestamp())"
        " ON CONFLICT (id) DO UPDATE SET nonce = excluded.nonce, at = excluded.at"
    ).format(identifier(table), sql.Literal(beat.nonce))
    with connection.transaction():
        connection.execute("SET LOCAL synchronous_commit = local")
        connection.execute("SET LOCAL lock_timeout = '2s'")
        connection.execute(statement)
        emit(connection, content_of(beat))


def emit(connection: Connection, content: bytes) -> None:
    """Emit a logical message that takes its place among the commits of the stream.

    Source: https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-REPLICATION
    """
    connection.execute(
        "SELECT pg_logical_emit_message(true, %s, %s::bytea)", (MESSAGE_PREFIX, content)
    )
