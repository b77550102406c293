"""The product's commands with faults in them: `python -m tests.support.faulty capture`.

Named step functions are wrapped when the process starts; the product itself knows nothing of it.
A test arms one fault at a time by writing a file (`Fault.arm`); the process that reaches the
armed point next does what the fault says, once. Sizes and waits are made small, so that
fragments, rounds and pages are met with a few hundred rows.
"""

import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

CONTROL = "REPLICATOR_TEST_FAULT"
"""Environment variable: the file by which this process is told of a fault."""
WITHOUT_LOCK = "REPLICATOR_TEST_WITHOUT_LOCK"
"""Environment variable: let apply believe that it holds the stream's lock."""
EXIT_CODE = 70

Kind = Literal["exit", "sigkill", "fail", "hang", "slow"]
Check = Callable[[tuple[Any, ...], Any], bool]
_SLOW_TURNS, _SLOW_S = 5, 0.2


def _always(arguments: tuple[Any, ...], result: Any) -> bool:
    return True


def _gave(arguments: tuple[Any, ...], result: Any) -> bool:
    return bool(result)


def _with_page(arguments: tuple[Any, ...], result: Any) -> bool:
    return any(t.answer.request.startswith("page-") for t in arguments[3])


def _took(arguments: tuple[Any, ...], result: Any) -> bool:
    return bool(result[0])


def _snapshot(arguments: tuple[Any, ...], result: Any) -> bool:
    return str(arguments[1]).endswith("; SELECT pg_current_snapshot()::text")


def _fetch(arguments: tuple[Any, ...], result: Any) -> bool:
    return bool(arguments[1].startswith(b"fetch:"))


@dataclass(frozen=True)
class Point:
    """A place between two steps.

    Attributes:
        where: `module:attribute`; a function that is imported by name is wrapped at its user.
        when: before or after the step.
        error: class of what the kind `fail` raises, `module:name`.
        check: whether the step's arguments and result are of interest.
    """

    where: str
    when: Literal["before", "after"] = "after"
    error: str = "builtins:RuntimeError"
    check: Check = _always


_AWAY = "replicator.errors:DatabaseUnavailable"
_DRIVER = "psycopg:OperationalError"
_NO_LOG = "replicator.errors:LogUnavailable"
_LOST = "replicator.errors:LostLog"

_BATCH = "replicator_apply.batch"
_WAL = "replicator_capture.wal:WalStream"
_FETCH = "replicator_capture.fetch"

POINTS: Mapping[str, Point] = {
    # Beginning an epoch, beginning a run.
    "capture.prepared": Point("replicator_capture.facts:slot.create", "before", _DRIVER),
    "capture.slot_dropped": Point("replicator_capture.facts:slot.drop", "after", _DRIVER),
    "capture.slot_created": Point("replicator_capture.facts:_created", "after", _DRIVER),
    "capture.epoch_told": Point("replicator_capture.facts:publish_epoch", "after", _NO_LOG),
    "capture.first_beat": Point("replicator_capture.keeper:Keeper.write_beat", "after", _DRIVER),
    "capture.run_begun": Point("replicator_capture.run:_origin", "after", _DRIVER),
    # A row event's way to the log.
    "capture.received": Point(f"{_WAL}.receive", "after", _AWAY, _gave),
    "capture.decoded": Point("replicator_capture.assemble:Assembler.feed"),
    "capture.taken": Point("replicator_capture.assemble:Assembler.take", check=_took),
    "capture.appended": Point("replicator.log.sqlite:SqliteWriter.append", "after", _LOST),
    "capture.handed_over": Point("replicator.log.kafka:KafkaWriter.append", "after", _LOST),
    "capture.acknowledged": Point(
        "replicator_capture.publish:Publisher.acknowledged", "after", _LOST, _gave
    ),
    "capture.confirming": Point(f"{_WAL}.confirm", "before", _AWAY),
    "capture.confirmed": Point(f"{_WAL}.confirm", "after", _AWAY),
    "capture.told": Point(f"{_WAL}.tick", "after", _AWAY),
    # A fetch.
    "fetch.asked": Point("replicator_capture.inbox:Inbox.receive", "after", _NO_LOG),
    "fetch.retaining": Point("replicator_capture.desk:Desk.open", "after", _AWAY),
    "fetch.begun": Point("psycopg:Connection.execute", "before", _DRIVER, _snapshot),
    "fetch.snapshot": Point(f"{_FETCH}:Fetcher._lock_and_snapshot", "after", _DRIVER),
    "fetch.read": Point(f"{_FETCH}:RowReader.read", "after", _DRIVER),
    "fetch.registered": Point("replicator_capture.desk:Desk.register", "after", _DRIVER),
    "fetch.emitted": Point("replicator_capture.beat:emit", "after", _DRIVER, _fetch),
    "fetch.committed": Point(f"{_FETCH}:Fetcher._read_once", "after", _DRIVER),
    "fetch.met": Point("replicator_capture.desk:Desk.take", "after", _AWAY, _gave),
    "fetch.half_published": Point(
        "replicator_capture.publish:Publisher._make_room", "after", _AWAY
    ),
    "fetch.published": Point("replicator_capture.publish:Publisher.publish_answer", "after", _AWAY),
    "fetch.finished": Point("replicator_capture.desk:Reading.finish", "after", _AWAY),
    # A row event's way from the log.
    "apply.begun": Point("replicator_apply.worker:begin_at", "after", _DRIVER),
    "apply.read": Point("replicator.log.sqlite:SqliteReader.poll", "after", _NO_LOG, _gave),
    "apply.polled": Point("replicator.log.kafka:KafkaReader.poll", "after", _NO_LOG, _gave),
    "apply.assembled": Point("replicator_apply.consume:Consumer.take", "after", _NO_LOG),
    "apply.fenced": Point("replicator_apply.fenced:stored_of", "after", _DRIVER),
    "apply.staged": Point(f"{_BATCH}:stage", "after", _DRIVER),
    "apply.merged": Point(f"{_BATCH}:merge_rounds", "after", _DRIVER),
    "apply.settled": Point("replicator_apply.rules:Rules.settle", "after", _DRIVER),
    "apply.receipts_written": Point("replicator_apply.write:_receipts", "after", _DRIVER),
    "apply.rows_written": Point("replicator_apply.write:_write_rows", "after", _DRIVER),
    "apply.wanted_noted": Point("replicator_apply.rules:Rules.want", "after", _DRIVER),
    "apply.written": Point(f"{_BATCH}:write", "after", _DRIVER),
    "apply.inserted": Point("replicator_apply.direct:DirectWriter.insert", "after", _DRIVER),
    "apply.updated": Point("replicator_apply.direct:DirectWriter.update", "after", _DRIVER),
    "apply.deleted": Point("replicator_apply.direct:DirectWriter.delete", "after", _DRIVER),
    "apply.written_directly": Point(f"{_BATCH}:write_directly", "after", _DRIVER),
    "apply.page_turned": Point("replicator_apply.worker:turn_pages", "after", _DRIVER, _with_page),
    "apply.before_commit": Point("replicator_apply.fenced:FencedCursor.commit", "before", _DRIVER),
    "apply.committed": Point(f"{_BATCH}:Applier.apply", "after", _DRIVER),
    "apply.end_evaluated": Point("replicator_apply.unsubscribe:_Work.count", "after", _DRIVER),
    "apply.end_written": Point("replicator_apply.unsubscribe:_Work.finish", "after", _DRIVER),
    "apply.sweep_advanced": Point("replicator_apply.asking:advance_sweep", "after", _DRIVER),
    "apply.asking": Point("replicator_apply.asking:Asker._send", "before", _NO_LOG),
    "apply.asked": Point("replicator_apply.asking:Asker._send", "after", _NO_LOG),
}

SMALL: Mapping[str, object] = {
    "replicator.log.sqlite:_POLL_RECORDS": 300,
    # Longer than capture's own patience, so that either is met.
    "replicator.session:SILENCE": 6.0,
    "replicator.session:ANSWER": 1.0,
    "replicator.session:LOOK_EVERY": 0.5,
    "replicator_capture.publish:FLUSH_ROWS": 40,
    "replicator_capture.beat:EVERY": 1.0,
    "replicator_capture.keeper:LOOK_EVERY": 0.1,
    "replicator_capture.keeper:CHECK_EVERY": 1.0,
    "replicator_capture.run:SILENCE": 5.0,
    "replicator_capture.facts:STANDBY_EVERY": 0.2,
    "replicator_capture.inbox:_FORGET_AFTER": 1.0,
    "replicator_capture.inbox:_PAUSE": 0.2,
    "replicator_apply.asking:PATIENCE": 2.0,
    "replicator_apply.asking:KEYS": 50,
    "replicator_apply.assemble:SPOOL_AFTER": 100,
    "replicator_apply.batch:ROUND": 100,
    "replicator_apply.consume:BATCH_ROWS": 300,
    "replicator_apply.worker:HOUSEKEEPING": 0.1,
    "replicator_apply.worker:STOPPED_RETRY": 0.6,
    "replicator_apply.worker:QUIET_ADVANCE": 0.3,
}
_SMALL_DEFAULTS = {
    "replicator_apply.backfill:page_request": {"limit": 60},
    "replicator_apply.backfill:suspects": (50,),
}


class Fault:
    """One process' faults, as the test sees them.

    Args:
        control: the file; beside it stand `.fired` (with the process' id) and `.release`.
    """

    def __init__(self, control: Path) -> None:
        self.control = control
        self._fired = control.with_suffix(".fired")
        self._release = control.with_suffix(".release")

    def arm(self, point: str, kind: Kind, skip: int = 0) -> None:
        """Let the process meet a fault when it reaches a point after `skip` other times."""
        assert point in POINTS, point
        for path in (self._fired, self._release):
            path.unlink(missing_ok=True)
        fresh = self.control.with_suffix(".new")
        fresh.write_text(json.dumps({"point": point, "kind": kind, "skip": skip}))
        fresh.rename(self.control)

    def disarm(self) -> None:
        """Take a fault back that was not met, and let a process that hangs go on."""
        self.control.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Let a process that hangs go on."""
        self._release.touch()

    @property
    def fired(self) -> bool:
        """Whether the fault has been met."""
        return self._fired.exists()

    # In the faulty process ------------------------------------------------------------------------

    def reach(self, name: str) -> Kind | None:
        """Say what is to happen at a point; None: nothing."""
        try:
            armed = json.loads(self.control.read_text())
        except (FileNotFoundError, ValueError):
            return None
        if armed["point"] != name:
            return None
        if armed["skip"] > 0:
            self._again({**armed, "skip": armed["skip"] - 1})
            return None
        if armed["kind"] == "slow" and armed.get("turns", 0) + 1 < _SLOW_TURNS:
            self._again({**armed, "turns": armed.get("turns", 0) + 1})
            return "slow"
        try:
            self.control.rename(self._fired)
        except FileNotFoundError:
            return None
        kind: Kind = armed["kind"]
        return kind

    def _again(self, armed: Mapping[str, object]) -> None:
        fresh = self.control.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(armed))
        fresh.rename(self.control)

    def hang(self) -> None:
        """Wait for `release`."""
        while not self._release.exists():
            time.sleep(0.01)


def _do(fault: Fault, kind: Kind, name: str, point: Point) -> None:
    if kind == "exit":
        os._exit(EXIT_CODE)
    elif kind == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    elif kind == "hang":
        fault.hang()
    elif kind == "slow":
        time.sleep(_SLOW_S)
    else:
        raise _find(point.error)(f"fault at {name}")


def _find(path: str) -> Any:
    module, _, names = path.partition(":")
    return functools.reduce(getattr, names.split("."), import_module(module))


def _wrapped(fault: Fault, name: str, point: Point, step: Callable[..., Any]) -> Callable[..., Any]:
    def reach(arguments: tuple[Any, ...], result: Any) -> None:
        if point.check(arguments, result) and (kind := fault.reach(name)) is not None:
            _do(fault, kind, name, point)

    @functools.wraps(step)
    def faulty(*arguments: Any, **named: Any) -> Any:
        if point.when == "before":
            reach(arguments, None)
        result = step(*arguments, **named)
        if point.when == "after":
            reach(arguments, result)
        return result

    return faulty


def _set(path: str, change: Callable[[Any], Any]) -> None:
    module, _, names = path.partition(":")
    *owners, last = names.split(".")
    owner = functools.reduce(getattr, owners, import_module(module))
    setattr(owner, last, change(getattr(owner, last)))


def install(command: str, fault: Fault) -> None:
    """Wrap the points of one side, and make its sizes small."""
    side = "replicator_capture" if command == "capture" else "replicator_apply"
    prefixes = ("capture.", "fetch.") if command == "capture" else ("apply.",)
    for path, value in SMALL.items():
        if path.startswith((side, "replicator.")):
            _set(path, lambda _, value=value: value)
    if side == "replicator_apply":
        page, suspects = (_find(path) for path in _SMALL_DEFAULTS)
        page.__kwdefaults__ = _SMALL_DEFAULTS["replicator_apply.backfill:page_request"]
        suspects.__defaults__ = _SMALL_DEFAULTS["replicator_apply.backfill:suspects"]
        if WITHOUT_LOCK in os.environ:
            _set("replicator_apply.worker:try_lock", lambda _: lambda *_: True)
    for name, point in POINTS.items():
        if name.startswith(prefixes):
            _set(point.where, functools.partial(_wrapped, fault, name, point))


def main() -> int:
    """Run a command of `replicator` with the faults of `REPLICATOR_TEST_FAULT`."""
    import django

    django.setup()
    install(sys.argv[1], Fault(Path(os.environ[CONTROL])))
    from replicator.cli import main as replicator

    return replicator(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
