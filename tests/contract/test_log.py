"""The contract of the log's ports, on every implementation: Kafka (fast and public) and SQLite."""

import logging
import multiprocessing
import os
import random
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from replicator.errors import ConfigurationError, Hole, LogUnavailable, LostLog
from replicator.log import Chunk, Log, LogReader, LogWriter, open_log
from replicator.log.sqlite import SqliteLog
from replicator.log.tail import last_records
from replicator.positions import Lsn, Offset
from tests.support.kafka import KafkaBroker

Record = tuple[bytes, bytes]
PATIENCE = 30.0

KINDS = ["kafka", "kafka-public", "sqlite"]
ON_KAFKA = pytest.mark.parametrize("log", ["kafka", "kafka-public"], indirect=True)
ON_SQLITE = pytest.mark.parametrize("log", ["sqlite"], indirect=True)


@pytest.fixture(params=KINDS)
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Log:
    if request.param == "sqlite":
        return open_log(f"sqlite:///{tmp_path}/log.db")
    return kafka_log(request.getfixturevalue("kafka"), request.param)


def kafka_log(broker: KafkaBroker, kind: str) -> Log:
    from replicator.log.kafka import KafkaLog

    return KafkaLog([broker.bootstrap], {}, fast=kind == "kafka")


@pytest.fixture(scope="module")
def mortal(kafka: KafkaBroker) -> Iterator[KafkaBroker]:
    """A broker that tests may kill and must start again; skipped where `kafka` is."""
    broker = kafka.start()
    yield broker
    broker.stop()


@pytest.fixture(params=["kafka", "kafka-public"])
def mortal_log(request: pytest.FixtureRequest, mortal: KafkaBroker) -> Log:
    return kafka_log(mortal, request.param)


@pytest.fixture
def topic(log: Log) -> str:
    name = f"contract.{uuid.uuid4().hex}"
    log.create(name)
    return name


@contextmanager
def writing(log: Log, topic: str) -> Iterator[LogWriter]:
    writer = log.writer(topic)
    try:
        yield writer
    finally:
        writer.close(5)


@contextmanager
def reading(log: Log, topic: str, offset: int | None = None) -> Iterator[LogReader]:
    reader = log.reader(topic)
    try:
        reader.seek(log.state(topic).begin if offset is None else Offset(offset))
        yield reader
    finally:
        reader.close()


def acknowledged(writer: LogWriter) -> Lsn | None:
    deadline = time.monotonic() + PATIENCE
    while writer.in_flight() and time.monotonic() < deadline:
        writer.wait(1)
        writer.acknowledged()
    assert writer.in_flight() == 0
    return writer.acknowledged()


def store(log: Log, topic: str, records: Sequence[Record]) -> None:
    with writing(log, topic) as writer:
        writer.append(records, Lsn(1))
        assert acknowledged(writer) == 1


def chunks_of(reader: LogReader, until: int) -> list[Chunk]:
    """Poll until the reader has looked at everything below `until`."""
    got: list[Chunk] = []
    deadline = time.monotonic() + PATIENCE
    while reader.position() < until:
        assert time.monotonic() < deadline, f"stuck at {reader.position()} of {until}"
        got += reader.poll(0.5)
    return got


def poll_often(reader: LogReader) -> None:
    """Poll, whatever comes, for at most ten seconds."""
    for _ in range(20):
        reader.poll(0.5)


def read(log: Log, topic: str, offset: int | None = None) -> list[tuple[int, Record]]:
    """All records from `offset` to the end, with their offsets."""
    with reading(log, topic, offset) as reader:
        chunks = chunks_of(reader, log.state(topic).end)
    return [pair for chunk in chunks for pair in zip(chunk.offsets, chunk.records, strict=True)]


def numbered(count: int, tag: str = "k") -> list[Record]:
    return [(f'["{tag}",{i}]'.encode(), f"{tag} {i} ".encode() * 5) for i in range(count)]


def truncate(log: Log, topic: str, before: int, request: pytest.FixtureRequest) -> None:
    """Remove the records below `before`, as retention does."""
    if isinstance(log, SqliteLog):
        with sqlite3.connect(log._path) as connection:
            (number,) = connection.execute(
                "SELECT id FROM topic WHERE name = ?", (topic,)
            ).fetchone()
            connection.execute(f"DELETE FROM topic_{number} WHERE id <= ?", (before,))
        connection.close()
        return
    from kafka import TopicPartition

    with kafka_admin(request) as admin:
        admin.delete_records({TopicPartition(topic, 0): before})


@contextmanager
def kafka_admin(request: pytest.FixtureRequest) -> Iterator[Any]:
    from kafka import KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=request.getfixturevalue("kafka").bootstrap)
    try:
        yield admin
    finally:
        admin.close()


# Topics


def test_topic_that_is_not_there(log: Log) -> None:
    state = log.state("contract.nowhere")
    assert not state.exists
    with pytest.raises(ConfigurationError, match="There is no topic"):
        log.writer("contract.nowhere")
    assert last_records(log, "contract.nowhere", 3) == []


def test_created_topic_is_empty_and_safe(log: Log, topic: str) -> None:
    log.create(topic)
    state = log.state(topic)
    assert state.exists
    assert state.begin == state.end == 0
    assert list(state.problems) == []
    assert last_records(log, topic, 3) == []
    with reading(log, topic) as reader:
        assert list(reader.poll(0.2)) == []
        assert list(reader.poll(0)) == []
        assert reader.position() == 0


def test_topics_do_not_mix(log: Log, topic: str) -> None:
    other = f"{topic}.other"
    log.create(other)
    store(log, topic, [(b"a", b"1")])
    store(log, other, [(b"b", b"2"), (b"b", b"3")])
    assert read(log, topic) == [(0, (b"a", b"1"))]
    assert [record for _, record in read(log, other)] == [(b"b", b"2"), (b"b", b"3")]


# Order and acknowledgement


def test_records_come_in_order_with_ascending_offsets(log: Log, topic: str) -> None:
    records = numbered(3_000)
    with writing(log, topic) as writer:
        for start in range(0, 3_000, 250):
            writer.append(records[start : start + 250], Lsn(start))
        assert acknowledged(writer) == 2_750
    got = read(log, topic)
    assert [record for _, record in got] == records
    offsets = [offset for offset, _ in got]
    assert offsets == sorted(set(offsets))
    assert log.state(topic).end == offsets[-1] + 1


def test_acknowledgement_grows_only_and_skips_none(log: Log, topic: str) -> None:
    with writing(log, topic) as writer:
        assert writer.acknowledged() is None
        assert writer.in_flight() == 0
        writer.wait(0.01)
        writer.append([(b"k", b"1")], None)
        assert acknowledged(writer) is None
        writer.append([(b"k", b"2")], Lsn(20))
        assert acknowledged(writer) == 20
        writer.append([(b"k", b"3")], None)
        assert acknowledged(writer) == 20
        writer.append([(b"k", b"4")], Lsn(10))
        assert acknowledged(writer) == 20


def test_what_is_acknowledged_can_be_read_at_once(log: Log, topic: str) -> None:
    with writing(log, topic) as writer, reading(log, topic) as reader:
        for number in range(30):
            writer.append([(b"k", b"%d" % number)], Lsn(number))
            assert acknowledged(writer) == number
            assert log.state(topic).end == number + 1 if number % 10 == 0 else True
            (chunk,) = chunks_of(reader, number + 1)
            assert list(chunk.records) == [(b"k", b"%d" % number)]


def test_closing_a_writer_waits_for_what_is_in_flight(log: Log, topic: str) -> None:
    writer = log.writer(topic)
    writer.append(numbered(5_000), Lsn(1))
    writer.close(PATIENCE)
    writer.close(PATIENCE)
    assert len(read(log, topic)) == 5_000


def test_timestamps_are_of_the_append(log: Log, topic: str) -> None:
    before = time.time() * 1000
    store(log, topic, [(b"k", b"v")])
    with reading(log, topic) as reader:
        (chunk,) = chunks_of(reader, 1)
    assert before - 1_000 <= chunk.timestamp_ms <= time.time() * 1000 + 1_000


def test_waiting_reader_is_served_soon(log: Log, topic: str) -> None:
    with writing(log, topic) as writer, reading(log, topic) as reader:
        writer.append([(b"k", b"first")], None)
        chunks_of(reader, 1)
        timer = threading.Timer(0.3, writer.append, ([(b"k", b"v")], None))
        timer.start()
        got = reader.poll(20)
        timer.join()
        assert [list(chunk.records) for chunk in got] == [[(b"k", b"v")]]


# Values and keys


@pytest.mark.parametrize("size", [0, 1, 63, 64, 8_191, 8_192, 16_384, 1_000_000, 9_000_000])
def test_values_of_any_size(log: Log, topic: str, size: int) -> None:
    records = [(b"before", b"x"), ("ключ 鍵 🗝".encode(), random.Random(size).randbytes(size))]
    records += [(b"", b""), (b"after", b"y")]
    store(log, topic, records)
    assert [record for _, record in read(log, topic)] == records


def test_twenty_megabytes(log: Log, topic: str) -> None:
    big = os.urandom(20 << 20)
    store(log, topic, [(b"k", b"before"), (b"big", big), (b"k", b"after")])
    got = read(log, topic)
    assert [record for _, record in got] == [(b"k", b"before"), (b"big", big), (b"k", b"after")]
    assert [offset for offset, _ in got][:2] == [0, 1]
    assert [found.key for found in last_records(log, topic, 2)] == [b"big", b"k"]


def test_a_poll_is_bounded(log: Log, topic: str) -> None:
    value = b"compressible " * 50_000
    with writing(log, topic) as writer:
        for _ in range(40):
            writer.append([(b"k", value)], None)
        acknowledged(writer)
    with reading(log, topic) as reader:
        sizes = []
        while reader.position() < 40:
            records = [record for chunk in reader.poll(5) for record in chunk.records]
            sizes.append(sum(len(value) for _, value in records))
    assert sum(sizes) == 40 * len(value)
    assert max(sizes) <= 17 << 20


# Seek and resume


def test_seek_to_any_offset_also_inside_a_batch(log: Log, topic: str) -> None:
    records = numbered(500)
    store(log, topic, records)
    for offset in (0, 1, 249, 499, 500):
        assert read(log, topic, offset) == list(enumerate(records))[offset:]


def test_seek_back_and_forth_with_one_reader(log: Log, topic: str) -> None:
    store(log, topic, numbered(300))
    with reading(log, topic) as reader:
        for offset in (200, 10, 299, 0):
            reader.seek(Offset(offset))
            assert reader.position() == offset
            got = [o for chunk in chunks_of(reader, 300) for o in chunk.offsets]
            assert got == list(range(offset, 300))


def test_resume_loses_nothing(log: Log, topic: str) -> None:
    records = [*numbered(1_000), (b"big", os.urandom(10 << 20)), *numbered(10, "after")]
    store(log, topic, records)
    whole = read(log, topic)
    with reading(log, topic) as reader:
        seen = 0
        for chunk in chunks_of(reader, log.state(topic).end):
            seen += len(chunk.records)
            assert read(log, topic, chunk.resume) == whole[seen:]


# Holes


def test_offsets_outside_the_log_are_a_hole(
    log: Log, topic: str, request: pytest.FixtureRequest
) -> None:
    store(log, topic, numbered(100))
    truncate(log, topic, 40, request)
    assert log.state(topic).begin == 40
    reader = log.reader(topic)
    for offset in (0, 39, 101, 10_000):
        with pytest.raises(Hole):
            reader.seek(Offset(offset))
    reader.seek(Offset(40))
    assert len(chunks_of(reader, 100)[0].records) == 60
    reader.close()


def test_removing_everything_is_a_hole_too(
    log: Log, topic: str, request: pytest.FixtureRequest
) -> None:
    store(log, topic, numbered(10))
    truncate(log, topic, 10, request)
    state = log.state(topic)
    assert (state.begin, state.end) == (10, 10)
    with closing(log.reader(topic)) as reader, pytest.raises(Hole):
        reader.seek(Offset(9))
    store(log, topic, [(b"k", b"next")])
    assert read(log, topic, 10) == [(10, (b"k", b"next"))]


def test_the_offsets_show_a_record_removed_from_the_middle_of_a_file(tmp_path: Path) -> None:
    log = open_log(f"sqlite:///{tmp_path}/log.sqlite3")
    log.create("topic")
    store(log, "topic", numbered(10))
    with sqlite3.connect(tmp_path / "log.sqlite3") as connection:
        connection.execute("DELETE FROM topic_1 WHERE id = 6")
    connection.close()
    assert [offset for offset, _ in read(log, "topic", 0)] == [0, 1, 2, 3, 4, 6, 7, 8, 9]


def test_records_removed_under_a_reader_are_a_hole(
    log: Log, topic: str, request: pytest.FixtureRequest
) -> None:
    store(log, topic, numbered(10))
    with reading(log, topic, 5) as reader:
        store(log, topic, numbered(10))
        truncate(log, topic, 15, request)
        with pytest.raises(Hole):
            poll_often(reader)
        with pytest.raises(Hole):
            reader.poll(0.5)
        reader.seek(Offset(15))
        assert [o for chunk in chunks_of(reader, 20) for o in chunk.offsets] == [15, 16, 17, 18, 19]


@pytest.mark.parametrize("log", ["kafka"], indirect=True)
def test_fetches_go_straight_and_what_is_not_usual_loses_nothing(
    log: Log, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from replicator.log import kafka_fetch

    monkeypatch.setattr(kafka_fetch, "_ANOTHER_TRY_S", 0.05)
    records, straight = kafka_fetch.FetchForm.records, list[bool]()

    def some(form: kafka_fetch.FetchForm, answer: bytes) -> memoryview:
        found = records(form, answer)
        straight.append(len(straight) % 5 != 4)
        if not straight[-1]:
            raise kafka_fetch.NotUsual
        return found

    monkeypatch.setattr(kafka_fetch.FetchForm, "records", some)
    written, got = list[Record](), list[tuple[int, Record]]()
    deadline = time.monotonic() + PATIENCE
    with reading(log, topic) as reader, writing(log, topic) as writer:
        while straight.count(False) < 6 and time.monotonic() < deadline:
            written += numbered(3, str(len(written)))
            writer.append(written[-3:], Lsn(len(written)))
            for chunk in reader.poll(0.05):
                got += zip(chunk.offsets, chunk.records, strict=True)
        acknowledged(writer)
        for chunk in chunks_of(reader, len(written)):
            got += zip(chunk.offsets, chunk.records, strict=True)
    assert got == list(enumerate(written))
    assert straight.count(False) == 6


def test_a_reader_that_was_left_alone_for_long_goes_on_where_it_was(
    kafka: KafkaBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """Behind a lock in the target, say: what the broker has sent meanwhile waits in the kernel."""
    from replicator.log.kafka import KafkaLog

    log = KafkaLog([kafka.bootstrap], {"request_timeout_ms": 1_500})
    topic = f"contract.{uuid.uuid4().hex}"
    log.create(topic)
    values = [random.Random(n).randbytes(900_000) for n in range(20)]
    store(log, topic, [(b"k", value) for value in values])
    with reading(log, topic, 0) as reader, caplog.at_level(logging.WARNING, "kafka"):
        got = [value for chunk in reader.poll(0.05) for _, value in chunk.records]
        for _ in range(2):
            time.sleep(2.5)
            got += [value for chunk in reader.poll(5) for _, value in chunk.records]
        deadline = time.monotonic() + PATIENCE
        while len(got) < len(values) and time.monotonic() < deadline:
            got += [value for chunk in reader.poll(0.5) for _, value in chunk.records]
    assert got == values
    assert [record.getMessage() for record in caplog.records] == []


# Several at once


def test_two_writers_keep_their_own_order(log: Log, topic: str) -> None:
    def write(tag: str) -> None:
        with writing(log, topic) as writer:
            for record in numbered(300, tag):
                while writer.in_flight() > 3:
                    writer.wait(1)
                writer.append([record], None)
            acknowledged(writer)

    in_threads([lambda tag=tag: write(tag) for tag in ("a", "b")])  # type: ignore[misc]
    got = [record for _, record in read(log, topic)]
    for tag in ("a", "b"):
        assert [r for r in got if r[1].startswith(tag.encode())] == numbered(300, tag)


def test_two_writers_of_large_values(log: Log, topic: str) -> None:
    values = {tag: [os.urandom(9 << 20) for _ in range(2)] for tag in (b"a", b"b")}

    def write(tag: bytes) -> None:
        with writing(log, topic) as writer:
            for value in values[tag]:
                writer.append([(tag, value), (tag, b"small")], None)
            acknowledged(writer)

    in_threads([lambda tag=tag: write(tag) for tag in values])  # type: ignore[misc]
    got = [record for _, record in read(log, topic)]
    for tag, (first, second) in values.items():
        mine = [value for key, value in got if key == tag]
        assert mine == [first, b"small", second, b"small"]


def in_threads(jobs: Sequence[Callable[[], None]]) -> None:
    with ThreadPoolExecutor(len(jobs)) as pool:
        for future in [pool.submit(job) for job in jobs]:
            future.result(PATIENCE * 2)


def test_two_readers_read_everything_each(log: Log, topic: str) -> None:
    store(log, topic, numbered(100))
    with reading(log, topic) as one, reading(log, topic, 50) as two:
        assert sum(len(chunk.records) for chunk in chunks_of(two, 100)) == 50
        assert sum(len(chunk.records) for chunk in chunks_of(one, 100)) == 100


def test_last_records(log: Log, topic: str) -> None:
    store(log, topic, numbered(1_000))
    assert [found.offset for found in last_records(log, topic, 3)] == [997, 998, 999]
    assert [tuple(found[1:]) for found in last_records(log, topic, 2)] == numbered(1_000)[-2:]
    assert len(last_records(log, topic, 5_000)) == 1_000
    assert last_records(log, topic, 0) == []


def test_speed_is_printed(log: Log, topic: str) -> None:
    records, rounds = [(b'["public.polls_question",%d]' % i, b"v" * 490) for i in range(2_000)], 10
    start = time.process_time()
    with writing(log, topic) as writer:
        for _ in range(rounds):
            while writer.in_flight() > 3:
                writer.wait(1)
            writer.append(records, None)
        acknowledged(writer)
    middle = time.process_time()
    with reading(log, topic) as reader:
        chunks_of(reader, rounds * 2_000)
    written = (middle - start) / rounds / 2_000 * 1e6
    got = (time.process_time() - middle) / rounds / 2_000 * 1e6
    print(f"{type(log).__name__}: append {written:.2f}, read {got:.2f} µs of CPU per record")


# Kafka only


@ON_KAFKA
def test_small_batches_make_slices(log: Log, topic: str, request: pytest.FixtureRequest) -> None:
    alter(request, topic, {"max.message.bytes": "20000"})
    records = [(b"k%d" % i, os.urandom(size)) for i, size in enumerate([10, 19_000, 90_000, 5])]
    records += numbered(2_000)
    store(log, topic, records)
    got = read(log, topic)
    assert [record for _, record in got] == records
    offsets = [offset for offset, _ in got]
    assert offsets[:5] == [0, 1, 2, 7, 8]
    with reading(log, topic, 4) as reader:
        behind = [o for chunk in chunks_of(reader, log.state(topic).end) for o in chunk.offsets]
        assert behind == offsets[3:]
    assert [found.offset for found in last_records(log, topic, 2_002)] == offsets[2:]


@ON_KAFKA
def test_abandoned_slices_confuse_nobody(
    log: Log, topic: str, request: pytest.FixtureRequest
) -> None:
    from kafka import KafkaProducer

    store(log, topic, [(b"k", b"first")])
    producer = KafkaProducer(bootstrap_servers=request.getfixturevalue("kafka").bootstrap)
    for part in (b"1/3", b"2/3"):
        headers = [("part", part), ("part-of", b"dead")]
        producer.send(topic, key=b"k", value=b"x", headers=headers, partition=0)
    producer.flush()
    producer.close()
    big = os.urandom(9 << 20)
    store(log, topic, [(b"k", big), (b"k", b"last")])
    with reading(log, topic) as reader:
        chunks = chunks_of(reader, log.state(topic).end)
    assert [r for chunk in chunks for r in chunk.records] == [
        (b"k", b"first"),
        (b"k", big),
        (b"k", b"last"),
    ]
    assert chunks[-1].resume == 1
    assert [found.value for found in last_records(log, topic, 1)] == [b"last"]


def alter(request: pytest.FixtureRequest, topic: str, settings: dict[str, str]) -> None:
    from kafka.admin import ConfigResource, ConfigResourceType

    with kafka_admin(request) as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, settings)])


@pytest.mark.parametrize("log", ["kafka"], indirect=True)
def test_dangerous_settings_are_named(log: Log, request: pytest.FixtureRequest) -> None:
    topic = f"contract.{uuid.uuid4().hex}"
    dangerous = {
        "cleanup.policy": "compact",
        "unclean.leader.election.enable": "true",
        "max.message.bytes": "2000",
    }
    with kafka_admin(request) as admin:
        wanted = {"num_partitions": 2, "replication_factor": 1, "configs": dangerous}
        admin.create_topics({topic: wanted}, wait_for_metadata=True)
    problems = log.state(topic).problems
    for word in ("2 partitions", "cleanup.policy", "unclean", "max.message.bytes"):
        assert sum(word in problem for problem in problems) == 1, word
    assert len(problems) == 4


def test_broker_killed_under_appends(mortal_log: Log, mortal: KafkaBroker) -> None:
    log, topic = mortal_log, mortal.topic()
    log.create(topic)
    handed_over: list[Record] = []
    writer = log.writer(topic)
    with reading(log, topic) as reader:
        lost = False
        try:
            for number in range(200):
                if number == 100:
                    mortal.kill9()
                    restart = threading.Timer(0.5, mortal.restart)
                    restart.start()
                while writer.in_flight() > 3:
                    writer.wait(1)
                    writer.acknowledged()
                batch = [(b"k", b"%d" % (number * 20 + i)) for i in range(20)]
                handed_over += batch
                writer.append(batch, Lsn(len(handed_over)))
            assert acknowledged(writer) == len(handed_over)
        except LostLog:
            lost = True
        restart.join()
        writer.close(5)
        stored = [r for chunk in chunks_of(reader, log.state(topic).end) for r in chunk.records]
    assert stored == [record for _, record in read(log, topic)]
    assert len(stored) == len(set(stored))
    assert set(stored) <= set(handed_over) if lost else stored == handed_over


def test_connections_cut_under_a_backlog_lose_nothing(kafka: KafkaBroker) -> None:
    from replicator.log.kafka import KafkaLog, KafkaReader

    topic = f"contract.{uuid.uuid4().hex}"
    with kafka.proxy() as proxy:
        log = KafkaLog([f"127.0.0.1:{proxy.port}"], {})
        log.create(topic)
        written = [(b"k", b"%07d" % number + os.urandom(20_000)) for number in range(3_000)]
        with writing(log, topic) as writer:
            for start in range(0, len(written), 100):
                writer.append(written[start : start + 100], Lsn(start + 1))
            acknowledged(writer)
        got, cuts = list[Record](), 0
        with reading(log, topic) as reader:
            assert isinstance(reader, KafkaReader)
            deadline = time.monotonic() + PATIENCE
            while len(got) < len(written) and time.monotonic() < deadline:
                got += [record for chunk in reader.poll(0.01) for record in chunk.records]
                if len(got) > cuts * 500:
                    cuts += 1
                    proxy.cut()
            assert got == written
            while reader._receiver._line is None and time.monotonic() < deadline:  # type: ignore[attr-defined]
                reader.poll(0.1)
        assert time.monotonic() < deadline
        assert cuts > 3


@ON_KAFKA
def test_nothing_goes_on_after_a_lost_append(
    log: Log, topic: str, request: pytest.FixtureRequest
) -> None:
    writer = log.writer(topic)
    alter(request, topic, {"max.message.bytes": "1000"})
    writer.append([(b"k", os.urandom(5_000))], Lsn(1))
    with pytest.raises(LostLog):
        acknowledged(writer)
    for call in (writer.acknowledged, lambda: writer.append([(b"k", b"v")], Lsn(2))):
        with pytest.raises(LostLog):
            call()
    writer.wait(0.1)
    writer.close(1)
    assert read(log, topic) == []


def test_silence_is_told_from_a_quiet_topic(
    mortal_log: Log, mortal: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.log.kafka._QUIET_SECONDS", 0.5)
    monkeypatch.setattr("replicator.log.kafka._PROBE_MS", 1_000)
    log, topic = mortal_log, mortal.topic()
    log.create(topic)
    store(log, topic, [(b"k", b"1")])
    with reading(log, topic) as reader:
        chunks_of(reader, 1)
        quiet = time.monotonic() + 2
        while time.monotonic() < quiet:
            assert list(reader.poll(0.2)) == []
        mortal.kill9()
        try:
            with pytest.raises(LogUnavailable):
                poll_often(reader)
        finally:
            mortal.restart()
        store(log, topic, [(b"k", b"2")])
        got: list[Record] = []
        deadline = time.monotonic() + PATIENCE
        while not got and time.monotonic() < deadline:
            with suppress(LogUnavailable):
                got += [record for chunk in reader.poll(0.5) for record in chunk.records]
        assert got == [(b"k", b"2")]


@pytest.mark.parametrize("listening", [False, True])
def test_unreachable_broker_is_told_quickly(listening: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not listening:
            server.close()
        threads = threading.active_count()
        log = open_log(f"kafka://127.0.0.1:{port}", {"bootstrap_timeout_ms": 1_000})
        start = time.monotonic()
        for call in (log.create, log.state, log.writer, log.reader):
            with pytest.raises(LogUnavailable) as caught:
                call("contract.any")
            assert caught.value.remedy
        assert time.monotonic() - start < 20
    deadline = time.monotonic() + 10
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    "options",
    [
        {"security_protocol": "s3cret"},
        {"ssl_cafile": "/no/s3cret.pem"},
        {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "s3cret"},
        {"request_timeout_ms": 1},
    ],
    ids=",".join,
)
def test_refused_options_are_named_without_their_values(
    kafka: KafkaBroker, options: dict[str, object]
) -> None:
    with pytest.raises(ConfigurationError, match="LOG_OPTIONS") as caught:
        open_log(kafka.url, options).reader("contract.any")
    assert "s3cret" not in str(caught.value)


def test_append_that_the_producer_has_lost_is_noticed(
    kafka: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, topic = open_log(kafka.url), kafka.topic()
    log.create(topic)
    with writing(log, topic) as writer:
        monkeypatch.setattr(writer._publisher._producer._sender, "wakeup", lambda: None)  # type: ignore[attr-defined]
        monkeypatch.setattr("replicator.log.kafka_batches.ReadyBatches._enqueue", lambda *_: None)
        writer.append([(b"k", b"v")], Lsn(1))
        assert writer.acknowledged() is None
        monkeypatch.setattr("replicator.log.kafka._FORGOTTEN_SECONDS", 0.0)
        with pytest.raises(LostLog):
            writer.acknowledged()


# SQLite only


def append_in_process(path: str, topic: str, tag: str) -> None:
    """Run in a process of its own."""
    with writing(open_log(f"sqlite:///{path}"), topic) as writer:
        for record in numbered(200, tag):
            writer.append([record], None)


@ON_SQLITE
def test_two_processes_append_at_once(log: SqliteLog, topic: str) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=append_in_process, args=(log._path, topic, tag)) for tag in "ab"
    ]
    for process in processes:
        process.start()
    with reading(log, topic) as reader:
        got = [record for chunk in chunks_of(reader, 400) for record in chunk.records]
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    for tag in ("a", "b"):
        assert [r for r in got if r[1].startswith(tag.encode())] == numbered(200, tag)


def test_many_create_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    in_threads([lambda: open_log(url).create("t")] * 8)
    assert open_log(url).state("t").exists


def test_looking_does_not_make_a_file(tmp_path: Path) -> None:
    log = open_log(f"sqlite:///{tmp_path}/log.db")
    assert not log.state("t").exists
    for call in (log.reader, log.writer):
        with pytest.raises(ConfigurationError):
            call("t")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"retain_bytes": 5_000}, {"retain_seconds": 1}])
def test_old_records_are_removed(
    options: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.log.sqlite._TRIM_RECORDS", 7)
    log = SqliteLog(f"{tmp_path}/log.db", options)
    log.create("t")
    monkeypatch.setattr("replicator.log.sqlite._TRIM_SECONDS", 1e9)
    with writing(log, "t") as writer, reading(log, "t") as reader:
        writer._trimmed = time.monotonic()  # type: ignore[attr-defined]
        writer.append([(b"k", b"x" * 99)] * 100, None)
        assert log.state("t").begin == 0
        if "retain_seconds" in options:
            time.sleep(1.1)
        monkeypatch.setattr("replicator.log.sqlite._TRIM_SECONDS", 0)
        writer.append([(b"k", b"x" * 99)], None)
        state = log.state("t")
        assert (state.begin, state.end) == (51 if "retain_bytes" in options else 100, 101)
        with pytest.raises(Hole):
            reader.poll(0)


@pytest.mark.parametrize("options", [{"retain": 5}, {"retain_bytes": "5"}, {"retain_bytes": 0}])
def test_wrong_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="retain"):
        open_log("sqlite:////nowhere/x.db", options)


def test_file_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    log = open_log(f"sqlite:///{tmp_path}/no/such/folder/log.db")
    with pytest.raises(LogUnavailable):
        log.state("t")


@ON_SQLITE
def test_failed_append_loses_the_log(log: SqliteLog, topic: str) -> None:
    writer = log.writer(topic)
    writer.append([(b"k", b"v")], Lsn(1))
    writer._connection.close()  # type: ignore[attr-defined]
    for _ in range(2):
        with pytest.raises(LostLog):
            writer.append([(b"k", b"v")], Lsn(2))
    with pytest.raises(LostLog):
        writer.acknowledged()
    assert len(read(log, topic)) == 1
