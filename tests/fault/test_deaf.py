"""A network that swallows what is sent and answers nothing: no connection breaks by itself."""

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from replicator_capture import run
from replicator_capture.daemon import Capture
from tests.fault.test_services import through
from tests.support.capture_run import Running, capture_settings, capture_task
from tests.support.postgres import PostgresServer
from tests.support.proxy import TcpProxy


@pytest.fixture
def network(
    postgres_server: PostgresServer, proxy: Callable[[int], TcpProxy]
) -> Callable[[], TcpProxy]:
    return lambda: proxy(postgres_server.port)


def test_capture_notices_and_connects_anew(
    sample_database: Callable[..., str],
    network: Callable[[], TcpProxy],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(run, "SILENCE", 3.0)
    source, between = sample_database("source"), network()
    settings = capture_settings(f"sqlite:///{tmp_path}/log.sqlite3")
    task = capture_task(through(source, between.port), settings)
    running = Running(Capture(task)).ready()
    with psycopg.connect(source, autocommit=True) as connection:
        beats = "SELECT count(*) FROM replicator_beat"
        running.wait_for(lambda: connection.execute(beats).fetchone() == (1,))
    running.wait_for(lambda: "Streaming from" in caplog.text)
    between.deafen()
    running.wait_for(lambda: "has not answered" in caplog.text)
    between.cut()
    between.hear()
    running.ready()
    running.end()
