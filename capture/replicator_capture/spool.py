"""Encoded rows on their way into an answer: in memory while they are few, else in a file.

Written by one thread, then read by another, never at once.
"""

import marshal
import struct
from collections.abc import Iterator
from tempfile import TemporaryFile
from typing import IO, NamedTuple

from replicator.plan import TableName
from replicator_capture.encode import EncodedRow

_MEMORY = 8 << 20
_BLOCK = 1 << 16
_LENGTH = struct.Struct("<Q")


class Block(NamedTuple):
    """Row events of one table and transaction, encoded.

    Attributes:
        rows: key and head of the record of each.
        table: where they belong.
        xid: the 32-bit id of their transaction; 0 for rows that were read.
    """

    rows: list[EncodedRow]
    table: TableName
    xid: int


class Spool:
    """Rows in the order in which they were added."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._size = 0
        self._file: IO[bytes] | None = None
        self._in_file = 0
        self._last: tuple[list[EncodedRow], TableName, int] | None = None
        self._room = 0
        self._count = 0

    def add(self, row: EncodedRow, table: TableName, xid: int = 0) -> None:
        """Add a row event."""
        last = self._last
        if last is None or self._room <= 0 or last[1] is not table or last[2] != xid:
            self._store()
            last = self._last = [], table, xid
            self._room = _BLOCK
        last[0].append(row)
        self._room -= len(row[0]) + len(row[1])
        self._count += 1

    def add_all(self, rows: list[EncodedRow], table: TableName) -> None:
        """Add rows that were read, some `_BLOCK` bytes of them."""
        self._store()
        self._count += len(rows)
        self._keep(Block(rows, table, 0), sum(len(key) + len(head) for key, head in rows))

    def _store(self) -> None:
        """Finish the block to which rows are added one by one."""
        if self._last is not None:
            self._keep(Block(*self._last), _BLOCK - self._room)
            self._last = None

    def _keep(self, block: Block, size: int) -> None:
        self._blocks.append(block)
        self._size += size
        if self._size > _MEMORY:
            self._write()

    def _write(self) -> None:
        """Move the blocks from memory to the file."""
        if self._file is None:
            self._file = TemporaryFile()  # noqa: SIM115 (closed by `close`)
        for rows, table, xid in self._blocks:
            data = marshal.dumps((rows, table.schema, table.name, xid))
            self._file.write(_LENGTH.pack(len(data)))
            self._file.write(data)
        self._in_file += len(self._blocks)
        self._blocks, self._size = [], 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Block]:
        self._store()
        if self._file is not None:
            self._file.seek(0)
            for _ in range(self._in_file):
                (length,) = _LENGTH.unpack(self._file.read(_LENGTH.size))
                # The file is this process' own, and has no name.
                rows, schema, name, xid = marshal.loads(self._file.read(length))  # noqa: S302
                yield Block(rows, TableName(schema, name), xid)
        yield from self._blocks

    def close(self) -> None:
        """Free the memory or the file; may be called twice."""
        self._blocks, self._last = [], None
        if self._file is not None:
            self._file.close()
