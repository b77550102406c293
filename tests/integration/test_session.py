"""Sessions behind a network that acknowledges every byte and passes none on."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from replicator import session
from replicator.errors import DatabaseUnavailable
from replicator.positions import Lsn
from replicator.postgres import connect, driver_errors
from replicator.session import Session
from replicator_capture import wal
from replicator_capture.wal import WalStream
from tests.conftest import DatabaseFactory
from tests.support.postgres import PostgresServer
from tests.support.proxy import TcpProxy
from tests.support.wait import until


@pytest.fixture
def network(postgres_server: PostgresServer, proxy: Callable[[int], TcpProxy]) -> TcpProxy:
    return proxy(postgres_server.port)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in (("SILENCE", 0.4), ("ANSWER", 0.5), ("LOOK_EVERY", 0.1)):
        monkeypatch.setattr(session, name, value)
    watch = session.Watch(session._works_at_server)
    monkeypatch.setattr(session, "_watch", watch)
    yield
    watch.end()


@pytest.fixture
def direct(database: DatabaseFactory) -> Mapping[str, str]:
    return {key: str(value) for key, value in conninfo_to_dict(database()).items()}


def around(direct: Mapping[str, str], network: TcpProxy) -> dict[str, str]:
    return {**direct, "host": "127.0.0.1", "port": str(network.port)}


def gives_up(connection: psycopg.Connection) -> None:
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailable), driver_errors("waiting"):
        connection.execute("SELECT 1")
    assert time.monotonic() - began < 10
    connection.close()


def told(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Wait for what the watching thread says once it has ended the wait."""
    until(lambda: text in caplog.text, lambda: caplog.text, seconds=5)


def test_a_server_that_cannot_be_heard(
    direct: Mapping[str, str], network: TcpProxy, caplog: pytest.LogCaptureFixture
) -> None:
    connection = connect(around(direct, network))
    network.deafen()
    gives_up(connection)
    told(caplog, "has not been heard")


def test_a_server_that_waits_as_we_do(
    direct: Mapping[str, str], network: TcpProxy, caplog: pytest.LogCaptureFixture
) -> None:
    connection = connect(around(direct, network))
    assert isinstance(connection, Session)
    connection.parameters = direct
    network.deafen()
    gives_up(connection)
    told(caplog, "waits for us")


def test_a_server_that_is_full_is_not_silent(
    direct: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(direct) as connection:
        assert isinstance(connection, Session)
        monkeypatch.setattr(connection, "parameters", {**direct, "dbname": "none"})
        assert connection.execute("SELECT pg_sleep(2)").fetchone() == ("",)


def test_long_work_is_left_alone(direct: Mapping[str, str]) -> None:
    with connect(direct) as connection:
        assert connection.execute("SELECT pg_sleep(2)").fetchone() == ("",)
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_wait_for_a_lock_is_left_alone(direct: Mapping[str, str]) -> None:
    with connect(direct) as connection, connect(direct) as other:
        connection.execute("CREATE TABLE t (id int)")
        with other.transaction():
            other.execute("LOCK TABLE t")
            found: list[object] = []
            thread = threading.Thread(
                target=lambda: found.append(connection.execute("SELECT count(*) FROM t").fetchone())
            )
            thread.start()
            thread.join(2)
            assert thread.is_alive()
        thread.join(10)
        assert found == [(0,)]


def test_a_replication_stream_that_is_silent_though_asked(
    direct: Mapping[str, str], network: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "ASK_AFTER_S", 0.2)
    monkeypatch.setattr(wal, "SILENCE_S", 1.0)
    monkeypatch.setattr(wal, "STATUS_EVERY_S", 0.1)
    with connect(direct) as connection:
        connection.execute("CREATE PUBLICATION p")
        connection.execute("SELECT pg_create_logical_replication_slot('silent', 'pgoutput')")
        stream = WalStream.open(around(direct, network), "silent", "p", Lsn(0))
        try:
            turn(stream, 3.0)
            network.deafen()
            with pytest.raises(DatabaseUnavailable, match="silent"):
                turn(stream, 10.0)
        finally:
            network.cut()
            stream.close()
            drop(connection)


def turn(stream: WalStream, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        stream.receive()
        stream.tick()
        stream.wait(0.05)


def drop(connection: psycopg.Connection) -> None:
    connection.execute("SELECT pg_terminate_backend(active_pid, 2000) FROM pg_replication_slots")
    connection.execute("SELECT pg_drop_replication_slot('silent')")
