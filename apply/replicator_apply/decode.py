"""Bytes → typed events: one reader per table, generated from the columns that the target writes.

Pure. The plain form is `replicator.envelope.decode`; tests compare the two. A record whose columns
are all there takes the strict decoder; one with columns missing (unchanged TOAST, or a source of
another shape) the lenient one, which tells absent from null.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import msgspec
from msgspec import UNSET, UnsetType

from replicator.envelope import (
    VERSION,
    Answer,
    At,
    EpochStart,
    Mark,
    RowHash,
    bad_record,
    check_version,
)
from replicator.errors import Stopped
from replicator.positions import Lsn
from replicator.words import SCHEMA_CHANGE

Row = Any
"""A generated Struct with one field per column, `c0`, `c1` … in the reader's order."""

Cell = int | str | bool | None

KeyOf = Callable[[str], int]
"""Gives the key that the row of a name has in this environment."""

NEW = frozenset("cr")
"""Ops whose rows are whole: what they lack, their source does not have."""


class Origin(msgspec.Struct, gc=False, frozen=True):
    """What apply needs of an event's `source`.

    `lsn` is the commit LSN; `ts_ms` the commit's time in milliseconds since 1970; `snapshot` is
    "true" for what a fetch found, or did not find, by reading.
    """

    lsn: Lsn
    ts_ms: int
    snapshot: str = "false"


class Event(msgspec.Struct, gc=False):
    """A row event of a table; the base of the generated types."""

    op: str
    source: Origin
    at: At
    before: Any = None
    after: Any = None
    unchanged: tuple[str, ...] = ()
    answer: Answer | None = None


class Skimmed(msgspec.Struct, gc=False):
    """All of a record but its row: of control records, and of tables that are not held here."""

    op: str
    source: Origin
    at: At
    answer: Answer | None = None
    mark: Mark | None = None
    epoch: EpochStart | None = None
    hashes: tuple[RowHash, ...] = ()


Parsed = tuple[bytes, Event | Skimmed]
"""A record's key and its event."""

NO_TABLE = b"?"
"""No record's key of ours begins so; stands for the table of a key that names none."""


def prefix_of(key: bytes) -> bytes:
    """Give how the keys of a record's table begin, `["schema.table"`; NO_TABLE: it names none."""
    return key[: key.find(b'"', 2) + 1] or NO_TABLE


_skim = msgspec.json.Decoder(Skimmed).decode


def skim(value: bytes) -> Skimmed:
    """Decode a record without its row.

    Raises:
        BadRecord: it is not a record, or of a version that this code does not know.
    """
    try:
        record = _skim(value)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise bad_record(value) from error
    check_version(record.at)
    return record


class EventReader:
    """Reads the events of one table.

    Attributes:
        columns: names of the columns, in the order of a row's fields.
        key: the primary key's columns.
        absent: what new rows have in columns that their source does not have yet; else NULL.
        keys_of: for each column whose values travel as names, what gives the key here.
        decode_head: as `read_head`, but raises what msgspec does; None if values travel as names.
    """

    def __init__(
        self,
        table: str,
        columns: Sequence[str],
        key: Sequence[str],
        absent: Mapping[str, Cell] | None = None,
        keys_of: Mapping[str, KeyOf] | None = None,
    ) -> None:
        self.table = table
        self.columns = tuple(columns)
        self.key = tuple(key)
        self.absent = absent or {}
        self.row_type = _row_type(self.columns, strict=True)
        self.lenient_type = _row_type(self.columns, strict=False)
        key_type = _row_type(self.columns, strict=False, forbid=False)
        self._local = [
            (f"c{self.columns.index(name)}", key_of) for name, key_of in (keys_of or {}).items()
        ]
        self._strict = _decoder(self.row_type, key_type)
        self._head = _decoder(self.row_type, key_type, place=False)
        self._lenient = _decoder(self.lenient_type, key_type)
        self.decode_head = None if self._local else self._head

    def read(self, value: bytes) -> Event:
        """Decode one record's value.

        Raises:
            BadRecord: it is not a record, or of a version that this code does not know.
            Stopped: it has a column that the table of this environment does not have.
        """
        try:
            event = self._strict(value)
        except msgspec.ValidationError as error:
            return self._read_slowly(value, error)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise bad_record(value) from error
        if event.at.v != VERSION:
            check_version(event.at)
        if self._local:
            self._localize(event)
        return event

    def read_head(self, value: bytes) -> Event | None:
        """Decode a record without its place, `source` and `at`; None: `read` must have all of it.

        Args:
            value: the record up to them, closed.
        """
        try:
            event = self._head(value)
        except (msgspec.MsgspecError, RecursionError):
            return None
        if self._local:
            self._localize(event)
        return event

    def _localize(self, event: Event) -> None:
        """Put keys of this environment in place of names."""
        for row in (event.before, event.after):
            for name, key_of in self._local if row is not None else ():
                cell = getattr(row, name)
                if isinstance(cell, str):
                    setattr(row, name, key_of(cell))

    def _read_slowly(self, value: bytes, first: msgspec.ValidationError) -> Event:
        """Find out whether a column is missing or unknown, or it is no record."""
        try:
            event = self._lenient(value)
        except msgspec.ValidationError as error:
            if "unknown field" in str(error):
                column = str(error).split("`")[1]
                raise Stopped(
                    f"Table {self.table} has no column {column!r} here, and an event has.",
                    remedy="Migrate this database to the release that the source runs, and "
                    f"restart apply with its code. {SCHEMA_CHANGE}",
                ) from error
            raise bad_record(value) from first
        check_version(event.at)
        self._localize(event)
        if event.op in NEW and event.after is not None:
            event.after = self._filled(event.after, event.unchanged)
        return event

    def _filled(self, row: Row, unchanged: Sequence[str]) -> Row:
        """Fill the columns that a new row does not have because its source has none such."""
        cells = [getattr(row, f"c{i}") for i in range(len(self.columns))]
        for place, name in enumerate(self.columns):
            if cells[place] is UNSET and name not in unchanged and name not in self.key:
                cells[place] = self.absent.get(name)
        complete = not any(cell is UNSET for cell in cells)
        return (self.row_type if complete else self.lenient_type)(*cells)

    def missing(self, row: Row) -> tuple[int, ...]:
        """Positions of the columns that the row does not have."""
        if type(row) is self.row_type:
            return ()
        return tuple(i for i in range(len(self.columns)) if getattr(row, f"c{i}") is UNSET)

    def merged(self, older: Row, newer: Row) -> Row:
        """Give the newer row, the columns that it lacks taken from the older one."""
        if type(newer) is self.row_type:
            return newer
        cells = [
            new if (new := getattr(newer, f"c{i}")) is not UNSET else getattr(older, f"c{i}")
            for i in range(len(self.columns))
        ]
        complete = not any(cell is UNSET for cell in cells)
        return (self.row_type if complete else self.lenient_type)(*cells)


def _row_type(columns: Sequence[str], *, strict: bool, forbid: bool = True) -> type[Any]:
    """Make a Struct of the columns; strict: all of them must be there."""
    cell: Any = Cell if strict else Cell | UnsetType
    fields: list[Any] = [
        (f"c{i}", cell) if strict else (f"c{i}", cell, UNSET) for i in range(len(columns))
    ]
    return msgspec.defstruct(
        "Row",
        fields,
        rename={f"c{i}": column for i, column in enumerate(columns)},
        forbid_unknown_fields=forbid,
        gc=False,
    )


def _decoder(
    row_type: type[Any], key_type: type[Any], *, place: bool = True
) -> Callable[[bytes], Event]:
    """Make the decoder of an event whose rows are of this type; `place`: it has source and at."""
    fields: list[Any] = [("before", key_type | None, None), ("after", row_type | None, None)]
    if not place:
        fields += [("source", Any, None), ("at", Any, None)]
    event_type = msgspec.defstruct("TableEvent", fields, bases=(Event,), gc=False)
    return cast(Callable[[bytes], Event], msgspec.json.Decoder(event_type).decode)
