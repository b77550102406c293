"""What the log's end tells a start."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from replicator.envelope import At, EpochStart, Mark, Record, Source, encode
from replicator.log.port import open_log
from replicator.positions import EpochId, Lsn, RunId
from replicator_capture.beat import Beat
from replicator_capture.startup import LogTail
from replicator_capture.tail import mark_health, read_tail

ONE, TWO = EpochId("0000000a"), EpochId("0000000b")
START = EpochStart(ONE, "", Lsn(100), "1234", 1, "first start")
NEXT = EpochStart(TWO, ONE, Lsn(500), "1234", 2, "restored")
SOURCE = Source("1", "replicator", "prod", "app", "public", "t", 7, Lsn(1), 5, "false")
TOPIC = "replicator.prod.main"


def row(epoch: EpochId, to: int | None, ordinal: int = 0) -> bytes:
    end = None if to is None else Lsn(to)
    at = At(1, epoch, RunId(1), ordinal, None if to is None else Lsn(1), end)
    return encode(Record("c", SOURCE, at, after={"id": 1, "text": '"at":{"v":1'}))


def mark(epoch: EpochStart, to: int, beat: Beat) -> bytes:
    at = At(1, epoch.id, RunId(1), 0, Lsn(1), Lsn(to))
    return encode(Record("m", SOURCE, at, mark=Mark(beat.nonce, mark_health(epoch))))


def start(epoch: EpochStart) -> bytes:
    at = At(1, epoch.id, RunId(0), 0, epoch.start, epoch.start)
    return encode(Record("epoch", SOURCE, at, epoch=epoch))


def tail_of(path: Path, values: Sequence[bytes]) -> LogTail:
    log = open_log(f"sqlite:///{path}/log.sqlite3", {})
    log.create(TOPIC)
    writer = log.writer(TOPIC)
    for at in range(0, len(values), 1000):
        writer.append([(b"k", value) for value in values[at : at + 1000]], None)
    writer.close(1.0)
    return read_tail(log, TOPIC)


BEAT = Beat(ONE, 5, "01234567")
LATER = Beat(ONE, 6, "01234567")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], LogTail(empty=True, epoch=None, to=None, beat=None)),
        ([start(START)], LogTail(False, START, Lsn(100), None)),
        ([start(START), row(ONE, 200), row(ONE, None, 0)], LogTail(False, START, Lsn(200), None)),
        (
            [start(START), mark(START, 200, BEAT), row(ONE, 300)],
            LogTail(False, START, Lsn(300), BEAT),
        ),
        # The epoch's record has expired.
        ([mark(START, 200, BEAT), row(ONE, 300)], LogTail(False, START, Lsn(300), BEAT)),
        # An older run's records came late.
        (
            [start(START), mark(START, 300, LATER), row(ONE, 200), mark(START, 150, BEAT)],
            LogTail(False, START, Lsn(300), LATER),
        ),
        # An older epoch's too.
        (
            [start(START), row(ONE, 900), start(NEXT), row(TWO, 600), mark(START, 950, BEAT)],
            LogTail(False, NEXT, Lsn(600), None),
        ),
        ([start(START), b"garbage", b"", row(ONE, 200)], LogTail(False, START, Lsn(200), None)),
        ([row(ONE, 200)], LogTail(False, None, None, None)),
    ],
    ids=[
        "empty",
        "only an epoch",
        "an unfinished transaction",
        "a beat",
        "epoch expired",
        "an older run late",
        "an older epoch late",
        "garbage",
        "nothing to know the epoch by",
    ],
)
def test_tail(tmp_path: Path, values: list[bytes], expected: LogTail) -> None:
    assert tail_of(tmp_path, values) == expected


def test_reads_back_over_a_large_transaction(tmp_path: Path) -> None:
    values = [start(START), mark(START, 200, BEAT)]
    values += [row(ONE, None, ordinal) for ordinal in range(12_000)]
    assert tail_of(tmp_path, values) == LogTail(False, START, Lsn(200), BEAT)
