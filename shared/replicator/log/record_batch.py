"""Kafka's record batch, format v2, to and from bytes: the ready-made batches of the fast paths.

Pure. A batch is a header of 61 bytes and a body, which may be compressed; the body is a row of
records of varints, keys, values and headers (https://kafka.apache.org/documentation/#recordbatch).
The fast builder and the fast parser know the usual record only (no headers), and may be compiled
ones (`replicator.speed`); `encode_record` and `decode_record` are the plain twins that know all of
them, take over where the fast ones give up, and are their oracle in the unit tests.
"""

import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from struct import Struct
from typing import NamedTuple

import lz4.frame
from crc32c import crc32c

from replicator.errors import BadRecord
from replicator.speed import twin

Record = tuple[bytes, bytes]
"""Key and value."""

Headers = Mapping[str, bytes]
"""Headers of one record; a null value is empty here, the last of equal names wins."""

_FRONT = Struct(">qiibI")  # base offset, length, leader epoch, magic, CRC
_REST = Struct(">hiqqqhii")  # attributes … count; the CRC covers it and the body
_LENGTH = Struct(">qi")
HEADER_BYTES = _FRONT.size + _REST.size
MAGIC = 2
_CODECS, _LZ4 = 0x07, 3
_LOG_APPEND_TIME, _CONTROL = 0x08, 0x20
_READY = 16_384
"""Numbers below this have a ready varint."""


class Batch(NamedTuple):
    """What one record batch held.

    Attributes:
        offsets: offset of each record, ascending.
        records: key and value of each; a null is empty.
        headers: of the records that have any, by index in `records`.
        timestamp_ms: of the newest record, milliseconds since 1970.
        size: bytes of the records, about.
    """

    offsets: Sequence[int]
    records: list[Record]
    headers: Mapping[int, Headers]
    timestamp_ms: int
    size: int


class Frame(NamedTuple):
    """A batch as it came: where it stands in the log, and its bytes, header included."""

    begin: int
    end: int
    leader_epoch: int
    data: memoryview


def unsigned_varint(number: int) -> bytes:
    """Write a number as Kafka does: seven bits a byte, lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def varint(number: int) -> bytes:
    """Write a signed number as Kafka does: zigzag."""
    return unsigned_varint((number << 1) ^ (number >> 63))


_VARINTS = [varint(number) for number in range(_READY)]
_SIZED = [number + len(_VARINTS[number]) for number in range(_READY)]
"""Bytes of a field of this length, the length's varint included."""
_PREFIXES = [b"\0\0" + _VARINTS[number] for number in range(_READY)]
"""Attributes, timestamp delta and offset delta of a batch's n-th record."""


def read_unsigned_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Read a number; gives it and where it ends.

    Raises:
        IndexError: the data ends before the number does.
        BadRecord: longer than 64 bits.
    """
    raw = shift = 0
    while True:
        byte = data[at]
        at += 1
        raw |= (byte & 0x7F) << shift
        if byte < 0x80:
            return raw, at
        shift += 7
        if shift > 63:
            raise BadRecord("A number in Kafka's form is longer than 64 bits.")


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a signed number; see `read_unsigned_varint`."""
    raw, at = read_unsigned_varint(data, at)
    return (raw >> 1) ^ -(raw & 1), at


def _sized(field: bytes) -> bytes:
    return varint(len(field)) + field


def encode_record(index: int, record: Record, headers: Headers) -> bytes:
    """Write the `index`-th record of a batch; the plain twin of `encode_records`."""
    key, value = record
    parts = [b"\0\0", varint(index), _sized(key), _sized(value), varint(len(headers))]
    for name, content in headers.items():
        parts += (_sized(name.encode()), _sized(content))
    return _sized(b"".join(parts))


def encode_records_plainly(records: Sequence[Record], start: int, limit: int) -> tuple[bytes, int]:
    """Write as many records from `start` on as fit into `limit` bytes, at most 16,384.

    Returns:
        The batch's body and how many records it holds; none if not even the first one fits.
    """
    varints, sized, parts = _VARINTS, _SIZED, list[bytes]()
    room, count = limit, 0
    chosen = records if start == 0 else records[start : start + _READY]
    for prefix, (key, value) in zip(_PREFIXES, chosen, strict=False):
        key_length, value_length = len(key), len(value)
        if key_length + value_length > _READY - 16:
            body = encode_record(count, (key, value), {})
            room -= len(body)
            if room < 0:
                break
            parts.append(body)
        else:
            length = len(prefix) + sized[key_length] + sized[value_length] + 1
            room -= sized[length]
            if room < 0:
                break
            parts += (
                varints[length],
                prefix,
                varints[key_length],
                key,
                varints[value_length],
                value,
                b"\0",
            )
        count += 1
    return b"".join(parts), count


encode_records = twin("encode_records", encode_records_plainly)


class Sealed(NamedTuple):
    """A compressed body that waits for its header.

    Attributes:
        attributes: the header's attributes (codec).
        body: the records, compressed if that made them smaller.
        total: how many.
        timestamp_ms: when they were made.
    """

    attributes: int
    body: bytes
    total: int
    timestamp_ms: int

    @property
    def size(self) -> int:
        """Bytes of the whole batch."""
        return HEADER_BYTES + len(self.body)

    def with_header(self, producer_id: int, producer_epoch: int, sequence: int) -> bytearray:
        """Give the finished batch; the broker fills in base offset and leader epoch."""
        rest = _REST.pack(
            self.attributes,
            self.total - 1,
            self.timestamp_ms,
            self.timestamp_ms,
            producer_id,
            producer_epoch,
            sequence,
            self.total,
        )
        checksum = crc32c(self.body, crc32c(rest))
        length = self.size - _LENGTH.size
        return bytearray().join((_FRONT.pack(0, length, 0, MAGIC, checksum), rest, self.body))


def seal(body: bytes, count: int, timestamp_ms: int) -> Sealed:
    """Compress a body with lz4, in independent blocks: Kafka reads no others."""
    squeezed = lz4.frame.compress(body, block_linked=False)
    if len(squeezed) < len(body):
        return Sealed(_LZ4, squeezed, count, timestamp_ms)
    return Sealed(0, body, count, timestamp_ms)


def frames(data: bytes | bytearray | memoryview) -> Iterator[Frame]:
    """Cut what a fetch brought into batches; a last, incomplete one is left out.

    Raises:
        BadRecord: a length that no batch can have.
    """
    view = memoryview(data)
    at = 0
    while len(view) - at >= HEADER_BYTES:
        begin, length, leader_epoch, _, _ = _FRONT.unpack_from(view, at)
        end = at + _LENGTH.size + length
        if length < HEADER_BYTES - _LENGTH.size:
            raise BadRecord(f"The record batch at offset {begin} has an impossible length.")
        if end > len(view):
            return
        last: int = _REST.unpack_from(view, at + _FRONT.size)[1]
        yield Frame(begin, begin + last + 1, leader_epoch, view[at:end])
        at = end


def parse(frame: Frame) -> Batch:
    """Read the records of a batch; a control batch (a transaction's marker) has none.

    Raises:
        BadRecord: wrong checksum, framing, version or codec.
    """
    _, _, _, magic, checksum = _FRONT.unpack_from(frame.data)
    if magic != MAGIC:
        raise BadRecord(f"The batch at offset {frame.begin} has the old message format {magic}.")
    if crc32c(frame.data[_FRONT.size :]) != checksum:
        raise BadRecord(f"The batch at offset {frame.begin} has a wrong checksum.")
    attributes, last, first_ms, newest_ms, _, _, _, count = _REST.unpack_from(
        frame.data, _FRONT.size
    )
    timestamp_ms = newest_ms if newest_ms >= 0 else max(first_ms, 0)
    if attributes & _CONTROL:
        return Batch((), [], {}, timestamp_ms, 0)
    try:
        body = _expand(bytes(frame.data[HEADER_BYTES:]), attributes & _CODECS)
        if count == last + 1 and (records := decode_records(body, count)) is not None:
            return Batch(range(frame.begin, frame.end), records, {}, timestamp_ms, len(body))
        return _parse_plainly(body, count, frame.begin, timestamp_ms)
    except (IndexError, ValueError, RuntimeError, EOFError, OSError) as error:
        raise BadRecord(f"The batch at offset {frame.begin} cannot be read.") from error


def decode_records_plainly(  # noqa: PLR0912 (a call per number would double its cost)
    body: bytes, count: int
) -> list[Record] | None:
    """Read a body of records without headers; None if some have any, or the framing is off.

    Raises:
        IndexError: the body ends too early.
    """
    out: list[Record] = []
    append, at = out.append, 0
    for _ in range(count):
        length = body[at]
        at += 1
        if length > 127:
            if (high := body[at]) > 127:
                length, at = read_varint(body, at - 1)
            else:
                length = (length & 127 | high << 7) >> 1
                at += 1
        else:
            length >>= 1
        end = at + length
        at += 1
        while body[at] > 127:  # timestamp delta
            at += 1
        at += 1
        while body[at] > 127:  # offset delta
            at += 1
        key_length = body[at + 1]
        at += 2
        if key_length > 127:
            key_length, at = read_varint(body, at - 1)
        else:
            key_length >>= 1
        value_at = at + key_length
        key = body[at:value_at]
        at = value_at + 1
        value_length = body[value_at]
        if value_length > 127:
            if (high := body[at]) > 127:
                value_length, at = read_varint(body, value_at)
            else:
                value_length = (value_length & 127 | high << 7) >> 1
                at += 1
        else:
            value_length >>= 1
        value_at = at
        at += value_length
        if body[at] or at + 1 != end:
            return None
        append((key, body[value_at:at]))
        at = end
    return out if at == len(body) else None


decode_records = twin("decode_records", decode_records_plainly)


class Decoded(NamedTuple):
    """One record of a body: its place in the batch, key, value, headers, and where it ends."""

    place: int
    record: Record
    headers: Headers
    end: int


def decode_record(body: bytes, at: int) -> Decoded:
    """Read one record of any kind; the plain twin of `decode_records`.

    Raises:
        BadRecord: its framing is wrong.
        IndexError: the body ends too early.
    """
    length, at = read_varint(body, at)
    end = at + length
    _, at = read_varint(body, at + 1)
    index, at = read_varint(body, at)
    key, at = _field(body, at)
    value, at = _field(body, at)
    count, at = read_varint(body, at)
    headers: dict[str, bytes] = {}
    for _ in range(count):
        name, at = _field(body, at)
        headers[name.decode()], at = _field(body, at)
    if at != end or count < 0:
        raise BadRecord("A record is longer or shorter than it says.")
    return Decoded(index, (key, value), headers, end)


def _field(body: bytes, at: int) -> tuple[bytes, int]:
    length, at = read_varint(body, at)
    if length < -1 or at + length > len(body):
        raise BadRecord("A record's field has an impossible length.")
    end = at + max(length, 0)
    return body[at:end], end


def _parse_plainly(body: bytes, count: int, begin: int, timestamp_ms: int) -> Batch:
    offsets: list[int] = []
    records: list[Record] = []
    headers: dict[int, Headers] = {}
    at = 0
    for number in range(count):
        decoded = decode_record(body, at)
        at = decoded.end
        offsets.append(begin + decoded.place)
        records.append(decoded.record)
        if decoded.headers:
            headers[number] = decoded.headers
    if at != len(body):
        raise BadRecord(f"The batch at offset {begin} is longer than its records.")
    return Batch(offsets, records, headers, timestamp_ms, len(body))


def _snappy(data: bytes) -> bytes:
    from kafka.codec import snappy_decode  # noqa: PLC0415 (other people's producers only)

    return bytes(snappy_decode(data))


def _zstd(data: bytes) -> bytes:
    from kafka.codec import zstd_decode  # noqa: PLC0415 (other people's producers only)

    return bytes(zstd_decode(data))


_EXPAND: Mapping[int, Callable[[bytes], bytes]] = {
    0: bytes,
    1: gzip.decompress,
    2: _snappy,
    3: lz4.frame.decompress,
    4: _zstd,
}


def _expand(data: bytes, codec: int) -> bytes:
    if codec not in _EXPAND:
        raise BadRecord(f"A record batch is compressed with the unknown codec {codec}.")
    return _EXPAND[codec](data)
