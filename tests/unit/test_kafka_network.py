"""kafka-python's event loop as Replicator turns it: the selector against the standard library's."""

import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.net.selector import NetworkSelector

from replicator.log import kafka_network
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
        st.sampled_from(["register", "modify", "unregister", "send", "read", "reopen", "end"]),
        st.integers(0, 2),
        st.sampled_from([READ, WRITE, READ | WRITE]),
    ),
    max_size=40,
)


@given(STEPS)
def test_it_finds_what_the_standard_selector_finds(steps: list[tuple[str, int, int]]) -> None:
    pairs = [socket.socketpair() for _ in range(3)]
    both: tuple[selectors.BaseSelector, ...] = (KeptSelector(), selectors.EpollSelector())
    try:
        for number, (step, which, events) in enumerate(steps):
            ours, theirs = pairs[which]
            if step == "send":
                with suppress(OSError):
                    theirs.send(b"x")
            elif step == "read":
                ours.setblocking(False)
                with suppress(OSError):
                    ours.recv(100)
            elif step == "end":
                with suppress(OSError):
                    theirs.shutdown(socket.SHUT_WR)
            elif step == "reopen":
                for selector in both:
                    with suppress(KeyError):
                        selector.unregister(ours)
                ours.close()
                theirs.close()
                pairs[which] = socket.socketpair()
            else:
                said = [_call(selector, step, ours, events, number) for selector in both]
                assert said[0] == said[1]
            assert found(both[0]) == found(both[1])
            assert len(both[0].get_map()) == len(both[1].get_map())
    finally:
        for selector in both:
            selector.close()
        for each in pairs:
            for end in each:
                end.close()


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
    assert kept.unregister(ours).data == "one"
    with pytest.raises(KeyError):
        kept.unregister(ours)
    with pytest.raises(ValueError, match="closed"):
        kept.register(ours, READ, "one")
    assert not kept.get_map()


def test_one_that_another_thread_closes_harms_nobody(kept: KeptSelector) -> None:
    ours, theirs = socket.socketpair()
    kept.register(ours, READ, "one")
    kept.unregister(ours)
    held = ours.dup()  # The kernel reports it on for as long as somebody holds it.
    theirs.close()
    ours.close()
    assert found(kept) == found(kept) == set()
    held.close()


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


def test_time_in_which_nobody_turned_the_loop_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = DrivenNetwork()
    now = time.monotonic()
    monkeypatch.setattr(kafka_network.time, "monotonic", lambda: now)
    ended: list[float] = []
    network.call_later(10, lambda: ended.append(now))
    network.run(lambda: None)
    now += 60  # A batch waits for a lock.
    network.run(lambda: None)
    network.poll(timeout_ms=0)
    assert not ended
    for _ in range(11):
        now += 0.9
        network.run(lambda: None)
        network.poll(timeout_ms=0)
    assert not ended
    now += 0.9
    network.run(lambda: None)
    network.poll(timeout_ms=0)
    assert ended
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
