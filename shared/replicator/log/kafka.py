"""The log on Kafka: one topic with one partition per stream, read without a group.

`KafkaLog` opens; a writer owns one producer, a reader one consumer. What Kafka promises is used
as it is: order inside a partition, acknowledgement by all in-sync replicas, an idempotent
producer (https://kafka.apache.org/documentation/#semantics).
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import TopicPartition, errors

from replicator.errors import BadRecord, ConfigurationError, Hole, LogUnavailable, LostLog
from replicator.log import kafka_batches as batches
from replicator.log.kafka_client import FETCH_BYTES, Clients, translated, unavailable
from replicator.log.kafka_fetch import StraightFetches, why_not_straight
from replicator.log.kafka_network import why_not_network
from replicator.log.kafka_topics import create_topic, topic_settings, topic_state
from replicator.log.port import Chunk, TopicState
from replicator.log.record_batch import Batch
from replicator.log.slices import Joiner
from replicator.positions import Lsn, Offset

logger = logging.getLogger(__name__)

_QUIET_SECONDS = 10.0
"""A reader that got nothing for so long asks whether the broker is there."""
_PROBE_MS = 3_000
_SEEK_MS = 8_000
_FORGOTTEN_SECONDS = 3_900.0
"""The producer gives up after an hour; an append that is older has been lost inside of it."""
_DEFAULT_MESSAGE_BYTES = 1_048_588
"""Kafka's default of max.message.bytes, taken where the topic's cannot be read."""


class KafkaLog:
    """See `port.Log`.

    Args:
        servers: `host:port` of some brokers.
        options: kafka-python's names, for connection, TLS and SASL.
        fast: whole record batches, and our event loop, through kafka-python's internals where they
            look as expected; False: its public calls and its own loop only.

    Raises:
        ConfigurationError: an unknown option, or crc32c is missing.
    """

    def __init__(
        self, servers: Sequence[str], options: Mapping[str, object], *, fast: bool = True
    ) -> None:
        self._fast = fast
        own_loop = self._may_be_fast(why_not_network())
        self._clients = Clients(servers, options, fast=own_loop)

    def create(self, topic: str) -> None:
        """See `port.Log.create`."""
        with self._clients.admin() as admin:
            create_topic(admin, topic)

    def state(self, topic: str) -> TopicState:
        """See `port.Log.state`; opens a connection each time."""
        with self._clients.admin() as admin:
            return topic_state(admin, topic)

    def writer(self, topic: str) -> "KafkaWriter":
        """See `port.Log.writer`.

        Raises:
            LogUnavailable: no broker, or no leader.
            ConfigurationError: no such topic, or no access.
        """
        with self._clients.admin() as admin:
            if not topic_state(admin, topic).exists:
                raise _missing(topic)
            settings = topic_settings(admin, topic)
        limit = int(settings.get("max.message.bytes", _DEFAULT_MESSAGE_BYTES))
        producer = self._clients.producer()
        with translated("opening the topic for appending"):
            producer.partitions_for(topic)
        kind: type[batches.ReadyBatches | batches.SingleRecords] = batches.ReadyBatches
        if not self._may_be_fast(batches.why_not_ready_batches(producer)):
            kind = batches.SingleRecords
        return KafkaWriter(producer, kind(producer, topic), min(limit, FETCH_BYTES))

    def reader(self, topic: str) -> "KafkaReader":
        """See `port.Log.reader`. Raises LogUnavailable, ConfigurationError."""
        consumer, partition = self._clients.consumer(), TopicPartition(topic, 0)
        receiver: batches.Receiver = batches.PolledRecords(consumer, partition)
        if self._may_be_fast(batches.why_not_whole_batches(consumer)):
            receiver = batches.WholeBatches(consumer, partition)
            if self._may_be_fast(why_not_straight(consumer)):
                receiver = StraightFetches(consumer, partition, receiver)
        return KafkaReader(consumer, receiver, partition)

    def _may_be_fast(self, why_not: str | None) -> bool:
        if self._fast and why_not:
            logger.warning(
                "kafka-python does not look as expected (%s): its slower own ways are used; "
                "install kafka-python~=3.0.12",
                why_not,
                extra={"event": "kafka_fallback"},
            )
        return self._fast and not why_not


def _missing(topic: str) -> ConfigurationError:
    return ConfigurationError(
        f"There is no topic {topic}.",
        remedy="Run `replicator prepare source`, or let somebody create the topic.",
    )


class _Append:
    """One append under way: futures still open, and what it lets confirm."""

    __slots__ = ("began", "handed_over", "left", "until")

    def __init__(self, until: Lsn | None) -> None:
        self.began = time.monotonic()
        self.left = 0
        self.handed_over = False
        self.until = until


class KafkaWriter:
    """See `port.LogWriter`. Appends from one thread; the rest may be called from any.

    A batch is retried for an hour while the brokers are away (`delivery_timeout_ms`); the caller
    sees it as `in_flight` that does not fall.
    """

    def __init__(self, producer: Any, publisher: batches.Publisher, limit: int) -> None:
        self._producer = producer
        self._publisher = publisher
        self._limit = limit
        self._changed = threading.Condition()
        self._appends: deque[_Append] = deque()
        self._acknowledged: Lsn | None = None
        self._failure: BaseException | None = None
        self._closed = False

    def append(self, records: Sequence[tuple[bytes, bytes]], until: Lsn | None) -> None:
        """See `port.LogWriter.append`. Also raises ConfigurationError for a key too large."""
        self._raise_failure()
        this = _Append(until)
        with self._changed:
            self._appends.append(this)
        try:
            futures = self._publisher.put(
                records, self._limit, lambda error: self._finish(this, error)
            )
        except ConfigurationError as error:
            self._fail(error)
            raise
        except errors.KafkaError as error:
            self._fail(error)
            self._raise_failure()
        else:
            with self._changed:
                this.left += futures
                this.handed_over = True
                self._settle()

    def acknowledged(self) -> Lsn | None:
        """See `port.LogWriter.acknowledged`."""
        with self._changed:
            if self._appends and time.monotonic() - self._appends[0].began > _FORGOTTEN_SECONDS:
                self._failure = self._failure or TimeoutError()
        self._raise_failure()
        return self._acknowledged

    def in_flight(self) -> int:
        """See `port.LogWriter.in_flight`."""
        return len(self._appends)

    def wait(self, timeout: float) -> None:
        """See `port.LogWriter.wait`; returns at once if nothing is in flight."""
        with self._changed:
            before = len(self._appends)
            if before:
                self._changed.wait_for(
                    lambda: len(self._appends) < before or self._failure is not None, timeout
                )

    def close(self, timeout: float) -> None:
        """See `port.LogWriter.close`."""
        if self._closed:
            return
        self._closed = True
        with self._changed:
            self._changed.wait_for(lambda: not self._appends or self._failure is not None, timeout)
            unfinished = bool(self._appends) or self._failure is not None
        if unfinished:
            batches.abandon(self._producer)
        else:
            self._producer.close(timeout=5)

    def _finish(self, append: _Append, error: BaseException | None) -> None:
        """Take a future's end; runs in the producer's thread."""
        if error is not None:
            self._fail(error)
            return
        with self._changed:
            append.left -= 1
            self._settle()

    def _settle(self) -> None:
        """Acknowledge from the front on, in order; under the lock."""
        appends = self._appends
        if self._failure is not None:
            return
        while appends and appends[0].handed_over and appends[0].left == 0:
            until = appends.popleft().until
            if until is not None and (self._acknowledged is None or until > self._acknowledged):
                self._acknowledged = until
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise LostLog(
                f"An append to Kafka failed ({type(self._failure).__name__})."
            ) from self._failure


class KafkaReader:
    """See `port.LogReader`. One thread.

    While the brokers are away `poll` gives nothing at first; after 10 s without records it asks
    for the topic's end, and raises LogUnavailable if no answer comes within 3 s, so that silence
    is told from a quiet topic. It goes on by itself when they are back. After a Hole it goes on
    with `seek`, after a BadRecord not at all.
    """

    def __init__(
        self,
        consumer: Any,
        receiver: batches.Receiver,
        partition: TopicPartition,
    ) -> None:
        self._consumer = consumer
        self._receiver = receiver
        self._partition = partition
        self._arrived: deque[batches.Arrived] = deque()
        self._joiner = Joiner()
        self._position = 0
        self._heard = time.monotonic()
        self._broken: Hole | BadRecord | None = None
        consumer.assign([partition])

    def seek(self, offset: Offset) -> None:
        """See `port.LogReader.seek`. Also raises LogUnavailable, and BadRecord if it met one."""
        if isinstance(self._broken, BadRecord):
            raise self._broken
        with translated("looking for the offset"):
            begin = self._consumer.beginning_offsets([self._partition], timeout_ms=_SEEK_MS)
            end = self._consumer.end_offsets([self._partition], timeout_ms=_SEEK_MS)
            if not begin[self._partition] <= offset <= end[self._partition]:
                raise Hole(
                    f"The topic has offsets {begin[self._partition]} to {end[self._partition]}, "
                    f"not {offset}."
                )
            self._receiver.seek(int(offset))
        self._arrived.clear()
        self._joiner.forget()
        self._broken = None
        self._position = int(offset)
        self._heard = time.monotonic()

    def position(self) -> Offset:
        """See `port.LogReader.position`."""
        return Offset(self._position)

    def poll(self, timeout: float) -> Sequence[Chunk]:
        """See `port.LogReader.poll`; raises Hole again until `seek`, BadRecord for ever."""
        if self._broken is not None:
            raise self._broken
        try:
            if not self._arrived:
                self._receive(timeout)
            return self._open_arrived()
        except (Hole, BadRecord) as error:
            self._broken = error
            raise

    def close(self) -> None:
        """See `port.LogReader.close`."""
        self._arrived.clear()
        self._consumer.close(autocommit=False, timeout_ms=1_000)

    def _receive(self, timeout: float) -> None:
        with translated("reading"):
            self._arrived.extend(self._receiver.receive(timeout))
        now = time.monotonic()
        if self._arrived:
            self._heard = now
        elif now - self._heard > _QUIET_SECONDS:
            self._probe()

    def _probe(self) -> None:
        """Tell a quiet topic from a broker that is away."""
        try:
            with translated("asking for the topic's end"):
                self._consumer.end_offsets([self._partition], timeout_ms=_PROBE_MS)
        except LogUnavailable as error:
            raise unavailable("Kafka has not answered the reader for 10 s.") from error
        self._heard = time.monotonic()

    def _open_arrived(self) -> list[Chunk]:
        """Read batches until some 8 MB of values are there; the rest waits for the next poll."""
        chunks: list[Chunk] = []
        size = 0
        while self._arrived and size < FETCH_BYTES:
            batch = _from(self._arrived[0].open(), self._position)
            self._position = max(self._arrived.popleft().end, self._position)
            size += batch.size
            chunk = self._chunk(batch)
            if chunk.records:
                chunks.append(chunk)
        return chunks

    def _chunk(self, batch: Batch) -> Chunk:
        self._joiner.expire(batch.timestamp_ms)
        offsets, records = batch.offsets, batch.records
        if batch.headers:
            offsets, records = self._join(batch)
        resume = Offset(self._joiner.resume(self._position))
        return Chunk(offsets, records, resume, batch.timestamp_ms)

    def _join(self, batch: Batch) -> tuple[list[int], list[tuple[bytes, bytes]]]:
        offsets: list[int] = []
        records: list[tuple[bytes, bytes]] = []
        for number, (offset, record) in enumerate(zip(batch.offsets, batch.records, strict=True)):
            headers = batch.headers.get(number, {})
            joined = self._joiner.add(offset, record, headers, batch.timestamp_ms)
            if joined is not None:
                offsets.append(joined.offset)
                records.append(joined.record)
        return offsets, records


def _from(batch: Batch, position: int) -> Batch:
    """Leave out what stands before the position: a fetch begins with a whole batch."""
    skip = 0
    while skip < len(batch.offsets) and batch.offsets[skip] < position:
        skip += 1
    if skip == 0:
        return batch
    headers = {number - skip: h for number, h in batch.headers.items() if number >= skip}
    return batch._replace(
        offsets=batch.offsets[skip:], records=batch.records[skip:], headers=headers
    )
