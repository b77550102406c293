"""One turn of the apply loop: how long it waits for input, and what it hands over when."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from replicator.errors import Hole
from replicator.http import Health
from replicator.log import Chunk
from replicator.positions import Offset
from replicator.settings import ReplicatorSettings
from replicator.stop import Stop
from replicator_apply import worker as module
from replicator_apply.state import Place
from replicator_apply.worker import IDLE, SOON, WHILE_WAITING, Worker

CHUNK = Chunk([0], [(b"k", b"v")], Offset(1), 0)


class Pipeline:
    def __init__(self, did: list[str]) -> None:
        self.did = did
        self.busy = self.full = False
        self.arriving = None

    def proceed(self) -> None:
        self.did.append("proceed")

    def wait(self, timeout: float) -> None:
        self.did.append(f"wait {timeout}")

    def finish(self) -> None:
        self.did.append("finish")

    def hand_over(self, batch: object) -> None:
        self.did.append(f"hand over {batch}")


class Consumer:
    def __init__(self) -> None:
        self.rows, self.pending = 0, False
        self.answers: Sequence[object] = ()
        self.hole: Hole | None = None

    def feed(self, chunk: Chunk, *_: object) -> None:
        self.rows, self.pending = self.rows + len(chunk.records), True

    def take(self) -> str:
        taken = f"{self.rows} rows"
        self.rows, self.pending = 0, False
        return taken


class Line:
    """A worker with a reader, a consumer and a pipeline that note what is done to them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.did: list[str] = []
        self.comes: list[Chunk] = []
        self.pipeline, self.consumer = Pipeline(self.did), Consumer()
        worker: Any = Worker(
            cast(ReplicatorSettings, None), Place("prod", "main"), Stop(), Health(60)
        )
        worker._pipeline, worker._consumer, worker._applier = self.pipeline, self.consumer, self
        worker._asker = self
        worker._tell = lambda _, hole: self.did.append(f"tell {hole}")
        self.plan = None
        self.worker = worker
        monkeypatch.setattr(module, "counter", lambda _: self)

    def turn(self, *comes: Chunk) -> list[str]:
        self.comes, before = [*comes], len(self.did)
        assert self.worker._turn(None, self)
        return [step for step in self.did[before:] if step != "proceed"]

    # What the worker calls.

    def poll(self, timeout: float) -> Sequence[Chunk]:
        self.did.append(f"poll {timeout}")
        return self.comes

    def collapse(self, batch: object) -> None:
        self.did.append(f"collapse {batch}")

    def ask_ahead(self, *_: object) -> int:
        return 0

    def labels(self, *_: object) -> "Line":
        return self

    def inc(self, _: int) -> None:
        pass


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    return Line(monkeypatch)


def test_an_idle_stream_is_waited_for(line: Line) -> None:
    assert line.turn() == [f"poll {IDLE}"]
    assert line.worker._dry


def test_what_comes_is_handed_over_in_the_same_turn(line: Line) -> None:
    assert line.turn(CHUNK, CHUNK) == [f"poll {IDLE}", "collapse 2 rows", "hand over 2 rows"]
    assert not line.worker._dry


def test_while_a_batch_is_written_the_next_one_is_collected(line: Line) -> None:
    line.pipeline.busy = True
    assert line.turn(CHUNK) == ["poll 0.0"]
    assert line.turn(CHUNK) == ["poll 0.0"]
    assert line.turn() == ["poll 0.0", f"wait {SOON}"]
    line.pipeline.busy = False
    # What has been read is not kept waiting for more.
    assert line.turn() == ["poll 0.0", "collapse 2 rows", "hand over 2 rows"]


def test_with_two_batches_ahead_nothing_is_read_before_a_wait(line: Line) -> None:
    line.pipeline.busy = line.pipeline.full = True
    assert line.turn(CHUNK) == [f"wait {WHILE_WAITING}", "poll 0.0"]


def test_behind_an_answer_of_ours_nothing_is_read_before_a_wait(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line.worker, "_is_ours", lambda answer: answer == "ours")
    line.pipeline.busy = True
    line.consumer.answers = ["of another target"]
    assert line.turn() == ["poll 0.0", f"wait {SOON}"]
    line.consumer.answers = ["of another target", "ours"]
    assert line.turn(CHUNK) == [f"wait {WHILE_WAITING}", "poll 0.0"]


def test_a_hole_is_told_once_after_what_came_before_it(line: Line) -> None:
    line.consumer.hole = Hole("Something is missing.")
    assert line.turn(CHUNK) == [
        f"poll {IDLE}",
        "collapse 1 rows",
        "hand over 1 rows",
        "finish",
        "tell Something is missing.",
    ]
    assert line.turn() == [f"poll {IDLE}", "finish"]
    line.consumer.hole = None
    line.turn()
    line.consumer.hole = Hole("Something else is missing.")
    assert line.turn()[-1] == "tell Something else is missing."
