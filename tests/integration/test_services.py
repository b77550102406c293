"""The services that all other tests stand on do what these take for granted."""

import contextlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import KafkaError, UnknownTopicOrPartitionError

from tests.conftest import DatabaseFactory, SampleFactory, StartProcess
from tests.support.kafka import KafkaBroker
from tests.support.postgres import Cluster, PostgresServer
from tests.support.processes import ProcessFailed, wait_until
from tests.support.proxy import TcpProxy
from tests.support.sample.databases import connected
from tests.support.sample.environments import environment


def _value(conninfo: str, query: str) -> object:
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


# Postgres


def test_every_postgres_decodes_with_pgoutput(
    any_postgres: PostgresServer, any_database: DatabaseFactory
) -> None:
    conninfo = any_database()
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
        connection.execute("CREATE PUBLICATION p FOR TABLE t")
        connection.execute("SELECT pg_create_logical_replication_slot('services', 'pgoutput')")
        connection.execute("INSERT INTO t VALUES (7)")
        changes = connection.execute(
            "SELECT data FROM pg_logical_slot_peek_binary_changes('services', NULL, NULL,"
            " 'proto_version', '1', 'publication_names', 'p', 'messages', 'true')"
        ).fetchall()
    assert b"".join(bytes(row[0])[:1] for row in changes) == b"BRIC"
    assert any_postgres.version >= 15


def test_a_database_has_the_settings_asked_for(any_database: DatabaseFactory) -> None:
    conninfo = any_database("hostile", datestyle="SQL, DMY", timezone="Asia/Kolkata")
    assert _value(conninfo, "SHOW datestyle") == "SQL, DMY"
    assert _value(conninfo, "SHOW timezone") == "Asia/Kolkata"
    assert _value(any_database(), "SHOW datestyle") == "ISO, MDY"


def test_a_database_is_dropped_with_a_slot_in_use(postgres_server: PostgresServer) -> None:
    name = postgres_server.create_database()
    conninfo = postgres_server.conninfo(name)
    walsender = psycopg.pq.PGconn.connect(f"{conninfo} replication=database".encode())
    made = walsender.exec_(b"CREATE_REPLICATION_SLOT used_slot LOGICAL pgoutput")
    assert made.status == psycopg.pq.ExecStatus.TUPLES_OK, walsender.error_message
    walsender.send_query(
        b"START_REPLICATION SLOT used_slot LOGICAL 0/0 (proto_version '1', publication_names 'p')"
    )
    active = "SELECT coalesce(bool_or(active), false) FROM pg_replication_slots"
    wait_until(lambda: bool(_value(conninfo, active)), 10, "the slot is in use")
    postgres_server.drop_database(name)
    known = f"SELECT count(*) FROM pg_database WHERE datname = '{name}'"
    assert _value(postgres_server.conninfo(), known) == 0
    walsender.finish()


def test_a_killed_server_comes_back_with_its_data(own_postgres: PostgresServer) -> None:
    conninfo = own_postgres.conninfo(own_postgres.create_database())
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id")
        own_postgres.kill9()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(conninfo)
    own_postgres.restart()
    assert _value(conninfo, "SELECT count(*) FROM t") == 1000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs a server as another user")
def test_a_server_hidden_in_a_private_folder_starts(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    installation = own_postgres.binaries.parent
    package = installation.parent
    if "pginstall" not in installation.name:
        pytest.skip("the newest Postgres here is not the wheel's")
    for folder in (installation, package.with_name(f"{package.name}.libs")):
        shutil.copytree(folder, private / folder.relative_to(package.parent), symlinks=True)
    binaries = private / (installation / "bin").relative_to(package.parent)
    cluster = Cluster(binaries, settings={})
    try:
        assert cluster.binaries != binaries
        assert _value(cluster.conninfo, "SELECT 1") == 1
    finally:
        cluster.remove()
    assert not cluster.folder.exists()


# The sample project


def test_sample_databases_are_migrated_and_apart(any_sample_database: SampleFactory) -> None:
    from tests.support.sample.polls.models import Question

    with (
        connected("source", any_sample_database()) as source,
        connected("target", any_sample_database()) as target,
    ):
        Question.objects.using(source).create(question_text="?")
        assert Question.objects.using(source).count() == 1
        assert Question.objects.using(target).count() == 0


def test_migrations_of_the_sample_are_complete(sample_database: SampleFactory) -> None:
    from django.core.management import call_command

    with connected("default", sample_database()):
        call_command("makemigrations", check=True, dry_run=True, verbosity=0)
        call_command("migrate", check_unapplied=True, verbosity=0)


def test_the_sample_runs_as_a_process_of_its_own(
    sample_database: SampleFactory, process: StartProcess
) -> None:
    env = environment(sample_database(), {"ENVIRONMENT": "prod", "LOG": "sqlite:////tmp/unused"})
    code = (
        "import django; django.setup()\n"
        "from django.conf import settings\n"
        "from django.contrib.auth.models import User\n"
        "print(settings.REPLICATOR['ENVIRONMENT'], User.objects.count())"
    )
    ran = process("python", "-c", code, env=env)
    assert ran.wait(60) == 0, ran.output()
    assert ran.output().splitlines()[-1] == "prod 0"


def test_the_sample_writes_each_of_its_kinds(sample_database: SampleFactory) -> None:
    from tests.support.sample.kinds.models import Reading, Specimen

    with connected("default", sample_database()):
        Specimen.objects.create(
            text="four", mood="happy", words=[["a", None]], span=(1, 5), raw=b"\x00\xff"
        )
        Reading.objects.create(sensor=1, taken_on="2025-06-01", value=1.5)
        specimen = Specimen.objects.get(mood="happy")
        assert (specimen.length, specimen.words) == (4, [["a", None]])
        assert Reading.objects.get(pk=(1, "2025-06-01")).value == 1.5


# Kafka


@pytest.fixture
def topic(kafka: KafkaBroker) -> str:
    """A topic with one partition on the broker of the session."""
    return _create_topic(kafka.bootstrap, kafka.topic("services"))


def _create_topic(bootstrap: str, name: str) -> str:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=1)])
    finally:
        admin.close()
    return name


def _produce(bootstrap: str, topic: str, *values: bytes) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
    try:
        for future in [producer.send(topic, value) for value in values]:
            future.get(timeout=30)
    finally:
        producer.close()


def _consume(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="none")
    partition = TopicPartition(topic, 0)
    try:
        consumer.assign([partition])
        consumer.seek(partition, 0)
        values: list[bytes] = []
        deadline = time.monotonic() + 30
        while len(values) < count and time.monotonic() < deadline:
            batches = consumer.poll(timeout_ms=500)
            values += [record.value for batch in batches.values() for record in batch]
        return values
    finally:
        consumer.close()


def test_kafka_keeps_records_in_order(kafka: KafkaBroker, topic: str) -> None:
    values = [b"%d" % number for number in range(100)]
    _produce(kafka.bootstrap, topic, *values)
    assert _consume(kafka.bootstrap, topic, 100) == values


def test_kafka_makes_no_topic_by_itself(kafka: KafkaBroker) -> None:
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    name = kafka.topic("absent")
    try:
        with pytest.raises(UnknownTopicOrPartitionError):
            admin.delete_topics([name])
        producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, max_block_ms=500)
        with pytest.raises(KafkaError):
            producer.send(name, b"x").get(timeout=5)
        producer.close(timeout=1)
        assert name not in admin.list_topics()
    finally:
        admin.close()


def test_clients_stay_behind_the_proxy_of_kafka(kafka: KafkaBroker, topic: str) -> None:
    with kafka.proxy() as proxy:
        through = f"127.0.0.1:{proxy.port}"
        admin = KafkaAdminClient(bootstrap_servers=through)
        advertised = {broker["port"] for broker in admin.describe_cluster()["brokers"]}
        admin.close()
        assert advertised == {proxy.port}
        _produce(through, topic, b"one")
        assert _consume(through, topic, 1) == [b"one"]


def test_a_killed_broker_comes_back_with_its_records(own_kafka: KafkaBroker) -> None:
    topic = _create_topic(own_kafka.bootstrap, "kept")
    _produce(own_kafka.bootstrap, topic, b"kept")
    own_kafka.kill9()
    host, port = own_kafka.bootstrap.split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))
    own_kafka.restart()
    assert _consume(own_kafka.bootstrap, topic, 1) == [b"kept"]


# The proxy


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets; its port."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer(client: socket.socket) -> None:
        with client:
            try:
                while data := client.recv(65_536):
                    client.sendall(data)
            except ConnectionError:
                return

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)


@pytest.fixture
def behind(echo: int, proxy: Callable[[int], TcpProxy]) -> Iterator[tuple[TcpProxy, socket.socket]]:
    """A proxy and a connection to the echo server through it."""
    started = proxy(echo)
    with socket.create_connection(("127.0.0.1", started.port), timeout=5) as client:
        assert _exchange(client, b"hello") == b"hello"
        yield started, client


def _exchange(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return _receive(client, len(data))


def _receive(client: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        block = client.recv(65_536)
        if not block:
            raise ConnectionAbortedError("ended early")
        got += block
    return got


def test_proxy_cuts_and_takes_new_connections(behind: tuple[TcpProxy, socket.socket]) -> None:
    proxy, client = behind
    proxy.cut()
    with pytest.raises(ConnectionError):
        _exchange(client, b"lost")
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as again:
        assert _exchange(again, b"back") == b"back"
    wait_until(lambda: proxy.connections == 0, 5, "both connections are closed")


def test_proxy_refuses_new_connections_only(behind: tuple[TcpProxy, socket.socket]) -> None:
    proxy, client = behind
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port))
    assert _exchange(client, b"still") == b"still"
    proxy.accept()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as again:
        assert _exchange(again, b"back") == b"back"


def test_deaf_proxy_keeps_connections_and_bytes(behind: tuple[TcpProxy, socket.socket]) -> None:
    proxy, client = behind
    proxy.deafen()
    client.settimeout(0.4)
    with pytest.raises(TimeoutError):
        _exchange(client, b"held")
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as late:
        late.sendall(b"late")
        wait_until(lambda: proxy.connections == 2, 5, "the late connection is passed on")
        proxy.hear()
        client.settimeout(5)
        assert _receive(client, 4) == b"held"
        assert _receive(late, 4) == b"late"


def test_a_deaf_proxy_can_be_cut(behind: tuple[TcpProxy, socket.socket]) -> None:
    proxy, client = behind
    proxy.deafen()
    client.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while client.send(b"x" * 65_536):
            pass
    client.settimeout(5)
    proxy.cut()
    with pytest.raises(ConnectionError):
        _receive(client, 1)


def test_proxy_delays_each_way(behind: tuple[TcpProxy, socket.socket]) -> None:
    proxy, client = behind
    proxy.delay(0.2)
    begun = time.monotonic()
    assert _exchange(client, b"slow") == b"slow"
    assert time.monotonic() - begun >= 0.4
    proxy.delay(0)


def test_proxy_passes_on_the_end_of_one_direction(behind: tuple[TcpProxy, socket.socket]) -> None:
    proxy, client = behind
    client.sendall(b"last")
    client.shutdown(socket.SHUT_WR)
    assert _receive(client, 4) == b"last"
    assert client.recv(1) == b""
    wait_until(lambda: proxy.connections == 0, 5, "the connection is closed")


# Processes


def test_a_process_is_waited_for_by_its_output(process: StartProcess) -> None:
    code = "import time; print('ready 42'); time.sleep(60)"
    started = process("python", "-c", code)
    assert started.wait_for_output(r"ready (\d+)")[1] == "42"
    assert started.terminate() == -15
    ended = process("python", "-c", "raise SystemExit('boom')")
    with pytest.raises(ProcessFailed, match="boom"):
        ended.wait_for_output("never")
