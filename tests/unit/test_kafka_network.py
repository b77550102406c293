"""kafka-python's event loop as Replicator turns it: the selector against the standard library's."""

import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kafka.net.compat import KafkaNetClient
from kafka.net.selector import NetworkSelector

from replicator.log import kafka_network
from replicator.log.kafka import KafkaLog
from replicator.log.kafka_network import DrivenNetwork, KeptSelector, Network

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


@pytest.fixture
def kept() -> Iterator[KeptSelector]:
    selector = KeptSelector()
    yield selector
    selector.close()


def found(selector: selectors.BaseSelector, timeout: float = 0) -> set[tuple[object, int]]:
    return {(key.data, events) for key, events in selector.select(timeout)}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["register", "modify", "unregister", "send", "read", "reopen", "wrap", "end"]
        ),
        st.integers(0, 2),
        st.sampled_from([READ, WRITE, READ | WRITE]),
    ),
    max_size=40,
)


@given(STEPS)
@example([("register", 0, READ), ("reopen", 0, READ), ("register", 0, READ), ("send", 0, READ)])
@example([("register", 0, READ), ("wrap", 0, READ), ("register", 0, READ), ("send", 0, READ)])
def test_it_finds_what_the_standard_selector_finds(steps: list[tuple[str, int, int]]) -> None:
    pairs = [socket.socketpair() for _ in range(3)]
    both: tuple[selectors.BaseSelector, ...] = (KeptSelector(), selectors.EpollSelector())
    try:
        for number, (step, which, events) in enumerate(steps):
            if step in {"register", "modify", "unregister"}:
                said = [_call(each, step, pairs[which][0], events, number) for each in both]
                assert said[0] == said[1]
            else:
                pairs[which] = _happens(step, pairs[which], both)
            assert found(both[0]) == found(both[1])
            assert len(both[0].get_map()) == len(both[1].get_map())
    finally:
        for selector in both:
            selector.close()
        for each in pairs:
            for end in each:
                end.close()


def _happens(
    step: str,
    pair: tuple[socket.socket, socket.socket],
    selectors_of: tuple[selectors.BaseSelector, ...],
) -> tuple[socket.socket, socket.socket]:
    """Let something happen to a pair of sockets; gives the pair there is now."""
    ours, theirs = pair
    if step in {"wrap", "reopen"}:
        for selector in selectors_of:
            with suppress(KeyError):
                selector.unregister(ours)
    if step == "wrap":
        # As TLS does: the same descriptor in another object.
        return socket.socket(fileno=ours.detach()), theirs
    if step == "reopen":
        ours.close()
        theirs.close()
        return socket.socketpair()
    ours.setblocking(False)
    with suppress(OSError):
        if step == "send":
            theirs.send(b"x")
        elif step == "read":
            ours.recv(100)
        else:
            theirs.shutdown(socket.SHUT_WR)
    return pair


def _call(
    selector: selectors.BaseSelector, step: str, sock: socket.socket, events: int, data: int
) -> object:
    try:
        if step == "unregister":
            return selector.unregister(sock)
        return getattr(selector, step)(sock, events, data)
    except KeyError:
        return "KeyError"


def test_what_nobody_waits_for_does_not_wake(
    kept: KeptSelector, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    kept.register(ours, READ, "first")
    kept.unregister(ours)
    theirs.send(b"x")
    assert found(kept) == set()
    began = time.monotonic()
    assert found(kept, 0.2) == set()
    assert time.monotonic() - began > 0.19, "the socket wakes although nobody waits for it"
    kept.register(ours, READ, "again")
    assert found(kept) == {("again", READ)}


def test_it_waits_as_long_as_it_is_told(
    kept: KeptSelector, pair: tuple[socket.socket, socket.socket]
) -> None:
    kept.register(pair[0], READ, "one")
    began = time.monotonic()
    assert found(kept, 0.05) == set()
    assert time.monotonic() - began >= 0.05
    timer = threading.Timer(0.05, lambda: pair[1].send(b"x"))
    timer.start()
    assert found(kept, None) == {("one", READ)}
    timer.join()


def test_a_socket_that_was_closed_can_be_taken_out(kept: KeptSelector) -> None:
    ours, theirs = socket.socketpair()
    kept.register(ours, READ, "one")
    ours.close()
    theirs.close()
    assert kept.get_key(ours).data == "one"
    assert kept.unregister(ours).data == "one"
    with pytest.raises(ValueError, match="closed"):
        kept.unregister(ours)
    with pytest.raises(ValueError, match="closed"):
        kept.register(ours, READ, "one")
    assert not kept.get_map()


def test_what_cannot_be_waited_for_leaves_nothing_behind(
    kept: KeptSelector, tmp_path: Path
) -> None:
    with (tmp_path / "file").open("w") as file:
        for _ in range(2):
            with pytest.raises(PermissionError):
                kept.register(file, READ, "one")
    assert not kept.get_map()


def test_a_closed_socket_that_another_process_holds_on_to_does_not_wake_for_ever(
    kept: KeptSelector, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.register(pair[0], READ, "another")
    ours, theirs = socket.socketpair()
    kept.register(ours, READ, "one")
    kept.unregister(ours)
    held = ours.dup()  # As a fork does: the kernel goes on to tell of it.
    theirs.close()
    ours.close()
    told: list[int] = []
    take_back = kept._take_back
    monkeypatch.setattr(kept, "_take_back", lambda *of: (told.append(of[0]), take_back(*of)))
    began = time.monotonic()
    assert found(kept, 0.2) == set()
    assert time.monotonic() - began > 0.19
    assert len(told) == 1, "it is told of still"
    held.close()
    pair[1].send(b"x")
    assert found(kept) == {("another", READ)}


@pytest.mark.parametrize("kind", [Network, DrivenNetwork])
def test_a_full_socket_is_waited_for(
    kind: type[Network], pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    network = kind()
    with suppress(BlockingIOError):
        while True:
            ours.send(b"x" * 65_536)
    went_on: list[float] = []

    async def write() -> None:
        await network.wait_write(ours)
        went_on.append(time.monotonic())

    network.call_soon(write)
    network.poll(timeout_ms=50)
    network.poll(timeout_ms=50)
    assert not went_on
    while len(theirs.recv(1 << 20)) == 1 << 20:
        pass
    network.poll(timeout_ms=50)
    network.poll(timeout_ms=50)
    assert went_on
    network.close()


def test_a_driven_loop_has_no_thread_and_sends_before_it_returns(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    network = DrivenNetwork()
    network.start()
    assert network._io_thread is None

    async def write() -> None:
        await network.wait_write(ours)
        ours.send(b"on its way")

    async def ask() -> str:
        network.call_soon(write)
        return "asked"

    assert network.run(ask) == "asked"
    theirs.settimeout(0)
    assert theirs.recv(100) == b"on its way"
    network.close()


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.monotonic()
        monkeypatch.setattr(kafka_network.time, "monotonic", lambda: self.now)


def test_what_ran_out_while_nobody_turned_the_loop_gets_a_moment_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, network, ended = Clock(monkeypatch), DrivenNetwork(), list[str]()

    def turn(seconds: float) -> list[str]:
        clock.now += seconds
        network.run(lambda: None)
        network.poll(timeout_ms=0)
        return ended

    network.call_later(10, lambda: ended.append("request"))
    network.call_later(300, lambda: ended.append("later"))
    turn(0)
    assert turn(60) == [], "a batch waited for a lock: what has arrived is read first"
    assert turn(0.9) == []
    assert turn(60) == ["request"], "it has had its moment"
    # Where batches take long again and again, time passes nevertheless.
    for _ in range(100):
        turn(1.5)
    assert turn(120) == ["request"]
    assert turn(2.5) == ["request", "later"]
    network.close()


def test_without_a_pause_what_runs_out_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, network, ended = Clock(monkeypatch), DrivenNetwork(), list[str]()
    network.call_later(0.5, lambda: ended.append("request"))
    clock.now += 0.6
    network.run(lambda: None)
    network.poll(timeout_ms=0)
    assert ended == ["request"]
    network.close()


def test_a_machine_without_epoll_waits_as_the_standard_library_does(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[socket.socket, socket.socket]
) -> None:
    monkeypatch.setattr(kafka_network, "_HAS_EPOLL", False)
    ours, theirs = pair
    network = DrivenNetwork()
    assert not isinstance(network._selector, KeptSelector)

    async def read() -> bytes:
        await network.wait_read(ours)
        return ours.recv(100)

    theirs.send(b"here")
    assert network.run(read) == b"here"
    network.close()


def test_another_version_or_shape_of_the_library_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert kafka_network.why_not_network() is None
    with monkeypatch.context() as patch:
        patch.setattr("kafka.__version__", "3.1.0")
        assert kafka_network.why_not_network() == "version 3.1.0"
    with monkeypatch.context() as patch:
        patch.delattr(NetworkSelector, "_add_ready_task")
        assert kafka_network.why_not_network() == "NetworkSelector"
    with monkeypatch.context() as patch:
        patch.setattr(KafkaNetClient, "__init__", lambda *_, **__: None)
        assert kafka_network.why_not_network() == "KafkaNetClient"
    with monkeypatch.context() as patch:
        patch.setattr(NetworkSelector, "call_later", lambda *_: SimpleNamespace(scheduled_at=1))
        assert kafka_network.why_not_network() == "Task"


def test_a_log_on_another_library_takes_its_own_ways(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kafka.__version__", "3.1.0")
    log = KafkaLog(["127.0.0.1:1"], {})
    assert not log._clients._fast
    assert [record.event for record in caplog.records] == ["kafka_fallback"]
