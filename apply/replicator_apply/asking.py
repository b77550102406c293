"""What the target asks the source for: wanted rows, pages of backfills, suspects; and its reports.

Everything to be asked for can be told from the target's tables, and is asked for again until it is
answered; this module remembers only when it last did. Blocks on Postgres and, shortly, on the log.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import msgspec
import psycopg

from replicator.envelope import Answer, encode_key
from replicator.errors import LogUnavailable, LostLog
from replicator.log import LogWriter
from replicator.requests import (
    MAX_KEYS,
    MAX_PAGE,
    KeysRequest,
    PageRequest,
    Report,
    encode,
)
from replicator_apply import backfill
from replicator_apply.backfill import KEYS as WANTED
from replicator_apply.backfill import (
    advance_sweep,
    keys_request,
    may_drop,
    page_id,
    page_request,
    runs_of,
    suspects,
    sweep_id,
)
from replicator_apply.plan import TargetPlan
from replicator_apply.state import Place, Run, ask_again, wanted_to_ask, with_page

Cursor = psycopg.Cursor[Any]

FIRST_PATIENCE = 2.0
PATIENCE = 30.0
"""Seconds after which a request is sent again: at first, doubled each time, and in the end."""
KEYS = MAX_KEYS
FIRST_KEYS = 1_000
"""Wanted keys of one request: most, and of the first one."""
KEYS_BYTES = 500_000
"""Bytes of wanted keys of one request, so that brokers take it as they are by default."""
ANSWER_ROWS = 10_000
"""Rows of an answer at which the number of keys aims: each may bring a tree of any size."""
ANSWER_SECONDS = 0.5
"""Seconds in which an answer should be applied: what is committed behind it waits that long."""
FEWEST_KEYS = 500
"""Keys to which a slow target's requests shrink: fewer would make them very many."""
UNDER_WAY = 2
"""Requests for wanted keys that are not answered yet. More wait: the stream flows in between."""
OVERDUE = 5.0
"""Seconds after which a request for keys holds up no other."""
FIRST_PAGE = 500
FEWEST_ROWS = 200
"""Rows of the first page of a backfill, each of which may bring a tree of any size; and to which a
slow target's pages shrink."""
STEADY = 0.7
"""A page's size stays if the best one is not less than this share of it, nor it of the best one."""
PAGE_SECONDS = 0.016
"""Seconds in which a page should be applied: what is committed meanwhile waits for up to two, the
one that is written, and the one with which it comes."""
PAGE_ROWS, LONG_PAGE_SECONDS = 1_000, 0.05
"""Rows that a page has nevertheless if they take no longer than so many seconds: much of what a
small one costs does not depend on its rows."""


class Asker:
    """Sends what is due.

    Args:
        writer: of the target's requests topic.
        place: the stream.
        environment: this target.
        clock: seconds, monotonic.

    Attributes:
        drops: rows of tables that a dataset has no more may leave now.
    """

    def __init__(
        self,
        writer: LogWriter,
        place: Place,
        environment: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = writer
        self._place = place
        self._environment = environment
        self._clock = clock
        self._sent: dict[str, tuple[float, float]] = {}
        self._under_way: dict[str, tuple[float, int]] = {}
        self._sweeps: dict[str, _Sweep] = {}
        self._keys = FIRST_KEYS
        self._pages: dict[str, tuple[Run, int]] = {}
        self._followed: set[str] = set()
        self._page, self._paces = FIRST_PAGE, deque[float](maxlen=5)
        self._turn = 0
        self.drops = False

    def ask(self, cursor: Cursor, plan: TargetPlan) -> int:
        """Send every request that is due; give their number.

        Raises:
            LogUnavailable: the log does not take them.
        """
        requests: list[KeysRequest | PageRequest] = [*self._wanted(cursor, plan)]
        runs = runs_of(cursor, self._place, plan)
        for run in runs:
            if run.state != "paused" and not plan.subscription(run.subscription).gated:
                requests += self._run(cursor, plan, run, runs)
        for request in requests:
            self._send(encode(request))
        return len(requests)

    def ask_once(self, name: str, request: Callable[[], PageRequest]) -> int:
        """Send a request unless it was sent lately; give the number sent."""
        if not self._due(name):
            return 0
        self._send(encode(request()))
        return 1

    def report(self, report: Report) -> None:
        """Tell the source how this target is. Raises LogUnavailable."""
        self._send(encode(report))

    def ask_ahead(self, plan: TargetPlan, answers: Iterable[Answer]) -> int:
        """Ask for the pages behind those that have come, before these are applied.

        So the source reads while the target writes. The page that follows is applied behind this
        one, whenever it comes. Gives the number of requests; raises LogUnavailable.
        """
        asked = 0
        for answer in answers:
            run, _ = self._pages.get(answer.request, (None, 0))
            if run is None or answer.refused is not None or answer.last_key is None:
                continue
            after = msgspec.json.encode(answer.last_key).decode()
            following = with_page(run, run.rule, after, 0)
            if self._due(page_id(following)):
                self._send(encode(self._page_request(plan, following)))
                self._followed.add(answer.request)
                asked += 1
        return asked

    def answered(self, answers: Iterable[tuple[str, int]], seconds_per_row: float) -> bool:
        """Note answers, so that what is left of the same run is asked for at once.

        Gives whether anything may be: not behind a page of which the next one was asked for before.

        Args:
            answers: name and rows of each.
            seconds_per_row: how long it took to apply them.
        """
        due = False
        for name, rows in answers:
            due = due or name not in self._followed
            self._followed.discard(name)
            self._sent.pop(_series(name), None)
            if sweep := self._sweeps.get(_series(name)):
                sweep.answered, sweep.asked = sweep.answered + sweep.asked, 0
            _, keys = self._under_way.pop(name, (0.0, 0))
            _, limit = self._pages.pop(name, (None, 0))
            if limit and rows:
                self._paces.append(rows * seconds_per_row / limit)
                self._page = page_for(median(self._paces), self._page)
            if keys and rows:
                aim = keys_for(keys, rows, rows * seconds_per_row)
                self._keys = max(1, min(aim, self._keys * 2))
        return due

    def refused(self, name: str) -> None:
        """Note that a request was refused: what is too much for the source is asked for in parts.

        It is asked for again when it is due, not at once.
        """
        if self._under_way.pop(name, None) is not None:
            self._keys = max(1, self._keys // 2)

    def forget(self, cursor: Cursor) -> None:
        """Ask for everything anew: capture has started again, and knows of no request."""
        self._sent.clear()
        self._under_way.clear()
        self._pages.clear()
        self._followed.clear()
        ask_again(cursor, self._place)

    def _wanted(self, cursor: Cursor, plan: TargetPlan) -> list[KeysRequest]:
        now = self._clock()
        self._under_way = {n: (t, k) for n, (t, k) in self._under_way.items() if t > now - OVERDUE}
        if len(self._under_way) >= UNDER_WAY:
            return []
        limit = min(KEYS, self._keys)
        keys = wanted_to_ask(cursor, self._place, PATIENCE, limit, KEYS_BYTES)
        known = {name: rows for name, rows in keys.items() if name in plan.asked}
        if not known:
            return []
        self._turn += 1
        name = f"{WANTED}{time.time_ns():x}-{self._turn}"
        self._under_way[name] = now, sum(map(len, known.values()))
        return [keys_request(plan, self._environment, name, known)]

    def _run(
        self, cursor: Cursor, plan: TargetPlan, run: Run, runs: Sequence[Run]
    ) -> list[KeysRequest | PageRequest]:
        if not run.sweeping and run.state == "waiting":
            return []
        if not run.sweeping:
            return [self._page_request(plan, run)] if self._due(page_id(run)) else []
        return self._sweep(cursor, plan, run, runs)

    def _sweep(
        self, cursor: Cursor, plan: TargetPlan, run: Run, runs: Sequence[Run]
    ) -> list[KeysRequest | PageRequest]:
        series = _series(sweep_id(run, 0))
        # While it waits, all are counted now and then: some may have gone by themselves.
        if not self._due(f"{series}-0" if run.state == "running" else f"waiting {series}"):
            return []
        sweep = self._sweeps.get(series)
        run = advance_sweep(cursor, plan, run, sweep.take() if sweep else None)
        if run.state != "running":
            self._sent.pop(series, None)
            self._sweeps.pop(series, None)
            return []
        keys = suspects(cursor, plan, run)
        if not keys:
            # What is left is of tables that the dataset has no more.
            self.drops = self.drops or may_drop(cursor, run, runs, plan.subscriptions) is not None
            return []
        self._turn += 1
        self._sweeps[series] = _Sweep(sum(map(len, keys.values())))
        return [keys_request(plan, self._environment, sweep_id(run, self._turn), keys)]

    def _page_request(self, plan: TargetPlan, run: Run) -> PageRequest:
        request = page_request(plan, run, self._environment, limit=min(self._page, backfill.PAGE))
        self._pages[request.id] = run, request.limit
        return request

    def _due(self, name: str) -> bool:
        """Whether a request was not sent yet, or long ago; notes that it is sent now."""
        now, series = self._clock(), _series(name)
        due, patience = self._sent.get(series, (now, FIRST_PATIENCE))
        if now < due:
            return False
        self._sent[series] = now + patience, min(PATIENCE, patience * 2)
        return True

    def _send(self, value: bytes) -> None:
        try:
            self._writer.append([(encode_key("", [self._environment]), value)], None)
        except LostLog as error:
            raise LogUnavailable("The log does not take requests.", remedy=error.remedy) from error


@dataclass
class _Sweep:
    """Suspects that were asked for last, and those that were answered since they were looked at."""

    asked: int
    answered: int = 0

    def take(self) -> int:
        """Give the number of those that were answered, once."""
        answered, self.answered = self.answered, 0
        return answered


def keys_for(keys: int, rows: int, seconds: float) -> int:
    """Say how many wanted keys make an answer of a good size.

    Args:
        keys: of a request.
        rows: of its answer.
        seconds: that it took to apply them.
    """
    by_time = max(FEWEST_KEYS, int(ANSWER_SECONDS * keys / seconds)) if seconds else MAX_KEYS
    return min(ANSWER_ROWS * keys // rows, by_time)


def page_for(seconds: float, now: int) -> int:
    """Say how many rows make a page of a good size.

    Args:
        seconds: that it takes to apply one of its rows, with what that pulls in.
        now: rows of the page that would be asked for next: at most twice as many will be.
    """
    if seconds:
        aim = max(PAGE_SECONDS / seconds, min(PAGE_ROWS, LONG_PAGE_SECONDS / seconds))
    else:
        aim = MAX_PAGE
    found = max(FEWEST_ROWS, min(round(aim), now * 2, MAX_PAGE))
    # The source has read the next page by the same size when it is asked for; so it seldom changes.
    return now if STEADY * now < found < now / STEADY else found


def _series(name: str) -> str:
    """Give what a request has in common with its successors: pages by name, sweeps by run."""
    return name.rpartition("-")[0] if name.startswith("sweep-") else name
