"""The HTTP server of the daemons: real requests on a free port."""

import http.client
import socket
import threading

import pytest

from replicator.errors import ConfigurationError
from replicator.http import Health, serve_http


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def get(address: str | None, path: str) -> tuple[int, str]:
    assert address is not None
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_healthz_follows_the_loop() -> None:
    clock = Clock()
    health = Health(within=30, clock=clock)
    with serve_http(("127.0.0.1", 0), health) as address:
        clock.now += 30
        assert get(address, "/healthz") == (200, "the loop turned 30.0 s ago\n")
        clock.now += 1
        assert get(address, "/healthz") == (503, "the loop turned 31.0 s ago\n")
        health.turned()
        assert get(address, "/healthz") == (200, "the loop turned 0.0 s ago\n")


def test_a_loop_that_stands_is_not_ready() -> None:
    clock = Clock()
    health = Health(within=30, clock=clock)
    health.ready(True)
    clock.now += 31
    assert health.readiness() == (False, "not ready: the loop turned 31.0 s ago")
    health.turned()
    assert health.readiness() == (True, "ready")


def test_the_whole_is_as_well_as_the_worst_of_its_parts() -> None:
    clock = Clock()
    health = Health(within=30, clock=clock)
    one, two = health.part("one"), health.part("two")
    one.ready(True)
    assert health.readiness() == (False, "not ready: two: starting")
    two.ready(False, "a hole")
    assert health.readiness() == (False, "not ready: two: a hole")
    two.ready(True)
    assert health.readiness() == (True, "ready")
    clock.now += 40
    one.turned()
    assert health.liveness() == (False, "the loop turned 40.0 s ago")
    two.turned()
    assert health.liveness() == (True, "the loop turned 0.0 s ago")


def test_readyz_says_why_not() -> None:
    health = Health()
    with serve_http(("127.0.0.1", 0), health) as address:
        assert get(address, "/readyz") == (503, "not ready: starting\n")
        health.ready(True)
        assert get(address, "/readyz") == (200, "ready\n")
        health.ready(False, "standby: another capture is active")
        assert get(address, "/readyz") == (503, "not ready: standby: another capture is active\n")


def test_metrics_show_the_loop() -> None:
    clock = Clock()
    health = Health(clock=clock)
    with serve_http(("127.0.0.1", 0), health) as address:
        before = _sample(get(address, "/metrics")[1], "replicator_loop_turns_total")
        health.turned()
        health.ready(True)
        clock.now += 2.5
        status, text = get(address, "/metrics")
    assert status == 200
    assert _sample(text, "replicator_loop_turns_total") == before + 1
    assert _sample(text, "replicator_loop_age_seconds") == 2.5
    assert _sample(text, "replicator_ready") == 1


def _sample(text: str, name: str) -> float:
    return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[1])


def test_any_other_path_is_not_found() -> None:
    with serve_http(("127.0.0.1", 0), Health()) as address:
        assert get(address, "/")[0] == 404


def test_a_busy_port_is_a_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1:{port}") as caught,
            serve_http(("127.0.0.1", port), Health()),
        ):
            pass
    assert "free port" in caught.value.remedy


def test_it_stops_with_its_thread_and_socket() -> None:
    with serve_http(("127.0.0.1", 0), Health()) as address:
        assert "http" in {thread.name for thread in threading.enumerate()}
    assert "http" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(ConnectionRefusedError):
        get(address, "/healthz")


def test_a_client_that_says_nothing_does_not_block_a_probe() -> None:
    with serve_http(("127.0.0.1", 0), Health()) as address:
        assert address is not None
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port))):
            assert get(address, "/healthz")[0] == 200


def test_without_an_address_nothing_is_served() -> None:
    with serve_http(None, Health()) as address:
        assert address is None
