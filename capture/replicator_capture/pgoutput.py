"""Bytes of Postgres' output plugin `pgoutput`, protocol version 1, as typed messages. Pure.

The plain decoder: one type per letter, every length checked. `replicator_capture.encode` reads
rows faster and is tested against this module.

Source: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

import struct
from collections.abc import Callable
from enum import Enum
from typing import Final, Literal

import msgspec

from replicator.errors import BadMessage
from replicator.positions import Lsn

POSTGRES_EPOCH_US: Final = 946_684_800_000_000
"""Postgres counts microseconds from 2000-01-01; this is that moment since 1970."""


class Unchanged(Enum):
    """A TOASTed value that Postgres did not send, because the update left it alone."""

    UNCHANGED = "u"


UNCHANGED: Final = Unchanged.UNCHANGED

Text = bytes | None | Literal[Unchanged.UNCHANGED]
"""A value of a row: Postgres' output text in UTF-8, NULL, or not sent."""

TupleText = tuple[Text, ...]
"""The values of a row, in the order of its Relation's columns."""


class Begin(msgspec.Struct, frozen=True, gc=False):
    """Start of a committed transaction; `ts_us` is the commit's time since 1970."""

    commit_lsn: Lsn
    ts_us: int
    xid: int


class Commit(msgspec.Struct, frozen=True, gc=False):
    """End of a transaction; `end_lsn` is the first byte after its commit record."""

    commit_lsn: Lsn
    end_lsn: Lsn
    ts_us: int


class Origin(msgspec.Struct, frozen=True, gc=False):
    """The transaction was itself replicated into this database, from `name`."""

    lsn: Lsn
    name: str


class Column(msgspec.Struct, frozen=True, gc=False):
    """A column of a Relation; `key`: it is part of the replica identity."""

    key: bool
    name: str
    type: int
    modifier: int


class Relation(msgspec.Struct, frozen=True):
    """Shape of a table, sent before its first row and after it changed.

    `identity` is pg_class.relreplident: d default, i index, f full, n nothing.
    """

    oid: int
    schema: str
    table: str
    identity: str
    columns: tuple[Column, ...]


class Type(msgspec.Struct, frozen=True, gc=False):
    """Name of a type that is not built in."""

    oid: int
    schema: str
    name: str


class Insert(msgspec.Struct, frozen=True):
    """A new row."""

    relation: int
    new: TupleText


class Update(msgspec.Struct, frozen=True):
    """A changed row.

    `old_kind`: "" nothing was sent of the old row, "K" its key columns (the rest of `old` is
    None), "O" all of it.
    """

    relation: int
    old_kind: str
    old: TupleText
    new: TupleText


class Delete(msgspec.Struct, frozen=True):
    """A row that is gone; `old_kind` as in Update, never empty."""

    relation: int
    old_kind: str
    old: TupleText


class Truncate(msgspec.Struct, frozen=True, gc=False):
    """Tables that were emptied by one statement."""

    relations: tuple[int, ...]
    cascade: bool
    restart_identity: bool


class Message(msgspec.Struct, frozen=True, gc=False):
    """What someone put into the WAL with pg_logical_emit_message."""

    transactional: bool
    lsn: Lsn
    prefix: str
    content: bytes


Decoded = Begin | Commit | Origin | Relation | Type | Insert | Update | Delete | Truncate | Message


class _Cursor:
    """Walks over a message; each step checks that the bytes are there."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        end = self._at + size
        if size < 0 or end > len(self._data):
            raise bad_message(self._data, "is cut short")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def lsn(self) -> Lsn:
        return Lsn(self.integer(8))

    def letter(self) -> str:
        return self.take(1).decode("latin-1")

    def string(self) -> str:
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise bad_message(self._data, "has an unterminated string")
        raw = self.take(end - self._at)
        self._at += 1
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise bad_message(self._data, "has a name that is not UTF-8") from error

    def row(self) -> TupleText:
        return tuple(self._value() for _ in range(self.integer(2)))

    def _value(self) -> Text:
        kind = self.letter()
        if kind == "t":
            return self.take(self.integer(4))
        if kind == "n":
            return None
        if kind == "u":
            return UNCHANGED
        raise bad_message(self._data, f"has a value of unknown kind {kind!r}")

    def expect(self, letters: str) -> str:
        found = self.letter()
        if found not in letters:
            raise bad_message(self._data, f"has {found!r} where one of {letters!r} belongs")
        return found

    def finish(self) -> None:
        if self._at != len(self._data):
            raise bad_message(self._data, f"goes on after its end at byte {self._at}")


# Begin and Commit come with every transaction, and many transactions have one row: no cursor.
_BEGIN: Final = struct.Struct("!QqI")
_COMMIT: Final = struct.Struct("!BQQq")


def _numbers(data: bytes, layout: struct.Struct) -> tuple[int, ...]:
    """Read a message of nothing but numbers."""
    end = 1 + layout.size
    if len(data) < end:
        raise bad_message(data, "is cut short")
    if len(data) > end:
        raise bad_message(data, f"goes on after its end at byte {end}")
    return layout.unpack_from(data, 1)


def _begin(data: bytes) -> Begin:
    lsn, ts_us, xid = _numbers(data, _BEGIN)
    return Begin(Lsn(lsn), ts_us + POSTGRES_EPOCH_US, xid)


def _commit(data: bytes) -> Commit:
    _, lsn, end, ts_us = _numbers(data, _COMMIT)  # flags first, unused so far
    return Commit(Lsn(lsn), Lsn(end), ts_us + POSTGRES_EPOCH_US)


def _origin(cursor: _Cursor) -> Origin:
    return Origin(cursor.lsn(), cursor.string())


def _relation(cursor: _Cursor) -> Relation:
    oid, schema, table = cursor.integer(4), cursor.string(), cursor.string()
    identity = cursor.expect("dnfi")
    columns = tuple(_column(cursor) for _ in range(cursor.integer(2)))
    # pg_catalog travels as the empty string.
    return Relation(oid, schema or "pg_catalog", table, identity, columns)


def _column(cursor: _Cursor) -> Column:
    flags, name, type_oid = cursor.integer(1), cursor.string(), cursor.integer(4)
    modifier = int.from_bytes(cursor.take(4), signed=True)
    return Column(bool(flags & 1), name, type_oid, modifier)


def _type(cursor: _Cursor) -> Type:
    return Type(cursor.integer(4), cursor.string() or "pg_catalog", cursor.string())


def _insert(cursor: _Cursor) -> Insert:
    relation = cursor.integer(4)
    cursor.expect("N")
    return Insert(relation, cursor.row())


def _update(cursor: _Cursor) -> Update:
    relation, kind = cursor.integer(4), cursor.expect("KON")
    if kind == "N":
        return Update(relation, "", (), cursor.row())
    old = cursor.row()
    cursor.expect("N")
    return Update(relation, kind, old, cursor.row())


def _delete(cursor: _Cursor) -> Delete:
    return Delete(cursor.integer(4), cursor.expect("KO"), cursor.row())


def _truncate(cursor: _Cursor) -> Truncate:
    count, options = cursor.integer(4), cursor.integer(1)
    relations = tuple(cursor.integer(4) for _ in range(count))
    return Truncate(relations, bool(options & 1), bool(options & 2))


def _message(cursor: _Cursor) -> Message:
    flags, lsn, prefix = cursor.integer(1), cursor.lsn(), cursor.string()
    return Message(bool(flags & 1), lsn, prefix, cursor.take(cursor.integer(4)))


_READERS: dict[str, Callable[[_Cursor], Decoded]] = {
    "O": _origin,
    "R": _relation,
    "Y": _type,
    "I": _insert,
    "U": _update,
    "D": _delete,
    "T": _truncate,
    "M": _message,
}


def decode(data: bytes) -> Decoded:
    """Read one message.

    Raises:
        BadMessage: `data` is not exactly one message of protocol version 1.
    """
    letter = data[:1]
    if letter == b"B":
        return _begin(data)
    if letter == b"C":
        return _commit(data)
    cursor = _Cursor(data)
    reader = _READERS.get(cursor.letter())
    if reader is None:
        raise bad_message(data, "is of an unknown kind")
    message = reader(cursor)
    cursor.finish()
    return message


def bad_message(data: bytes, problem: str) -> BadMessage:
    """Describe a message that cannot be read, without showing what may be users' data."""
    return BadMessage(f"A message of pgoutput ({data[:1]!r}, {len(data)} bytes) {problem}.")
