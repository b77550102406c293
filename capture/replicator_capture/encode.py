"""Row messages of one table → key and head of their records, at the speed of the stream. Pure.

The head of a record is its value up to `"source"`; what follows depends on the transaction, not on
the row, and is added by `assemble`. `envelope.encode` over `pgoutput.decode` says the same thing
slowly; tests/unit/test_encode.py compares the two.
"""

import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import itemgetter
from typing import Final, NamedTuple

import msgspec

from replicator.envelope import encode_key
from replicator.errors import BadMessage, Refused
from replicator.plan import Release, TableName
from replicator.speed import RowEncoder, line_encoder, row_encoder
from replicator.words import SCHEMA_CHANGE
from replicator_capture.pgoutput import Relation
from replicator_capture.rowtext import (
    PADDING,
    JsonTexts,
    NameOf,
    ReadRow,
    generate_line_reader,
    generate_reader,
    json_kind,
    json_text,
)

EncodedRow = tuple[bytes, bytes]
"""A row event without its place in the stream: the record's key; and its head, the value from
`{"op"` to the comma before `"source"`. (A plain tuple: a named one costs a tenth of the step.)"""

EncodedRows = tuple[EncodedRow, ...]
"""What one row message makes: one row event, or two if the primary key changed."""

_KINDS, _IDENTITY = {"number": 1, "bool": 2, "text": 3}, 4
"""As the compiled twin has them."""
_NEW, _OLD_KEY, _OLD = ord("N"), ord("K"), ord("O")
_INSERT_TUPLE: Final = 6
_NOTHING: Final = -1
_GARBAGE = (struct.error, IndexError, KeyError, UnicodeDecodeError)
_dumps = msgspec.json.Encoder().encode


class _Old(NamedTuple):
    """What was sent of the old row; `present` is the bit set of columns."""

    present: int
    values: JsonTexts


class Shape:
    """Names and templates of the released columns of a table, in the order of their values.

    Args:
        table: the table.
        columns: its released columns.
        key: columns of its primary key, all of them among `columns`.
    """

    def __init__(self, table: TableName, columns: Sequence[str], key: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self.all = (1 << len(self.columns)) - 1
        self.names = [_dumps(name) + b":" for name in self.columns]
        positions = self.key_places = [self.columns.index(name) for name in key]
        self.key = sum(1 << position for position in positions)
        self.key_of: Callable[[JsonTexts], bytes | JsonTexts] = itemgetter(*positions)
        self.key_start = encode_key(str(table))[:-1]
        start = self.key_start.replace(b"%", b"%%")
        self.key_template = start + b",%b" * len(positions) + b"]"
        self._heads: dict[tuple[str, int, int], bytes] = {}

    def head_template(self, op: str, before: int, after: int) -> bytes:
        """Give the template of a head, for `old + new` values (less those of a null image).

        Args:
            op: the event's op.
            before: bit set of the columns to show of the old row; -1: null.
            after: the same of the new row.
        """
        try:
            return self._heads[op, before, after]
        except KeyError:
            pass
        parts = [
            b'{"op":' + _dumps(op),
            b'"before":' + self._image(before),
            b'"after":' + self._image(after),
        ]
        unsent = [name for n, name in enumerate(self.columns) if not after >> n & 1]
        if unsent:
            parts.append(b'"unchanged":' + _dumps(unsent).replace(b"%", b"%%"))
        template = self._heads[op, before, after] = b",".join(parts) + b","
        return template

    def _image(self, present: int) -> bytes:
        """Write the template of an image; `%.0b` takes the value of an absent column, and drops it.

        So that every template takes all values of a row, whichever of them it shows.
        """
        if present == _NOTHING:
            return b"null"
        text, comma = b"", b""
        for n, name in enumerate(self.columns):
            if present >> n & 1:
                text += comma + _dumps(name).replace(b"%", b"%%") + b":%b"
                comma = b","
            else:
                text += b"%.0b"
        return b"{" + text + b"}"


class TableEncoder:
    """Encodes the row messages of one table, in the shape that its Relation message told.

    All of its methods raise BadMessage for a message that is not one of this relation, and
    Refused for a row whose key Postgres did not tell.

    Args:
        relation: the table as it is in the stream.
        release: what of it may leave.
        names: by table, what names its rows where references to them travel by name. A column
            of which the name is not known is listed as unchanged.

    Raises:
        Refused: the table lacks a released column.
    """

    def __init__(
        self, relation: Relation, release: Release, names: Mapping[TableName, NameOf] | None = None
    ) -> None:
        released = frozenset(release.columns)
        there = [column.name for column in relation.columns]
        if missing := [name for name in release.columns if name not in there]:
            raise _column_gone(release, missing)
        sent = [column for column in relation.columns if column.name in released]
        self.table = release.table
        shape = self._shape = Shape(release.table, [c.name for c in sent], release.key)
        self._identity = sum(1 << n for n, column in enumerate(sent) if column.key)
        # Only then does an update without an old row mean that the key is what it was.
        self._key_in_identity = self._identity & shape.key == shape.key
        by_name = {c: (names or {})[table] for c, table in release.natural.items()}
        self._by_name = sum(1 << n for n, column in enumerate(sent) if column.name in by_name)
        self._read: ReadRow = generate_reader(
            [
                by_name.get(column.name, column.type) if column.name in released else None
                for column in relation.columns
            ]
        )
        self.compiled = None if by_name else self._compile(relation, released)
        self._insert = shape.head_template("c", _NOTHING, shape.all)
        self._update = shape.head_template("u", _NOTHING, shape.all)
        self._key_template, self._key_of = shape.key_template, shape.key_of
        self.by_letter: dict[int, Callable[[bytes], EncodedRows]] = {
            ord("I"): self.insert,
            ord("U"): self.update,
            ord("D"): self.delete,
        }
        """The method for each kind of row message, by its first byte."""

    def _compile(self, relation: Relation, released: Collection[str]) -> RowEncoder | None:
        """Make the compiled twin of these methods, which knows the usual messages."""
        kinds = [
            (_KINDS[json_kind(column.type)] if column.name in released else 0)
            + (_IDENTITY if column.key else 0)
            for column in relation.columns
        ]
        return row_encoder(
            bytes(kinds),
            self._shape.key_places,
            self._shape.key_start,
            self._shape.names,
            identified=self._key_in_identity,
        )

    def insert(self, message: bytes) -> EncodedRows:
        """Encode an Insert message as `c`."""
        try:
            end, unsent, values = self._read(message + PADDING, _INSERT_TUPLE)
            if end != len(message) or unsent & ~self._by_name or message[5] != _NEW:
                raise _wrong_form(self.table)
        except _GARBAGE as error:
            raise _wrong_form(self.table) from error
        if unsent:
            return (self._row("c", None, self._shape.all & ~unsent, values),)
        return ((self._key_template % self._key_of(values), self._insert % values),)

    def update(self, message: bytes) -> EncodedRows:
        """Encode an Update message as `u`; as `d` and `c` if the primary key changed."""
        try:
            old, unsent, new = self._images(message)
        except _GARBAGE as error:
            raise _wrong_form(self.table) from error
        if old is None and not unsent and self._key_in_identity:
            return ((self._key_template % self._key_of(new), self._update % new),)
        return self._update_at_length(old, self._shape.all & ~unsent, new)

    def delete(self, message: bytes) -> EncodedRows:
        """Encode a Delete message as `d`."""
        try:
            end, unsent, values = self._read(message + PADDING, _INSERT_TUPLE)
            old = self._old(message[5], unsent, values)
        except _GARBAGE as error:
            raise _wrong_form(self.table) from error
        if end != len(message):
            raise _wrong_form(self.table)
        self._demand_key(old.present)
        return (self._deletion(old),)

    def truncate(self) -> EncodedRow:
        """Encode that the table was emptied, as `t`."""
        return encode_key(str(self.table)), b'{"op":"t","before":null,"after":null,'

    def _images(self, message: bytes) -> tuple[_Old | None, int, JsonTexts]:
        """Read old row, bit set of unsent columns, and new row of an Update message."""
        padded, at, old = message + PADDING, _INSERT_TUPLE, None
        if message[5] != _NEW:
            end, unsent, values = self._read(padded, at)
            old = self._old(message[5], unsent, values)
            if message[end] != _NEW:
                raise _wrong_form(self.table)
            at = end + 1
        end, unsent, new = self._read(padded, at)
        if end != len(message):
            raise _wrong_form(self.table)
        return old, unsent, new

    def _old(self, kind: int, unsent: int, values: JsonTexts) -> _Old:
        """Tell what an old tuple shows: in a key tuple, the other columns' nulls mean nothing."""
        if kind == _OLD_KEY:
            return _Old(self._identity & ~unsent, values)
        if kind == _OLD:
            return _Old(self._shape.all & ~unsent, values)
        raise _wrong_form(self.table)

    def _update_at_length(self, old: _Old | None, present: int, new: JsonTexts) -> EncodedRows:
        """Encode an update of which an old row, or not all of the new one, was sent."""
        if old is None:
            self._demand_key(present if self._key_in_identity else 0)
            return (self._row("u", None, present, new),)
        if filled := old.present & ~present & ~self._by_name:
            new = tuple(old.values[n] if filled >> n & 1 else value for n, value in enumerate(new))
            present |= filled
        self._demand_key(old.present & present)
        if self._key_of(old.values) == self._key_of(new):
            return (self._row("u", old, present, new),)
        return self._deletion(old), self._row("c", None, present, new)

    def _row(self, op: str, old: _Old | None, present: int, new: JsonTexts) -> EncodedRow:
        before = _NOTHING if old is None else old.present
        template = self._shape.head_template(op, before, present)
        values = new if old is None else old.values + new
        return self._key_template % self._key_of(new), template % values

    def _deletion(self, old: _Old) -> EncodedRow:
        template = self._shape.head_template("d", old.present, _NOTHING)
        return self._key_template % self._key_of(old.values), template % old.values

    def _demand_key(self, present: int) -> None:
        """Raise Refused unless the key's columns are among those present."""
        if self._shape.key & ~present:
            raise Refused(
                f"Postgres does not tell the primary key of changed rows of {self.table}.",
                remedy="Give the table a primary key and REPLICA IDENTITY DEFAULT (or FULL), then "
                "begin a new epoch: `replicator capture --new-epoch`.",
            )


class ReadEncoder:
    """Encodes rows that a fetch read, and tells of keys that it did not find.

    Args:
        release: the table's release; rows have its columns, in its order.
        types: type oid of each of these columns (pg_attribute.atttypid), text where a name travels.
    """

    def __init__(self, release: Release, types: Sequence[int]) -> None:
        self.table = release.table
        self._types = dict(zip(release.columns, types, strict=True))
        self._read = generate_line_reader(tuple(types))
        self._key = release.key
        self._shape = Shape(release.table, release.columns, release.key)
        self._head = self._shape.head_template("r", _NOTHING, self._shape.all)
        self._gone = Shape(release.table, release.key, release.key)
        self._compiled = line_encoder(
            bytes(_KINDS[json_kind(oid)] for oid in types),
            self._shape.key_places,
            self._shape.key_start,
            self._shape.names,
        )

    def rows(self, block: bytes) -> list[EncodedRow]:
        """Encode rows as `r`.

        Args:
            block: lines of COPY's text format, UTF-8: what the types' output functions give. A cast
                to text is something else: it cuts the blanks of a character(n) and adds a netmask
                to an inet.

        Raises:
            BadMessage: the lines do not fit the columns, or are not UTF-8.
        """
        if not block.isascii():
            _demand_utf8(block)
        if self._compiled is not None and (rows := self._compiled.rows(block)) is not None:
            return rows
        key, key_of, head = self._shape.key_template, self._shape.key_of, self._head
        lines = block[:-1].split(b"\n")
        return [(key % key_of(values), head % values) for values in map(self._read, lines)]

    def missing(self, key: Sequence[bytes]) -> EncodedRow:
        """Encode as `d` that no row has this key (Postgres' texts, in the key's order)."""
        values = tuple(json_text(self._types[n], t) for n, t in zip(self._key, key, strict=True))
        template = self._gone.head_template("d", self._gone.all, _NOTHING)
        return self._gone.key_template % self._gone.key_of(values), template % values


def _demand_utf8(block: bytes) -> None:
    try:
        block.decode()
    except UnicodeDecodeError as error:
        raise BadMessage("Rows read from Postgres are not UTF-8.") from error


def unknown_columns(relation: Relation, release: Release) -> tuple[str, ...]:
    """Name the columns of the stream that the code's model does not have: never published."""
    known = {*release.columns, *release.excluded, *release.generated}
    return tuple(column.name for column in relation.columns if column.name not in known)


def _column_gone(release: Release, missing: Sequence[str]) -> Refused:
    return Refused(
        f"Table {release.table} has no column {', '.join(missing)} in the stream, but "
        f"{release.label} releases it.",
        remedy="Run the release of the project whose models fit the source's schema; if the column "
        f"is gone for good, take it out of the model or the opt_in. {SCHEMA_CHANGE}",
    )


def _wrong_form(table: TableName) -> BadMessage:
    return BadMessage(f"A row message of {table} is not of the form that its relation has.")
