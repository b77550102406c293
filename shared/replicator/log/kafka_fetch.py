"""Fetches of one partition that go past kafka-python's fetcher, on its connection.

A fetch by kafka-python 3.0.12 takes 1,300 calls, which was half of what apply did for a small
transaction. In those fetches that a reader repeats for days nothing changes but the offset, a
number and the leader's epochs: here they are bytes made ready, sent and read on the connection that
kafka-python has opened to the partition's leader, with its TLS, SASL and idle timer (`_Line`); how
long an answer may take is looked after here. Whatever is not usual, an error code, a connection
that was lost or is asked to wait, is left to the other receiver, which meets it again and knows
what to do; a second later this one takes over again.

Source: https://kafka.apache.org/protocol#The_Messages_Fetch (version 12)
"""

import struct
import time
from collections.abc import Sequence
from struct import Struct
from typing import Any, Final

import kafka
from kafka.consumer.subscription_state import TopicPartitionState
from kafka.net.connection import KafkaConnection, SaslReauthenticator
from kafka.net.transport import KafkaTCPTransport
from kafka.protocol.broker_version_data import BrokerVersionData
from kafka.structs import OffsetAndMetadata

from replicator.errors import BadRecord
from replicator.log.kafka_batches import Arrived, ArrivedFrame, Receiver
from replicator.log.kafka_internals import first_missing, has, known_version
from replicator.log.kafka_network import DrivenNetwork
from replicator.log.record_batch import frames, read_unsigned_varint, unsigned_varint

_FETCH: Final = 1
_VERSION: Final = 12
_NO_SESSION: Final = (0, -1)
_ANOTHER_TRY_S: Final = 1.0
"""Seconds for which what was not usual is left to the other receiver."""

_START = Struct(">ihhi")  # length, API, version, correlation id
_LIMITS = Struct(">iiiibii")  # replica, ms, least and most bytes, isolation, session and its epoch
_PARTITION = Struct(">iiqiqi")  # number, leader's epoch, offset, last epoch, start, bytes
_FRAME = Struct(">ii")  # length, correlation id
_ANSWER = Struct(">iBihi")  # correlation id, tags, throttled ms, error, session
_FOUND = Struct(">ihqqq")  # number, error, high watermark, last stable and first offset
_REPLICA = Struct(">i")
_BEHIND: Final = b"\0\0\1\1\0"  # no tags, no forgotten topics, no rack


class NotUsual(Exception):
    """What was sent or came is none of what is known here."""


class FetchForm:
    """The requests of one partition, but for their number, offset and epochs. Pure.

    Args:
        topic: its name; the partition is number 0.
        config: the consumer's.
    """

    def __init__(self, topic: str, config: dict[str, Any]) -> None:
        client, name = config["client_id"].encode(), topic.encode()
        self._name = unsigned_varint(len(name) + 1) + name
        self._most = int(config["max_partition_fetch_bytes"])
        self._before = b"".join(
            (
                len(client).to_bytes(2, "big") + client + b"\0",
                _LIMITS.pack(
                    -1,
                    int(config["fetch_max_wait_ms"]),
                    int(config["fetch_min_bytes"]),
                    int(config["fetch_max_bytes"]),
                    0,  # read_uncommitted: nobody writes transactions of Kafka's
                    *_NO_SESSION,
                ),
                b"\2" + self._name + b"\2",  # one topic, one partition
            )
        )
        self._size = _START.size - 4 + len(self._before) + _PARTITION.size + len(_BEHIND)

    def request(self, number: int, offset: int, epochs: tuple[int, int]) -> bytes:
        """Write a request, its length first.

        Args:
            number: the correlation id.
            offset: where to read.
            epochs: the leader's, by the metadata, and that of the record before; -1: not known.
        """
        current, last = epochs
        return b"".join(
            (
                _START.pack(self._size, _FETCH, _VERSION, number),
                self._before,
                _PARTITION.pack(0, current, offset, last, -1, self._most),
                _BEHIND,
            )
        )

    def records(self, answer: bytes) -> memoryview:
        """Give the record batches of an answer, which begins with its correlation id.

        Raises:
            NotUsual: it has anything else, an error say.
        """
        try:
            return self._records(memoryview(answer))
        except (IndexError, BadRecord, struct.error) as error:
            raise NotUsual("the answer ends too early") from error

    def _records(self, view: memoryview) -> memoryview:
        _, tags, throttled, error, session = _ANSWER.unpack_from(view)
        at = _ANSWER.size
        topic = b"\2" + self._name + b"\2"
        if tags or throttled or error or session or view[at : at + len(topic)] != topic:
            raise NotUsual("the answer's beginning")
        at += len(topic)
        number, error, *_ = _FOUND.unpack_from(view, at)
        at += _FOUND.size
        (replica,) = _REPLICA.unpack_from(view, at + 1)
        if number or error or view[at] > 1 or replica != -1:  # 0, 1: no aborted transactions
            raise NotUsual("the partition's answer")
        size, at = read_unsigned_varint(view, at + 1 + _REPLICA.size)
        end = at + max(size - 1, 0)
        if bytes(view[end:]) != b"\0\0\0":  # no tags of the partition, the topic and the answer
            raise NotUsual("the answer's end")
        return view[at:end]


class _Line:
    """A connection's protocol, between it and its transport: takes our answers out.

    Ours are those with a negative number; those of the connection's own requests never are.
    """

    def __init__(self, connection: Any) -> None:
        self._connection, self._transport = connection, connection.transport
        parser = connection.parser
        # What is left of an answer of the connection's own that has come in part.
        self._owed = len(parser._rbuffer) - parser._rbuffer.tell() if parser._receiving else 0
        self._longest = parser._max_frame_size
        self._buffer = bytearray()
        self._number = 0
        self.lost = False
        self.answer: bytes | None = None
        """What has come for the last request, from its correlation id on."""
        self.heard = time.monotonic()
        """When something was sent or came last, whosever: a broker answers in order."""
        self._transport.set_protocol(self)

    @staticmethod
    def can_begin(connection: Any) -> bool:
        """Whether what comes next is the rest of an answer, or the beginning of one."""
        return bool(connection.parser._receiving or not connection.parser._header.tell())

    def next_number(self) -> int:
        """Forget the last request, and number the next one."""
        self.answer = None
        self._number = self._number - 1 if self._number > -(1 << 31) else -1
        return self._number

    def send(self, request: bytes) -> None:
        """Send a request, or have it sent by the next turns of the loop.

        Raises:
            NotUsual: none may be sent now.
        """
        connection = self._connection
        if not connection.connected or self.lost or self._transport.is_closing():
            raise NotUsual("the connection ends")
        if connection.paused or connection._reauth.is_reauthenticating:
            raise NotUsual("the connection waits")
        self._transport.write(request)
        self.heard = time.monotonic()

    def close(self, error: BaseException) -> None:
        """Close the connection, as when one of its own requests had no answer."""
        self._connection.close(error)

    # What the transport calls.

    @property
    def _sensors(self) -> Any:
        return self._connection._sensors

    def data_received(self, data: bytes) -> None:
        """Part the answers.

        Raises:
            kafka.errors.KafkaProtocolError: they cannot be parted; the transport ends then.
        """
        self.heard = time.monotonic()
        if self._owed:
            rest, data = data[: self._owed], data[self._owed :]
            self._owed -= len(rest)
            self._connection.data_received(rest)
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= _FRAME.size and not self.lost:
            size, number = _FRAME.unpack_from(self._buffer, at)
            if not _FRAME.size - 4 <= size <= self._longest:
                raise kafka.errors.InvalidReceiveError(f"Invalid frame length: {size}")
            end = at + 4 + size
            if end > len(self._buffer):
                break
            if number >= 0:
                self._connection.data_received(bytes(self._buffer[at:end]))
            elif number == self._number:
                with memoryview(self._buffer) as view:
                    self.answer = view[at + 4 : end].tobytes()
            at = end
        del self._buffer[:at]

    def connection_lost(self, error: BaseException | None) -> None:
        """Tell the connection as well."""
        self.lost = True
        self._connection.connection_lost(error)


class StraightFetches:
    """Takes record batches as they come on the connection to the leader. See `Receiver`.

    One request is waited for at any time: the next one is sent before what has come is handed out.
    Behind a `seek` an older one may still be answered; that is dropped.

    Args:
        consumer: whose connection is used; by one thread, with a `DrivenNetwork`.
        partition: which it is assigned.
        others: takes over for a while where something is not usual.
    """

    def __init__(self, consumer: Any, partition: Any, others: Receiver) -> None:
        self._consumer, self._partition, self._others = consumer, partition, others
        self._net, self._manager = consumer._net, consumer._manager
        self._form = FetchForm(partition.topic, consumer.config)
        self._patience: float = consumer.config["request_timeout_ms"] / 1000
        self._line: _Line | None = None
        self._offset: int | None = None
        self._epoch, self._try_at = -1, 0.0

    def seek(self, offset: int) -> None:
        """See `Receiver.seek`."""
        self._others.seek(offset)
        self._line, self._try_at = None, 0.0
        self._offset, self._epoch = offset, -1

    def receive(self, timeout: float) -> Sequence[Arrived]:
        """See `Receiver.receive`."""
        if self._offset is None:
            return self._others.receive(timeout)
        if self._line is None and time.monotonic() >= self._try_at:
            self._line = self._begin(self._offset)
        if self._line is None:
            return self._receive_from_others(self._offset, timeout)
        try:
            return self._receive(self._line, self._offset, timeout)
        except NotUsual:
            self._leave(self._offset)
            return ()

    def _receive_from_others(self, offset: int, timeout: float) -> Sequence[Arrived]:
        arrived = self._others.receive(timeout)
        if arrived:
            self._offset = max(arrived[-1].end, offset)
            self._epoch = self._place.position.leader_epoch
        return arrived

    def _leave(self, offset: int) -> None:
        """Have the other receiver go on there; what it has fetched for elsewhere is ignored.

        The only way back to it: until then its place is the one where this receiver took over.
        """
        self._line, self._try_at = None, time.monotonic() + _ANOTHER_TRY_S
        # The consumer's own `seek` would forget the epoch, by which a log that was cut is noticed.
        self._place.seek(OffsetAndMetadata(offset, "", self._epoch))

    @property
    def _place(self) -> Any:
        """The consumer's place in the partition."""
        return self._consumer._subscription.assignment[self._partition]

    def _begin(self, offset: int) -> _Line | None:
        """Begin to read on the connection to the leader, if there is one that can be used."""
        self._try_at = time.monotonic() + _ANOTHER_TRY_S
        leader = self._manager.cluster.leader_for_partition(self._partition)
        connection = self._manager._conns.get(leader)
        if connection is None or not connection.connected:
            return None
        least, most = connection.broker_version_data.api_versions.get(_FETCH, (0, 0))
        if not least <= _VERSION <= most:
            return None
        line = connection.transport.get_protocol()
        if not isinstance(line, _Line):
            if not _Line.can_begin(connection):
                self._try_at = 0.0
                return None
            line = _Line(connection)
        try:
            self._ask(line, offset)
        except NotUsual:
            return None
        return line

    def _ask(self, line: _Line, offset: int) -> None:
        """Send the next request, and turn the loop once, so that it leaves.

        Raises:
            NotUsual: it was not sent.
        """
        current = self._manager.cluster.leader_epoch_for_partition(self._partition)
        epochs = (-1 if current is None else current), self._epoch
        line.send(self._form.request(line.next_number(), offset, epochs))
        self._net.turn(0.0)

    def _receive(self, line: _Line, offset: int, timeout: float) -> Sequence[Arrived]:
        until = time.monotonic() + timeout
        while line.answer is None:
            if line.lost:
                raise NotUsual("the connection was lost")
            left = until - time.monotonic()
            self._net.turn(max(left, 0.0))
            if line.answer is None and left <= 0:
                self._look_whether_it_answers(line)
                return ()
        records = self._form.records(line.answer)
        found = list(frames(records))
        before = offset, self._epoch
        if found:
            self._offset = offset = max(found[-1].end, offset)
            self._epoch = found[-1].leader_epoch
        elif records:
            raise NotUsual("a part of a batch")
        try:
            self._ask(line, offset)
        except NotUsual:
            self._leave(offset)
        except BaseException:
            # What was found is not handed out, so it is read again.
            self._offset, self._epoch = before
            self._leave(before[0])
            raise
        return [ArrivedFrame(frame) for frame in found]

    def _look_whether_it_answers(self, line: _Line) -> None:
        if time.monotonic() - line.heard > self._patience:
            line.close(kafka.errors.RequestTimedOutError("no answer to a fetch"))
            raise NotUsual("no answer")


def why_not_straight(consumer: object) -> str | None:
    """Say what of the consumer's connections is not as expected; None if all is."""
    manager = getattr(consumer, "_manager", None)
    # Some were opened to bootstrap the client.
    connections = [*getattr(manager, "_conns", {}).values()]
    used = ("transport", "connected", "paused", "parser", "_reauth", "_sensors")
    return first_missing(
        known_version(),
        (isinstance(getattr(consumer, "_net", None), DrivenNetwork), "the consumer's loop"),
        (isinstance(getattr(consumer, "config", {}).get("client_id"), str), "client_id"),
        (has(manager, "_conns"), "KafkaConnectionManager"),
        (
            has(getattr(consumer, "_subscription", None), "assignment")
            and has(TopicPartitionState, "seek", "position")
            and OffsetAndMetadata._fields == ("offset", "metadata", "leader_epoch"),
            "SubscriptionState",
        ),
        (
            has(getattr(manager, "cluster", None), "leader_for_partition")
            and has(getattr(manager, "cluster", None), "leader_epoch_for_partition"),
            "ClusterMetadata",
        ),
        (
            has(KafkaConnection, "data_received", "connection_lost", "close")
            and all(has(each, *used, "broker_version_data") for each in connections)
            and has(SaslReauthenticator, "is_reauthenticating")
            and has(BrokerVersionData, "api_versions"),
            "KafkaConnection",
        ),
        (
            all(
                has(each.parser, "_receiving", "_rbuffer", "_header", "_max_frame_size")
                for each in connections
                if each.parser is not None
            ),
            "KafkaProtocol",
        ),
        (
            has(KafkaTCPTransport, "get_protocol", "set_protocol", "write", "is_closing"),
            "KafkaTCPTransport",
        ),
    )
