"""A backfill that begins while the worker has an older plan waits for the next plan."""

from replicator.envelope import Answer
from replicator.positions import Lsn, Offset, RunId
from replicator_apply.asking import Asker
from replicator_apply.assemble import Transaction
from replicator_apply.backfill import page_id, turn_pages
from replicator_apply.plan import TargetPlan
from replicator_apply.runs import begin_backfill
from replicator_apply.state import Run, unfinished_runs
from replicator_apply.subscriptions import load_plan
from tests.integration.conftest import StartTarget
from tests.support.recording_writer import RecordingWriter
from tests.support.target import PLACE, Target


def begun(target: Target) -> tuple[TargetPlan, Run]:
    """Give a plan, and a run that a command begins afterwards."""
    target.stop()
    plan = load_plan(target.connection, target.settings, PLACE)
    begin_backfill(target.connection, plan.subscriptions[0].id)
    with target.connection.cursor() as cursor:
        return plan, unfinished_runs(cursor, PLACE)[0]


def test_it_is_not_asked_for_by_the_older_plan(start: StartTarget) -> None:
    target, _ = start("some-tags")
    older, _ = begun(target)
    asker = Asker(RecordingWriter(), PLACE, "stage")
    with target.connection.cursor() as cursor:
        assert asker.ask(cursor, older) == 0
        assert asker.ask(cursor, load_plan(target.connection, target.settings, PLACE)) == 1


def test_an_answer_does_not_turn_its_page_under_the_older_plan(start: StartTarget) -> None:
    target, _ = start("some-tags")
    older, run = begun(target)
    answer = Answer("stage", page_id(run), older.fingerprint)
    transaction = Transaction(Lsn(1), Lsn(2), 0, [], None, answer, Offset(1), RunId(1))
    newer = load_plan(target.connection, target.settings, PLACE)
    with target.connection.cursor() as cursor:
        turn_pages(cursor, PLACE, older, [transaction])
        assert unfinished_runs(cursor, PLACE) == [run]
        turn_pages(cursor, PLACE, newer, [transaction])
        assert unfinished_runs(cursor, PLACE) != [run]


def test_a_run_of_a_subscription_that_the_plan_lacks_is_passed_over(start: StartTarget) -> None:
    target, _ = start("some-tags")
    _, run = begun(target)
    with target.connection.cursor() as cursor:
        none = TargetPlan((), {})
        assert Asker(RecordingWriter(), PLACE, "stage").ask(cursor, none) == 0
        assert unfinished_runs(cursor, PLACE) == [run]
