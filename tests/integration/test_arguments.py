"""One dataset with several arguments in one target: apply alone, and both daemons together."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from replicator.errors import ConfigurationError
from replicator.requests import MAX_PLAN, KeysRequest, PageRequest, PlanItem
from replicator.settings import ReplicatorSettings
from tests.conftest import SampleFactory
from tests.integration.conftest import StartTarget
from tests.support.capture_run import Asker, Tape, capture_settings, capture_task, capturing
from tests.support.published import Change
from tests.support.sample.databases import connected
from tests.support.target import Target, change
from tests.support.two_environments import TwoEnvironments

ONE, OTHER = "polls-by-id:1,2", "polls-by-id:2, 3"
HERE = (
    "SELECT 'question', id FROM polls_question UNION ALL SELECT 'choice', id FROM polls_choice "
    "UNION ALL SELECT 'user', id FROM auth_user ORDER BY 1, 2"
)
RUNS = (
    "SELECT s.dataset || ':' || s.arguments, count(*) FROM replicator_backfillrun r "
    "JOIN replicator_subscription s ON s.id = r.subscription_id GROUP BY 1 ORDER BY 1"
)


def question(op: str, pk: int, **columns: object) -> Change:
    return change(op, "polls_question", pk, **columns)  # type: ignore[arg-type]


def choice(op: str, pk: int, of: int) -> Change:
    return change(op, "polls_choice", pk, question_id=of, rank=pk)  # type: ignore[arg-type]


def user(op: str, pk: int) -> Change:
    return change(op, "auth_user", pk, username=f"u{pk}")  # type: ignore[arg-type]


def here(target: Target) -> str:
    """Name what is here: c2 q1 u4."""
    return " ".join(f"{kind[0]}{number}" for kind, number in target.rows(HERE))


def holders(target: Target, table: str) -> dict[int, list[str]]:
    """Tell which arguments hold each row of a table."""
    return dict(
        target.rows(
            "SELECT r.id, array_agg(s.arguments ORDER BY s.arguments) "
            f'FROM replicator."public.{table}" r '
            "JOIN replicator_subscription s ON s.id = r.subscription_id GROUP BY 1"
        )
    )


# Apply alone --------------------------------------------------------------------------------------


def test_a_row_stays_as_long_as_one_subscription_holds_it(start: StartTarget) -> None:
    target, published = start(ONE, OTHER)
    target.reach(
        published.transaction(
            user("c", 7),
            *(question("c", pk, author_id=7) for pk in (1, 2, 3, 4)),
            *(choice("c", pk, pk) for pk in (1, 2, 3, 4)),
        )
    )
    assert here(target) == "c1 c2 c3 q1 q2 q3 u7"
    assert holders(target, "polls_question") == {1: ["1,2"], 2: ["1,2", "2, 3"], 3: ["2, 3"]}
    target.reach(published.transaction(choice("d", 1, 1), question("d", 1), choice("u", 3, 2)))
    assert here(target) == "c2 c3 q2 q3 u7"
    # The choice came to a question of both: what hangs on it is fetched for the first as well.
    target.answer(published, target.request(KeysRequest), choice("r", 3, 2))
    assert holders(target, "polls_choice")[3] == ["1,2", "2, 3"]
    target.reach(published.transaction(question("u", 2)))
    assert holders(target, "auth_user") == {7: ["2, 3"]}
    target.reach(published.transaction(question("u", 3)))
    assert here(target) == "c2 c3 q2 q3"


def test_there_may_be_as_many_as_a_request_can_name(start: StartTarget) -> None:
    target, _ = start(*(f"polls-by-id:{number}" for number in range(MAX_PLAN)), ready=False)
    target.begin()
    assert len(target.request(PageRequest, seconds=30).plan) == MAX_PLAN
    target.stop()
    store = (
        "INSERT INTO replicator_subscription (source, stream, dataset, arguments, fingerprint, "
        "declared, by_command) VALUES ('prod', 'main', 'polls-by-id', '1,2', '', false, true)"
    )
    target.execute(store)
    target.start()
    with pytest.raises(ConfigurationError, match="201 subscriptions to stream main of prod"):
        target.until(lambda: False, "refused")


def test_each_asks_for_its_own_pages(start: StartTarget) -> None:
    target, published = start(ONE, OTHER, ready=False)
    target.begin()
    pages = {"1,2": (question("r", 1), question("r", 2)), "2, 3": (question("r", 2),)}
    while pages:
        request = target.request(PageRequest)
        assert request.dataset == "polls-by-id"
        assert {item.arguments for item in request.plan} == {"1,2", "2, 3"}
        assert len({item.fingerprint for item in request.plan}) == 2
        target.answer(published, request, *pages.pop(request.arguments))
    assert here(target) == "q1 q2"
    assert holders(target, "polls_question") == {1: ["1,2"], 2: ["1,2", "2, 3"]}


def test_another_subscription_begins_no_backfill_of_the_first(start: StartTarget) -> None:
    target, published = start(ONE)
    target.reach(published.transaction(question("c", 1)))
    target.stop()
    wishes = [{"source": "prod", "dataset": each} for each in (ONE, OTHER)]
    raw = target.settings.model_dump(by_alias=True) | {"SUBSCRIPTIONS": wishes}
    target.settings = ReplicatorSettings.model_validate(raw)
    target.start()
    target.backfilled(published, (question("r", 3),))
    assert here(target) == "q1 q3"
    assert dict(target.rows(RUNS)) == {ONE: 1, OTHER: 1}


def test_a_string_with_a_comma_is_quoted(start: StartTarget) -> None:
    target, published = start('questions-like:"a,b",5')
    target.reach(
        published.transaction(
            question("c", 1, question_text="?a,b", priority=5),
            question("c", 2, question_text="?a,b", priority=4),
            question("c", 3, question_text="a", priority=9),
        )
    )
    assert here(target) == "q1"


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ("polls-by-id:1,x", "ids: Input should be a valid integer"),
        ("questions-like", "missing a required argument: 'text'"),
        ("polls:3", "takes no arguments"),
    ],
)
def test_arguments_that_do_not_fit_end_apply(start: StartTarget, wish: str, says: str) -> None:
    target, _ = start(wish, ready=False)
    target.start()
    with pytest.raises(ConfigurationError, match=says) as caught:
        target.until(lambda: False, "an end")
    assert caught.value.remedy


# Both daemons -------------------------------------------------------------------------------------


def fill(source: str) -> None:
    """Write polls 1 to 4 with a choice each; 1 and 3 have one author."""
    with connected("of_source", source):
        from django.contrib.auth.models import User

        from tests.support.sample.polls.models import Choice, Question

        for pk in (7, 8):
            User.objects.using("of_source").create(pk=pk, username=f"u{pk}")
        for pk in (1, 2, 3, 4):
            author = {1: 7, 3: 7, 4: 8}.get(pk)
            Question.objects.using("of_source").create(pk=pk, author_id=author)
            Choice.objects.using("of_source").create(pk=pk, question_id=pk, rank=pk)


@pytest.fixture
def pair(sample_database: SampleFactory, tmp_path: Path) -> Iterator[TwoEnvironments]:
    """Two environments, filled, whose target has two subscriptions to one dataset."""
    source, target = sample_database("source"), sample_database("target")
    fill(source)
    allowed = {"TARGETS": {"stage": ["polls-by-id"]}}
    made = TwoEnvironments(
        tmp_path, source, target, datasets=(ONE, OTHER), capture_settings=allowed
    )
    yield made
    made.close()


def until_here(pair: TwoEnvironments, names: str) -> None:
    pair.until(
        lambda: " ".join(f"{k[0]}{n}" for k, n in pair.on_target(HERE)) == names,
        names,
        restart=False,
    )


def test_two_subscriptions_to_one_dataset_share_rows(pair: TwoEnvironments) -> None:
    pair.start()
    until_here(pair, "c1 c2 c3 q1 q2 q3 u7")
    with psycopg.connect(pair.source, autocommit=True) as source:
        source.execute("DELETE FROM polls_choice WHERE id = 1")
        source.execute("DELETE FROM polls_question WHERE id = 1")
        until_here(pair, "c2 c3 q2 q3 u7")
        # Of a poll that neither has to one that both have.
        source.execute("UPDATE polls_choice SET question_id = 2 WHERE id = 4")
        source.execute("UPDATE polls_question SET author_id = 8 WHERE id = 2")
        until_here(pair, "c2 c3 c4 q2 q3 u7 u8")
        source.execute("UPDATE polls_question SET author_id = NULL WHERE id = 3")
        until_here(pair, "c2 c3 c4 q2 q3 u8")
    for name in (ONE, OTHER):
        for command in ("verify", "backfill"):
            process = pair.run(command, "--dataset", name)
            assert process.wait(60) == 0, process.output()
    status = pair.run("status")
    status.wait(30)
    assert ONE in status.output()
    assert OTHER in status.output()
    assert pair.stopped()[0] == ""


def test_what_cannot_be_answered_is_refused(sample_database: SampleFactory, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.sqlite3"
    task = capture_task(sample_database("source"), capture_settings(url))
    with capturing(task):
        asker, tape = Asker(url), Tape.of(url)

        def refusal(dataset: str, arguments: str) -> str | None:
            item = PlanItem(dataset=dataset, arguments=arguments, fingerprint="f")
            request = asker.page(dataset, 0, plan=(item,), arguments=arguments)
            answer = tape.answer(request)[-1].answer
            assert answer is not None
            return answer.refused

        assert "valid integer" in (refusal("polls-by-id", "x") or "")
        assert "takes no arguments" in (refusal("polls", "3") or "")
        assert "missing a required argument" in (refusal("questions-like", "") or "")
        assert "declared differently" in (refusal("polls-by-id", "4") or "")
        assert "no dataset" in (refusal("polls_question", "4") or "")
        assert "500 characters" in (refusal("polls-by-id", "1," * 400) or "")
