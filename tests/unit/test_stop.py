"""The stop token, its signals, and the supervision that tries again."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from replicator.errors import ConfigurationError, DatabaseUnavailable, LogUnavailable, Stopped
from replicator.stop import Backoff, Stop, stop_on_signals, supervise

FAST = Backoff(first=0.001, limit=0.002)


@pytest.fixture
def stop() -> Iterator[Stop]:
    token = Stop()
    yield token
    token.close()


def test_wait_ends_with_the_time(stop: Stop) -> None:
    assert stop.wait(0.01) is False
    assert stop.wait(-1) is False


def test_set_wakes_every_waiter_for_good(stop: Stop) -> None:
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(stop.wait(30))) for _ in range(3)]
    for thread in threads:
        thread.start()
    stop.set()
    stop.set()
    for thread in threads:
        thread.join(10)
    assert answers == [True, True, True]
    assert stop.is_set()
    assert stop.wait(30) is True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_it_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as token:
        os.kill(os.getpid(), number)
        assert token.wait(10)
        assert signal.getsignal(number) is signal.SIG_DFL
    assert signal.getsignal(number) is before


def test_the_second_signal_ends_the_process_at_once() -> None:
    code = (
        "from replicator.stop import stop_on_signals\nimport time\n"
        "with stop_on_signals() as stop:\n"
        "    print('up', flush=True)\n"
        "    stop.wait(60)\n    print('stopping', flush=True)\n    time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "stopping\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM


def test_what_is_away_is_tried_again(stop: Stop) -> None:
    errors = [DatabaseUnavailable("a"), LogUnavailable("b")]
    calls: list[int] = []

    def run() -> None:
        calls.append(1)
        if errors:
            raise errors.pop()

    supervise(run, stop, FAST)
    assert len(calls) == 3


@pytest.mark.parametrize("error", [Stopped("x"), ConfigurationError("x"), ValueError("x")])
def test_everything_else_ends_it(error: Exception, stop: Stop) -> None:
    calls: list[int] = []

    def run() -> None:
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        supervise(run, stop, FAST)
    assert calls == [1]


def test_a_stop_during_the_pause_ends_it(stop: Stop) -> None:
    def run() -> None:
        stop.set()
        raise LogUnavailable("away")

    began = time.monotonic()
    supervise(run, stop, Backoff(first=60))
    assert time.monotonic() - began < 30


def test_pauses_double_up_to_the_limit() -> None:
    backoff = Backoff(first=0.5, limit=3)
    assert [backoff.delay(n) for n in (1, 2, 3, 4, 1000)] == [0.5, 1, 2, 3, 3]


def test_a_calm_run_begins_the_pauses_anew(stop: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(stop, "wait", lambda seconds: pauses.append(seconds) or False)
    now = [0.0]
    lengths = [1.0, 1.0, 100.0, 1.0]

    def run() -> None:
        if not lengths:
            return
        now[0] += lengths.pop(0)
        raise DatabaseUnavailable("away")

    supervise(run, stop, Backoff(first=1, calm=60), clock=lambda: now[0])
    assert pauses == [1, 2, 1, 2]
