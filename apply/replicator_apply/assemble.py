"""Records in, whole transactions out: in order, each once, or a Hole. Pure, but for its spool.

Fragments are collected per run, by ordinal, so that two captures, or a fragment and its repeat,
cannot mix. The events of a transaction that grows large are handed on as they come (`arriving`), or
kept as bytes in a temporary file; small ones stay in memory as parsed.
"""

import re
import struct
import tempfile
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

from replicator.envelope import Answer, At
from replicator.errors import BadRecord, Hole
from replicator.log import Chunk
from replicator.positions import EpochId, Lsn, Offset, Position, RunId, format_lsn
from replicator.speed import twin
from replicator_apply.arriving import PART_BYTES, PART_EVENTS, Arriving
from replicator_apply.decode import Event, EventReader, Origin, Parsed, Skimmed, prefix_of

_SOURCE, _ORDINAL = b'"source":', b'"ordinal":'
SPOOL_AFTER = 20_000
SPOOL_BYTES = 32 << 20
"""Events, and bytes of records, of one transaction that are kept in memory; the rest goes to a
temporary file. A page of a backfill has few rows, but each may be large."""

VERIFY = "verify-"
"""How the ids of verify's requests begin."""

_BLOCK_RECORDS = 1_000
_BLOCK_BYTES = 1 << 20
_HEAD = struct.Struct("<II")
"""A block of a spool: how many lengths, how many bytes; then the lengths, then the bytes."""


class Spool:
    """Records of one transaction that are too many for memory; removed when it is closed.

    They are written and read a block at a time: a call for each would cost more than its parsing.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="replicator-")  # noqa: SIM115
        self._parts: list[bytes] = []
        self._size = 0
        self.count = 0

    def append(self, key: bytes, value: bytes) -> None:
        """Keep one record."""
        self._parts += (key, value)
        self._size += len(key) + len(value)
        self.count += 1
        if len(self._parts) >= 2 * _BLOCK_RECORDS or self._size >= _BLOCK_BYTES:
            self._write()

    def _write(self) -> None:
        if self._parts:
            lengths = array("I", map(len, self._parts))
            head = _HEAD.pack(len(lengths), self._size)
            self._file.write(b"".join((head, lengths.tobytes(), *self._parts)))
            self._parts, self._size = [], 0

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """Give all records again, from the first; may be called any number of times.

        One reader at a time: a new one takes the place of the last.
        """
        self._write()
        self._file.seek(0)
        while head := self._file.read(_HEAD.size):
            number, size = _HEAD.unpack(head)
            lengths = array("I")
            lengths.frombytes(self._file.read(number * lengths.itemsize))
            data, at = self._file.read(size), 0
            sizes = iter(lengths)
            for key_length, value_length in zip(sizes, sizes, strict=True):
                value_at = at + key_length
                key, at = data[at:value_at], value_at + value_length
                yield key, data[value_at:at]

    def close(self) -> None:
        """Free the disk."""
        self._file.close()


@dataclass(slots=True)
class Transaction:
    """A source transaction, whole.

    Attributes:
        commit: its commit LSN.
        next: the position once it is applied.
        committed_ms: when it was committed, milliseconds since 1970.
        events: the first of its row events, parsed, in order.
        spool: the rest of them; None if `events` is all.
        answer: set if it is the answer to a fetch.
        resume: the offset to read from once it is applied.
        run: the one of capture that told it.
        weight: bytes of the records whose events are in memory.
        arriving: what took its events, to be written before all had come; None: nothing did.
        count: how many it stands for: the compiled twin puts small ones together. `commit` and
            `committed_ms` are the last one's then.
    """

    commit: Lsn
    next: Lsn
    committed_ms: int
    events: list[Parsed]
    spool: Spool | None
    answer: Answer | None
    resume: Offset
    run: RunId
    weight: int = 0
    arriving: Arriving | None = None
    count: int = 1

    @property
    def size(self) -> int:
        """Row events in all."""
        elsewhere = self.spool or self.arriving
        return len(self.events) + (elsewhere.count if elsewhere else 0)

    def keys_and_events(self) -> Iterator[tuple[bytes, Event | Skimmed | None]]:
        """Give every record's key, with its event if that is in memory."""
        yield from self.events
        if self.spool is not None:
            yield from ((key, None) for key, _ in self.spool.records())

    @property
    def hashed(self) -> bool:
        """Whether it answers a request of verify: hashes, and events that are not to be applied."""
        return self.answer is not None and self.answer.request.startswith(VERIFY)

    def close(self) -> None:
        """Free what it holds on disk."""
        if self.spool:
            self.spool.close()


OnLarge = Callable[[Transaction], bool]
"""Called with what has come of a large transaction: sets its `arriving` and takes its events, to
write it while the rest comes; or says that it is to be kept until it is whole."""


@dataclass(slots=True)
class _Fragments:
    """What has come of the transaction that a run is telling."""

    run: RunId
    commit: Lsn
    first: Offset
    on_large: OnLarge
    next_ordinal: int = 0
    size: int = 0
    events: list[Parsed] = field(default_factory=list)
    spool: Spool | None = None
    large: Transaction | None = None

    def add(self, key: bytes, value: bytes, event: Event | Skimmed) -> None:
        """Keep a record, or hand it on; one that is too much for memory by its bytes.

        Raises:
            GivenUp: as `Arriving.put`.
        """
        if self.spool is not None:
            self.spool.append(key, value)
            return
        self.events.append((key, event))
        self.size += len(value)
        most, most_bytes = self.limits
        if len(self.events) >= most or self.size >= most_bytes:
            self._overflow(event)

    def _overflow(self, event: Event | Skimmed) -> None:
        """Have what has come written, or let the rest go to disk."""
        if self.large is not None:
            self.hand_on()
        elif event.answer is None and self._is_taken(event.source.ts_ms):
            self.events, self.size = [], 0
        else:
            self.spool = Spool()

    def _is_taken(self, ts_ms: int) -> bool:
        """Offer what has come to be written at once."""
        so_far = self.transaction(self.commit, ts_ms, None, self.first)
        if not self.on_large(so_far):
            return False
        so_far.events, so_far.weight = [], 0
        self.large = so_far
        return True

    @property
    def limits(self) -> tuple[int, int]:
        """Events, and bytes, from which on they are not kept in memory."""
        if self.large is None:
            return SPOOL_AFTER, SPOOL_BYTES
        return PART_EVENTS, PART_BYTES

    def hand_on(self) -> None:
        """Give away the events that have come since this was called last."""
        if self.events and self.large is not None and self.large.arriving is not None:
            self.large.arriving.put(self.events)
            self.events, self.size = [], 0

    def transaction(
        self, following: Lsn, ts_ms: int, answer: Answer | None, resume: Offset
    ) -> Transaction:
        """Make the transaction of what has come."""
        if self.large is not None:
            self.hand_on()
            self.large.next, self.large.resume = following, resume
            return self.large
        return Transaction(
            self.commit,
            following,
            ts_ms,
            self.events,
            self.spool,
            answer,
            resume,
            self.run,
            self.size,
        )

    def close(self) -> None:
        if self.spool:
            self.spool.close()


class _Going(NamedTuple):
    """A transaction of which more is to come: what its records of one table have in common.

    Attributes:
        parts: what has come.
        tail: what follows their heads, up to the ordinal.
        end: what follows that.
        last: one of them.
    """

    parts: _Fragments
    tail: bytes
    end: bytes
    last: Event


class _Form(NamedTuple):
    """How the values of a table's records end in a run, but for their numbers.

    Attributes:
        at: of one of them.
        before_xid: from the comma before `"source"` up to the transaction's id.
        before_ordinal: from behind the time up to the ordinal.
    """

    at: At
    before_xid: bytes
    before_ordinal: bytes


_NONE = Lsn(-1)
_FORM = re.compile(
    rb'(,"source":\{[^{}]*"txId":)\d+,"lsn":\d+,"ts_ms":\d+'
    rb'(,"snapshot":"false"\},"at":\{[^{}]*"ordinal":)\d+(?:,"from":\d+,"to":\d+)?\}\}'
)

_take_events: Callable[..., Any] | None = twin("take_events", None)
_go_on: Callable[..., Any] | None = twin("go_on", None)


class Assembler:
    """Rebuilt at every start of apply from the position that the target stores.

    Attributes:
        epoch: the epoch that it reads; records of others are skipped.
        position: everything with a commit LSN below it has come out.
        on_large: asked whether a large transaction is written before all of it has come.
    """

    def __init__(self, position: Position, on_large: OnLarge = lambda _: False) -> None:
        self.on_large = on_large
        self.epoch: EpochId = position.epoch
        self.position: Lsn = position.next
        self._open: dict[RunId, _Fragments] = {}
        self._going: _Going | None = None
        self._forms: dict[bytes, _Form] = {}

    def take_all(
        self, chunk: Chunk, index: int, prefix: bytes, reader: EventReader, room: tuple[int, int]
    ) -> tuple[int, Transaction | None]:
        """Take records of a table while each is the next one of its run, by the compiled twin.

        What that does not know is left to `goes_on` and `feed`: all, if it is not there.

        Args:
            chunk: of the log.
            index: of the record to begin with.
            prefix: how the keys of the table's records begin.
            reader: of the table.
            room: events, and bytes, of whole transactions that are taken at once.

        Returns:
            The index of the first record that is not taken; and the transactions that are whole
            now, put together, if there are any.
        """
        if self._going is not None and self._going.last.answer is not None:
            return self._go_on(chunk, index, prefix, reader), None
        form = self._forms.get(prefix)
        if _take_events is None or form is None or reader.decode_head is None:
            return index, None
        run = form.at.run
        parts = self._open.get(run) or _Fragments(run, _NONE, Offset(0), self.on_large)
        if parts.spool is not None or not isinstance(chunk.records, list):
            return index, None
        most, most_bytes = parts.limits
        until, count, whole, closed, going = _take_events(
            chunk.records,
            index,
            prefix,
            form,
            reader.decode_head,
            Origin,
            parts.events,
            (parts.commit, parts.next_ordinal, self.position),
            # What reaches a limit is taken one by one, where limits are looked at.
            (room[0], most - 1, min(room[1], most_bytes - parts.size), parts.large is None),
        )
        if until == index:
            return index, None
        self._going = done = None
        if count:
            commit, self.position, ms, size = closed
            size, events = size + parts.size, parts.events[:whole]
            done = Transaction(
                commit, self.position, ms, events, None, None, Offset(0), run, size, count=count
            )
            self._open.pop(run, None)
            parts = _Fragments(run, _NONE, Offset(0), self.on_large, events=parts.events[whole:])
        commit, ordinal, size, first = going
        if commit != _NONE:
            if parts.commit == _NONE:
                parts.commit, parts.first = commit, Offset(chunk.offsets[first])
                self._open[run] = parts
            parts.next_ordinal = ordinal
            parts.size += size
        if done is not None:
            last = (until if commit == _NONE else first) - 1
            done.resume = self._following(Offset(chunk.offsets[last] + 1))
        return until, done

    def _go_on(self, chunk: Chunk, index: int, prefix: bytes, reader: EventReader) -> int:
        """Take records as long as `goes_on` would, by the compiled twin; say up to where."""
        if _go_on is None or self._going is None or reader.decode_head is None:
            return index
        parts, tail, end, last = self._going
        if parts.spool is not None or not isinstance(chunk.records, list):
            return index
        most, most_bytes = parts.limits
        until, parts.next_ordinal, size = _go_on(
            chunk.records,
            index,
            prefix,
            (tail, end, last.source, last.at, last.answer),
            parts.next_ordinal,
            reader.decode_head,
            parts.events,
            (most - 1, most_bytes - parts.size),
        )
        parts.size += size
        return until  # type: ignore[no-any-return]

    def goes_on(self, key: bytes, value: bytes, reader: EventReader) -> bool:
        """Take a record that is the next one of the same transaction and table, and not its last.

        Its place need not be read, and nothing of it if it is kept as bytes: what is wrong with it
        is then found when it is applied. False: it is another one, or an odd one, for `feed`.

        Args:
            key: the record's key.
            value: its bytes.
            reader: of its table.
        """
        if self._going is None:
            return False
        parts, tail, end, last = self._going
        place = b"%b%d%b" % (tail, parts.next_ordinal, end)
        if not value.endswith(place):
            return False
        if parts.spool is None:
            event = reader.read_head(value[: -len(place) - 1] + b"}")
            if event is None:
                return False
            event.source, event.at, event.answer = last.source, last.at, last.answer
            parts.add(key, value, event)
        else:
            parts.spool.append(key, value)
        parts.next_ordinal += 1
        return True

    def feed(
        self, offset: int, key: bytes, value: bytes, event: Event | Skimmed, keep: bool = True
    ) -> Transaction | None:
        """Take the next record of the topic; give the transaction that it completes.

        Args:
            offset: where it stands in the topic.
            key: the record's key.
            value: its bytes, which are kept in place of the event if the transaction is large.
            event: what it says.
            keep: False if the target has no use for the record but its place in the stream.

        Raises:
            Hole: records are missing before the transaction that this one completes.
            BadRecord: its positions make no sense.
            GivenUp: it cannot be written before all of it is here.
        """
        at, commit = event.at, event.source.lsn
        if at.epoch != self.epoch or commit < self.position:
            return None
        parts = self._open.get(at.run)
        if parts is None or parts.commit != commit:
            parts = self._begin(at, commit, Offset(offset))
            if parts is None:
                return None
        elif at.ordinal != parts.next_ordinal:
            return None
        parts.next_ordinal += 1
        if keep:
            parts.add(key, value, event)
            self._learn(key, value, event)
        if at.to is not None:
            return self._complete(parts, event, Offset(offset + 1))
        if at.ordinal and isinstance(event, Event):
            self._expect(parts, value, event)
        return None

    def _expect(self, parts: _Fragments, value: bytes, event: Event) -> None:
        """Note how the records end that go on where this one does."""
        start = value.rfind(_SOURCE)
        before, ordinal, behind = value[start:].rpartition(_ORDINAL)
        number = b"%d" % event.at.ordinal
        if ordinal and behind.startswith(number + b"}"):
            tail, end = before + ordinal, behind.removeprefix(number)
            self._going = _Going(parts, tail, end, event)

    def _learn(self, key: bytes, value: bytes, event: Event | Skimmed) -> None:
        """Note the form of a table's records for the compiled twin."""
        if _take_events is None or event.answer is not None or not isinstance(event, Event):
            return
        prefix = prefix_of(key)
        known = self._forms.get(prefix)
        if known is None or known.at.run != event.at.run:
            found = _FORM.fullmatch(value, value.rfind(_SOURCE) - 1)
            if found is not None:
                self._forms[prefix] = _Form(event.at, *found.groups())

    def _begin(self, at: At, commit: Lsn, offset: Offset) -> _Fragments | None:
        """Begin a run's next transaction; None: its first record is not here."""
        self._going = None
        if at.run in self._open:
            self._open.pop(at.run).close()
        if at.ordinal != 0:
            return None
        parts = _Fragments(at.run, commit, offset, self.on_large)
        if at.to is None:
            self._open[at.run] = parts
        return parts

    def _complete(self, parts: _Fragments, last: Event | Skimmed, following: Offset) -> Transaction:
        at, self._going = last.at, None
        self._open.pop(at.run, None)
        if at.from_ is None or at.to is None or at.from_ > self.position:
            parts.close()
            raise Hole(
                f"Records are missing from the log between {format_lsn(self.position)} and "
                f"{format_lsn(at.from_ or Lsn(0))} of epoch {self.epoch}."
            )
        if at.to < parts.commit:
            parts.close()
            raise BadRecord("A transaction of the log ends before its commit.")
        self.position = at.to
        following = self._following(following)
        return parts.transaction(at.to, last.source.ts_ms, last.answer, following)

    def _following(self, following: Offset) -> Offset:
        """Forget what the position has passed, and say where to read from."""
        if not self._open:
            return following
        for run in [r for r, other in self._open.items() if other.commit < self.position]:
            self._open.pop(run).close()
        return self.resume_at(following)

    def resume_at(self, following: Offset) -> Offset:
        """Say where to read from after a restart: the first fragment that is still of use."""
        return min([parts.first for parts in self._open.values()], default=following)

    def close(self) -> None:
        """Free what unfinished transactions hold on disk."""
        self._going = None
        for parts in self._open.values():
            parts.close()
        self._open.clear()
