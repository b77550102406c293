"""Messages of the stream → records: each transaction's rows, with their place in the stream. Pure.

`Assembler` owns the chain (`from`, `to`), the ordinals, and the records not yet taken. It blocks
on nothing. What else there is to know of a transaction goes to a `Listener`, synchronously: when
`message` is called, all records up to its transaction are assembled and the next one has not
begun, so an answer or a mark appended from there stands exactly at that commit.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from replicator.envelope import VERSION, Answer, Mark, encode_key
from replicator.errors import BadMessage
from replicator.plan import Release, TableName
from replicator.positions import EpochId, Lsn, RunId
from replicator.speed import COMPILED, Ended, RowEncoder, TailParts, twin
from replicator_capture.encode import EncodedRow, EncodedRows, TableEncoder, unknown_columns
from replicator_capture.pgoutput import Begin, Commit, Message, Relation, Truncate, decode
from replicator_capture.rowtext import NameOf

MESSAGE_PREFIX: Final = "replicator"
MESSAGES_PER_TRANSACTION: Final = 16
"""Anyone may emit messages under any prefix; more than this in one transaction are not ours."""

_ROWS, _IGNORED = frozenset(b"IUD"), frozenset(b"OY")
_CONTROL = TableName("", "")

_dumps = msgspec.json.Encoder().encode

KeyedValue = tuple[bytes, bytes]
"""A record, encoded: key and value."""


class Origin(NamedTuple):
    """What all records of a run have in common.

    Attributes:
        environment: name of the source environment.
        database: name of its database.
        epoch: the slot's epoch.
        run: this start of capture.
    """

    environment: str
    database: str
    epoch: EpochId
    run: RunId


class Commitment(msgspec.Struct, frozen=True, gc=False):
    """A committed transaction of the source.

    Attributes:
        xid: its 32-bit id.
        lsn: where its commit record begins.
        end: the first byte after it; the `to` of its last record.
        ts_us: time of the commit, microseconds since 1970.
        rows: how many row events of released tables it has.
        retained: whether `Listener.row` was called for each of them.
    """

    xid: int
    lsn: Lsn
    end: Lsn
    ts_us: int
    rows: int = 0
    retained: bool = False


class Listener(Protocol):
    """Who is told of what passes by; every method is called in the reading thread, in order."""

    def unknown(self, table: TableName, columns: tuple[str, ...]) -> None:
        """Note that the stream has columns that the code does not know; they are not published.

        No columns: the whole table is not released. Called each time the table's shape is told.
        """

    def committed(self, commitments: Sequence[Commitment]) -> None:
        """Note transactions, in order; they have rows of released tables, and all are assembled.

        The next one may have begun: unlike from `message`, nothing can be appended from here.
        """

    def message(self, content: bytes, commitment: Commitment) -> None:
        """Act on a transactional message under our own prefix, at its transaction's commit."""


class Retain(Protocol):
    """Keeps row events while a fetch runs, so that its answer can repeat what it did not see."""

    def __call__(self, row: EncodedRow, table: TableName, xid: int, commit: Lsn) -> None:
        """Keep one row event of the transaction `xid`, whose commit record begins at `commit`."""


class _Place(NamedTuple):
    """A table inside a transaction: how its rows are encoded, and what follows their heads."""

    encoder: TableEncoder
    encode: Mapping[int, Callable[[bytes], EncodedRows]]
    tail: bytes
    parts: TailParts


class Assembler:
    """Turns the messages of one run into records.

    Args:
        origin: what all records share.
        releases: what may leave, by table.
        start: where the slot was confirmed when the stream was started: the first `from`.
        listener: who is told of transactions, messages and unknown columns.
        names: see `TableEncoder`.
    """

    def __init__(
        self,
        origin: Origin,
        releases: Mapping[TableName, Release],
        start: Lsn,
        listener: Listener,
        names: Mapping[TableName, NameOf] | None = None,
    ) -> None:
        self.retain: Retain | None = None
        """Set (from any thread) while a fetch runs; counts from the next transaction on."""
        self.size = 0
        """Bytes of the records not yet taken."""
        self._origin, self._releases, self._listener = origin, releases, listener
        self._names = names
        self._at = b'"at":{"v":%d,"epoch":%b,"run":%d,"ordinal":' % (
            VERSION,
            _dumps(origin.epoch),
            origin.run,
        )
        self._told = start
        self._complete: Lsn | None = None
        self._records: list[KeyedValue] = []
        self._encoders: dict[bytes, TableEncoder | None] = {}
        self._parts: dict[tuple[TableName, bool], TailParts] = {}
        self._begin: Begin | None = None
        self._open()

    def _open(self) -> None:
        """Forget the transaction before."""
        self._ordinal = 0
        self._places: dict[bytes, _Place] = {}
        self._messages: list[bytes] = []
        self._retaining = self.retain

    @property
    def told(self) -> Lsn:
        """`to` of the last record: the next one's `from`."""
        return self._told

    @property
    def open_xid(self) -> int | None:
        """Id of the transaction that is being read; None between two."""
        return None if self._begin is None else self._begin.xid

    @property
    def pending(self) -> int:
        """Count the records not yet taken."""
        return len(self._records)

    def take(self) -> tuple[list[KeyedValue], Lsn | None]:
        """Give the records assembled so far, and the position that is told with the last of them.

        Inside a transaction its newest record stays, because it may turn out to be the last and
        get `from` and `to`. The position is None if no transaction ends in what is given.
        """
        records, until = self._records, self._complete
        held = [records.pop()] if self._ordinal and records else []
        self._records, self._complete = held, None
        self.size = sum(len(value) for _, value in held)
        return records, until

    def feed(self, messages: list[bytes]) -> None:
        """Take in messages of the stream, in order.

        Raises:
            BadMessage: one of them is not a message of pgoutput, or is out of place.
            Refused: a released column is gone, or a changed row's key is not told.
        """
        if COMPILED:
            self._feed_compiled(messages)
        else:
            self._feed_plainly(messages)

    def _feed_compiled(self, messages: list[bytes]) -> None:
        """As `feed`: runs of usual messages by the compiled twin, all others one by one."""
        index, count = 0, len(messages)
        while index < count:
            message = messages[index]
            if message and message[0] in _ROWS and self._retaining is None:
                relation = message[1:5]
                place = self._places.get(relation) or self._place(relation)
                if place is not None and place.encoder.compiled is not None:
                    until = self._run(place.encoder.compiled, place, messages, index)
                    if until > index:
                        index = until
                        continue
            self._feed_plainly([message])
            index += 1

    def _run(self, compiled: RowEncoder, place: _Place, messages: list[bytes], start: int) -> int:
        """Have usual rows of one table, and whole transactions of such, taken in; say up to where.

        As `_feed_plainly`, `_commit` and `_open` do. To them a Commit is left at which there is
        more to do than to tell of it.
        """
        usual = self.retain is None and not self._messages
        ended: list[Ended] | None = [] if usual else None
        standing = place.tail, place.parts, self._transaction().xid, self._ordinal, self._told
        until, size, self._ordinal, begun = compiled.run(
            messages, start, standing, self._records, ended
        )
        self.size += size
        if ended:
            self._told = self._complete = ended[-1][2]
            self._begin = None if begun is None else Begin(*begun)
            # `_retaining` stays None: a `retain` set by now counts from the next transaction on.
            self._places = {}
            self._listener.committed([Commitment(*each) for each in ended])
        return until

    def _feed_plainly(self, messages: list[bytes]) -> None:
        records, retain, places = self._records, self._retaining, self._places
        ordinal, size = self._ordinal, self.size
        for message in messages:
            letter = message[0] if message else 0
            if letter not in _ROWS:
                self._ordinal, self.size = ordinal, size
                self._other(letter, message)
                records, retain, places = self._records, self._retaining, self._places
                ordinal, size = self._ordinal, self.size
                continue
            relation = message[1:5]
            place = places.get(relation) or self._place(relation)
            if place is None:
                continue
            encoder, encode, tail, _ = place
            for key, head in encode[letter](message):
                value = b"%b%b%d}}" % (head, tail, ordinal)
                records.append((key, value))
                size += len(value)
                ordinal += 1
                if retain is not None:
                    self._hand_over(retain, (key, head), encoder.table)
        self._ordinal, self.size = ordinal, size

    def append_mark(self, mark: Mark, commitment: Commitment) -> bool:
        """Append a mark at a commit; False: the stream has told of that commit already."""
        if commitment.lsn < self._told:
            return False
        head = b'{"op":"m","mark":%b,' % _dumps(mark)
        self._append(encode_key(""), head, self._tail(_CONTROL, commitment), b"}")
        self._close(commitment.end, b"}")
        return True

    def begin_answer(self, answer: Answer, commitment: Commitment) -> "AnswerWriter | None":
        """Begin a fetch's answer at a commit; None: the stream has told of it already."""
        return None if commitment.lsn < self._told else AnswerWriter(self, answer, commitment)

    def _append(self, key: bytes, head: bytes, tail: bytes, end: bytes) -> None:
        self._append_all([(key, head)], tail, end)

    def _append_all(self, rows: list[EncodedRow], tail: bytes, end: bytes) -> None:
        self.size += _append_placed(rows, tail, self._ordinal, b"}" + end, self._records)
        self._ordinal += len(rows)

    def _close(self, to: Lsn, end: bytes) -> None:
        """Let the last record close its transaction; it ends in `}` (of `at`) and `end`."""
        key, value = self._records[-1]
        closed = b'%b,"from":%d,"to":%d}%b' % (value[: -1 - len(end)], self._told, to, end)
        self._records[-1] = key, closed
        self.size += len(closed) - len(value)
        self._told = self._complete = to
        self._ordinal = 0

    def _tail(self, table: TableName, commitment: Commitment, *, read: bool = False) -> bytes:
        """Write what follows a head of `table`: source, and `at` as far as the ordinal."""
        parts = self._tail_parts(table, read=read)
        return _join(parts, commitment.xid, commitment.lsn, commitment.ts_us)

    def _tail_parts(self, table: TableName, *, read: bool = False) -> TailParts:
        parts = self._parts.get((table, read))
        if parts is None:
            start, lsn, ts_ms, end = source_parts(self._origin, table, read=read)
            parts = b'"source":' + start, lsn, ts_ms, b"%b,%b" % (end, self._at)
            self._parts[table, read] = parts
        return parts

    def _hand_over(self, retain: Retain, row: EncodedRow, table: TableName) -> None:
        begin = self._transaction()
        retain(row, table, begin.xid, begin.commit_lsn)

    def _transaction(self) -> Begin:
        if self._begin is None:
            raise BadMessage("A row of pgoutput stands outside of a transaction.")
        return self._begin

    def _place(self, relation: bytes) -> _Place | None:
        """Find a table in the current transaction; None: it is not released."""
        try:
            encoder = self._encoders[relation]
        except KeyError as error:
            raise BadMessage("A row of pgoutput came before its table's shape.") from error
        begin = self._transaction()
        if encoder is None:
            return None
        parts = self._tail_parts(encoder.table)
        tail = _join(parts, begin.xid, begin.commit_lsn, begin.ts_us)
        place = self._places[relation] = _Place(encoder, encoder.by_letter, tail, parts)
        return place

    def _other(self, letter: int, message: bytes) -> None:
        """Take in a message that is no row."""
        if letter in _IGNORED:
            return
        match decode(message):
            case Begin() as begin:
                self._begin = begin
                self._open()
            case Commit() as commit:
                self._commit(self._transaction(), commit)
            case Relation() as relation:
                self._relation(relation)
            case Truncate(relations=relations):
                for oid in relations:
                    self._truncate(oid.to_bytes(4))
            case Message(transactional=True, prefix="replicator", content=content):
                if len(self._messages) < MESSAGES_PER_TRANSACTION:
                    self._messages.append(content)
            case _:
                return

    def _relation(self, relation: Relation) -> None:
        table = TableName(relation.schema, relation.table)
        release = self._releases.get(table)
        oid = relation.oid.to_bytes(4)
        self._places.pop(oid, None)
        if release is None:
            self._encoders[oid] = None
            self._listener.unknown(table, ())
            return
        self._encoders[oid] = TableEncoder(relation, release, self._names)
        if unknown := unknown_columns(relation, release):
            self._listener.unknown(table, unknown)

    def _truncate(self, relation: bytes) -> None:
        place = self._places.get(relation) or self._place(relation)
        if place is None:
            return
        row = place.encoder.truncate()
        self._append(*row, place.tail, b"}")
        if self._retaining is not None:
            self._hand_over(self._retaining, row, place.encoder.table)

    def _commit(self, begin: Begin, commit: Commit) -> None:
        """Close the transaction and tell of it."""
        rows = self._ordinal
        commitment = Commitment(
            begin.xid,
            commit.commit_lsn,
            commit.end_lsn,
            commit.ts_us,
            rows,
            self._retaining is not None,
        )
        if rows:
            self._close(commit.end_lsn, b"}")
            self._listener.committed((commitment,))
        self._begin = None
        for content in self._messages:
            self._listener.message(content, commitment)
        self._open()


def place_plainly(
    rows: list[EncodedRow],
    tail: bytes,
    ordinal: int,
    end: bytes,
    records: list[KeyedValue],
) -> int:
    """Append the records of rows, each with its place in the stream.

    Args:
        rows: key and head of each.
        tail: what follows the heads, up to the ordinal.
        ordinal: the first one's.
        end: what follows that, from its brace on.
        records: the records are appended.

    Returns:
        The bytes of the values.
    """
    placed = [
        (key, b"%b%b%d%b" % (head, tail, number, end))
        for number, (key, head) in enumerate(rows, ordinal)
    ]
    records += placed
    return sum(len(value) for _, value in placed)


_append_placed = twin("place_records", place_plainly)


class AnswerWriter:
    """Appends the records of one answer; made by `Assembler.begin_answer`.

    The records taken between two calls are a fragment: the last one is held back, as with any
    transaction.
    """

    def __init__(self, assembler: Assembler, answer: Answer, commitment: Commitment) -> None:
        self._assembler, self._answer, self._commitment = assembler, answer, commitment
        bare = Answer(answer.target, answer.request, answer.plan)
        self._end = b',"answer":%b}' % _dumps(bare)
        self._tails: dict[tuple[TableName, bool], bytes] = {}

    def rows(self, rows: list[EncodedRow], table: TableName, *, read: bool) -> None:
        """Append row events of the answer; `read`: found or missed by reading, not repeated."""
        tail = self._tails.get((table, read))
        if tail is None:
            tail = self._assembler._tail(table, self._commitment, read=read)
            self._tails[table, read] = tail
        self._assembler._append_all(rows, tail, self._end)

    def close(self) -> None:
        """Append the closing record, which carries all of the answer's fields."""
        assembler, end = self._assembler, b',"answer":%b}' % _dumps(self._answer)
        tail = assembler._tail(_CONTROL, self._commitment)
        assembler._append(encode_key(""), b'{"op":"m",', tail, end)
        assembler._close(self._commitment.end, end)


def source_parts(origin: Origin, table: TableName, *, read: bool) -> TailParts:
    """Give what stands before, between and behind xid, commit LSN and milliseconds in a `source`.

    See `envelope.Source` for the units. `read`: the row was found, or found missing, by a fetch:
    Debezium's `snapshot` says so.
    """
    names = b'"name":%b,"db":%b,"schema":%b,"table":%b' % (
        _dumps(origin.environment),
        _dumps(origin.database),
        _dumps(table.schema),
        _dumps(table.name),
    )
    return (
        b'{"version":"1","connector":"replicator",%b,"txId":' % names,
        b',"lsn":',
        b',"ts_ms":',
        b',"snapshot":"%b"}' % (b"true" if read else b"false"),
    )


def _join(parts: TailParts, xid: int, lsn: Lsn, ts_us: int) -> bytes:
    start, before_lsn, before_ts, end = parts
    return b"%b%d%b%d%b%d%b" % (start, xid, before_lsn, lsn, before_ts, ts_us // 1000, end)
