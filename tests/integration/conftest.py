"""Targets of apply's tests: a worker each, with a stream whose records are written by hand."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from replicator_apply import batch, worker
from replicator_apply.rules import Rules
from tests.conftest import SampleFactory
from tests.support.published import Published
from tests.support.sample.databases import connected
from tests.support.target import Target


class StartTarget(Protocol):
    """Makes a target and its stream."""

    def __call__(
        self, *datasets: str, ready: bool = True, prepare: str = "", **subscription: Any
    ) -> tuple[Target, Published]:
        """Subscribe to datasets.

        With `ready`, the first backfill counts as done and the worker runs; `prepare` is SQL that
        is run in its database before.
        """


def _start(factory: SampleFactory, folder: Path) -> Iterator[StartTarget]:
    with ExitStack() as stack:

        def make(
            *datasets: str, ready: bool = True, prepare: str = "", **subscription: Any
        ) -> tuple[Target, Published]:
            conninfo = factory()
            target = Target(conninfo, f"sqlite:///{folder}/log.sqlite3", *datasets, **subscription)
            stack.enter_context(connected("default", conninfo))
            stack.callback(target.close)
            published = Published(target.log)
            if prepare:
                target.execute(prepare)
            if ready:
                target.skip_backfill()
                target.begin()
            return target, published

        yield make


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the worker look at everything more often than in real life."""
    monkeypatch.setattr(worker, "IDLE", 0.02)
    monkeypatch.setattr(worker, "HOUSEKEEPING", 0.02)
    monkeypatch.setattr(worker, "QUIET_ADVANCE", 0.0)
    monkeypatch.setattr(worker, "STOPPED_RETRY", 0.1)


@pytest.fixture
def start(sample_database: SampleFactory, tmp_path: Path, _quick: None) -> Iterator[StartTarget]:
    """Start targets on the newest Postgres."""
    yield from _start(sample_database, tmp_path)


@pytest.fixture
def start_any(
    any_sample_database: SampleFactory, tmp_path: Path, _quick: None
) -> Iterator[StartTarget]:
    """Start targets on each Postgres in turn."""
    yield from _start(any_sample_database, tmp_path)


@pytest.fixture
def by_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close the fast path."""
    monkeypatch.setattr(batch, "may_write_directly", lambda *_: False)


@pytest.fixture(params=["directly", "by_rules"])
def either_way(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], int]:
    """Run the test on both paths; gives how many batches the rules have judged."""
    judged: list[None] = []
    settle = Rules.settle

    def counted(rules: Rules) -> None:
        judged.append(None)
        settle(rules)

    monkeypatch.setattr(Rules, "settle", counted)
    if request.param == "by_rules":
        monkeypatch.setattr(batch, "may_write_directly", lambda *_: False)
    return lambda: len(judged)
