"""Record ⇄ bytes: the one format that travels through the log. Pure.

A record's value is JSON with Debezium's envelope names, so that consumers of Debezium's format can
read the topic; `at` (the place in the stream) comes after everything that holds users' data, and
`answer` after `at`, so that either can be found from the end without parsing the row. The key is
JSON `["<schema>.<table>", <primary key…>]`. The bytes are frozen by tests/unit/test_envelope.py.

This module is the plain form, which the fast ones (`replicator_capture.encode`,
`replicator_apply.decode`) are tested against.

Source of the names: https://debezium.io/documentation/reference/stable/connectors/postgresql.html
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec

from replicator.errors import BadRecord
from replicator.positions import EpochId, Lsn, RunId

VERSION = 1

Op = Literal["c", "u", "d", "r", "t", "h", "m", "epoch", "schema"]
"""Create, update, delete, read by a fetch, truncate; hashes of rows read by verify; and the
control records mark, epoch and schema (reserved)."""

Value = int | bool | str | None
"""A column's value: int2/4/8 as a number, bool as such, NULL as null, all else Postgres' text."""

Columns = Mapping[str, Value]
"""Column name → value; a column that is not there was not sent."""


class Source(msgspec.Struct, frozen=True, gc=False):
    """Where an event comes from.

    `lsn` is the commit LSN of its transaction, `ts_ms` the time of the commit in milliseconds
    since 1970, `txId` the 32-bit transaction id; `snapshot` is "true" for what a fetch found, or
    found missing, by reading.
    """

    version: str
    connector: str
    name: str
    db: str
    schema: str
    table: str
    txId: int
    lsn: Lsn
    ts_ms: int
    snapshot: str


_Stored = Annotated[Lsn, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A position that a target can store."""


class At(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The place in the stream. `from` and `to` stand on the last record of a transaction only."""

    v: int
    epoch: EpochId
    run: RunId
    ordinal: int
    from_: _Stored | None = msgspec.field(default=None, name="from")
    to: _Stored | None = None


class Answer(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """On every record of a fetch's answer.

    Attributes:
        target: environment that asked.
        request: its id for the request.
        plan: fingerprint of the plan that the request named.
        last_key: on the closing record of a page, the last key read; None: it was the last page.
        estimated: on the closing record of a rule's first page, rows of the rule in all, roughly.
        refused: on the closing record, why the request was not answered.
        refused_datasets: those of the plan that the refusal is about, as subscriptions name them;
            none: it is about the request.
        chosen: on the closing record of a page of a rule with a selection, how many of the answer's
            first records are the rows that it chose; None: the rule has none.
    """

    target: str
    request: str
    plan: str
    last_key: tuple[Value, ...] | None = None
    estimated: int | None = None
    refused: str | None = None
    refused_datasets: tuple[str, ...] = ()
    chosen: int | None = None


class RowHash(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Key and hash of a row, as verify compares them."""

    key: tuple[Value, ...]
    hash: str


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a mark tells of the source.

    Attributes:
        beat: nonce of the newest beat that lies before this mark.
        health: figures of the source for `status`: slot, WAL held, `wal_status`.
    """

    beat: str = ""
    health: dict[str, Value] = {}


class EpochStart(msgspec.Struct, frozen=True):
    """First record of an epoch. `start`: where its slot begins; `previous`: "" for the first."""

    id: EpochId
    previous: str
    start: Lsn
    system_id: str
    timeline: int
    reason: str


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record of the log, whole. Which fields are set follows from `op`.

    Attributes:
        before: what Postgres sent of the released columns of the old row.
        after: the released columns of the new row, less those in `unchanged`.
        unchanged: TOASTed columns that Postgres did not send: absent, not null.
    """

    op: Op
    source: Source
    at: At
    before: dict[str, Value] | None = None
    after: dict[str, Value] | None = None
    unchanged: tuple[str, ...] = ()
    hashes: tuple[RowHash, ...] = ()
    mark: Mark | None = None
    epoch: EpochStart | None = None
    answer: Answer | None = None


class Tail(msgspec.Struct, frozen=True, gc=False):
    """The end of a record's value: all that the assembler needs of a record it does not parse."""

    at: At
    answer: Answer | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode
_decode_tail = msgspec.json.Decoder(Tail).decode
_ROW_OPS = frozenset("cudrt")


def encode(record: Record) -> bytes:
    """Write a record's value."""
    parts = [b'{"op":' + _encode(record.op)]
    if record.op in _ROW_OPS:
        parts += [b'"before":' + _encode(record.before), b'"after":' + _encode(record.after)]
    if record.unchanged:
        parts.append(b'"unchanged":' + _encode(record.unchanged))
    if record.hashes:
        parts.append(b'"hashes":' + _encode(record.hashes))
    if record.mark is not None:
        parts.append(b'"mark":' + _encode(record.mark))
    if record.epoch is not None:
        parts.append(b'"epoch":' + _encode(record.epoch))
    parts += [b'"source":' + _encode(record.source), b'"at":' + _encode(record.at)]
    if record.answer is not None:
        parts.append(b'"answer":' + _encode(record.answer))
    return b",".join(parts) + b"}"


def encode_key(table: str, key: Sequence[Value] = ()) -> bytes:
    """Write a record's key; `table` is `schema.table`, "" for control records."""
    return _encode([table, *key])


def decode(value: bytes) -> Record:
    """Read a record's value.

    Raises:
        BadRecord: it is not a record, or of a version that this code does not know.
    """
    try:
        record = _decode(value)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise bad_record(value) from error
    check_version(record.at)
    return record


def decode_tail(value: bytes) -> Tail:
    """Read only the place in the stream and, if it is one, to which answer the record belongs.

    Raises:
        BadRecord: as `decode`.
    """
    start = value.rfind(b'"at":{"v":')
    try:
        tail = _decode_tail(b"{" + value[start:])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise bad_record(value) from error
    check_version(tail.at)
    return tail


def check_version(at: At) -> None:
    """Raise BadRecord unless this code knows the format that the record is written in."""
    if at.v != VERSION:
        raise BadRecord(
            f"A record is of format version {at.v}; this release reads version {VERSION}.",
            remedy="Upgrade django-replicator in this environment.",
        )


def bad_record(value: bytes) -> BadRecord:
    """Describe a value that is not a record, without showing what may be users' data."""
    return BadRecord(f"A record of {len(value)} bytes is not in Replicator's format.")
