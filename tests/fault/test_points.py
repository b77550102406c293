"""A fault between any two steps of a row event's life: all rows, once, whole, in the end."""

import functools
import os
import zlib
from importlib import import_module
from pathlib import Path

import pytest

from tests.fault.conftest import Shared
from tests.support.faulty import EXIT_CODE, POINTS, SMALL, Kind
from tests.support.kafka import KafkaBroker
from tests.support.traffic import Traffic, Watch
from tests.support.two_environments import BY_RULE, WHOLE, TwoEnvironments

_ENDS = {"exit": EXIT_CODE, "sigkill": -9}
_RETRIED = ("Unavailable", "OperationalError")


def meet(
    pair: TwoEnvironments, watch: Watch, point: str, kind: Kind, *, fetch: bool = False
) -> None:
    """Write while the fault is met, let all come to rest, and compare."""
    daemon = pair.apply if point.startswith("apply.") else pair.capture
    before, process = daemon.restarts, daemon.process
    assert process is not None
    with Traffic(pair.source, zlib.crc32(f"{point} {kind}".encode())) as traffic:
        traffic.at_least(5)
        daemon.fault.arm(point, kind, skip=2 if kind in _ENDS and not fetch else 0)
        if fetch:
            begin_backfills(pair)
        pair.wait(lambda: daemon.fault.fired, f"{point} is reached", 60)
        if kind in _ENDS:
            assert process.wait(30) == _ENDS[kind]
        traffic.at_least(15)
        if kind == "hang":
            # Others wrote meanwhile; nobody has noticed, and the step goes on where it was.
            assert process.running
            daemon.fault.release()
        pair.until(lambda: pair.capture.running and pair.apply.running, "both run")
        traffic.at_least(10)
    pair.settle()
    assert watch.torn == []
    assert daemon.restarts - before == (0 if survives(point, kind) else 1), daemon.output()


def survives(point: str, kind: Kind) -> bool:
    """Whether the process goes on by itself."""
    return kind in {"slow", "hang"} or (kind == "fail" and POINTS[point].error.endswith(_RETRIED))


def begin_backfills(pair: TwoEnvironments) -> None:
    """Begin a backfill of every subscription, as `replicator backfill` does."""
    import psycopg

    from replicator_apply.runs import begin_backfill

    with psycopg.connect(pair.target, autocommit=True) as connection:
        for (number,) in connection.execute("SELECT id FROM replicator_subscription").fetchall():
            begin_backfill(connection, number)


@pytest.fixture(autouse=True)
def fresh_after_failure(request: pytest.FixtureRequest, shared: Shared):  # type: ignore[no-untyped-def]
    """Give the next test fresh environments if this one fails."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        shared.discard()


CAPTURE = "received decoded taken appended acknowledged confirming confirmed told"
FETCH = (
    "asked retaining begun snapshot read registered emitted committed met half_published "
    "published finished"
)
APPLY = (
    "read assembled fenced staged merged settled receipts_written rows_written wanted_noted "
    "written before_commit committed"
)
DIRECT = "inserted updated deleted written_directly"
BACKFILL = "page_turned sweep_advanced asking asked"
BOTH = [
    "appended",
    "acknowledged",
    "confirmed",
    "half_published",
    "rows_written",
    "before_commit",
    "committed",
]
"""Points that meet a death and an error in every run."""
KINDS: tuple[Kind, ...] = ("sigkill", "fail", "hang")
"""What every point meets with REPLICATOR_TEST_FAULTS=all; else it meets one of them, in turn."""


def cases(points: str) -> list[tuple[str, Kind]]:
    """Let every point meet a death, an error or a halt, in turn, and some of them more."""
    everything = os.environ.get("REPLICATOR_TEST_FAULTS") == "all"
    return [
        (point, kind)
        for place, point in enumerate(points.split())
        for turn, kind in enumerate(KINDS)
        if everything or (point in BOTH and kind != "hang") or place % len(KINDS) == turn
    ]


@pytest.mark.parametrize(("point", "kind"), cases(CAPTURE))
def test_capture(shared: Shared, point: str, kind: Kind) -> None:
    meet(*shared.get(BY_RULE, None), f"capture.{point}", kind)


@pytest.mark.parametrize(("point", "kind"), cases(FETCH))
def test_fetch(shared: Shared, point: str, kind: Kind) -> None:
    meet(*shared.get(BY_RULE, None), f"fetch.{point}", kind, fetch=True)


@pytest.mark.parametrize(("point", "kind"), cases(APPLY))
def test_apply(shared: Shared, point: str, kind: Kind) -> None:
    meet(*shared.get(BY_RULE, None), f"apply.{point}", kind)


@pytest.mark.parametrize(("point", "kind"), cases(DIRECT))
def test_apply_of_whole_tables(shared: Shared, point: str, kind: Kind) -> None:
    meet(*shared.get(WHOLE, None), f"apply.{point}", kind)


@pytest.mark.parametrize(("point", "kind"), cases(BACKFILL))
def test_backfill(shared: Shared, point: str, kind: Kind) -> None:
    meet(*shared.get(BY_RULE, None), f"apply.{point}", kind, fetch=True)


@pytest.mark.parametrize("point", ["capture.taken", "capture.appended", "apply.before_commit"])
def test_slow(shared: Shared, point: str) -> None:
    meet(*shared.get(BY_RULE, None), point, "slow")


@pytest.mark.parametrize(
    ("point", "kind"),
    [
        ("capture.taken", "sigkill"),
        ("capture.handed_over", "sigkill"),
        ("capture.handed_over", "fail"),
        ("capture.acknowledged", "exit"),
        ("fetch.half_published", "sigkill"),
        ("apply.polled", "fail"),
        ("apply.before_commit", "sigkill"),
        ("apply.asked", "exit"),
    ],
)
def test_on_kafka(shared: Shared, kafka: KafkaBroker, point: str, kind: Kind) -> None:
    fetch = point.startswith("fetch") or point == "apply.asked"
    meet(*shared.get(BY_RULE, kafka.url), point, kind, fetch=fetch)


def test_every_point_is_there() -> None:
    """What a point names must exist, or its fault would never be met."""
    for point in POINTS.values():
        module, _, names = point.where.partition(":")
        functools.reduce(getattr, names.split("."), import_module(module))
    for path in SMALL:
        module, _, name = path.partition(":")
        assert hasattr(import_module(module), name), path


def test_every_point_is_met() -> None:
    """A point that no test arms is a step that nobody has let die."""
    mine = "".join(each.read_text() for each in Path(__file__).parent.glob("test_*.py"))
    lists = f"{CAPTURE} {FETCH} {APPLY} {DIRECT} {BACKFILL}".split()
    left = [
        name
        for name in POINTS
        if name.partition(".")[2] not in lists and name.partition(".")[2] not in mine
    ]
    assert left == []
