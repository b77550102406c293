"""Postgres and Kafka killed, cut off, deaf and slow, under load; sessions ended; deadlocks."""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.fault.conftest import Make
from tests.fault.test_two_daemons import end_sessions
from tests.support.kafka import KafkaBroker
from tests.support.postgres import PostgresServer
from tests.support.processes import wait_until
from tests.support.proxy import TcpProxy
from tests.support.sample.databases import SampleTemplates
from tests.support.traffic import Traffic, Watch
from tests.support.two_environments import BY_RULE, TwoEnvironments


def survive(
    pair: TwoEnvironments, *faults: Callable[[], object], timeout: float = 60, exits: bool = False
) -> None:
    """Write while the faults happen one after the other; the daemons live, and all is equal."""
    with Watch(pair.target) as watch, Traffic(pair.source, len(faults)) as traffic:
        for fault in faults:
            traffic.at_least(15, timeout)
            fault()
        traffic.at_least(15, timeout)
        traffic.end()
        pair.settle(timeout, restart=exits)
        assert watch.torn == []
        assert watch.looks > 5
        if not exits:
            assert pair.capture.restarts == pair.apply.restarts == 0


def test_sessions_of_capture_are_terminated(two_environments: Make) -> None:
    pair = two_environments(datasets=BY_RULE)
    pair.start()

    def walsender() -> None:
        wait_until(
            lambda: (
                pair.on_source(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
                    " WHERE database = current_database() AND active"
                )
                != []
            ),
            20,
            "a walsender is ended",
        )

    survive(pair, walsender, lambda: end_sessions(pair.source, "replicator capture"), walsender)


def test_sessions_of_apply_are_terminated(two_environments: Make) -> None:
    pair = two_environments(datasets=BY_RULE)
    pair.start()

    def inside(point: str) -> None:
        pair.apply.fault.arm(point, "hang")
        wait_until(lambda: pair.apply.fault.fired, 60, f"{point} is reached")
        assert end_sessions(pair.target, "replicator apply") == 1
        pair.apply.fault.release()

    points = ("apply.fenced", "apply.rows_written", "apply.before_commit")
    survive(pair, *(lambda point=point: inside(point) for point in points))


@pytest.mark.parametrize("side", ["source", "target"])
def test_postgres_is_killed(
    two_environments: Make,
    own_postgres: PostgresServer,
    _templates: SampleTemplates,  # noqa: PT019 (a factory)
    side: str,
) -> None:
    conninfo = own_postgres.conninfo(_templates.clone(own_postgres, side))
    pair = two_environments(datasets=BY_RULE, **{side: conninfo})
    pair.start()
    # Apply commits asynchronously: a crash may take back the last second, and the first backfill,
    # which comes in table by table, would be seen to come in again.
    own_postgres.execute(sql.SQL("CHECKPOINT"))

    def kill() -> None:
        own_postgres.kill9()
        own_postgres.restart()

    survive(pair, kill, kill)


def test_deadlocks_with_local_traffic(two_environments: Make) -> None:
    pair = two_environments(datasets=BY_RULE)
    pair.start()
    end = threading.Event()

    def lock_rows() -> None:
        """Lock what apply writes, in the opposite order."""
        with psycopg.connect(pair.target, options="-c deadlock_timeout=30s") as connection:
            while not end.is_set():
                try:
                    connection.execute("SELECT FROM shop_team ORDER BY id DESC FOR UPDATE")
                    end.wait(0.02)
                    connection.execute("SELECT FROM polls_question ORDER BY id DESC FOR UPDATE")
                    connection.execute("SELECT FROM shop_order FOR UPDATE")
                    connection.commit()
                    # On a busy machine apply would else never find the rows free for long enough.
                    end.wait(0.2)
                except psycopg.errors.DeadlockDetected:
                    connection.rollback()

    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    with ExitStack() as stack:
        thread = threading.Thread(target=lock_rows)
        stack.callback(thread.join)
        stack.callback(end.set)
        thread.start()
        survive(pair, lambda: time.sleep(1))
    wait_until(lambda: pair.on_target(deadlocks)[0][0] > 0, 10, "a deadlock has happened")


def through(conninfo: str, port: int) -> str:
    """Give the conninfo by way of a proxy."""
    return make_conninfo(conninfo, host="127.0.0.1", port=port)


@pytest.mark.parametrize("side", ["source", "target"])
def test_postgres_behind_a_bad_network(
    two_environments: Make,
    sample_database: Callable[..., str],
    postgres_server: PostgresServer,
    proxy: Callable[[int], TcpProxy],
    side: str,
) -> None:
    network = proxy(postgres_server.port)
    conninfo = sample_database(side)
    via = {side: conninfo, f"{side}_via": through(conninfo, network.port)}
    pair = two_environments(datasets=BY_RULE, **via)
    pair.start()
    survive(pair, *bad_network(network))


@pytest.mark.parametrize(
    ("side", "says"), [("source", "has not answered"), ("target", "the connection is given up")]
)
def test_a_daemon_notices_that_postgres_is_silent(  # noqa: PLR0917 (fixtures)
    two_environments: Make,
    sample_database: Callable[..., str],
    postgres_server: PostgresServer,
    proxy: Callable[[int], TcpProxy],
    side: str,
    says: str,
) -> None:
    """No connection breaks by itself: bytes are acknowledged and swallowed, nothing is answered."""
    network = proxy(postgres_server.port)
    conninfo = sample_database(side)
    via = {side: conninfo, f"{side}_via": through(conninfo, network.port)}
    pair = two_environments(datasets=BY_RULE, **via)
    pair.start()
    daemon = pair.capture if side == "source" else pair.apply

    def deafen() -> None:
        network.deafen()
        wait_until(lambda: says in daemon.output(), 30, "the daemon notices")
        network.cut()
        network.hear()

    survive(pair, deafen)


def bad_network(network: TcpProxy) -> list[Callable[[], None]]:
    """Cut, refuse for a while, go deaf, and be slow."""

    def refuse() -> None:
        network.refuse()
        network.cut()
        time.sleep(1)
        network.accept()

    def deafen() -> None:
        network.deafen()
        time.sleep(2)
        network.hear()

    def delay() -> None:
        network.delay(0.05)
        time.sleep(1)
        network.delay(0)

    return [network.cut, refuse, deafen, delay]


def kafka_url(port: int) -> str:
    """Name a broker on this machine."""
    return f"kafka://127.0.0.1:{port}"


def test_kafka_behind_a_bad_network(two_environments: Make, kafka: KafkaBroker) -> None:
    with kafka.proxy() as network:
        pair = two_environments(datasets=BY_RULE, log=kafka_url(network.port), name="prod-network")
        pair.start()
        survive(pair, *bad_network(network))
        pair.close()


def test_kafka_is_killed_in_the_middle_of_a_batch(
    two_environments: Make, own_kafka: KafkaBroker
) -> None:
    pair = two_environments(datasets=BY_RULE, log=own_kafka.url)
    pair.start()

    def kill() -> None:
        pair.capture.fault.arm("capture.handed_over", "slow")
        wait_until(lambda: pair.capture.fault.fired, 60, "in the middle of a batch")
        own_kafka.kill9()
        time.sleep(1)
        own_kafka.restart()

    survive(pair, kill, kill, timeout=60)
    pair.close()
