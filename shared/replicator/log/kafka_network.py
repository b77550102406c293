"""kafka-python's event loop without what costs most of a small message.

With kafka-python 3.0.12 as it is, 200 small transactions a second keep a fifth of a CPU busy in
each daemon with waiting alone: a socket is entered into epoll and taken out again around each
message, its name is written into an exception that nobody reads, and what a consumer gets comes
from a thread of its own, by way of three handovers. Here a socket stays with the kernel
(`KeptSelector`), one that can be written to is written to (`Network`), and a consumer's loop is
driven by the thread that reads (`DrivenNetwork`).

Like `kafka_batches`, this module knows the library's internals: where `why_not_network` misses
something that it uses, kafka-python's own loop does the same.
"""

import math
import select
import selectors
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import kafka
from kafka.net.selector import NetworkSelector

_VERSION = "3.0."
_HAS_EPOLL: Final = hasattr(select, "epoll")
_STOOD_S: Final = 1.0
"""Seconds without a turn of a driven loop that do not count for what waits in it."""


class KeptSelector(selectors.BaseSelector):
    """Waits for sockets by epoll, and keeps one there that is waited for again and again.

    Level-triggered, as `selectors.EpollSelector`; what a socket no longer waits for is taken back
    from the kernel only when it comes. `get_key` raises a bare KeyError.

    Source: https://man7.org/linux/man-pages/man7/epoll.7.html
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._kept: dict[int, tuple[Any, int]] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """See `selectors.BaseSelector`."""
        number = _number(fileobj)
        if number in self._keys:
            raise KeyError(number)
        return self._wait_for(fileobj, number, events, data)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """See `selectors.BaseSelector`."""
        return self._wait_for(fileobj, self.get_key(fileobj).fd, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """See `selectors.BaseSelector`; also takes an object that is closed by now."""
        number = fileobj.fileno()
        if number < 0:
            number = next((n for n, key in self._keys.items() if key.fileobj is fileobj), number)
        return self._keys.pop(int(number))

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """See `selectors.BaseSelector`."""
        return self._keys[_number(fileobj)]

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """Give the keys by file descriptor."""
        return self._keys

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See `selectors.BaseSelector`."""
        # Rounded up to milliseconds, or a wait of less would be a loop.
        seconds = -1 if timeout is None else max(0.0, math.ceil(timeout * 1e3) * 1e-3)
        ready = []
        for number, came in self._epoll.poll(seconds, max(len(self._kept), 1)):
            key = self._keys.get(number)
            wanted = 0 if key is None else key.events
            # An error or the end of the other side wakes whoever waits.
            events = 0
            if came & ~select.EPOLLIN:
                events |= selectors.EVENT_WRITE
            if came & ~select.EPOLLOUT:
                events |= selectors.EVENT_READ
            if key is not None and events & wanted:
                ready.append((key, events & wanted))
            if events & ~wanted:
                self._take_back(number, wanted)
        return ready

    def close(self) -> None:
        """See `selectors.BaseSelector`."""
        self._epoll.close()
        self._keys.clear()
        self._kept.clear()

    def _wait_for(self, fileobj: Any, number: int, events: int, data: Any) -> selectors.SelectorKey:
        key = self._keys[number] = selectors.SelectorKey(fileobj, number, events, data)
        known, kept = self._kept.get(number, (None, 0))
        if known is not fileobj:
            # The number belongs to another one now: what was closed has left by itself.
            self._kept[number] = fileobj, events
            try:
                self._epoll.register(number, _mask(events))
            except FileExistsError:
                self._epoll.modify(number, _mask(events))
        elif events & ~kept:
            self._kept[number] = fileobj, kept | events
            self._epoll.modify(number, _mask(kept | events))
        return key

    def _take_back(self, number: int, wanted: int) -> None:
        """Leave with the kernel only what is waited for: the rest would wake us for ever."""
        fileobj, _ = self._kept.pop(number, (None, 0))
        with suppress(OSError):  # Another thread has closed it, so it has left by itself.
            if wanted:
                self._epoll.modify(number, _mask(wanted))
                self._kept[number] = fileobj, wanted
            else:
                self._epoll.unregister(number)


def _number(fileobj: Any) -> int:
    number = fileobj.fileno()
    if number < 0:
        raise ValueError("It is closed.")
    return int(number)


def _mask(events: int) -> int:
    reads = select.EPOLLIN if events & selectors.EVENT_READ else 0
    return reads | (select.EPOLLOUT if events & selectors.EVENT_WRITE else 0)


class Network(NetworkSelector):  # type: ignore[misc]  # untyped
    """The loop of a client that has a thread of its own.

    Where there is no epoll, as on macOS, it waits as the standard library does.
    """

    def __init__(self, **configs: object) -> None:
        super().__init__(**({**configs, "selector": KeptSelector} if _HAS_EPOLL else configs))
        self._writable = select.poll()

    def _wait_write(self, fileobj: Any, timeout_at: float | None = None) -> None:
        """Go on at once with a socket that can be written to: nearly every one, each time."""
        number = fileobj.fileno()
        self._writable.register(number, select.POLLOUT)
        found = self._writable.poll(0)
        self._writable.unregister(number)
        if found and found[0][1] == select.POLLOUT:
            self._add_ready_task(self._current)
        else:
            super()._wait_write(fileobj, timeout_at)


class DrivenNetwork(Network):
    """The loop of a client that one thread uses: it turns while that thread waits in it."""

    def __init__(self, **configs: object) -> None:
        super().__init__(**configs)
        self._turned = time.monotonic()

    def start(self) -> None:
        """Do without a thread."""

    def wakeup(self) -> None:
        """Wake nobody: who calls is who turns the loop."""

    def run(self, coro: Any, *args: Any) -> Any:
        """See `NetworkSelector.run`; what it has left to send is on its way afterwards."""
        self._leave_out_the_stand()
        try:
            return super().run(coro, *args)
        finally:
            if not self._closed:
                self.drain()
            self._turned = time.monotonic()

    def _leave_out_the_stand(self) -> None:
        """Put off what waits by the time in which nobody turned the loop.

        Or requests would time out of which the answer has long arrived.
        """
        stood = time.monotonic() - self._turned
        if stood < _STOOD_S:
            return
        later = [(when + stood, task) for when, task in self._scheduled]
        for when, task in later:
            task.scheduled_at = when
        self._scheduled[:] = later


def why_not_network() -> str | None:
    """Say what of kafka-python's loop is not as expected; None if all is."""
    used = ("start", "wakeup", "run", "drain", "_wait_write", "_add_ready_task", "call_at")
    missing = [name for name in used if not hasattr(NetworkSelector, name)]
    if not kafka.__version__.startswith(_VERSION):
        return f"version {kafka.__version__}"
    if missing or "selector" not in NetworkSelector.DEFAULT_CONFIG:
        return "NetworkSelector"
    return None


def network(*, driven: bool, **configs: object) -> Network:
    """Make the loop of a client.

    Args:
        driven: one thread uses the client, and turns its loop.
        configs: as kafka-python gives them to its `kafka_client`.
    """
    return (DrivenNetwork if driven else Network)(**configs)
