"""What a request asks for, read and encoded: its rows, and those that they lead to.

All under one snapshot, in the fetch's transaction. Blocks on the database.
"""

import time
from collections.abc import Iterable, Sequence

import msgspec
import psycopg

from replicator.envelope import Answer, RowHash, Value, encode_key
from replicator.plan import Release, TableName
from replicator.requests import KeysRequest, PageRequest, fingerprint
from replicator_capture.answer_plan import AnswerPlan, Refusal
from replicator_capture.closure import Closure
from replicator_capture.encode import EncodedRow
from replicator_capture.rowtext import Texts
from replicator_capture.spool import Spool
from replicator_capture.table_read import TableRead, key_text, rows_of

Request = KeysRequest | PageRequest

GIVE_WAY = 50e-6
"""Seconds that the fetching thread sleeps behind each block of rows."""
_HASHES_PER_RECORD = 1_000

_dumps = msgspec.json.Encoder().encode
_loads = msgspec.json.Decoder(list[int | bool | str | None]).decode


class RowReader:
    """Reads the rows of one request, and what they point to, into a spool."""

    def __init__(self, connection: psycopg.Connection, plan: AnswerPlan, rows: Spool) -> None:
        self._connection, self._plan, self._rows = connection, plan, rows
        self._closure = Closure(plan.links)
        self._reads: dict[TableName, TableRead] = {}

    def read(self, request: Request) -> Answer:
        """Read what is asked for; give the closing fields of the answer."""
        if isinstance(request, PageRequest):
            return self._page(request)
        for label, keys in request.keys.items():
            read = self._table(self._plan.releases[label].table)
            texts = [tuple(map(key_text, key)) for key in keys]
            found = read.by_values(read.release.key, texts, hashes=request.hashes)
            if request.hashes:
                self._add_hashes(read, found)
                continue
            self._add(read, found)
            for missing in rows_of(read.missing(texts)):
                self._add_missing(read, [text for text in missing if text is not None])
        self._close()
        return answer_of(request)

    def _add_missing(self, read: TableRead, key: Sequence[bytes]) -> None:
        """Add to the answer that no row has a key."""
        release = read.release
        self._rows.add(read.encoder.missing(key), release.table)
        named = zip(release.key, (text.decode() for text in key), strict=True)
        self._closure.note_missing(release.table, dict(named))

    def _page(self, request: PageRequest) -> Answer:
        if self._plan.page is None:
            raise AssertionError("a page request resolves to a page")
        rule, release = self._plan.page
        read = self._table(release.table)
        found = read.page(rule, request.after, request.limit, hashes=request.hashes)
        add = self._add_hashes if request.hashes else self._add
        count, last = add(read, found)
        self._close()
        full = count == request.limit
        # Of all of a rule's rows, so its first page tells.
        estimated = read.estimate(rule) if request.after is None else None
        return msgspec.structs.replace(
            answer_of(request, last_key=last if full else None, estimated=estimated),
            # Nothing is answered twice, so these rows, which are read first, are all there.
            chosen=None if rule.selection is None else count,
        )

    def _table(self, table: TableName) -> TableRead:
        if table not in self._reads:
            self._reads[table] = TableRead(self._connection, self._plan.releases[str(table)])
        return self._reads[table]

    def _add(self, read: TableRead, found: Iterable[bytes]) -> tuple[int, tuple[Value, ...]]:
        """Add blocks of rows to the answer; give their number and the last one's key."""
        table, encode = read.release.table, read.encoder.rows
        count, last = 0, b""
        for block in found:
            rows = encode(block)
            count, last = count + len(rows), rows[-1][0]
            new = self._note(read.release, block, rows) if self._closure.follows else rows
            self._rows.add_all(new, table)
            # Else who waits for the interpreter's lock, as the stream does, waits 5 ms each time.
            time.sleep(GIVE_WAY)
        return count, _key_values(last)

    def _note(self, release: Release, block: bytes, rows: list[EncodedRow]) -> list[EncodedRow]:
        """Note where rows lead to; give those that have not been read before."""
        closure, table = self._closure, release.table
        names = closure.columns_of(table)
        linked = _Cells(release, names)
        if not closure.reaches(table):
            found = {linked.of(texts) for texts in rows_of([block])} if names else ()
            closure.follow(table, (dict(zip(names, cells, strict=True)) for cells in found))
            return rows
        key = _Cells(release, release.key)
        return [
            row
            for row, texts in zip(rows, rows_of([block]), strict=True)
            if closure.note(
                table,
                tuple(cell or "" for cell in key.of(texts)),
                dict(zip(names, linked.of(texts), strict=True)),
            )
        ]

    def _close(self) -> None:
        """Read what the rows point to, until nothing new turns up."""
        while lookups := self._closure.lookups():
            for lookup in lookups:
                read = self._table(lookup.table)
                found = read.by_values(lookup.columns, lookup.values, generic=lookup.generic)
                self._add(read, found)

    def _add_hashes(self, read: TableRead, found: Iterable[bytes]) -> tuple[int, tuple[Value, ...]]:
        """Add hash records to the answer; give the number of rows and the last one's key."""
        table = read.release.table
        hashes: list[RowHash] = []
        count, last = 0, b""
        for texts in rows_of(found):
            last, _ = read.encoder.missing([text or b"" for text in texts[:-1]])
            hashes.append(RowHash(_key_values(last), (texts[-1] or b"").decode()))
            count += 1
            if len(hashes) == _HASHES_PER_RECORD:
                self._rows.add(_hash_record(table, hashes), table)
                hashes = []
        if hashes:
            self._rows.add(_hash_record(table, hashes), table)
        return count, _key_values(last)


class _Cells:
    """Some columns of rows that were read, as text."""

    def __init__(self, release: Release, names: Sequence[str]) -> None:
        self._places = [release.columns.index(name) for name in names]

    def of(self, texts: Texts) -> tuple[str | None, ...]:
        """Give a row's."""
        return tuple([None if (t := texts[n]) is None else t.decode() for n in self._places])


def _hash_record(table: TableName, hashes: Sequence[RowHash]) -> tuple[bytes, bytes]:
    return encode_key(str(table)), b'{"op":"h","hashes":%b,' % _dumps(hashes)


def _key_values(record_key: bytes) -> tuple[Value, ...]:
    """Give the key's values of a record's key."""
    return tuple(_loads(record_key)[1:]) if record_key else ()


def answer_of(
    request: Request,
    *,
    last_key: tuple[Value, ...] | None = None,
    estimated: int | None = None,
    refusal: Refusal | None = None,
) -> Answer:
    """Say whom an answer is for, and give its closing fields."""
    answer = Answer(request.target, request.id, fingerprint(request.plan), last_key, estimated)
    if refusal is None:
        return answer
    return msgspec.structs.replace(answer, refused=str(refusal), refused_datasets=refusal.datasets)
