"""Fetches past kafka-python's fetcher: their bytes against kafka-python's, and what is parted."""

from collections.abc import Callable
from itertools import pairwise
from struct import Struct
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.consumer import KafkaConsumer
from kafka.consumer.subscription_state import TopicPartitionState
from kafka.errors import KafkaProtocolError
from kafka.future import Future
from kafka.net.connection import KafkaConnection
from kafka.net.transport import KafkaTCPTransport
from kafka.protocol.consumer import FetchRequest, FetchResponse
from kafka.protocol.parser import KafkaProtocol

from replicator.log import kafka_fetch
from replicator.log.kafka_batches import sealed_batches
from replicator.log.kafka_fetch import FetchForm, NotUsual, StraightFetches, _Line, why_not_straight
from replicator.log.kafka_network import DrivenNetwork

VERSION = 12
NAMES = st.text(st.sampled_from("abz019._-"), min_size=1, max_size=249)
INT32, INT64 = st.integers(-1, (1 << 31) - 1), st.integers(0, (1 << 63) - 1)
FRAME = Struct(">ii")


def config(client: str = "me") -> dict[str, Any]:
    return {**KafkaConsumer.DEFAULT_CONFIG, "client_id": client, "fetch_max_bytes": 7 << 20}


@given(NAMES, NAMES, INT64, st.tuples(INT32, INT32, INT32))
def test_a_request_is_what_kafka_python_writes(
    topic: str, client: str, offset: int, numbers: tuple[int, int, int]
) -> None:
    number, current, last = numbers
    settings = config(client)
    kind = FetchRequest.FetchTopic
    partition = kind.FetchPartition(
        partition=0,
        current_leader_epoch=current,
        fetch_offset=offset,
        last_fetched_epoch=last,
        log_start_offset=-1,
        partition_max_bytes=settings["max_partition_fetch_bytes"],
        version=VERSION,
    )
    request = FetchRequest(
        replica_id=-1,
        max_wait_ms=settings["fetch_max_wait_ms"],
        min_bytes=settings["fetch_min_bytes"],
        max_bytes=settings["fetch_max_bytes"],
        isolation_level=0,
        session_id=0,
        session_epoch=-1,
        topics=[kind(topic=topic, partitions=[partition], version=VERSION)],
        forgotten_topics_data=[],
        rack_id="",
        version=VERSION,
    )
    request.with_header(correlation_id=number, client_id=client)
    ours = FetchForm(topic, settings).request(number, offset, (current, last))
    assert ours == bytes(request.encode(header=True, framed=True))


def answer(topic: str = "t", records: bytes | None = b"", number: int = -5, **others: Any) -> bytes:
    """Have kafka-python write an answer; gives it from its correlation id on."""
    kind = FetchResponse.FetchableTopicResponse
    here = {"error_code": 0, "partition_index": 0, "aborted_transactions": None}
    here |= {name: others.pop(name) for name in here if name in others}
    replica = others.pop("preferred_read_replica", -1)
    partition = kind.PartitionData(
        high_watermark=9,
        last_stable_offset=9,
        log_start_offset=0,
        preferred_read_replica=replica,
        records=records,
        version=VERSION,
        **here,
    )
    found = [kind(topic=topic, partitions=[partition], version=VERSION)]
    whole = {"throttle_time_ms": 0, "session_id": 0, "error_code": 0, "responses": found}
    response = FetchResponse(version=VERSION, **{**whole, **others})
    response.with_header(correlation_id=number)
    return bytes(response.encode(header=True))


@given(NAMES, st.none() | st.binary(max_size=20_000))
def test_an_answer_is_read_as_kafka_python_wrote_it(topic: str, records: bytes | None) -> None:
    form = FetchForm(topic, config())
    assert form.records(answer(topic, records)) == (records or b"")


ABORTED = FetchResponse.FetchableTopicResponse.PartitionData.AbortedTransaction(
    producer_id=1, first_offset=1, version=VERSION
)


@pytest.mark.parametrize(
    "unusual",
    [
        {"topic": "another"},
        {"throttle_time_ms": 1},
        {"session_id": 3},
        {"responses": []},
        {"partition_index": 1},
        {"aborted_transactions": [ABORTED]},
        {"preferred_read_replica": 2},
    ],
    ids=str,
)
def test_what_is_not_usual_is_noticed(unusual: dict[str, Any]) -> None:
    with pytest.raises(NotUsual):
        FetchForm("t", config()).records(answer(**{"records": b"some", **unusual}))


@pytest.mark.parametrize("error", [1, 3, 6, 74, 75, 76])
def test_an_error_is_noticed(error: int) -> None:
    form = FetchForm("t", config())
    with pytest.raises(NotUsual):
        form.records(answer(error_code=error))
    whole = bytearray(answer())
    whole[9:11] = error.to_bytes(2, "big")
    with pytest.raises(NotUsual):
        form.records(bytes(whole))


def test_an_answer_that_ends_too_early_or_too_late_is_noticed() -> None:
    form, whole = FetchForm("t", config()), answer(records=b"r" * 300)
    assert form.records(whole) == b"r" * 300
    for size in range(len(whole)):
        with pytest.raises(NotUsual):
            form.records(whole[:size])
    with pytest.raises(NotUsual):
        form.records(whole + b"\0")


class Wire:
    """A connection and its transport, of which the test plays the broker."""

    def __init__(self) -> None:
        self.transport, self.paused, self.connected = self, set[str](), True
        self._reauth = SimpleNamespace(is_reauthenticating=False)
        self._sensors = None
        self.parser: Any = KafkaProtocol(client_id="me")
        self.closing = False
        self.broker_version_data = SimpleNamespace(api_versions={1: (4, 17)})
        self.protocol: Any = self
        self.sent: list[bytes] = []
        self.got: list[bytes] = []
        self.closed: BaseException | None = None

    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def data_received(self, data: bytes) -> None:
        self.got.append(data)

    def connection_lost(self, _: BaseException | None) -> None:
        self.connected = False

    def close(self, error: BaseException) -> None:
        self.closed = error
        self.protocol.connection_lost(error)


def framed(number: int, body: bytes) -> bytes:
    return FRAME.pack(4 + len(body), number) + body


@given(
    st.lists(st.tuples(st.sampled_from([0, 7, -1, -2, -3]), st.binary(max_size=300)), max_size=8),
    st.lists(st.integers(0, 3_000), max_size=12),
)
def test_answers_are_parted_however_they_come(
    frames: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    wire = Wire()
    line = _Line(wire)
    for _ in range(3):
        line.next_number()
    stream = b"".join(framed(number, body) for number, body in frames)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    for begin, end in pairwise(places):
        wire.protocol.data_received(stream[begin:end])
    # The connection's own, each whole; of ours only the answer to the last request.
    assert wire.got == [framed(number, body) for number, body in frames if number >= 0]
    ours = [framed(number, body)[4:] for number, body in frames if number == -3]
    assert line.answer == (ours[-1] if ours else None)


def test_it_begins_in_the_midst_of_an_answer_but_not_of_a_length() -> None:
    """As kafka-python leaves its parser when it gives what has come by the end of a time."""
    response = answer("t", b"r" * 1_000, number=0)
    whole = len(response).to_bytes(4, "big") + response
    for cut in range(len(whole)):
        connection = KafkaConnection(SimpleNamespace(cancel=lambda _: None), node_id=1)
        wire = Wire()
        connection.transport, connection.parser = wire, KafkaProtocol(client_id="me")
        connection.connected, connection.initializing = True, False
        request = FetchRequest(version=VERSION)
        connection.parser.send_request(request)
        future = Future()
        connection.in_flight_requests.append((1, future, 0.0, 0.0, None))
        first = whole[:4] + (1).to_bytes(4, "big") + whole[8:]
        connection.data_received(first[:cut])
        assert _Line.can_begin(connection) == (cut not in (1, 2, 3))
        if not _Line.can_begin(connection):
            continue
        line = _Line(connection)
        line.next_number()
        line.data_received(first[cut:] + framed(-1, b"ours"))
        assert line.answer == framed(-1, b"ours")[4:]
        assert future.is_done
        assert future.value.responses[0].partitions[0].records == b"r" * 1_000


@pytest.mark.parametrize("size", [-1, 0, 3, (1 << 31) - 1])
def test_a_length_that_no_answer_has_is_refused(size: int) -> None:
    line = _Line(Wire())
    line.next_number()
    with pytest.raises(KafkaProtocolError):
        line.data_received(FRAME.pack(size, -1))


def test_numbers_begin_anew_before_they_do_not_fit() -> None:
    line = _Line(Wire())
    line._number = -(1 << 31)
    assert [line.next_number(), line.next_number()] == [-1, -2]


class Others:
    """The other receiver."""

    def __init__(self) -> None:
        self.sought: list[int] = []

    def seek(self, offset: int) -> None:
        self.sought.append(offset)

    def receive(self, _: float) -> list[Any]:
        return []


class Reader:
    """Straight fetches with a wire; the loop does what the test says."""

    def __init__(self) -> None:
        self.wire, self.others = Wire(), Others()
        self.turns: list[Any] = []
        self.went_back: list[Any] = []
        self.place = SimpleNamespace(seek=self.went_back.append)
        cluster = SimpleNamespace(
            leader_for_partition=lambda _: 1, leader_epoch_for_partition=lambda _: 4
        )
        consumer = SimpleNamespace(
            _net=self,
            _manager=SimpleNamespace(cluster=cluster, _conns={1: self.wire}),
            _subscription=SimpleNamespace(assignment={"p": self.place}),
            config=config(),
        )
        partition = SimpleNamespace(topic="t")
        self.fetches = StraightFetches(consumer, partition, self.others)
        self.fetches._partition = "p"
        self.fetches.seek(10)

    def turn(self, _: float) -> None:
        if self.turns and self.wire.sent:
            self.turns.pop(0)()

    def comes(self, body: bytes) -> None:
        line: Any = self.fetches._line
        self.wire.protocol.data_received(framed(line._number, body))


def batch(begin: int, count: int) -> bytes:
    (sealed,) = sealed_batches([(b"k", b"v")] * count, 1 << 20, 1_000)
    whole = sealed.with_header(-1, -1, -1)
    whole[:8] = begin.to_bytes(8, "big")
    return bytes(whole)


def usual(records: bytes) -> bytes:
    return answer(records=records)[4:]


@pytest.fixture
def reader() -> Reader:
    return Reader()


def test_the_next_request_is_sent_before_what_has_come_is_handed_out(reader: Reader) -> None:
    assert reader.fetches.receive(0) == ()
    reader.turns = [lambda: reader.comes(usual(batch(10, 3)))]
    (arrived,) = reader.fetches.receive(0.1)
    assert (arrived.begin, arrived.end) == (10, 13)
    form = FetchForm("t", config())
    assert reader.wire.sent == [form.request(-1, 10, (4, -1)), form.request(-2, 13, (4, 0))]


@pytest.mark.parametrize("why", ["throttle", "re-authentication", "closing", "lost"])
def test_what_has_come_is_handed_out_though_the_next_request_cannot_be_sent(
    reader: Reader, why: str
) -> None:
    reader.fetches.receive(0)
    does: dict[str, Callable[[], object]] = {
        "throttle": lambda: reader.wire.paused.add("throttle"),
        "re-authentication": lambda: setattr(reader.wire._reauth, "is_reauthenticating", True),
        "closing": lambda: setattr(reader.wire, "closing", True),
        "lost": lambda: reader.wire.protocol.connection_lost(None),
    }

    def come() -> None:
        reader.comes(usual(batch(10, 3)))
        does[why]()

    reader.turns = [come]
    assert [each.end for each in reader.fetches.receive(0.1)] == [13]
    # The other receiver goes on behind it.
    assert [(place[0], place[2]) for place in reader.went_back] == [(13, 0)]


def test_what_has_come_is_read_again_if_the_loop_fails_before_it_is_handed_out(
    reader: Reader,
) -> None:
    reader.fetches.receive(0)

    def fail() -> None:
        raise OSError

    reader.turns = [lambda: reader.comes(usual(batch(10, 3))), fail]
    with pytest.raises(OSError):  # noqa: PT011 (whatever it is)
        reader.fetches.receive(0.1)
    assert [(place[0], place[2]) for place in reader.went_back] == [(10, -1)]
    assert reader.fetches._offset == 10
    # An answer that comes for what was asked last is not taken.
    reader.wire.protocol.data_received(framed(-2, usual(batch(13, 1))))
    reader.fetches._try_at = 0.0
    assert reader.fetches.receive(0) == ()
    reader.turns = [lambda: reader.comes(usual(batch(10, 3)))]
    assert [each.begin for each in reader.fetches.receive(0.1)] == [10]


@pytest.mark.parametrize("what", ["error", "lost", "part of a batch"])
def test_what_is_not_usual_is_left_to_the_others_from_the_same_place(
    reader: Reader, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    now = [100.0]
    monkeypatch.setattr(kafka_fetch.time, "monotonic", lambda: now[0])
    reader.fetches.receive(0)
    does = {
        "error": lambda: reader.comes(answer(error_code=6)[4:]),
        "lost": lambda: reader.wire.protocol.connection_lost(None),
        "part of a batch": lambda: reader.comes(usual(batch(10, 3)[:-1])),
    }
    reader.turns = [does[what]]
    assert reader.fetches.receive(0.1) == ()
    assert [(place[0], place[2]) for place in reader.went_back] == [(10, -1)]
    sent = len(reader.wire.sent)
    assert reader.fetches.receive(0) == []
    assert len(reader.wire.sent) == sent
    # After a second it is tried again, on the connection that there is then.
    now[0] += 1.1
    reader.wire.connected = True
    reader.wire.protocol = reader.wire if what == "lost" else reader.wire.protocol
    assert reader.fetches.receive(0) == ()
    assert len(reader.wire.sent) == sent + 1


def test_a_connection_that_was_lost_between_two_calls_is_not_waited_for(reader: Reader) -> None:
    reader.fetches.receive(0)
    reader.wire.protocol.connection_lost(None)
    reader.turns = [lambda: pytest.fail("it has waited")]
    assert reader.fetches.receive(60) == ()
    assert len(reader.went_back) == 1


def test_without_a_place_the_others_tell(reader: Reader) -> None:
    reader.fetches._offset = None
    assert reader.fetches.receive(0) == []
    assert not reader.wire.sent


def test_a_broker_that_does_not_answer_loses_its_connection(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(kafka_fetch.time, "monotonic", lambda: now[0])
    reader.fetches.receive(0)
    now[0] += 29
    assert reader.fetches.receive(0) == ()
    assert reader.wire.closed is None
    # Something comes: it is at work.
    reader.wire.protocol.data_received(b"\0")
    now[0] += 29
    assert reader.fetches.receive(0) == ()
    assert reader.wire.closed is None
    now[0] += 2
    assert reader.fetches.receive(0) == ()
    assert reader.wire.closed is not None
    assert len(reader.went_back) == 1


@pytest.mark.parametrize("versions", [{}, {1: (0, 11)}, {1: (13, 20)}])
def test_a_broker_of_another_version_is_left_to_the_others(
    reader: Reader, versions: dict[int, tuple[int, int]]
) -> None:
    reader.wire.broker_version_data.api_versions = versions
    assert reader.fetches.receive(0) == []
    assert not reader.wire.sent


def test_an_answer_from_before_a_seek_is_not_taken(reader: Reader) -> None:
    reader.fetches.receive(0)
    before = reader.fetches._line
    assert before is not None
    old = framed(before._number, usual(batch(10, 3)))
    reader.fetches.seek(50)
    reader.turns = [lambda: reader.wire.protocol.data_received(old)]
    assert reader.fetches.receive(0) == ()
    reader.turns = [lambda: reader.comes(usual(batch(50, 1)))]
    assert [each.begin for each in reader.fetches.receive(0.1)] == [50]
    assert reader.others.sought == [10, 50]


def test_a_consumer_of_another_shape_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not_straight(object()) == "the consumer's loop"
    network = DrivenNetwork()
    cluster = SimpleNamespace(leader_for_partition=None, leader_epoch_for_partition=None)
    manager = SimpleNamespace(_conns={1: Wire()}, cluster=cluster)
    consumer = SimpleNamespace(
        _net=network,
        _manager=manager,
        _subscription=SimpleNamespace(assignment={}),
        config=config(),
    )
    try:
        assert why_not_straight(consumer) is None
        with monkeypatch.context() as patch:
            patch.setitem(consumer.config, "client_id", None)
            assert why_not_straight(consumer) == "client_id"
        with monkeypatch.context() as patch:
            patch.delattr(TopicPartitionState, "seek")
            assert why_not_straight(consumer) == "SubscriptionState"
        with monkeypatch.context() as patch:
            patch.delattr(manager._conns[1].parser, "_rbuffer")
            assert why_not_straight(consumer) == "KafkaProtocol"
        with monkeypatch.context() as patch:
            patch.delattr(manager._conns[1], "paused")
            assert why_not_straight(consumer) == "KafkaConnection"
        with monkeypatch.context() as patch:
            patch.delattr(KafkaTCPTransport, "set_protocol")
            assert why_not_straight(consumer) == "KafkaTCPTransport"
        del manager._conns
        assert why_not_straight(consumer) == "KafkaConnectionManager"
    finally:
        network.close()
