"""A stream that runs dry for a moment: small changes go at once, many wait a little for more."""

from collections.abc import Callable
from typing import cast

import pytest

from replicator_capture import pump as pump_module
from replicator_capture.publish import Publisher
from replicator_capture.pump import BUSY_ROWS, LATE_LINGER_S, LATE_S, LINGER_S, Pump
from replicator_capture.wal import WalStream
from tests.support.recording_writer import RecordingWriter
from tests.unit.test_publish import _assembler, _rows, _transaction


class Stream:
    """A stream that brings what it is told to, once."""

    def __init__(self) -> None:
        self.coming: list[list[bytes]] = []
        self.waits: list[float] = []

    def receive(self) -> list[bytes]:
        return self.coming.pop(0) if self.coming else []

    def wait(self, timeout: float) -> None:
        self.waits.append(timeout)

    def tick(self) -> None:
        """Send nothing."""

    def confirm(self, _: int) -> None:
        """Nothing is confirmed."""


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the time that the pump sees, in a list of one."""
    clock = [100.0]
    monkeypatch.setattr(pump_module.time, "monotonic", lambda: clock[0])
    return clock


def pumping(lag: Callable[[], float] = lambda: 0.0) -> tuple[Pump, Stream, RecordingWriter]:
    stream, writer, assembler = Stream(), RecordingWriter(), _assembler()
    publisher = Publisher(assembler, writer, between=lambda: None)
    return Pump(cast(WalStream, stream), assembler, publisher, lag=lag), stream, writer


def test_small_changes_are_appended_as_soon_as_the_input_is_dry(now: list[float]) -> None:
    pump, stream, writer = pumping()
    stream.coming = [_transaction(200, *_rows(BUSY_ROWS - 1))]
    pump.turn(1)
    assert not writer.records
    pump.turn(1)
    assert len(writer.records) == BUSY_ROWS - 1


def test_many_changes_wait_for_more_but_not_long(now: list[float]) -> None:
    pump, stream, writer = pumping()
    stream.coming = [_transaction(200, *_rows(BUSY_ROWS)), []]
    pump.turn(1)
    pump.turn(1)
    assert stream.waits == [LINGER_S]
    stream.coming = [_transaction(300, *_rows(10)), []]
    pump.turn(1)
    now[0] += LINGER_S / 2
    pump.turn(1)
    assert not writer.records
    now[0] += LINGER_S
    pump.turn(1)
    assert len(writer.records) == BUSY_ROWS + 10
    assert [until for _, until in writer.appends] == [308]


def test_each_pause_of_a_busy_stream_is_waited_out(now: list[float]) -> None:
    pump, stream, writer = pumping()
    for burst in range(1, 4):
        stream.waits.clear()
        stream.coming = [_transaction(200 * burst, *_rows(BUSY_ROWS)), []]
        pump.turn(1)
        pump.turn(1)
        assert stream.waits == [LINGER_S]
        now[0] += 2 * LINGER_S
        pump.turn(1)
        assert len(writer.records) == burst * BUSY_ROWS


def test_a_stream_that_is_late_waits_longer_for_more(now: list[float]) -> None:
    pump, stream, writer = pumping(lambda: LATE_S + 0.01)
    stream.coming = [_transaction(200, *_rows(BUSY_ROWS))]
    pump.turn(1)
    pump.turn(1)
    now[0] += LINGER_S
    pump.turn(1)
    assert not writer.records
    now[0] += LATE_LINGER_S
    pump.turn(1)
    assert len(writer.records) == BUSY_ROWS
