"""A subscription that ends while its worker dies: all of it happens, once, or nothing yet."""

import psycopg
import pytest

from replicator.datasets import find_dataset
from replicator_apply.life import ask_to_end, subscribe
from replicator_apply.state import Place, known_subscriptions
from tests.fault.conftest import Make
from tests.support.faulty import Kind
from tests.support.two_environments import SOURCE, TwoEnvironments

TREES = (
    "INSERT INTO polls_question (id, question_text, body, published, pub_date) "
    "SELECT n, '?', '', true, now() FROM generate_series(101, 140) n; "
    "INSERT INTO polls_choice (id, choice_text, rank, votes, question_id) "
    "SELECT n * 10 + m, 'c', m, 0, n FROM generate_series(101, 140) n, generate_series(1, 3) m"
)
HERE = "SELECT (SELECT count(*) FROM polls_question), (SELECT count(*) FROM polls_choice)"
RECEIPTS = (
    'SELECT (SELECT count(*) FROM replicator."public.polls_question"), '
    '(SELECT count(*) FROM replicator."public.polls_choice")'
)


@pytest.fixture
def pair(two_environments: Make) -> tuple[TwoEnvironments, int]:
    """Both daemons run, and a command has subscribed to trees beside the settings."""
    made = two_environments(datasets=("some-tags",))
    with psycopg.connect(made.source, autocommit=True) as source:
        source.execute(TREES)
    made.start()
    with psycopg.connect(made.target, autocommit=True) as target:
        subscribe(target, Place(SOURCE, "main"), find_dataset("poll-trees"), "refuse")
        (number,) = (k.id for k in known_subscriptions(target) if k.by_command)
    made.until(lambda: made.on_target(HERE)[0] >= (40, 120), "the trees", restart=False)
    made.until(made.backfilled, "the backfill is through", restart=False)
    return made, number


@pytest.mark.parametrize("keep_rows", [False, True], ids=["remove", "keep"])
@pytest.mark.parametrize("kind", ["sigkill", "fail"])
@pytest.mark.parametrize("point", ["apply.end_evaluated", "apply.end_written"])
def test_an_end_is_whole(
    pair: tuple[TwoEnvironments, int], point: str, kind: Kind, *, keep_rows: bool
) -> None:
    made, number = pair
    before, held = made.on_target(HERE), made.on_target(RECEIPTS)
    made.apply.fault.arm(point, kind)
    with psycopg.connect(made.target, autocommit=True) as target:
        ask_to_end(target, number, keep_rows=keep_rows)
    made.wait(lambda: made.apply.fault.fired, f"{point} is reached", 30)
    if kind == "sigkill":
        assert made.apply.process is not None
        assert made.apply.process.wait(30) == -9
        assert made.on_target(HERE) == before
        assert made.on_target(RECEIPTS) == held
    gone = "SELECT count(*) FROM replicator_subscription WHERE by_command OR leaving <> ''"
    made.until(lambda: made.on_target(gone) == [(0,)], "it has ended")
    assert made.on_target(HERE) == (before if keep_rows else [(0, 0)])
    assert made.on_target(RECEIPTS) == [(0, 0)]
