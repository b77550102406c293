"""Capture in a thread of the test's process, on real services, and what it published."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from replicator import compiler
from replicator.datasets import find_dataset
from replicator.envelope import Record, decode
from replicator.http import Health
from replicator.log.port import Log, open_log
from replicator.models import Beat
from replicator.positions import Offset
from replicator.requests import KeysRequest, PageRequest, PlanItem, Report, encode
from replicator.settings import ReplicatorSettings, requests_topic, stream_topic
from replicator.stop import Stop, supervise
from replicator_capture.command import finder
from replicator_capture.daemon import Capture
from replicator_capture.task import Task, task_of
from tests.support.sample.environments import django_database

SOURCE = "prod"
TARGET = "stage"


def capture_settings(log: str, **more: object) -> ReplicatorSettings:
    """Give the settings of a source environment whose target may ask for every dataset."""
    raw = {"ENVIRONMENT": SOURCE, "LOG": log, "TARGETS": {TARGET: ["*"]}, **more}
    return ReplicatorSettings.model_validate(raw)


def capture_task(conninfo: str, settings: ReplicatorSettings, stream: str = "main") -> Task:
    """Give the task of capturing everything that the sample project opts in."""
    return task_of(
        settings,
        stream,
        {"default": django_database(conninfo)},
        (compiler.releases(stream), finder()),
        compiler.table_of(Beat),
    )


class Running:
    """A capture under supervision, in a thread."""

    def __init__(self, capture: Capture) -> None:
        self.stop = Stop()
        self.error: BaseException | None = None
        self.health = Health()
        self._capture = capture
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            supervise(lambda: self._capture.run(self.stop, self.health), self.stop)
        except BaseException as error:  # noqa: BLE001 (handed over to the test)
            self.error = error

    def ready(self, timeout: float = 30) -> "Running":
        """Wait until it streams; raises what ended it instead."""
        self.wait_for(lambda: self.health.readiness()[0], timeout)
        return self

    def wait_for(self, condition: Callable[[], bool], timeout: float = 30) -> None:
        """Wait until `condition` holds; raises what ended the capture meanwhile."""
        until = time.monotonic() + timeout
        while not condition():
            if self.error is not None:
                raise self.error
            assert time.monotonic() < until, self.health.readiness()
            assert self._thread.is_alive()
            time.sleep(0.02)

    def end(self, timeout: float = 10) -> None:
        """Stop it as a signal does, and wait; raises what it raised."""
        self.stop.set()
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "capture does not stop"
        if self.error is not None:
            raise self.error

    def failed(self, timeout: float = 30) -> BaseException:
        """Wait until it ends with an error, and give it."""
        self._thread.join(timeout)
        assert self.error is not None, self.health.readiness()
        return self.error


@contextmanager
def capturing(task: Task, **options: bool | str) -> Iterator[Running]:
    """Run a capture while the body runs, and have it end cleanly."""
    running = Running(Capture(task, **options))  # type: ignore[arg-type]
    try:
        yield running.ready()
    finally:
        running.stop.set()
        running._thread.join(10)
    running.end()


@dataclass
class Tape:
    """Reads a stream's topic as it grows; keeps all records."""

    log: Log
    topic: str
    records: list[Record] = field(default_factory=list)
    _answers: dict[str, list[Record]] = field(default_factory=dict)
    _closed: set[str] = field(default_factory=set)
    _offset: int = 0

    @classmethod
    def of(cls, url: str, *, environment: str = SOURCE) -> "Tape":
        return cls(open_log(url, {}), stream_topic(environment, "main"))

    def wind(self) -> list[Record]:
        """Read what is new; give all records so far."""
        state = self.log.state(self.topic)
        if not state.exists or state.end <= self._offset:
            return self.records
        reader = self.log.reader(self.topic)
        reader.seek(Offset(self._offset))
        while self._offset < state.end:
            for chunk in reader.poll(1.0):
                for _, value in chunk.records:
                    self._add(decode(value))
                self._offset = chunk.resume
        reader.close()
        return self.records

    def _add(self, record: Record) -> None:
        self.records.append(record)
        if record.answer is not None:
            self._answers.setdefault(record.answer.request, []).append(record)
            if record.at.to is not None:
                self._closed.add(record.answer.request)

    def wait_for(self, condition: Callable[[Record], bool], timeout: float = 30) -> Record:
        """Wait for the first record that meets the condition."""
        until, seen = time.monotonic() + timeout, 0
        while True:
            records = self.wind()
            for record in records[seen:]:
                if condition(record):
                    return record
            seen = len(records)
            assert time.monotonic() < until, f"not among {len(records)} records"
            time.sleep(0.02)

    def answer(self, request: str, timeout: float = 30) -> list[Record]:
        """Wait for the whole answer to a request; give its records."""
        until = time.monotonic() + timeout
        while request not in self._closed:
            self.wind()
            assert time.monotonic() < until, f"no answer among {len(self.records)} records"
            time.sleep(0.01)
        return self._answers[request]


class Asker:
    """The target's side: asks, without a target."""

    def __init__(self, url: str, *, target: str = TARGET, environment: str = SOURCE) -> None:
        self._writer = open_log(url, {}).writer(requests_topic(environment, "main", target))
        self.target = target
        self._number = 0

    def send(self, message: KeysRequest | PageRequest | Report) -> None:
        self.send_bytes(encode(message))

    def send_bytes(self, value: bytes) -> None:
        self._writer.append([(b"", value)], None)
        self._writer.wait(5.0)

    def keys(
        self, datasets: Sequence[str], keys: Mapping[str, Sequence[object]], **more: object
    ) -> str:
        """Ask for rows by single-column keys; give the request's id."""
        return self._ask(
            KeysRequest,
            datasets,
            keys={table: tuple((key,) for key in each) for table, each in keys.items()},
            **more,
        )

    def page(
        self,
        dataset: str,
        rule: int,
        after: object = None,
        limit: int = 100,
        **more: object,
    ) -> str:
        """Ask for a page; give the request's id."""
        behind = None if after is None else (after,)
        return self._ask(
            PageRequest, [dataset], dataset=dataset, rule=rule, after=behind, limit=limit, **more
        )

    def _ask(self, kind: type, datasets: Sequence[str], **fields: object) -> str:
        self._number += 1
        name = f"{time.time_ns()}-{self._number}"
        plan = fields.pop("plan", None) or plan_of(datasets)
        request = kind(target=self.target, id=name, plan=plan, **fields)
        self.send(request)
        return name


def plan_of(datasets: Sequence[str]) -> tuple[PlanItem, ...]:
    """Give the plan of subscriptions to these datasets, as this code declares them."""
    return tuple(
        PlanItem(dataset=name, fingerprint=find_dataset(name).fingerprint) for name in datasets
    )


def key_of(record: Record) -> tuple[str, str]:
    """Give table and single-column key of a row event, as text."""
    image = record.after if record.after is not None else record.before
    assert image is not None
    return record.source.table, json.dumps(image["id"])
