"""Two daemons at once, daemons that come back from the dead, and their start and end."""

import signal
import time

import psycopg
import pytest

from tests.fault.conftest import Make
from tests.support.faulty import EXIT_CODE
from tests.support.processes import wait_until
from tests.support.traffic import Traffic, Watch
from tests.support.two_environments import BY_RULE, TwoEnvironments


def end_sessions(conninfo: str, application: str) -> int:
    """Terminate the sessions of a daemon on a database, and give their number."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        return connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE %s",
            [f"{application}%"],
        ).rowcount


def runs_in_log(pair: TwoEnvironments) -> int:
    """How many starts of capture have published rows."""
    from tests.support.capture_run import Tape

    return len({record.at.run for record in Tape.of(pair.log).wind() if record.op in "cud"})


@pytest.mark.parametrize("point", ["capture.received", "capture.taken", "capture.confirming"])
def test_a_stale_capture_goes_on_after_its_slot_was_taken(
    two_environments: Make, point: str
) -> None:
    pair = two_environments(datasets=BY_RULE)
    pair.start()
    second = pair.daemon("capture", "second-capture")
    with Watch(pair.target) as watch, Traffic(pair.source, 1) as traffic:
        second.start()
        traffic.at_least(10)
        pair.capture.fault.arm(point, "hang")
        wait_until(lambda: pair.capture.fault.fired, 60, "the first one hangs")
        traffic.at_least(10)
        assert end_sessions(pair.source, "replicator capture") >= 1
        second.process and second.process.wait_for_output("streaming")
        traffic.at_least(30)
        pair.capture.fault.release()
        traffic.at_least(30)
        second.kill()
        traffic.at_least(10)
        pair.until(lambda: runs_in_log(pair) >= 3, "the first one takes over again")
        assert traffic.error is None
        assert pair.capture.restarts == 0
        traffic.end()
        pair.settle(restart=False)
        assert watch.torn == []


@pytest.mark.parametrize("point", ["apply.assembled", "apply.rows_written", "apply.before_commit"])
def test_a_stale_apply_goes_on_after_another_took_over(two_environments: Make, point: str) -> None:
    pair = two_environments(datasets=BY_RULE)
    pair.start()
    second = pair.daemon("apply", "second-apply")
    with Watch(pair.target) as watch, Traffic(pair.source, 2) as traffic:
        second.start()
        traffic.at_least(10)
        pair.apply.fault.arm(point, "hang")
        wait_until(lambda: pair.apply.fault.fired, 60, "the first one hangs")
        before = pair.position()
        assert end_sessions(pair.target, "replicator apply") >= 1
        pair.until(lambda: pair.position() > before, "the second one applies")
        pair.apply.fault.release()
        traffic.at_least(30)
        second.kill()
        traffic.at_least(10)
        traffic.end()
        pair.settle(restart=False)
        assert watch.torn == []
        assert pair.apply.restarts == 0


def test_two_applies_without_the_lock_are_fenced(two_environments: Make) -> None:
    pair = two_environments(datasets=BY_RULE)
    pair.start()
    pair.apply.kill()
    daemons = [pair.daemon("apply", name) for name in ("one", "other")]
    with Watch(pair.target) as watch, Traffic(pair.source, 3) as traffic:
        for daemon in daemons:
            daemon.env["REPLICATOR_TEST_WITHOUT_LOCK"] = "1"
            daemon.start()
        pair.apply = daemons[0]
        try:
            traffic.at_least(100)
            pair.until(
                lambda: any("overtaken" in daemon.output() for daemon in daemons),
                "both apply, and one notices it",
            )
            traffic.end()
            pair.settle(restart=False)
            assert watch.torn == []
            assert all(daemon.running for daemon in daemons)
        finally:
            daemons[1].kill()


def test_sigterm_under_load_ends_each_daemon_cleanly(two_environments: Make) -> None:
    pair = two_environments(datasets=BY_RULE)
    pair.start()
    with Watch(pair.target) as watch, Traffic(pair.source, 4, pause=0) as traffic:
        for daemon in (pair.capture, pair.apply):
            traffic.at_least(30)
            assert daemon.process is not None
            began = time.monotonic()
            daemon.process.send(signal.SIGTERM)
            assert daemon.process.wait(10) == 0, daemon.output()
            assert time.monotonic() - began < 5
            assert "Traceback" not in daemon.output()
            daemon.start()
        traffic.at_least(20)
        traffic.end()
        pair.settle(restart=False)
        assert watch.torn == []


def test_faults_of_the_first_start(two_environments: Make) -> None:
    pair = two_environments(datasets=BY_RULE)
    points = ("prepared", "slot_created", "epoch_told", "first_beat", "run_begun")
    for point in points:
        pair.capture.fault.arm(f"capture.{point}", "exit")
        assert pair.capture.start().wait(60) == EXIT_CODE, point
        # A walsender notices that its client is gone; a start before is a standby's.
    pair.capture.start()
    pair.apply.fault.arm("apply.begun", "exit")
    assert pair.apply.start().wait(60) == EXIT_CODE
    pair.apply.start()
    pair.until(pair.backfilled, "first backfill", restart=False)
    with Watch(pair.target) as watch, Traffic(pair.source, 5) as traffic:
        traffic.at_least(10)
        traffic.end()
        pair.settle(restart=False)
        assert watch.torn == []


def test_faults_of_a_new_epoch(two_environments: Make) -> None:
    pair = two_environments(datasets=BY_RULE)
    pair.start()
    assert pair.capture.process is not None
    assert pair.capture.process.terminate() == 0
    with Traffic(pair.source, 6) as traffic:
        traffic.at_least(10)
        pair.capture.fault.arm("capture.slot_dropped", "sigkill")
        assert pair.capture.start("--new-epoch").wait(60) == -signal.SIGKILL
        refused = pair.capture.start()
        assert refused.wait(60) == 3
        assert "--new-epoch" in refused.output()
        pair.capture.fault.arm("capture.slot_created", "sigkill")
        assert pair.capture.start("--new-epoch").wait(60) == -signal.SIGKILL
        pair.apply.fault.arm("apply.begun", "exit")
        pair.capture.start()
        assert pair.apply.process is not None
        assert pair.apply.process.wait(60) == EXIT_CODE
        traffic.at_least(10)
    pair.settle()
    reasons = "SELECT count(*) FROM replicator_backfillrun WHERE reason = 'new epoch'"
    assert pair.on_target(reasons) == [(2,)]
