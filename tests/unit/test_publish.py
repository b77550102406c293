"""Appends are of a good size, few are in flight, and only what is stored may be confirmed."""

from collections.abc import Iterator

import pytest

from replicator.envelope import Answer, At, EpochStart, Mark, Source, decode
from replicator.errors import LogUnavailable
from replicator.plan import Release, TableName
from replicator.positions import EpochId, Lsn, RunId
from replicator_capture.assemble import Assembler, Commitment, Origin
from replicator_capture.pgoutput import POSTGRES_EPOCH_US
from replicator_capture.publish import (
    FLUSH_BYTES,
    FLUSH_ROWS,
    IN_FLIGHT,
    Publisher,
    publish_epoch,
)
from replicator_capture.spool import Block
from replicator_capture.worker import Halted
from tests.support.plain_capture import (
    begin_message,
    commit_message,
    insert_message,
    relation_message,
)
from tests.support.recording_writer import RecordingWriter
from tests.unit.test_assemble import Recorder

TABLE = TableName("public", "t")
COMMITMENT = Commitment(7, Lsn(200), Lsn(208), POSTGRES_EPOCH_US)
ANSWER = Answer("stage", "r", "p")


def _assembler() -> Assembler:
    release = Release("a.T", TABLE, ("id",), ("id", "text"))
    origin = Origin("prod", "app", EpochId("0a1b2c3d"), RunId(90))
    assembler = Assembler(origin, {TABLE: release}, Lsn(100), Recorder())
    assembler.feed([relation_message([("id", 23, True), ("text", 25, False)])])
    return assembler


def _publisher(assembler: Assembler, writer: RecordingWriter) -> Publisher:
    return Publisher(assembler, writer, between=lambda: None)


def _rows(count: int, text: bytes = b"x") -> list[bytes]:
    return [insert_message([b"%d" % n, text]) for n in range(count)]


def _transaction(lsn: int, *rows: bytes) -> list[bytes]:
    return [begin_message(lsn), *rows, commit_message(lsn, lsn + 8)]


def test_a_dry_input_flushes_only_when_nothing_is_in_flight() -> None:
    assembler, writer = _assembler(), RecordingWriter(at_once=False)
    publisher = _publisher(assembler, writer)
    assembler.feed(_transaction(200, *_rows(1)))
    publisher.flush(dry=False)
    assert writer.appends == []
    publisher.flush(dry=True)
    assert len(writer.appends) == 1
    assembler.feed(_transaction(300, *_rows(1)))
    publisher.flush(dry=True)
    assert len(writer.appends) == 1
    publisher.wait(0)
    publisher.flush(dry=True)
    assert [until for _, until in writer.appends] == [208, 308]


@pytest.mark.parametrize(("rows", "text"), [(FLUSH_ROWS, b"x"), (3, b"x" * (FLUSH_BYTES // 3))])
def test_enough_rows_or_bytes_are_flushed_at_once(rows: int, text: bytes) -> None:
    assembler, writer = _assembler(), RecordingWriter(at_once=False)
    publisher = _publisher(assembler, writer)
    assembler.feed(_transaction(200, *_rows(rows - 1, text)))
    publisher.flush(dry=False)
    assert writer.appends == []
    assembler.feed(_transaction(300, *_rows(1, text)))
    publisher.flush(dry=False)
    [(records, until)] = writer.appends
    assert (len(records), until) == (rows, 308)


def test_nothing_is_confirmed_before_it_is_stored() -> None:
    assembler, writer = _assembler(), RecordingWriter(at_once=False)
    publisher = _publisher(assembler, writer)
    assembler.feed(_transaction(200, *_rows(1)))
    publisher.flush(dry=True)
    assert publisher.acknowledged() is None
    publisher.wait(0)
    assert publisher.acknowledged() == 208


def test_no_append_inside_a_transaction_may_be_confirmed() -> None:
    assembler, writer = _assembler(), RecordingWriter()
    publisher = _publisher(assembler, writer)
    assembler.feed([begin_message(200), *_rows(FLUSH_ROWS + 1)])
    publisher.flush(dry=False)
    assert [(len(records), until) for records, until in writer.appends] == [(FLUSH_ROWS, None)]
    assembler.feed([commit_message(200, 208)])
    publisher.flush(dry=True)
    assert [(len(records), until) for records, until in writer.appends][1:] == [(1, 208)]
    assert publisher.acknowledged() == 208


def test_there_is_room_for_four_appends() -> None:
    assembler, writer = _assembler(), RecordingWriter(at_once=False)
    publisher = _publisher(assembler, writer)
    for n in range(IN_FLIGHT):
        assert publisher.has_room()
        assembler.feed(_transaction(200 + 10 * n, *_rows(FLUSH_ROWS)))
        publisher.flush(dry=False)
    assert not publisher.has_room()
    publisher.wait(0)
    assert publisher.has_room()


def test_a_long_answer_is_bounded_in_memory_and_in_flight() -> None:
    assembler, writer, pulses = _assembler(), RecordingWriter(at_once=False), []
    publisher = Publisher(assembler, writer, between=lambda: pulses.append(assembler.pending))

    def blocks() -> Iterator[tuple[Block, bool]]:
        for start in range(0, 10 * FLUSH_ROWS, 100):
            rows = [
                (b'["public.t",%d]' % n, b'{"op":"r","before":null,"after":{"id":%d},' % n)
                for n in range(start, start + 100)
            ]
            yield Block(rows, TABLE, 0), True

    assert publisher.publish_answer(ANSWER, blocks(), COMMITMENT)
    publisher.flush(dry=False)
    while writer.in_flight():
        publisher.wait(0)
    publisher.flush(dry=True)
    assert writer.most_in_flight == IN_FLIGHT
    assert max(pulses) < FLUSH_ROWS + 100, "and a block more"
    places = [decode(value).at for _, value in writer.records]
    assert [place.ordinal for place in places] == list(range(10 * FLUSH_ROWS + 1))
    assert [place.to for place in places if place.to] == [208]
    assert [until for _, until in writer.appends if until] == [208]


def test_an_answer_that_the_log_does_not_take_can_be_given_up() -> None:
    class Stuck(RecordingWriter):
        def wait(self, timeout: float) -> None:  # noqa: ARG002
            self.waited += 1

    class GivenUp(Exception):
        pass

    assembler, writer = _assembler(), Stuck(at_once=False)

    def between() -> None:
        if writer.waited == 3:
            raise GivenUp

    row = (b'["public.t",1]', b'{"op":"r","before":null,"after":{"id":1},')
    blocks = ((Block([row] * 100, TABLE, 0), True) for _ in range(FLUSH_ROWS))
    with pytest.raises(GivenUp):
        Publisher(assembler, writer, between).publish_answer(ANSWER, blocks, COMMITMENT)
    assert all(decode(value).at.to is None for _, value in writer.records)


def test_an_answer_without_rows_closes_all_the_same() -> None:
    assembler, writer = _assembler(), RecordingWriter()
    publisher = _publisher(assembler, writer)
    refusal = Answer("stage", "r", "p", refused="another plan")
    assert publisher.publish_answer(refusal, [], COMMITMENT)
    publisher.flush(dry=True)
    [(_, value)] = writer.records
    record = decode(value)
    assert (record.op, record.answer, record.at.from_, record.at.to) == ("m", refusal, 100, 208)


def test_a_commit_that_was_told_is_neither_answered_nor_marked() -> None:
    assembler, writer = _assembler(), RecordingWriter()
    publisher = _publisher(assembler, writer)
    assembler.feed(_transaction(200, *_rows(1)))
    assert not publisher.publish_answer(ANSWER, iter([]), COMMITMENT)
    assert not publisher.publish_mark(Mark("b"), COMMITMENT)
    publisher.flush(dry=True)
    assert len(writer.records) == 1


def _epoch() -> EpochStart:
    return EpochStart(EpochId("0a1b2c3d"), "", Lsn(90), "7412", 1, "first")


_SOURCE = Source("1", "replicator", "prod", "app", "", "", 0, Lsn(0), 5, "false")


def test_an_epoch_is_stored_before_it_returns() -> None:
    writer = RecordingWriter(at_once=False)
    publish_epoch(writer, _epoch(), _SOURCE, timeout=1)
    assert writer.acknowledged() == 90
    record = decode(writer.records[0][1])
    assert record.epoch == _epoch()
    assert record.at == At(1, EpochId("0a1b2c3d"), RunId(0), 0, Lsn(90), Lsn(90))
    assert record.source.lsn == 90


class Deaf(RecordingWriter):
    def wait(self, timeout: float) -> None:  # noqa: ARG002
        self.waited += 1


def test_an_epoch_that_is_not_stored_in_time_is_an_error() -> None:
    writer = Deaf(at_once=False)
    with pytest.raises(LogUnavailable):
        publish_epoch(writer, _epoch(), _SOURCE, timeout=1)
    assert writer.waited == 5


def test_waiting_for_an_epoch_ends_when_it_is_told_to() -> None:
    def between() -> None:
        raise Halted

    writer = Deaf(at_once=False)
    with pytest.raises(Halted):
        publish_epoch(writer, _epoch(), _SOURCE, timeout=60, between=between)
    assert writer.waited == 1
