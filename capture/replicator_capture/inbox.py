"""Requests that wait to be answered, and the threads that read them from the targets' topics.

Bounded in every direction: a target that asks too much, or garbage, costs a counter. What is
dropped here is asked again by its target.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from replicator.errors import BadRecord, Hole, LogUnavailable
from replicator.log.port import Log, LogReader
from replicator.metrics import counter, gauge
from replicator.positions import Offset
from replicator.requests import KeysRequest, PageRequest, Report, fingerprint, parse
from replicator.stop import Stop
from replicator_capture import metrics

logger = logging.getLogger(__name__)

Request = KeysRequest | PageRequest

WAITING_PER_TARGET = 64
REQUESTS_PER_SECOND = 500.0
"""Of one target, in the long run: several times the pages that a fast one fills in a second."""
BURST = 1_000.0
_FORGET_AFTER = 20.0
_REMEMBERED = int(REQUESTS_PER_SECOND * _FORGET_AFTER)
"""Answered requests of all targets: a repeat of one that came late is dropped."""
_POLL = 0.1
"""Seconds that a thread waits for requests, which the end of capture may have to wait for."""
_PAUSE = 2.0


class Allowance:
    """How many requests a target may still make: a bucket that fills with time.

    Args:
        rate: tokens per second.
        burst: tokens it holds.
    """

    def __init__(self, rate: float = REQUESTS_PER_SECOND, burst: float = BURST) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._at = burst, 0.0

    def take(self, now: float) -> bool:
        """Take a token at the time `now` (seconds that only grow); False: there is none."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Inbox:
    """Requests in the order of their arrival, keys before pages; used by several threads.

    Args:
        stream: name of the stream, for metrics.
        clock: seconds that only grow.
    """

    def __init__(self, stream: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._changed = threading.Condition()
        self._waiting: OrderedDict[tuple[str, str], Request] = OrderedDict()
        self._answered: OrderedDict[tuple[str, str], tuple[float, str]] = OrderedDict()
        self._allowances: dict[str, Allowance] = {}
        self.reports: dict[str, tuple[Report, float]] = {}
        """The last report of each target, and when it came (by the clock)."""

    def receive(self, target: str, value: bytes) -> None:
        """Take in a message of a target's topic. Never raises for what the message says."""
        try:
            message = parse(value)
        except BadRecord as error:
            logger.warning("%s (from %s)", error, target, extra={"event": "bad_request"})
            self._ignore(target, "unreadable")
            return
        if message.target != target:
            self._ignore(target, "other_target")
        elif isinstance(message, Report):
            self._report(message)
        else:
            self._put(message)

    def _ignore(self, target: str, reason: str) -> None:
        counter(metrics.BAD_REQUESTS).labels(self._stream, target, reason).inc()

    def _report(self, report: Report) -> None:
        labels = (self._stream, report.target)
        self.reports[report.target] = (report, self._clock())
        gauge(metrics.REPORT_AGE).labels(*labels).set(report.at_ms / 1000)
        if report.lag_s is not None:
            gauge(metrics.TARGET_LAG).labels(*labels).set(report.lag_s)

    def _put(self, request: Request) -> None:
        key = (request.target, request.id)
        now = self._clock()
        with self._changed:
            if key in self._waiting:
                self._waiting[key] = request  # Its plan may be another one now.
                return
            at, plan = self._answered.get(key, (0.0, ""))
            if plan == fingerprint(request.plan) and now - at < _FORGET_AFTER:
                return
            allowance = self._allowances.setdefault(request.target, Allowance())
            waiting = sum(target == request.target for target, _ in self._waiting)
            if waiting >= WAITING_PER_TARGET or not allowance.take(now):
                self._ignore(request.target, "too_many")
                return
            self._waiting[key] = request
            self._changed.notify()

    def next(self, *, pages: bool, timeout: float) -> Request | None:
        """Give the next request, keys first; wait at most `timeout` seconds for one.

        Args:
            pages: whether a page may be given.
            timeout: seconds.
        """
        with self._changed:
            found = self._first(pages=pages)
            if found is None:
                self._changed.wait(timeout)
                found = self._first(pages=pages)
            return None if found is None else self._waiting.pop(found)

    def waits(self) -> bool:
        """Whether any request waits."""
        return bool(self._waiting)

    def _first(self, *, pages: bool) -> tuple[str, str] | None:
        first_page = None
        for key, request in self._waiting.items():
            if isinstance(request, KeysRequest):
                return key
            first_page = first_page or key
        return first_page if pages else None

    def answered(self, request: Request, *, refused: bool) -> None:
        """Note that a request has its answer in the log; a repeat that has come is dropped.

        So is one under way, but after a refusal: its cause may be mended meanwhile. Under another
        plan it is no repeat.
        """
        key, plan = (request.target, request.id), fingerprint(request.plan)
        with self._changed:
            repeat = self._waiting.get(key)
            if repeat is not None and fingerprint(repeat.plan) == plan:
                del self._waiting[key]
            self._answered.pop(key, None)
            if not refused:
                self._answered[key] = self._clock(), plan
            while len(self._answered) > _REMEMBERED:
                self._answered.popitem(last=False)


class RequestsTopic(NamedTuple):
    """Where a target's requests come from.

    Attributes:
        target: its name.
        name: of the topic.
        begin: the first record that is heard.
    """

    target: str
    name: str
    begin: Offset


def listen(log: Log, topic: RequestsTopic, inbox: Inbox, stop: Stop) -> None:
    """Read one target's requests, until it is to stop (in a thread of its own).

    A log that is away is waited for, and then read from its end on: the target repeats what was
    missed.
    """
    place: Offset | None = topic.begin
    while not stop.is_set():
        try:
            reader = log.reader(topic.name)
        except LogUnavailable:
            stop.wait(_PAUSE)
            continue
        try:
            reader.seek(log.state(topic.name).end if place is None else place)
            place = None
            _read(reader, topic.target, inbox, stop)
        except (LogUnavailable, Hole, BadRecord) as error:
            logger.warning(
                "Reading requests of %s begins again: %s",
                topic.target,
                error,
                extra={"event": "requests_reset", "target": topic.target},
            )
            stop.wait(_PAUSE)
        finally:
            reader.close()


def _read(reader: LogReader, target: str, inbox: Inbox, stop: Stop) -> None:
    while not stop.is_set():
        for chunk in reader.poll(_POLL):
            for _, value in chunk.records:
                inbox.receive(target, value)
