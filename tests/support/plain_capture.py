"""The plain twin of capture's fast path: messages → records by the decoder and plain values.

And a writer of pgoutput messages, for tests that feed the decoder.
"""

import struct
from collections.abc import Sequence

from replicator.envelope import At, Op, Record, Source, Value, encode, encode_key
from replicator.errors import Refused
from replicator.plan import Release
from replicator_capture.pgoutput import (
    POSTGRES_EPOCH_US,
    UNCHANGED,
    Delete,
    Insert,
    Relation,
    Text,
    TupleText,
    Update,
    decode,
)

_SOURCE = Source("1", "replicator", "prod", "app", "public", "t", 7, 1000, 5, "false")  # type: ignore[arg-type]
_AT = At(1, "00000001", 5, 0)  # type: ignore[arg-type]

Image = dict[str, Value]


def plain_rows(message: bytes, relation: Relation, release: Release) -> list[tuple[bytes, bytes]]:
    """Give key and head of each record that a row message makes, slowly and plainly."""
    match decode(message):
        case Insert(new=new):
            return [_row("c", None, _image(relation, release, new), release)]
        case Delete(old_kind=kind, old=old):
            return [_row("d", _old_image(relation, release, kind, old), None, release)]
        case Update() as update:
            return _update(update, relation, release)
        case other:
            raise AssertionError(other)


def _update(update: Update, relation: Relation, release: Release) -> list[tuple[bytes, bytes]]:
    new = _image(relation, release, update.new)
    if not update.old_kind:
        identity = {column.name for column in relation.columns if column.key}
        if not set(release.key) <= identity:
            raise Refused("the key may have changed")
        return [_row("u", None, new, release)]
    old = _old_image(relation, release, update.old_kind, update.old)
    sent = [column.name for column in relation.columns if column.name in {**old, **new}]
    new = {name: new.get(name, old.get(name)) for name in sent}
    if not set(release.key) <= old.keys():
        raise Refused("the old key is not told")
    if all(old[name] == new[name] for name in release.key):
        return [_row("u", old, new, release)]
    return [_row("d", old, None, release), _row("c", None, new, release)]


def _image(relation: Relation, release: Release, row: TupleText) -> Image:
    return {
        column.name: _value(column.type, text)
        for column, text in zip(relation.columns, row, strict=True)
        if column.name in release.columns and text is not UNCHANGED
    }


def _old_image(relation: Relation, release: Release, kind: str, row: TupleText) -> Image:
    key = {column.name for column in relation.columns if column.key}
    image = _image(relation, release, row)
    return image if kind == "O" else {n: value for n, value in image.items() if n in key}


def _value(type_oid: int, text: Text) -> Value:
    assert text is not UNCHANGED
    if text is None:
        return None
    if type_oid == 16:
        return text == b"t"
    return int(text) if type_oid in {20, 21, 23} else text.decode()


def _row(
    op: Op, before: Image | None, after: Image | None, release: Release
) -> tuple[bytes, bytes]:
    image = before if after is None else after
    assert image is not None
    if not set(release.key) <= image.keys():
        raise Refused("the key is not told")
    unchanged = () if after is None else tuple(n for n in release.columns if n not in after)
    record = Record(op, _SOURCE, _AT, before=before, after=after, unchanged=unchanged)
    value = encode(record)
    head = value[: value.index(b'"source":{"version":"1"')]
    return encode_key(str(release.table), [image[name] for name in release.key]), head


# Writing messages (https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html)


def relation_message(
    columns: Sequence[tuple[str, int, bool]],
    *,
    oid: int = 77,
    schema: str = "public",
    table: str = "t",
    identity: str = "d",
) -> bytes:
    """Write a Relation message; columns are (name, type oid, part of the identity)."""
    head = b"R" + struct.pack("!I", oid) + b"%b\0%b\0" % (schema.encode(), table.encode())
    written = [
        struct.pack("!B", key) + name.encode() + b"\0" + struct.pack("!Ii", type_oid, -1)
        for name, type_oid, key in columns
    ]
    return head + identity.encode() + struct.pack("!H", len(written)) + b"".join(written)


def tuple_bytes(row: Sequence[Text]) -> bytes:
    return struct.pack("!H", len(row)) + b"".join(map(_text_bytes, row))


def _text_bytes(text: Text) -> bytes:
    if text is None:
        return b"n"
    if isinstance(text, bytes):
        return b"t" + struct.pack("!I", len(text)) + text
    return b"u"


def insert_message(row: Sequence[Text], oid: int = 77) -> bytes:
    return b"I" + struct.pack("!I", oid) + b"N" + tuple_bytes(row)


def update_message(
    row: Sequence[Text], old: Sequence[Text] = (), kind: str = "", oid: int = 77
) -> bytes:
    before = kind.encode() + tuple_bytes(old) if kind else b""
    return b"U" + struct.pack("!I", oid) + before + b"N" + tuple_bytes(row)


def delete_message(old: Sequence[Text], kind: str = "K", oid: int = 77) -> bytes:
    return b"D" + struct.pack("!I", oid) + kind.encode() + tuple_bytes(old)


def truncate_message(*oids: int, options: int = 0) -> bytes:
    return b"T" + struct.pack(f"!IB{len(oids)}I", len(oids), options, *oids)


def begin_message(lsn: int, xid: int = 7, ts_us: int = POSTGRES_EPOCH_US) -> bytes:
    return b"B" + struct.pack("!QqI", lsn, ts_us - POSTGRES_EPOCH_US, xid)


def commit_message(lsn: int, end: int, ts_us: int = POSTGRES_EPOCH_US) -> bytes:
    return b"C\0" + struct.pack("!QQq", lsn, end, ts_us - POSTGRES_EPOCH_US)


def logical_message(
    content: bytes, *, prefix: str = "replicator", transactional: bool = True, lsn: int = 1
) -> bytes:
    return (
        b"M"
        + struct.pack("!BQ", transactional, lsn)
        + prefix.encode()
        + b"\0"
        + struct.pack("!I", len(content))
        + content
    )
