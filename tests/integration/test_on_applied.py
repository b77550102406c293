"""Functions that are called after apply: with what, in which order, and when they fail."""

import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import connection as orm

from replicator import Applied, Dataset, Rows, declare, on_applied
from replicator.errors import DatabaseUnavailable
from replicator.requests import KeysRequest, PageRequest
from replicator.settings import ReplicatorSettings
from replicator.stop import Backoff
from replicator_apply import batch, call_sql, caller, calls
from replicator_apply.fenced import FencedCursor
from replicator_apply.state import Place
from replicator_apply.status import collect
from tests.integration.conftest import StartTarget
from tests.support.sample.polls.models import Question
from tests.support.sample.shop.models import Watch
from tests.support.target import PLACE, Target, change, uuid

Told = list[Applied]
Listen = Callable[[object], Told]
DUE = "SELECT function, tries, error FROM replicator_appliedcall ORDER BY id"


@pytest.fixture
def listen(monkeypatch: pytest.MonkeyPatch) -> Listen:
    """Declare a function for a model, and give the list of what it is told."""
    monkeypatch.setattr(declare._registry, "hooks", {})
    monkeypatch.setattr(caller, "LOOK", 0.1)
    monkeypatch.setattr(caller, "AGAIN", Backoff(first=0.02, limit=0.02))

    def listening(model: object) -> Told:
        told: Told = []

        @on_applied(model)  # type: ignore[arg-type, call-overload, untyped-decorator]
        def note(applied: Applied) -> None:
            told.append(applied)

        return told

    return listening


def quiet(target: Target) -> None:
    """Wait until nothing is due."""
    target.until(lambda: target.rows(DUE) == [], "every call is made")


def taken(told: Told) -> list[tuple[set[object], set[object], set[object]]]:
    """Give what was told so far, and forget it."""
    found = [(set(a.inserted), set(a.updated), set(a.deleted)) for a in told]
    told.clear()
    return found


def question(op: str, pk: int, **columns: object) -> object:
    return change(op, "polls_question", pk, **columns)  # type: ignore[arg-type]


def user(op: str, pk: int) -> object:
    return change(op, "auth_user", pk, username=f"u{pk}")  # type: ignore[arg-type]


@pytest.mark.usefixtures("either_way")
def test_keys_come_by_op(listen: Listen, start: StartTarget) -> None:
    told = listen("polls.Question")
    target, published = start("polls")
    target.reach(published.transaction(*(question("c", pk) for pk in (1, 2, 3))))
    quiet(target)
    assert [applied.model for applied in told] == [Question]
    assert taken(told) == [({1, 2, 3}, set(), set())]
    target.reach(
        published.transaction(
            question("u", 1), question("d", 2), question("c", 4), question("c", 5), question("d", 5)
        )
    )
    quiet(target)
    assert taken(told) == [({4}, {1}, {2})]


@pytest.mark.parametrize("size", [3, 400])
@pytest.mark.usefixtures("either_way")
def test_many_keys_come_in_bounded_calls(
    size: int, listen: Listen, start: StartTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_sql, "CHUNK", size // 3 + 1)
    monkeypatch.setattr(calls, "CHUNK", size // 3 + 1)
    monkeypatch.setattr(batch, "ROUND", size // 2)
    told = listen(Question)
    target, published = start("polls")
    for op, place in (("c", 0), ("u", 1), ("d", 2)):
        target.reach(published.transaction(*(question(op, pk) for pk in range(size))))
        quiet(target)
        assert len(told) >= 2
        assert all(len(a.inserted + a.updated + a.deleted) <= size // 3 + 1 for a in told)
        keys = [pk for a in told for pk in (a.inserted, a.updated, a.deleted)[place]]
        assert sorted(keys) == list(range(size))
        told.clear()


def test_rows_that_enter_leave_and_are_truncated(listen: Listen, start_any: StartTarget) -> None:
    told = listen("polls.question")
    target, published = start_any("published-polls")
    target.reach(published.transaction(question("c", 1, published=True), question("c", 2)))
    target.reach(published.transaction(question("u", 1), question("u", 2, published=True)))
    quiet(target)
    assert merged(told) == ({2}, set(), {1})
    told.clear()
    target.reach(published.transaction(change("t", "polls_question"), question("c", 3)))
    quiet(target)
    assert taken(told) == [(set(), set(), {2})]
    # Neither what waits outside nor what was not here is told.
    target.reach(published.transaction(question("u", 3), question("d", 9)))
    quiet(target)
    assert told == []


def merged(told: Told) -> tuple[set[object], set[object], set[object]]:
    """Give the last that was said of each key."""
    fate: dict[object, int] = {}
    for applied in told:
        for place, keys in enumerate((applied.inserted, applied.updated, applied.deleted)):
            fate |= dict.fromkeys(keys, place)
    found: tuple[set[object], set[object], set[object]] = (set(), set(), set())
    for key, place in fate.items():
        found[place].add(key)
    return found


def test_a_backfill_tells_what_is_new_what_was_here_and_what_is_swept(
    listen: Listen, start: StartTarget
) -> None:
    told = listen("auth.User")
    target, published = start("authorless")
    target.reach(published.transaction(*(user("c", pk) for pk in (1, 2, 9))))
    quiet(target)
    assert taken(told) == [({1, 2}, set(), set())]
    target.execute("UPDATE replicator_subscription SET fingerprint = 'x'")
    target.stop()
    target.start()
    users = [user("r", pk) for pk in (1, 3)]
    for rows in ((), users):
        target.answer(published, target.request(PageRequest), *rows)
    request = target.request(KeysRequest)
    target.answer(published, request, change("d", "auth_user", 2, read=True))
    quiet(target)
    assert merged(told) == ({3}, {1}, {2})


def test_null_and_its_return_are_told(listen: Listen, start: StartTarget) -> None:
    told = listen(Question)
    target, published = start("authorless")
    user = change("c", "auth_user", 3)
    target.reach(published.transaction(user, question("c", 1, author_id=3), question("c", 2)))
    quiet(target)
    told.clear()
    target.reach(published.transaction(change("d", "auth_user", 3)))
    quiet(target)
    assert target.rows("SELECT author_id FROM polls_question WHERE id = 1") == [(None,)]
    assert taken(told) == [(set(), {1}, set())]
    target.reach(published.transaction(change("c", "auth_user", 3, username="again")))
    quiet(target)
    assert target.rows("SELECT author_id FROM polls_question WHERE id = 1") == [(3,)]
    assert taken(told) == [(set(), {1}, set())]


@pytest.mark.usefixtures("either_way")
def test_keys_are_python_values(listen: Listen, start: StartTarget) -> None:
    watches, stocks = listen(Watch), listen("shop.Stock")
    target, published = start("shop")
    target.reach(
        published.transaction(
            change("c", "auth_user", 7),
            change("c", "shop_supplier", uuid(1)),
            change("c", "shop_product", uuid(2), supplier_id=uuid(1)),
            change("c", "shop_stock", uuid(2), amount=1),
            change("c", "shop_watch", 7, uuid(2)),
        )
    )
    quiet(target)
    assert taken(watches) == [({(7, UUID(uuid(2)))}, set(), set())]
    assert taken(stocks) == [({UUID(uuid(2))}, set(), set())]


@pytest.mark.parametrize(("policy", "told_of"), [("keep", set()), ("soft", {1})])
def test_what_leaves_and_stays_is_told_of_if_it_is_marked(
    policy: str,
    told_of: set[object],
    listen: Listen,
    start: StartTarget,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(declare._registry, "datasets", {})
    rule = {"keep": {"on_leave": "keep"}, "soft": {"soft": "last_login"}}[policy]
    Dataset("users", Rows("auth.User", **rule))  # type: ignore[arg-type]
    told = listen("auth.User")
    target, published = start("users")
    target.reach(published.transaction(user("c", 1), user("c", 2)))
    quiet(target)
    told.clear()
    target.reach(published.transaction(change("d", "auth_user", 1), user("u", 2)))
    quiet(target)
    assert taken(told) == [(set(), told_of | {2}, set())]


def test_a_table_without_functions_stores_nothing(listen: Listen, start: StartTarget) -> None:
    listen("polls.Choice")
    target, published = start("polls")
    target.execute("CREATE RULE none AS ON INSERT TO replicator_appliedcall DO INSTEAD SELECT 1/0")
    target.reach(published.transaction(question("c", 1), question("u", 1), question("d", 1)))


def test_what_is_not_committed_is_not_told(
    listen: Listen, start: StartTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = listen(Question)
    target, published = start("polls")
    commit, failures = FencedCursor.commit, [psycopg.errors.DeadlockDetected(), None]

    def failing(*arguments: Any) -> None:
        if failures and (error := failures.pop(0)):
            raise error
        commit(*arguments)

    monkeypatch.setattr(FencedCursor, "commit", failing)
    target.reach(published.transaction(question("c", 1)))
    quiet(target)
    assert taken(told) == [({1}, set(), set())]


# Functions that are slow, fail, or never return


def test_a_function_that_fails_is_called_again_and_holds_up_nothing(
    listen: Listen, start: StartTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = listen(Question)
    told: Told = []
    broken = threading.Event()
    broken.set()

    @on_applied(Question)
    def index(applied: Applied) -> None:
        if broken.is_set():
            raise ValueError("the index is away")
        told.append(applied)

    target, published = start("polls")
    for pk in (1, 2, 3):
        target.reach(published.transaction(question("c", pk)))
    target.until(lambda: len(target.rows(DUE)) == 3, "the other function is told")
    assert merged(other)[0] == {1, 2, 3}
    target.until(lambda: target.rows(DUE)[0][1] > 2, "some tries")
    name, _, error = target.rows(DUE)[0]
    assert name == f"{__name__}.{index.__qualname__}"
    assert error == "ValueError: the index is away"
    (stream,) = collect(target.settings, target.connection)
    (due,) = stream.due
    assert (due.table, due.calls, due.error) == ("public.polls_question", 3, error)
    (problem,) = [p for p in stream.problems if "due" in p.what]
    assert "3 call(s) of" in problem.what
    assert "ValueError: the index is away" in problem.what
    broken.clear()
    quiet(target)
    assert [pk for a in told for pk in a.inserted] == [1, 2, 3]


def test_a_call_that_always_fails_rests_and_is_tried_again_after_a_restart(
    listen: Listen, start: StartTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "TRIES", 3)
    monkeypatch.setattr(caller, "TRIES", 3)
    listen("polls.Choice")
    seen: list[tuple[object, ...]] = []
    poison = {1}

    @on_applied(Question)
    def index(applied: Applied) -> None:
        seen.append(applied.inserted)
        if poison & set(applied.inserted):
            raise SystemExit("poison")

    target, published = start("polls")
    target.reach(published.transaction(question("c", 1)))
    target.until(lambda: [row[1] for row in target.rows(DUE)] == [3], "it rests")
    target.reach(published.transaction(question("c", 2)))
    target.until(lambda: (2,) in seen, "those behind it go on")
    assert seen == [(1,)] * 3 + [(2,)]
    poison.clear()
    target.stop()
    target.start()
    quiet(target)
    assert seen[4:] == [(1,)]


def test_a_call_that_was_under_way_is_made_again(listen: Listen, start: StartTarget) -> None:
    listen("polls.Choice")
    seen: list[object] = []
    go_on = threading.Event()

    @on_applied(Question)
    def hang(applied: Applied) -> None:
        seen.append(applied.inserted)
        go_on.wait(20)

    target, published = start("polls")
    target.reach(published.transaction(question("c", 1)))
    target.until(lambda: len(seen) == 1, "it is called")
    # The stream goes on, and what it brings is told together.
    for pk in (2, 3, 4):
        target.reach(published.transaction(question("c", pk)))
    assert target.rows("SELECT count(*) FROM polls_question") == [(4,)]
    assert len(target.rows(DUE)) == 4
    go_on.set()
    quiet(target)
    assert seen == [(1,), (2, 3, 4)]


def test_a_function_that_hangs_keeps_no_other_try_of_the_stream_waiting(
    listen: Listen, start: StartTarget
) -> None:
    listen("polls.Choice")
    begun, go_on, calls_made = threading.Event(), threading.Event(), []

    @on_applied(Question)
    def hang(applied: Applied) -> None:
        calls_made.append(applied.inserted)
        begun.set()
        assert go_on.wait(30)

    target, published = start("polls")
    target.reach(published.transaction(question("c", 1)))
    assert begun.wait(10)
    target.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
        "application_name = 'replicator apply' AND datname = current_database()"
    )
    began = time.monotonic()
    target._thread.join(caller.PATIENCE + 5)
    assert time.monotonic() - began < caller.PATIENCE / 2
    assert isinstance(target.failures[0], DatabaseUnavailable)
    target.start()
    target.reach(published.transaction(question("c", 2)))
    assert calls_made == [(1,)]
    go_on.set()
    quiet(target)
    assert calls_made == [(1,), (2,)]


def test_a_function_may_use_the_orm(listen: Listen, start: StartTarget) -> None:
    listen("polls.Choice")
    found: list[object] = []

    @on_applied(Question)
    def read(applied: Applied) -> None:
        if not found:
            # A transaction left open must not spoil the next call.
            orm.set_autocommit(False)
        found.append(sorted(Question.objects.in_bulk(applied.inserted)))
        Question.objects.filter(pk__in=applied.inserted).update(priority=7)
        if len(found) == 1:
            raise ValueError

    target, published = start("polls")
    target.reach(published.transaction(question("c", 1), question("c", 2)))
    quiet(target)
    assert found == [[1, 2], [1, 2]]
    assert target.rows("SELECT id, priority FROM polls_question ORDER BY 1") == [(1, 7), (2, 7)]


def test_a_function_that_nobody_declares_any_more_is_told_of_by_status(
    listen: Listen, start: StartTarget
) -> None:
    listen(Question)
    target, _ = start("polls")
    target.execute(
        "INSERT INTO replicator_appliedcall (source, stream, table_name, function, inserted, "
        "updated, deleted) VALUES ('prod', 'main', 'public.polls_question', 'old.name', "
        "'[[\"1\"]]', '[]', '[]')"
    )
    (stream,) = collect(target.settings, target.connection)
    (problem,) = [p for p in stream.problems if "old.name" in p.what]
    assert "no code declares it" in problem.what
    assert "replicator_appliedcall" in problem.remedy


def test_two_callers_of_one_function_take_turns(
    listen: Listen, start: StartTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen("polls.Choice")
    at_once: list[int] = []
    inside = 0

    @on_applied(Question)
    def count(applied: Applied) -> None:
        nonlocal inside
        inside += 1
        at_once.append(inside)
        threading.Event().wait(0.05)
        inside -= 1

    target, published = start("polls")
    settings: ReplicatorSettings = target.settings
    with caller.calling(settings, Place(*PLACE)):
        for pk in range(5):
            target.reach(published.transaction(question("c", pk)))
        quiet(target)
    assert set(at_once) == {1}
