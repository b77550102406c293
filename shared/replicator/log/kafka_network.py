"""kafka-python's event loop with less around each message.

In kafka-python 3.0.12 as it is, a socket is entered into epoll and taken out again around each
message, its name is written into an exception that nobody reads, and what a consumer gets comes
from a thread of its own, by way of three handovers. Here a socket stays with the kernel
(`KeptSelector`), one that can be written to is written to (`Network`), and a consumer's loop is
driven by the thread that reads (`DrivenNetwork`). A backfill beside small transactions brings a
sixth more rows so; what these cost by themselves has not shown a difference.

Like `kafka_batches`, this module knows the library's internals: where `why_not_network` misses
something that it uses, kafka-python's own loop does the same.
"""

import select
import selectors
import time
from collections.abc import Mapping
from typing import Any, Final

from kafka.net.compat import KafkaNetClient
from kafka.net.selector import NetworkSelector

from replicator.log.kafka_internals import arguments, first_missing, has, known_version

_HAS_EPOLL: Final = hasattr(select, "epoll")
_PAUSE_S: Final = 1.0
"""Seconds without a turn of a driven loop in which what waits in it may have run out."""
_GRACE_S: Final = 2.0
"""Seconds that it then gets to read what has arrived."""


class KeptSelector(selectors.BaseSelector):
    """Waits for sockets by epoll, and keeps one there that is waited for again and again.

    Level-triggered, as `selectors.EpollSelector`; what a socket no longer waits for is taken back
    from the kernel only when it comes.

    Source: https://man7.org/linux/man-pages/man7/epoll.7.html
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._kept: dict[int, tuple[Any, int]] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """See `selectors.BaseSelector`."""
        number = fileobj.fileno()
        if number < 0:
            raise ValueError("It is closed.")
        if number in self._keys:
            raise KeyError(number)
        return self._wait_for(fileobj, number, events, data)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """See `selectors.BaseSelector`."""
        return self._wait_for(fileobj, self.get_key(fileobj).fd, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """See `selectors.BaseSelector`."""
        return self._keys.pop(self._number(fileobj))

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """See `selectors.BaseSelector`."""
        return self._keys[self._number(fileobj)]

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """Give the keys by file descriptor."""
        return self._keys

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See `selectors.BaseSelector`."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            left = -1 if until is None else max(0.0, until - time.monotonic())
            came = self._epoll.poll(left, max(len(self._kept), 1))
            ready = [each for number, mask in came if (each := self._found(number, mask))]
            # What nobody waits for any more has come: it is no reason to return.
            if ready or not came or not left:
                return ready

    def close(self) -> None:
        """See `selectors.BaseSelector`."""
        self._epoll.close()
        self._keys.clear()
        self._kept.clear()

    def _number(self, fileobj: Any) -> int:
        """Give its file descriptor, or what that was before it was closed."""
        number = int(fileobj.fileno())
        if number >= 0:
            return number
        found = (known for known, key in self._keys.items() if key.fileobj is fileobj)
        number = next(found, number)
        if number < 0:
            raise ValueError("It is closed, and nobody waits for it.")
        return number

    def _wait_for(self, fileobj: Any, number: int, events: int, data: Any) -> selectors.SelectorKey:
        known, kept = self._kept.get(number, (None, 0))
        if known is not fileobj:
            # The number belongs to another one now: what was closed has left by itself.
            try:
                self._epoll.register(number, _mask(events))
            except FileExistsError:  # It is the same socket in another object, as TLS wraps it.
                self._epoll.modify(number, _mask(events))
            self._kept[number] = fileobj, events
        elif events & ~kept:
            self._epoll.modify(number, _mask(kept | events))
            self._kept[number] = fileobj, kept | events
        key = self._keys[number] = selectors.SelectorKey(fileobj, number, events, data)
        return key

    def _found(self, number: int, mask: int) -> tuple[selectors.SelectorKey, int] | None:
        """Say who waits for what has come, if anybody does."""
        key = self._keys.get(number)
        wanted = 0 if key is None else key.events
        # An error or the end of the other side wakes whoever waits.
        events = selectors.EVENT_WRITE if mask & ~select.EPOLLIN else 0
        events |= selectors.EVENT_READ if mask & ~select.EPOLLOUT else 0
        if events & ~wanted:
            self._take_back(number, wanted)
        return (key, events & wanted) if key is not None and events & wanted else None

    def _take_back(self, number: int, wanted: int) -> None:
        """Leave with the kernel only what is waited for: the rest would wake us for ever."""
        fileobj, _ = self._kept.pop(number, (None, 0))
        try:
            if wanted:
                self._epoll.modify(number, _mask(wanted))
                self._kept[number] = fileobj, wanted
            else:
                self._epoll.unregister(number)
        except OSError:
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Leave behind what was closed here and is held on by another process, a fork say.

        The kernel tells of it for ever, and takes it back only by the number that it had.
        """
        self._epoll.close()
        self._epoll = select.epoll()
        for number, (_, events) in [*self._kept.items()]:
            try:
                self._epoll.register(number, _mask(events))
            except OSError:
                del self._kept[number]


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
    """The loop of a client that one thread uses: it turns while that thread waits in it.

    As everywhere in kafka-python, what is raised inside of one of its tasks ends that task only.
    So a signal's handler must not raise while that thread is in here.
    """

    def __init__(self, **configs: object) -> None:
        super().__init__(**configs)
        self._turned = time.monotonic()
        self._spared = set[Any]()

    def start(self) -> None:
        """Do without a thread."""

    def wakeup(self) -> None:
        """Wake nobody: who calls is who turns the loop."""

    def run(self, coro: Any, *args: Any) -> Any:
        """See `NetworkSelector.run`; what it has left to send is on its way afterwards."""
        self._look_for_pause()
        try:
            return super().run(coro, *args)
        finally:
            if not self._closed:
                self.drain()
            self._turned = time.monotonic()

    def turn(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for something to do, and do it."""
        self._look_for_pause()
        self._poll_once(timeout)
        self.drain()
        self._turned = time.monotonic()

    def _look_for_pause(self) -> None:
        if time.monotonic() - self._turned >= _PAUSE_S:
            self._spare_overdue()

    def _spare_overdue(self) -> None:
        """Give each timer that ran out while nobody turned the loop some more time, once.

        Or a request would time out of which the answer has arrived, but for what the kernel had
        no room for.
        """
        now = time.monotonic()
        overdue = {task for when, task in self._scheduled if when <= now} - self._spared
        for task in overdue:
            self.reschedule(now + _GRACE_S, task)
        self._spared = {task for _, task in self._scheduled} & (self._spared | overdue)


def why_not_network() -> str | None:
    """Say what of kafka-python's loop is not as expected; None if all is."""
    turning = ("run", "drain", "_poll_once", "_wait_write", "_add_ready_task", "reschedule")
    missing = first_missing(
        known_version(),
        (has(NetworkSelector, "start", "wakeup", *turning), "NetworkSelector"),
        ("net" in arguments(KafkaNetClient.__init__), "KafkaNetClient"),
    )
    return missing or (None if _schedules_as_expected() else "Task")


def _schedules_as_expected() -> bool:
    probe = NetworkSelector()
    try:
        task = probe.call_later(1, lambda: None)
        return bool(probe._scheduled == [(task.scheduled_at, task)])
    finally:
        probe.close()
