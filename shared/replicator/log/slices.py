"""Values larger than a broker takes: cut into raw slices by the writer, joined by the reader.

Pure. Each slice is a record of its own with the value's key and two headers: `part` (`i/n`, from
1) and `part-of` (a random name of the value, so that slices of two writers cannot mix). One
writer's slices follow each other; another's records may stand between them.
"""

import secrets
from collections.abc import Iterator
from typing import NamedTuple

from replicator.errors import BadRecord, ConfigurationError
from replicator.log.record_batch import Headers, Record

PART, PART_OF = "part", "part-of"
_OVERHEAD = 160
"""Bytes of a slice's batch beside key and value: header, varints, headers."""
_SMALLEST = 1_000
_OPEN_AT_MOST = 4
_GIVE_UP_MS = 120_000


def cut(record: Record, limit: int) -> Iterator[tuple[Record, Headers]]:
    """Cut a record into slices whose batches stay below `limit` bytes.

    Raises:
        ConfigurationError: the key alone nearly fills the limit.
    """
    key, value = record
    room = limit - len(key) - _OVERHEAD
    if room < _SMALLEST:
        raise ConfigurationError(
            f"A record's key of {len(key)} bytes does not fit into the topic's batches.",
            remedy="Raise max.message.bytes of the topic.",
        )
    name = secrets.token_hex(8).encode()
    count = -(-len(value) // room)
    for number in range(count):
        part = value[number * room : (number + 1) * room]
        yield (key, part), {PART: b"%d/%d" % (number + 1, count), PART_OF: name}


class _Open(NamedTuple):
    offset: int
    key: bytes
    total: int
    parts: list[bytes]


class Joined(NamedTuple):
    """A value that is whole again, and the offset of its first slice."""

    offset: int
    record: Record


class Joiner:
    """Joins slices in the order of the log.

    A set of slices that stays unfinished, because its writer died, is given up once the log has
    moved on by two minutes, or when a fifth set opens: so memory and the resume offset are not
    held for ever. What it would have said is repeated by the writer's next run; until then the
    chain of positions shows the gap. Slices whose first is not known are skipped: the reader
    began behind it.
    """

    def __init__(self) -> None:
        self._open: dict[bytes, _Open] = {}
        self._heard: dict[bytes, int] = {}

    def resume(self, position: int) -> int:
        """Where to read on to lose nothing: the oldest open slice, or `position`."""
        return min((opened.offset for opened in self._open.values()), default=position)

    def forget(self) -> None:
        """Drop everything: the reader goes elsewhere."""
        self._open.clear()
        self._heard.clear()

    def expire(self, now_ms: int) -> None:
        """Give up sets of which nothing came for two minutes of the log's own time."""
        if self._open:
            for name in [n for n, at in self._heard.items() if now_ms - at > _GIVE_UP_MS]:
                self._close(name)

    def add(self, offset: int, record: Record, headers: Headers, now_ms: int) -> Joined | None:
        """Take a record; gives a whole one, or None if it was a slice of an unfinished value.

        Raises:
            BadRecord: headers of a slice that make no sense.
        """
        if PART not in headers:
            return Joined(offset, record)
        number, count, name = _part(headers)
        key, value = record
        if number == 1:
            self._start(name, _Open(offset, key, count, []))
        opened = self._open.get(name)
        if opened is None:
            return None
        if opened.total != count or opened.key != key or len(opened.parts) + 1 != number:
            self._close(name)
            return None
        opened.parts.append(value)
        self._heard[name] = now_ms
        if number < count:
            return None
        self._close(name)
        return Joined(opened.offset, (key, b"".join(opened.parts)))

    def _start(self, name: bytes, opened: _Open) -> None:
        if name not in self._open and len(self._open) == _OPEN_AT_MOST:
            self._close(min(self._open, key=lambda other: self._heard[other]))
        self._open[name] = opened

    def _close(self, name: bytes) -> None:
        self._open.pop(name, None)
        self._heard.pop(name, None)


def _part(headers: Headers) -> tuple[int, int, bytes]:
    number, _, count = headers[PART].partition(b"/")
    name = headers.get(PART_OF, b"")
    if not (number.isdigit() and count.isdigit() and name and len(headers[PART]) < 24):
        raise BadRecord("A slice's headers cannot be read.")
    if not 1 <= int(number) <= int(count):
        raise BadRecord("A slice's number is outside its count.")
    return int(number), int(count), name
