"""The real system around a history: two databases, a log, both daemons in threads."""

import contextlib
import importlib
import inspect
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from django.db.models import Q

from replicator import Children, Dataset, Referenced, Rows, declare, latest, opt_in, sample
from replicator.compiler import releases
from replicator.datasets import find_dataset
from replicator.declare import (
    DatasetFunction,
    dataset,
    declared_datasets,
    no_declarations,
    rules_in_full,
)
from replicator.declare import Rule as DeclaredRule
from replicator.envelope import Answer
from replicator.plan import DatasetPlan, Release, split_name
from replicator.postgres import connect, connection_parameters
from replicator.settings import ReplicatorSettings
from replicator.signature import rules_for
from replicator_apply.catalog import read_shapes
from replicator_apply.prepare import ensure_receipts
from replicator_apply.state import Place
from replicator_apply.worker import Worker
from replicator_capture.answer_read import RowReader
from replicator_capture.daemon import Capture
from tests.support.apply_run import RunningApply
from tests.support.capture_run import (
    SOURCE,
    TARGET,
    Running,
    capture_settings,
    capture_task,
)
from tests.support.oracle.history import History, Rule
from tests.support.oracle.tables import LOCAL, LOCAL_UUID
from tests.support.sample.databases import connected
from tests.support.sample.environments import django_database

Side = Literal["capture", "apply"]
WITNESS = "witness"
APART = "\x1f"
FULL_NAME = "concat_ws(':', dataset, nullif(arguments, ''))"
"""The name of a subscription's dataset with its arguments, in SQL."""

READING = 0.0
"""Seconds between the snapshot of a fetch and the place of its answer: what is committed then is
not seen, and comes before."""
resting = threading.Event()
"""Set while nothing is committed on the source: then nothing can come in between."""
enough = threading.Event()
"""Set while a wait for quiet takes long: on a busy machine, what is to be chosen anew every few
seconds would be due again as soon as it is done."""

_RELEASED = {
    "auth.User": {"only": ["id", "username", "email"]},
    "polls.Vote": {"exclude": ["ip_address"]},
}
_PATIENCE: dict[str, float] = {
    # What waits for a person, or for a daemon that forgot, in seconds: histories are short.
    "replicator_apply.asking.PATIENCE": 1.0,
    "replicator_apply.worker.HOUSEKEEPING": 0.05,
    "replicator_apply.worker.IDLE": 0.05,
    "replicator_apply.worker.STOPPED_RETRY": 0.3,
    "replicator_capture.beat.EVERY": 0.5,
}


def condition(text: str | None) -> Q | None:
    """Read a rule's condition, Python text of our own making."""
    return None if text is None else eval(text, {"Q": Q})


def declared_rule(rule: Rule) -> DeclaredRule:
    """Make a rule of a history's datasets."""
    label, where, kind, options = (*rule, "Rows", {})[:4]
    kinds: dict[str, Any] = {"Rows": Rows, "Children": Children, "Referenced": Referenced}
    if "select" in options:
        options = {
            **options,
            "select": eval(options["select"], {"latest": latest, "sample": sample}),
        }
    made: DeclaredRule = kinds[kind](label, where=condition(where), **options)
    return made


@contextlib.contextmanager
def declared(history: History, written: list[str]) -> Iterator[dict[str, DatasetPlan]]:
    """Declare a history's datasets, and the witness; give them compiled, by name."""
    with no_declarations():
        for label in [*dict.fromkeys([*history.labels, *written]), "witness.First"]:
            opt_in(label, **_RELEASED.get(label, {}))
        opt_in("witness.Second")
        Dataset(WITNESS, Rows("witness.First"), Rows("witness.Second"))
        for name, by_argument in _by_argument(history.datasets).items():
            if "" in by_argument:
                Dataset(name, *map(declared_rule, by_argument[""]))
            else:
                _declare_function(name, by_argument)
        names = [WITNESS, *history.datasets]
        yield {name: find_dataset(*split_name(name)) for name in names}


def _by_argument(datasets: Mapping[str, list[Rule]]) -> dict[str, dict[str, list[Rule]]]:
    """Give the rules of datasets by their names and arguments; "" where there are none."""
    found: dict[str, dict[str, list[Rule]]] = {}
    for name, rules in datasets.items():
        short, argument = split_name(name)
        found.setdefault(short, {})[argument] = rules
    return found


def _declare_function(name: str, by_argument: Mapping[str, list[Rule]]) -> None:
    @dataset(name)
    def function(number: int) -> list[DeclaredRule]:
        return [declared_rule(rule) for rule in by_argument[str(number)]]


def declared_rules(plan: DatasetPlan) -> tuple[DeclaredRule, ...]:
    """Give the rules that were declared for a dataset and its arguments."""
    found = declared_datasets()[plan.name]
    if isinstance(found, DatasetFunction):
        return rules_for(found, plan.arguments)
    return rules_in_full(found.rules)


@contextlib.contextmanager
def knobs(values: Mapping[str, int | float]) -> Iterator[None]:
    """Set constants of modules, also where they are defaults of their functions' arguments."""
    with contextlib.ExitStack() as stack:
        for path, value in (_PATIENCE | dict(values)).items():
            module_name, _, name = path.rpartition(".")
            module = importlib.import_module(module_name)
            stack.callback(setattr, module, name, getattr(module, name))
            _set_defaults(module, name, value, stack)
            setattr(module, name, value)
        yield


@contextlib.contextmanager
def unhurried_fetches() -> Iterator[None]:
    """Have fetches take as long as `READING` says."""
    read = RowReader.read

    def slowly(reader: RowReader, request: Any) -> Answer:
        answer = read(reader, request)
        resting.wait(READING)
        return answer

    RowReader.read = slowly  # type: ignore[method-assign]
    try:
        yield
    finally:
        RowReader.read = read  # type: ignore[method-assign]


@contextlib.contextmanager
def schedules_that_end() -> Iterator[None]:
    """Have no rows chosen anew by the schedule once it is `enough`."""
    schedule = Worker._schedule

    def at_times(worker: Worker, cursor: psycopg.Cursor[Any]) -> None:
        if not enough.is_set():
            schedule(worker, cursor)

    Worker._schedule = at_times  # type: ignore[method-assign]
    try:
        yield
    finally:
        Worker._schedule = schedule  # type: ignore[method-assign]


def _set_defaults(module: Any, name: str, value: float, stack: contextlib.ExitStack) -> None:
    before = getattr(module, name)
    for _, function in inspect.getmembers(module, inspect.isfunction):
        if function.__module__ != module.__name__ or type(before) is not int:
            continue
        for attribute in ("__defaults__", "__kwdefaults__"):
            defaults = getattr(function, attribute)
            changed: Any = defaults
            if isinstance(defaults, tuple):
                changed = tuple(value if each is before else each for each in defaults)
            elif isinstance(defaults, dict):
                changed = {k: value if each is before else each for k, each in defaults.items()}
            if changed != defaults:
                stack.callback(setattr, function, attribute, defaults)
                setattr(function, attribute, changed)


def session(conninfo: str) -> psycopg.Connection[Any]:
    """Open a session with the settings that decide how values look as text."""
    parameters = connection_parameters(django_database(conninfo), application="oracle")
    return connect(parameters)


@dataclass
class System:
    """Both databases, the log's URL, and what runs.

    Attributes:
        plans: all datasets, by name.
        begins: those that the settings name, where others come and go; None: all.
    """

    source: str
    target: str
    log: str
    plans: dict[str, DatasetPlan]
    begins: Sequence[str] | None = None

    def __post_init__(self) -> None:
        self.at_source = session(self.source)
        self.at_target = session(self.target)
        self.place = Place(SOURCE, "main")
        self._stack = contextlib.ExitStack()
        self._running: dict[Side, Running | RunningApply] = {}
        self.releases: dict[str, Release] = {
            release.table.name: release for plan in self.plans.values() for release in plan.releases
        }

    def add_releases(self, labels: Collection[str]) -> None:
        """Look at tables, too, that datasets come to hold later."""
        for release in releases("main"):
            if release.label in labels:
                self.releases.setdefault(release.table.name, release)

    def __enter__(self) -> "System":
        self._stack.enter_context(connected("default", self.target))
        self._stack.enter_context(connected("source", self.source))
        self._stack.callback(self.at_source.close)
        self._stack.callback(self.at_target.close)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for running in self._running.values():
                running.stop.set()
            for running in self._running.values():
                running._thread.join(15)
        finally:
            self._stack.close()

    def start(self, side: Side) -> None:
        """Start a daemon, and wait for capture to stream."""
        self._running[side] = self._begin(side)
        if side == "capture":
            running = self._running[side]
            assert isinstance(running, Running)
            running.ready()

    def _begin(self, side: Side) -> Running | RunningApply:
        if side == "capture":
            return Running(
                Capture(capture_task(self.source, capture_settings(self.log, ENVIRONMENT=SOURCE)))
            )
        return RunningApply(self._target_settings(), self.place)

    def _target_settings(self) -> ReplicatorSettings:
        names, clash = (self.plans, "refuse") if self.begins is None else (self.begins, "adopt")
        each = {"source": SOURCE, "fuse": 10**6, "on_clash": clash}
        subscriptions = [{**each, "dataset": name} for name in names]
        raw = {"ENVIRONMENT": TARGET, "LOG": self.log, "SUBSCRIPTIONS": subscriptions}
        return ReplicatorSettings.model_validate(raw)

    def restart(self, side: Side) -> None:
        """Stop a daemon and start it again."""
        self._running[side].end()
        self._running[side] = self._begin(side)

    def deploy(self, name: str, rules: Sequence[Rule]) -> None:
        """Stop both daemons, declare a dataset otherwise, and start them again."""
        sides: tuple[Side, ...] = ("capture", "apply")
        for side in sides:
            self._running[side].end()
        del declare._registry.datasets[name]
        Dataset(name, *map(declared_rule, rules))
        self.plans = {**self.plans, name: find_dataset(name, "")}
        for side in sides:
            self.start(side)

    def second(self, side: Side) -> None:
        """Start another daemon, which waits or takes over, and then stop the first."""
        first, self._running[side] = self._running[side], self._begin(side)
        first.end()

    def kill(self, side: Side) -> None:
        """Cut all connections of a daemon in whatever it is doing."""
        database = "current_database()"
        connection = self.at_source if side == "capture" else self.at_target
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = {database} AND application_name LIKE %s",
            [f"replicator {side}%"],
        )

    def check(self) -> None:
        """Raise what ended a daemon."""
        for running in self._running.values():
            if running.error is not None:
                raise running.error

    def prepare_receipts(self) -> None:
        """Make the receipts of all tables, as `replicator prepare target` does."""
        tables = sorted({release.table for release in self.releases.values()})
        shapes = read_shapes(self.at_target, tables)
        with self.at_target.transaction():
            ensure_receipts(self.at_target, shapes, may_prepare=True)

    def subscriptions(self) -> dict[int, str]:
        """Give the name of each subscription's dataset."""
        found = self.at_target.execute(
            f"SELECT id, {FULL_NAME} FROM public.replicator_subscription"  # type: ignore[arg-type]
        )
        return {int(number): str(name) for number, name in found}


def row_text(release: Release, alias: str, apart: Sequence[str] = ()) -> str:
    """Give the expression for a row's released values as one text, of bounded length.

    Args:
        release: of its table.
        alias: in the statement.
        apart: columns that stand behind the others, each parted by `APART`.
    """
    cells = ", ".join(_cell(release, alias, name) for name in release.columns if name not in apart)
    row = f"ROW({cells})::text"
    text = f"CASE WHEN length({row}) > 400 THEN left({row}, 200) || md5({row}) ELSE {row} END"
    return " || ".join(
        [text, *(f"'{APART}' || coalesce({alias}.\"{name}\"::text, '')" for name in apart)]
    )


def _cell(release: Release, alias: str, name: str) -> str:
    cell = f'{alias}."{name}"'
    if name not in release.natural:
        return cell
    return f"(SELECT (c.app_label, c.model) FROM public.django_content_type c WHERE c.id = {cell})"


def key_text(release: Release, alias: str) -> str:
    """Give the expression for a row's key as text, as wanted rows have it."""
    cells = ", ".join(f'{alias}."{name}"::text' for name in release.key)
    return f"jsonb_build_array({cells})::text"


def is_local(key: str) -> bool:
    """Whether a key, as text, is one of local rows."""
    return f'"{str(LOCAL)[:4]}' in key or LOCAL_UUID in key
