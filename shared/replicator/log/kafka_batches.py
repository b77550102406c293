"""Whole record batches into and out of kafka-python, through its internals.

The public `send` costs 10 µs a record and a future each, the public `poll` 5 µs. Here a ready
batch is put where the producer keeps its own, and a fetch is handed out batch by batch. Written
for kafka-python 3.0.12; `why_not_ready_batches` and `why_not_whole_batches` look whether what is
used is there, and where it is not, `SingleRecords` and `PolledRecords` do the same through the
public calls. Nothing here blocks, except `receive`.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol

import kafka
from kafka import KafkaProducer, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.producer.producer_batch import ProducerBatch
from kafka.producer.record_accumulator import RecordAccumulator

from replicator.log.kafka_internals import arguments, first_missing, has, known_version
from replicator.log.record_batch import (
    HEADER_BYTES,
    Batch,
    Frame,
    Headers,
    Record,
    Sealed,
    encode_record,
    encode_records,
    frames,
    parse,
    seal,
)
from replicator.log.slices import cut

Finished = Callable[[BaseException | None], None]
"""Called once per future, from the producer's thread: None, or why it failed."""

_POLL_RECORDS = 2_000
_RUN_BYTES = 1 << 20


class Publisher(Protocol):
    """Hands records to a producer."""

    def put(self, records: Sequence[Record], limit: int, finished: Finished) -> int:
        """Hand over records in order, in batches below `limit` bytes, larger values in slices.

        Returns:
            How many times `finished` will be called.

        Raises:
            ConfigurationError: a key does not fit.
            kafka.errors.KafkaError: the producer takes no more.
        """


class Receiver(Protocol):
    """Takes batches from a consumer."""

    def seek(self, offset: int) -> None:
        """Go on there."""

    def receive(self, timeout: float) -> Sequence["Arrived"]:
        """Wait at most `timeout` seconds; gives what has come, or nothing, also before that.

        Raises kafka.errors.KafkaError.
        """


class Arrived(Protocol):
    """Some records that came together, not yet read.

    Attributes:
        begin: offset of the first.
        end: offset behind the last.
    """

    @property
    def begin(self) -> int:
        """Offset of the first record."""

    @property
    def end(self) -> int:
        """Offset behind the last record."""

    def open(self) -> Batch:
        """Check and read them. Raises BadRecord."""


# Producing


class _ReadyRecords:
    """A sealed batch in the form of kafka-python's MemoryRecordsBuilder."""

    def __init__(self, sealed: Sealed) -> None:
        self._sealed = sealed
        self._buffer: bytearray | None = None
        self.producer_id = self.producer_epoch = self.base_sequence = -1

    def set_producer_state(
        self, producer_id: int, producer_epoch: int, base_sequence: int, _transactional: bool
    ) -> None:
        self.producer_id = producer_id
        self.producer_epoch = producer_epoch
        self.base_sequence = base_sequence

    def close(self) -> None:
        if self._buffer is None:
            self._buffer = self._sealed.with_header(
                self.producer_id, self.producer_epoch, self.base_sequence
            )

    def buffer(self) -> bytearray | None:
        return self._buffer

    def size_in_bytes(self) -> int:
        return self._sealed.size

    def next_offset(self) -> int:
        return self._sealed.total

    def is_full(self) -> bool:
        return True


class _ReadyBatch(ProducerBatch):  # type: ignore[misc]  # untyped
    """A batch that is stored whole or fails whole."""

    @property
    def record_count(self) -> int:
        """One: the sender would split a refused batch of more, and lose our future."""
        return 1


class ReadyBatches:
    """Puts ready batches into a producer's accumulator: one future a batch."""

    def __init__(self, producer: KafkaProducer, topic: str) -> None:
        self._producer = producer
        self._accumulator = producer._accumulator
        self._partition = TopicPartition(topic, 0)

    def put(self, records: Sequence[Record], limit: int, finished: Finished) -> int:
        """See `Publisher.put`."""
        batches = list(sealed_batches(records, limit, int(time.time() * 1000)))
        for batch in batches:
            self._enqueue(batch, finished)
        self._producer._sender.wakeup()
        return len(batches)

    def _enqueue(self, sealed: Sealed, finished: Finished) -> None:
        """Do what the accumulator's own `append` does with a new batch."""
        batch = _ReadyBatch(self._partition, _ReadyRecords(sealed))
        batch.produce_future.add_callback(lambda result: finished(_failure(result)))
        accumulator = self._accumulator
        accumulator._appends_in_progress.increment()
        try:
            with accumulator._tp_lock(self._partition):
                if accumulator._closed:
                    raise kafka.errors.IllegalStateError("The producer is closed.")
                accumulator._batches[self._partition].append(batch)
                accumulator._incomplete.add(batch)
        finally:
            accumulator._appends_in_progress.decrement()


def _failure(result: tuple[int, int, Callable[[int], Exception] | None]) -> Exception | None:
    """Read a batch's result: base offset, append time, and the error of each record if any."""
    error_of_record = result[2]
    return None if error_of_record is None else error_of_record(0)


def sealed_batches(records: Sequence[Record], limit: int, timestamp_ms: int) -> Iterator[Sealed]:
    """Cut records into batches below `limit` bytes, in order.

    Raises:
        ConfigurationError: a key does not fit.
    """
    start = 0
    while start < len(records):
        body, count = encode_records(records, start, limit - HEADER_BYTES)
        if count:
            yield seal(body, count, timestamp_ms)
            start += count
            continue
        for part, headers in cut(records[start], limit):
            yield seal(encode_record(0, part, headers), 1, timestamp_ms)
        start += 1


class SingleRecords:
    """Hands records one by one to the producer's public `send`: the fallback."""

    def __init__(self, producer: KafkaProducer, topic: str) -> None:
        self._producer = producer
        self._topic = topic

    def put(self, records: Sequence[Record], limit: int, finished: Finished) -> int:
        """See `Publisher.put`."""
        count = 0
        for record, headers in _sliced(records, limit):
            future = self._producer.send(
                self._topic,
                key=record[0],
                value=record[1],
                headers=list(headers.items()),
                partition=0,
            )
            future.add_callback(lambda _: finished(None))
            future.add_errback(finished)
            count += 1
        return count


def _sliced(records: Iterable[Record], limit: int) -> Iterator[tuple[Record, Headers]]:
    for record in records:
        if len(record[0]) + len(record[1]) + HEADER_BYTES + 32 > limit:
            yield from cut(record, limit)
        else:
            yield record, {}


def abandon(producer: KafkaProducer) -> None:
    """Let go of a producer that still has batches to send: its own `close` would wait or fail."""
    if why_not_ready_batches(producer):
        with suppress(kafka.errors.KafkaError):
            producer.close(timeout=0)
        return
    producer._sender.force_close()
    producer._sender.join(1)
    producer._unregister_cleanup()
    producer._closed = True


# Consuming


class ArrivedFrame:
    """One record batch as the broker sent it."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self.begin = frame.begin
        self.end = frame.end

    def open(self) -> Batch:
        """See `Arrived.open`."""
        return parse(self._frame)


class _WholeBatches(Fetcher.PartitionRecords):  # type: ignore[misc]  # untyped
    """A fetched partition that yields batches, unread, in place of records."""

    def _maybe_skip_record(self, _: object) -> bool:
        return False

    def _unpack_records(self, _: object, records: Any, *_unused: object) -> Iterator[Frame]:
        """Never raises: kafka-python would then come back to the same place for ever."""
        for frame in frames(records._buffer):
            self.leader_epoch = frame.leader_epoch
            self.next_fetch_offset = max(frame.end, self.fetch_offset)
            yield frame
        self.drain()


class WholeBatches:
    """Takes record batches from a consumer as they came."""

    def __init__(self, consumer: Any, partition: TopicPartition) -> None:
        self._consumer, self._partition = consumer, partition
        consumer._fetcher.PartitionRecords = _WholeBatches

    def seek(self, offset: int) -> None:
        """See `Receiver.seek`."""
        self._consumer.seek(self._partition, offset)

    def receive(self, timeout: float) -> Sequence[Arrived]:
        """See `Receiver.receive`."""
        polled = self._consumer.poll(timeout_ms=timeout * 1000, max_records=_POLL_RECORDS)
        return [ArrivedFrame(frame) for some in polled.values() for frame in some]


class _ArrivedRecords:
    """What the public `poll` gave."""

    def __init__(self, records: Sequence[Any]) -> None:
        self._records = records
        self.begin: int = records[0].offset
        self.end: int = records[-1].offset + 1

    def open(self) -> Batch:
        records = self._records
        pairs = [(record.key or b"", record.value or b"") for record in records]
        return Batch(
            [record.offset for record in records],
            pairs,
            {i: dict(record.headers) for i, record in enumerate(records) if record.headers},
            max(records[-1].timestamp, 0),
            sum(len(value) for _, value in pairs),
        )


class PolledRecords:
    """Takes single records from a consumer's public `poll`: the fallback."""

    def __init__(self, consumer: Any, partition: TopicPartition) -> None:
        self._consumer, self._partition = consumer, partition

    def seek(self, offset: int) -> None:
        """See `Receiver.seek`."""
        self._consumer.seek(self._partition, offset)

    def receive(self, timeout: float) -> Sequence[Arrived]:
        """See `Receiver.receive`."""
        polled = self._consumer.poll(timeout_ms=timeout * 1000, max_records=_POLL_RECORDS)
        return [_ArrivedRecords(run) for some in polled.values() for run in _runs(some)]


def _runs(records: Iterable[Any]) -> Iterator[list[Any]]:
    """Cut into runs of a megabyte or so, that a poll of the log can be bounded."""
    run: list[Any] = []
    size = 0
    for record in records:
        run.append(record)
        size += max(record.serialized_value_size, 0)
        if size > _RUN_BYTES:
            yield run
            run, size = [], 0
    if run:
        yield run


# Does kafka-python look as expected?


def why_not_ready_batches(producer: object) -> str | None:
    """Say what of the producer's internals is not as expected; None if all is."""
    return first_missing(
        known_version(),
        (has(producer, "_accumulator", "_sender", "_unregister_cleanup"), "KafkaProducer"),
        (
            has(getattr(producer, "_accumulator", None), "_batches", "_incomplete", "_closed")
            and has(RecordAccumulator, "_tp_lock", "append", "drain_batches_for_one_node")
            and has(getattr(producer, "_accumulator", None), "_appends_in_progress"),
            "RecordAccumulator",
        ),
        (has(getattr(producer, "_sender", None), "wakeup", "force_close"), "Sender"),
        (arguments(ProducerBatch.__init__)[:3] == ["self", "tp", "records"], "ProducerBatch"),
    )


def why_not_whole_batches(consumer: object) -> str | None:
    """Say what of the consumer's internals is not as expected; None if all is."""
    records = getattr(Fetcher, "PartitionRecords", object)
    unpack = getattr(records, "_unpack_records", None)
    return first_missing(
        known_version(),
        (has(getattr(consumer, "_fetcher", None), "PartitionRecords"), "Fetcher"),
        (has(records, "_maybe_skip_record", "drain", "take"), "PartitionRecords"),
        (
            unpack is not None and arguments(unpack)[:3] == ["self", "tp", "records"],
            "_unpack_records",
        ),
        ("_buffer" in kafka.record.MemoryRecords.__slots__, "MemoryRecords"),
    )
