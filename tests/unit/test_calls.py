"""What a function of `on_applied` is told, and the declaration of one."""

from collections.abc import Iterator
from datetime import date
from uuid import UUID

import pytest
from django.db import models
from django.test.utils import isolate_apps

from replicator import Applied, on_applied
from replicator.declare import declared_hooks, no_declarations
from replicator.errors import ConfigurationError
from replicator_apply.call_sql import CHUNK
from replicator_apply.calls import Call, applied, python_key, together
from tests.support.sample.kinds.models import Reading
from tests.support.sample.pages.models import Article
from tests.support.sample.polls.models import Question
from tests.support.sample.shop.models import Stock, Watch

UUID_TEXT = "00000000-0000-4000-8000-00000000000a"


def call(number: int, *, c: str = "", u: str = "", d: str = "", tries: int = 0) -> Call:
    """Make a call; each letter is a key of Question, its place in the alphabet."""
    keys = [[[str(ord(letter) - 96)] for letter in letters] for letters in (c, u, d)]
    return Call(number, "public.polls_question", *keys, tries)


def told(*calls: Call) -> tuple[tuple[int, ...], ...]:
    found = applied(Question, calls)
    assert found.model is Question
    return found.inserted, found.updated, found.deleted


def test_several_calls_become_one_in_which_each_key_stands_once() -> None:
    assert told(call(1, c="ab", u="c")) == ((1, 2), (3,), ())
    # New, changed: new. New, gone: gone. Here, gone, back: changed.
    assert told(call(1, c="ab", d="c"), call(2, u="a", d="b", c="c")) == ((1,), (3,), (2,))
    assert told(call(1, u="a"), call(2, d="a"), call(3, c="a"), call(4, u="a")) == ((), (1,), ())
    assert told(call(1, d="a"), call(2, d="a")) == ((), (), (1,))


def test_calls_go_together_until_there_are_too_many_keys() -> None:
    one, two, three = call(1, c="ab"), call(2, u="c"), call(3, d="d")
    assert together([]) == ()
    assert together([one, two, three]) == (one, two, three)
    large = Call(4, "public.polls_question", [["1"]] * (CHUNK - 1), [], [], 0)
    assert together([large, two, three]) == (large, two)
    assert together([one, large]) == (one,)
    assert together([Call(5, large.table, large.inserted * 2, [], [], 0)]) != ()
    elsewhere = Call(6, "public.polls_choice", [["1"]], [], [], 0)
    assert together([one, elsewhere, two]) == (one,)


def test_a_call_that_failed_goes_alone() -> None:
    failed, fresh = call(1, c="a", tries=1), call(2, c="b")
    assert together([failed, fresh]) == (failed,)
    assert together([fresh, failed]) == (fresh,)


@pytest.mark.parametrize(
    ("model", "texts", "key"),
    [
        (Question, ["7"], 7),
        (Article, ["7"], 7),
        (Stock, [UUID_TEXT], UUID(UUID_TEXT)),
        (Watch, ["7", UUID_TEXT], (7, UUID(UUID_TEXT))),
        (Reading, ["1", "2025-06-01"], (1, date(2025, 6, 1))),
    ],
)
def test_keys_are_what_the_models_fields_have(
    model: type[models.Model], texts: list[str], key: object
) -> None:
    assert python_key(model._meta.pk_fields, texts) == key


@isolate_apps("tests.support.sample.polls")
def test_a_truth_value_in_a_key_is_one() -> None:
    class Switch(models.Model):
        pk = models.CompositePrimaryKey("number", "up")
        number = models.IntegerField()
        up = models.BooleanField()

        class Meta:
            app_label = "polls"

    fields = Switch._meta.pk_fields
    assert [python_key(fields, ["1", text]) for text in ("true", "false")] == [
        (1, True),
        (1, False),
    ]


# Declarations


@pytest.fixture(autouse=True)
def _nothing_declared() -> Iterator[None]:
    with no_declarations():
        yield


def search(applied: Applied) -> None:
    """Do nothing."""


def test_it_is_a_function_and_a_decorator() -> None:
    assert on_applied(Question, search) is search
    assert on_applied("shop.Watch")(search) is search
    assert [(h.label, h.function, h.name) for h in declared_hooks()] == [
        ("polls.Question", search, f"{__name__}.search"),
        ("shop.Watch", search, f"{__name__}.search"),
    ]
    assert all("test_calls.py:" in hook.place for hook in declared_hooks())


def test_what_cannot_be_called_or_named_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="int in place of a function") as caught:
        on_applied(Question, 7)  # type: ignore[call-overload]
    assert "test_calls.py:" in str(caught.value)
    with pytest.raises(ConfigurationError, match="in place of a model"):
        on_applied(int, search)  # type: ignore[call-overload]


def test_a_name_is_registered_once_for_a_model() -> None:
    on_applied(Question, search)
    with pytest.raises(ConfigurationError, match="already, at"):
        on_applied("polls.question", search)
