"""Encoded rows on their way into an answer: in memory while they are few, else in a file.

Written by one thread, then read by another, never at once.
"""

import struct
from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from typing import NamedTuple

from replicator.plan import TableName
from replicator_capture.encode import EncodedRow

_MEMORY = 8 << 20
_BLOCK = 1 << 16
_HEADER = struct.Struct("<HIII")


class SpooledRow(NamedTuple):
    """A row event, encoded.

    Attributes:
        row: key and head of its record.
        table: where it belongs.
        xid: the 32-bit id of its transaction; 0 for a row that was read.
    """

    row: EncodedRow
    table: TableName
    xid: int


class Spool:
    """Rows in the order in which they were added."""

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile(max_size=_MEMORY)  # noqa: SIM115 (closed by `close`)
        self._tables: dict[TableName, int] = {}
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._count = 0

    def add(self, row: EncodedRow, table: TableName, xid: int = 0) -> None:
        """Add a row event."""
        key, head = row
        number = self._tables.setdefault(table, len(self._tables))
        self._buffer += (_HEADER.pack(number, xid, len(key), len(head)), key, head)
        self._buffered += len(key) + len(head)
        self._count += 1
        if self._buffered > _BLOCK:
            self._write()

    def _write(self) -> None:
        self._file.write(b"".join(self._buffer))
        self._buffer, self._buffered = [], 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[SpooledRow]:
        self._write()
        tables = list(self._tables)
        read = self._file.read
        self._file.seek(0)
        for _ in range(self._count):
            number, xid, key, head = _HEADER.unpack(read(_HEADER.size))
            yield SpooledRow((read(key), read(head)), tables[number], xid)

    def close(self) -> None:
        """Free the memory or the file; may be called twice."""
        self._file.close()
