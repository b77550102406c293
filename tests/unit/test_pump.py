"""A stream that runs dry for a moment: small changes go at once, many wait a little for more."""

from collections.abc import Callable
from typing import cast

import msgspec
import pytest

from replicator.envelope import Answer
from replicator.positions import Lsn
from replicator_capture import pump as pump_module
from replicator_capture.publish import FILLING_ROWS, FLUSH_ROWS, IN_FLIGHT, Publisher
from replicator_capture.pump import (
    BUSY_ROWS,
    FILLING_LINGER_S,
    FILLING_S,
    LATE_LINGER_S,
    LATE_S,
    LINGER_S,
    NAP_S,
    Pump,
)
from replicator_capture.spool import Block
from replicator_capture.wal import WalStream
from tests.support.plain_capture import begin_message
from tests.support.recording_writer import RecordingWriter
from tests.unit.test_publish import ANSWER, COMMITMENT, TABLE, _assembler, _rows, _transaction


class Stream:
    """A stream that brings what it is told to, once."""

    def __init__(self) -> None:
        self.coming: list[list[bytes]] = []
        self.waits: list[float] = []
        self.pauses: list[float] = []

    def receive(self) -> list[bytes]:
        return self.coming.pop(0) if self.coming else []

    def wait(self, timeout: float) -> None:
        self.waits.append(timeout)

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

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


def pumping(
    lag: Callable[[], float] = lambda: 0.0, *, at_once: bool = True
) -> tuple[Pump, Stream, RecordingWriter]:
    stream, writer, assembler = Stream(), RecordingWriter(at_once=at_once), _assembler()
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
    assert stream.pauses == [NAP_S]
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
        stream.pauses.clear()
        stream.coming = [_transaction(200 * burst, *_rows(BUSY_ROWS)), []]
        pump.turn(1)
        pump.turn(1)
        assert stream.pauses == [NAP_S]
        now[0] += 2 * LINGER_S
        pump.turn(1)
        assert len(writer.records) == burst * BUSY_ROWS


def test_a_busy_stream_that_trickles_is_let_run_and_no_other(now: list[float]) -> None:
    pump, stream, _ = pumping()
    stream.coming = [_transaction(200, *_rows(10))]
    pump.turn(1)
    assert not stream.pauses, "a small change is appended at once"
    stream.coming = [_transaction(300, *_rows(BUSY_ROWS)), _transaction(400, *_rows(10))]
    pump.turn(1)
    assert not stream.pauses, "much has come: more may be there"
    pump.turn(1)
    pump.turn(0.0001)
    assert stream.pauses == [NAP_S, 0.0001]
    assert not stream.waits


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


PAGE = msgspec.structs.replace(ANSWER, last_key=(7,))


def fill(publisher: Publisher, rows: int, commit: int = 200, answer: Answer = PAGE) -> None:
    """Publish an answer of so many rows."""
    at = msgspec.structs.replace(COMMITMENT, lsn=Lsn(commit), end=Lsn(commit + 8))
    encoded = [(b'["public.t",%d]' % n, b'{"op":"r",') for n in range(rows)]
    assert publisher.publish_answer(answer, [(Block(encoded, TABLE, 0), True)], at)


def test_while_a_target_is_filled_even_little_waits_for_more(now: list[float]) -> None:
    pump, stream, writer = pumping()
    fill(pump._publisher, FILLING_ROWS)
    appended = len(writer.records)
    assert appended == FILLING_ROWS + 1, "the answer itself has gone at once"
    stream.coming = [_transaction(300, *_rows(1))]
    pump.turn(1)
    now[0] += FILLING_LINGER_S / 2
    pump.turn(1)
    assert stream.waits[-1] == LINGER_S
    assert len(writer.records) == appended
    now[0] += FILLING_LINGER_S
    pump.turn(1)
    assert len(writer.records) == appended + 1
    now[0] += FILLING_S
    stream.coming = [_transaction(400, *_rows(1)), []]
    pump.turn(1)
    pump.turn(1)
    assert len(writer.records) == appended + 2, "nobody is filled any more"


@pytest.mark.parametrize(
    ("rows", "answer"), [(FILLING_ROWS, ANSWER), (FILLING_ROWS - 1, PAGE)], ids=["no page", "small"]
)
def test_an_answer_that_is_no_page_or_a_small_one_keeps_nobody_waiting(
    now: list[float], rows: int, answer: Answer
) -> None:
    pump, stream, writer = pumping()
    fill(pump._publisher, rows, answer=answer)
    stream.coming = [_transaction(300, *_rows(1)), []]
    pump.turn(1)
    pump.turn(1)
    assert len(writer.records) == rows + 2


def test_a_part_of_a_transaction_does_not_use_up_the_patience_for_the_next(
    now: list[float],
) -> None:
    pump, stream, writer = pumping()
    stream.coming = [[begin_message(200), *_rows(FLUSH_ROWS)]]
    pump.turn(1)
    assert len(writer.records) == FLUSH_ROWS - 1, "the last one may turn out to close it"
    now[0] += 10 * LINGER_S
    stream.coming = [[*_rows(BUSY_ROWS)], []]
    pump.turn(1)
    pump.turn(1)
    assert stream.pauses == [NAP_S]
    assert len(writer.records) == FLUSH_ROWS - 1


def test_without_room_the_log_is_waited_for(now: list[float]) -> None:
    pump, stream, writer = pumping(at_once=False)
    for n in range(IN_FLIGHT):
        stream.coming = [_transaction(200 + 10 * n, *_rows(FLUSH_ROWS))]
        pump.turn(1)
    pump._assembler.feed(_transaction(300, *_rows(BUSY_ROWS)))
    pump.turn(1)
    assert not stream.waits
    assert writer.in_flight() < IN_FLIGHT


def test_an_answer_that_could_not_go_at_once_goes_as_soon_as_the_log_has_caught_up(
    now: list[float],
) -> None:
    pump, _, writer = pumping(at_once=False)
    fill(pump._publisher, FILLING_ROWS)
    fill(pump._publisher, FILLING_ROWS, 300)
    assert len(writer.appends) == 1
    pump._publisher.wait(0)
    pump.turn(1)
    assert len(writer.appends) == 2
