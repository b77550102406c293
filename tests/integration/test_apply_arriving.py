"""Apply alone: a large transaction that is written while the rest of it arrives."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from replicator.positions import Lsn, RunId
from replicator_apply import assemble, batch, fenced, worker
from replicator_apply.state import StoredPosition
from tests.integration.conftest import StartTarget
from tests.support.published import Change, Published
from tests.support.target import Target, change

NAMES = "SELECT id, name FROM pages_tag ORDER BY id"
WRITING = (
    "SELECT 1 FROM pg_locks WHERE relation = 'pages_tag'::regclass AND mode = 'RowExclusiveLock'"
)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(assemble, "SPOOL_AFTER", 4)
    monkeypatch.setattr(assemble, "PART_EVENTS", 3)
    caplog.set_level("INFO", worker.logger.name)


def tags(*numbers: int) -> list[Change]:
    return [change("c", "pages_tag", n, name=f"n{n}") for n in numbers]


def named(*numbers: int) -> list[tuple[int, str]]:
    return [(n, f"n{n}") for n in numbers]


def begin(target: Target, published: Published, records: Sequence[tuple[bytes, bytes]]) -> None:
    """Publish the first records of a transaction, and wait until some of them are written."""
    published.append([*records])
    target.until(lambda: bool(target.rows(WRITING)), "it is written")
    assert target.rows(NAMES) == []


def kept_whole(caplog: pytest.LogCaptureFixture) -> int:
    """Count the transactions that were given up and read again."""
    return events(caplog).count("kept_whole")


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [getattr(record, "event", "") for record in caplog.records]


def test_it_becomes_visible_whole(start: StartTarget, caplog: pytest.LogCaptureFixture) -> None:
    target, published = start("pages")
    records = published.records(*tags(*range(20)))
    begin(target, published, records[:9])
    published.append(records[9:])
    target.reach(published.commit)
    assert target.rows(NAMES) == named(*range(20))
    assert target.rows('SELECT count(*) FROM replicator."public.pages_tag"') == [(20,)]
    assert kept_whole(caplog) == 0


def test_what_stands_around_it_in_the_log_is_applied_in_order(
    start: StartTarget, caplog: pytest.LogCaptureFixture
) -> None:
    target, published = start("pages")
    before = published.records(*tags(1), change("c", "pages_tag", 99, name="before"))
    large = published.records(
        change("d", "pages_tag", 99), *tags(*range(10, 30)), change("u", "pages_tag", 1, name="l")
    )
    after = published.records(change("u", "pages_tag", 29, name="after"), *tags(2))
    published.append([*before, *large, *after])
    target.reach(published.commit)
    assert target.rows(NAMES) == [(1, "l"), *named(2, *range(10, 29)), (29, "after")]
    assert kept_whole(caplog) == 0


def test_it_is_rolled_back_if_no_more_arrives(
    start: StartTarget, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "ARRIVES_WITHIN", 0.3)
    target, published = start("pages")
    records = published.records(*tags(*range(20)))
    begin(target, published, records[:9])
    target.until(lambda: not target.rows(WRITING), "it is rolled back")
    published.append(records[9:15])
    target.execute("INSERT INTO pages_tag (id, name) VALUES (1000, 'local')")
    assert target.rows(NAMES) == [(1000, "local")]
    published.append(records[15:])
    target.reach(published.commit)
    assert target.rows(NAMES) == [*named(*range(20)), (1000, "local")]
    assert kept_whole(caplog) == 1


@pytest.mark.parametrize(
    "late",
    [
        pytest.param([change("u", "pages_tag", 99, name="n99")], id="a row that is not here"),
        pytest.param([change("t", "pages_tag"), *tags(99)], id="truncate"),
        pytest.param([change("d", "pages_tag", 3), *tags(3, 99)], id="a row that comes back"),
    ],
)
def test_what_comes_late_may_need_all_of_it(
    start: StartTarget, caplog: pytest.LogCaptureFixture, late: list[Change]
) -> None:
    target, published = start("pages")
    records = published.records(*tags(*range(12)), *late)
    begin(target, published, records[:9])
    published.append(records[9:])
    target.reach(published.commit)
    left = [99] if late[0].op == "t" else [*range(12), 99]
    assert target.rows(NAMES) == named(*left)
    assert kept_whole(caplog) == (0 if late[0].op == "d" else 1)


def test_another_run_may_tell_it_from_its_beginning(
    start: StartTarget, caplog: pytest.LogCaptureFixture
) -> None:
    target, published = start("pages")
    first = published.next
    begin(target, published, published.records(*tags(*range(20)))[:9])
    # Capture was killed there; what it had not stored it reads again.
    published.run, published.next = RunId(2000), first
    published.transaction(*tags(*range(20)))
    target.reach(published.commit)
    published.transaction(*tags(50))
    target.reach(published.commit)
    assert target.rows(NAMES) == named(*range(20), 50)
    assert kept_whole(caplog) == 1


def test_a_stop_in_the_middle_leaves_nothing(start: StartTarget) -> None:
    target, published = start("pages")
    records = published.records(*tags(*range(20)))
    begin(target, published, records[:9])
    target.stop()
    assert target.rows(NAMES) == []
    target.start()
    target.until(lambda: bool(target.rows(WRITING)), "it is written again")
    published.append(records[9:])
    target.reach(published.commit)
    assert target.rows(NAMES) == named(*range(20))


def test_records_that_are_missing_before_it_are_noticed(start: StartTarget) -> None:
    target, published = start("pages")
    records = published.records(*tags(*range(20)), gap=7)
    begin(target, published, records[:9])
    published.append(records[9:])
    target.until_stopped("Records are missing from the log")
    assert target.rows(NAMES) == []
    assert target.rows(WRITING) == []


def test_another_epoch_may_begin_before_it_is_whole(start: StartTarget) -> None:
    target, published = start("pages")
    begin(target, published, published.records(*tags(*range(20)))[:9])
    Published(target.log, epoch="ffff0000", next=Lsn(5000), commit=Lsn(5000))  # type: ignore[arg-type]
    epoch = "SELECT epoch FROM replicator_streamposition"
    target.until(lambda: target.rows(epoch) == [("ffff0000",)], "it goes on in the new epoch")
    assert target.rows(NAMES) == []


def test_a_lock_that_is_not_given_is_waited_for_again(
    start: StartTarget, caplog: pytest.LogCaptureFixture
) -> None:
    target, published = start("pages")
    records = published.records(*tags(*range(20)))
    with target.connection.transaction():
        target.execute("INSERT INTO pages_tag (id, name) VALUES (5, 'local')")
        published.append(records[:9])
        target.until(lambda: bool(target.rows(WAITING)), "it waits for the local row")
        published.append(records[9:])
        target.execute("DELETE FROM pages_tag")
    target.reach(published.commit)
    assert target.rows(NAMES) == named(*range(20))
    assert kept_whole(caplog) == 0


WAITING = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"


def test_another_worker_may_have_applied_meanwhile(
    start: StartTarget, caplog: pytest.LogCaptureFixture
) -> None:
    target, published = start("pages")
    target.reach(published.transaction(*tags(100)))
    target.execute("UPDATE replicator_streamposition SET next_lsn = next_lsn + 1")
    published.transaction(*tags(*range(20)))
    target.until(lambda: "overtaken" in events(caplog), "it is noticed, whoever waits")


def test_what_cannot_even_begin_is_tried_again(
    start: StartTarget, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[bool] = []
    stored_of = fenced.stored_of

    def locked(row: Sequence[Any] | None) -> StoredPosition | None:
        # What arrives is written aside, all else here by the thread that reads.
        if threading.current_thread().name.startswith("write"):
            tries.append(True)
            if len(tries) == 1:
                raise psycopg.errors.LockNotAvailable
        return stored_of(row)

    target, published = start("pages")
    monkeypatch.setattr(fenced, "stored_of", locked)
    target.reach(published.transaction(*tags(100)))
    target.reach(published.transaction(*tags(*range(20))))
    assert target.rows(NAMES) == named(*range(20), 100)
    assert kept_whole(caplog) == 1


@pytest.mark.parametrize("which", [1, 2, 4])
def test_what_fails_in_the_writer_is_what_is_raised(
    start: StartTarget, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    rounds: list[bool] = []
    write = batch.Applier._write_round

    def broken(applier: batch.Applier, *arguments: Any) -> Any:
        rounds.append(True)
        if len(rounds) == which:
            time.sleep(0.2)  # the reader waits for it
            raise ZeroDivisionError
        return write(applier, *arguments)

    monkeypatch.setattr(batch.Applier, "_write_round", broken)
    target, published = start("pages")
    published.transaction(*tags(*range(20)))
    with pytest.raises(ZeroDivisionError):
        target.until(lambda: False, "it fails")
    assert target.rows(NAMES) == []
    target.failures.clear()


def test_it_waits_for_rows_of_its_own_only_so_long(
    start: StartTarget, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "ARRIVES_WITHIN", 0.3)
    target, published = start("pages")
    others = [Change("c", "public.nobodys", (n,), {"id": n}) for n in range(2_000)]
    records = published.records(*tags(*range(9)), *others, *tags(9))
    begin(target, published, records[:9])
    for at in range(9, 1_000, 50):
        published.append(records[at : at + 50])
        time.sleep(0.05)
    target.until(lambda: not target.rows(WRITING), "it is rolled back")
    published.append(records[1_009:])
    target.reach(published.commit)
    assert target.rows(NAMES) == named(*range(10))
    assert kept_whole(caplog) == 1


def test_what_has_become_outdated_is_begun_anew_first(
    start: StartTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, load = worker.Worker._settle, worker.Worker._load_plan
    loaded, used = list[Any](), list[Any]()

    def outdating(self: worker.Worker, connection: Any, applied: Any) -> None:
        settle(self, connection, applied)
        self._outdated = not used
        used.append(self._applier.plan)

    def noted(self: worker.Worker, connection: Any) -> Any:
        loaded.append(load(self, connection))
        return loaded[-1]

    monkeypatch.setattr(worker.Worker, "_settle", outdating)
    monkeypatch.setattr(worker.Worker, "_load_plan", noted)
    target, published = start("pages")
    before, large = published.records(*tags(100)), published.records(*tags(*range(20)))
    published.append([*before, *large[:9]])
    target.until(lambda: len(loaded) == 2, "it begins anew")
    published.append(large[9:])
    target.reach(published.commit)
    assert target.rows(NAMES) == named(*range(20), 100)
    first, *others = (plan is loaded[0] for plan in used)
    assert first
    assert not any(others)


@pytest.mark.parametrize(("pause", "times"), [(0.0, 6), (60.0, 1)])
def test_each_is_tried_once_and_none_for_a_while_after_it(
    start: StartTarget,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    pause: float,
    times: int,
) -> None:
    monkeypatch.setattr(worker, "ARRIVING_PAUSE", pause)
    target, published = start("pages")
    # Each of them ends with a row that needs all of it, and is whole before that is found out.
    records = [
        published.records(
            *tags(*range(at, at + 12)), change("u", "pages_tag", at + 50, name=f"late {at}")
        )
        for at in range(100, 700, 100)
    ]
    published.append([record for some in records for record in some])
    target.reach(published.commit)
    assert len(target.rows(NAMES)) == 6 * 13
    assert kept_whole(caplog) == times


def test_a_hole_before_several_large_transactions_is_told(start: StartTarget) -> None:
    target, published = start("pages")
    lost = published.records(*tags(1))
    assert lost
    for at in range(100, 400, 100):
        published.transaction(*tags(*range(at, at + 12)))
    target.until_stopped("Records are missing from the log")
    assert target.rows(NAMES) == []
