"""Arguments of subscriptions: from text to what the functions of datasets take."""

from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from django.db.models import Q
from pydantic import Field

from replicator import Dataset, Rows, dataset, opt_in
from replicator.datasets import find_dataset
from replicator.declare import DatasetFunction, declared_datasets, no_declarations
from replicator.errors import ConfigurationError, WrongDeclaration
from replicator.signature import MAX_LENGTH, rules_for
from tests.support.sample.polls.models import Question

RULES = [Rows(Question)]
KEY = "00000000-0000-4000-8000-000000000001"


class Size(StrEnum):
    SMALL = "s"
    LARGE = "l"


@pytest.fixture(autouse=True)
def _empty_registry():
    with no_declarations():
        yield


def given(annotation: Any, arguments: str) -> list[object]:
    """What a function gets whose parameters `*values` have an annotation."""
    got: list[object] = []

    def function(*values):
        got.extend(values)
        return RULES

    if annotation is not None:
        function.__annotations__ = {"values": annotation}
    rules_for(DatasetFunction("x", function), arguments)
    return got


def refused(function: Any, arguments: str) -> WrongDeclaration:
    with pytest.raises(WrongDeclaration) as caught:
        rules_for(DatasetFunction("x", function), arguments)
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize(
    ("annotation", "arguments", "values"),
    [
        (None, "", []),
        (None, "3,4", ["3", "4"]),
        (int, "3,4", [3, 4]),
        (int, "-3, 4", [-3, 4]),
        ("int", "3", [3]),
        (str, "a b,Zürich", ["a b", "Zürich"]),
        (str, '"a,b",c', ["a,b", "c"]),
        (str, '"a ""b"""', ['a "b"']),
        (str, '""', [""]),
        (str, ",", ["", ""]),
        (str, "a:b", ["a:b"]),
        (bool, "true,0,no", [True, False, False]),
        (float, "1.5", [1.5]),
        (Decimal, "1.50", [Decimal("1.50")]),
        (date, "2026-11-20", [date(2026, 11, 20)]),
        (datetime, "2026-11-20 09:00Z", [datetime(2026, 11, 20, 9, tzinfo=UTC)]),
        (time, "09:00", [time(9)]),
        (UUID, KEY, [UUID(KEY)]),
        (Size, "s,l", [Size.SMALL, Size.LARGE]),
        (Literal["eu", "us"], "us", ["us"]),
        (int | None, "3", [3]),
        (Annotated[int, Field(ge=1)], "1", [1]),
    ],
)
def test_arguments_become_what_the_annotation_says(annotation, arguments, values):
    found = given(annotation, arguments)
    assert found == values
    assert [type(each) for each in found] == [type(each) for each in values]


def fixed(region: str, limit: int = 5):
    return [Rows(Question, where=Q(question_text=region, priority__gte=limit))]


def numbers(*ids: int):
    return [Rows(Question, where=Q(pk__in=ids))]


@pytest.mark.parametrize(
    ("function", "arguments", "says"),
    [
        (fixed, "", "missing a required argument: 'region'"),
        (fixed, "a,1,2", "too many positional arguments"),
        (fixed, "a,b", "limit: Input should be a valid integer"),
        (fixed, "a,", "limit: Input should be a valid integer"),
        (numbers, "3,x", "ids: Input should be a valid integer"),
        (numbers, '"3', "unexpected end of data"),
        (numbers, '"3"4', "',' expected after"),
        (numbers, "3\n4", "new-line"),
        (numbers, "3," * MAX_LENGTH, "longer than 500 characters"),
    ],
)
def test_arguments_that_do_not_fit(function, arguments, says):
    error = refused(function, arguments)
    assert error.check_id == "replicator.E041"
    assert says in str(error)
    signature = "x(*ids: int)" if function is numbers else "x(region: str, limit: int = 5)"
    assert signature in error.remedy
    assert '"a,b"' in error.remedy


def test_a_function_without_parameters_takes_no_arguments():
    assert refused(lambda: RULES, "3").check_id == "replicator.E034"
    assert rules_for(DatasetFunction("x", lambda: RULES), "") == tuple(RULES)


def keyword_only(*, region: str):
    return [Rows(Question, where=Q(question_text=region))]


def keywords(**regions: str):
    return [Rows(Question, where=Q(question_text__in=regions))]


def several(ids: list[int]):
    return [Rows(Question, where=Q(pk__in=ids))]


def either(key: int | str):
    return [Rows(Question, where=Q(pk=key))]


def coded(key: Literal[1, 2]):
    return [Rows(Question, where=Q(pk=key))]


def unknown(key: "Nowhere"):  # type: ignore[name-defined] # noqa: F821
    return [Rows(Question, where=Q(pk=key))]


@pytest.mark.parametrize(
    "function", [keyword_only, keywords, several, either, coded, unknown, object()]
)
def test_parameters_that_no_text_can_give(function):
    assert refused(function, "1").check_id == "replicator.E040"


def raising(number: int):
    raise ValueError(f"{number} is too much")


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (raising, "raised ValueError"),
        (lambda _: Rows(Question), "raised TypeError"),
        (lambda _: [], "no rule"),
        (lambda _: ["polls.Question"], "something else"),
        (lambda _: "polls", "something else"),
    ],
)
def test_functions_that_fail(function, says):
    error = refused(function, "3")
    assert error.check_id == "replicator.E042"
    assert "'x:3'" in str(error)
    assert says in str(error)


def test_what_the_function_says_is_for_the_operator_alone():
    error = refused(raising, "3")
    assert "too much" not in str(error)
    assert "3 is too much" in error.remedy


def test_the_same_function_is_another_dataset_with_other_arguments():
    opt_in(Question)
    assert dataset("numbers")(numbers) is numbers
    one, two, again = (find_dataset("numbers", text) for text in ("1,2", "3", "2, 1"))
    assert (one.name, one.arguments, one.full_name) == ("numbers", "1,2", "numbers:1,2")
    assert one.fingerprint not in {two.fingerprint, find_dataset("numbers").fingerprint}
    # What decides the rows is the rules.
    assert one.fingerprint == again.fingerprint


def test_a_generator_gives_rules_too():
    opt_in(Question)

    @dataset("each")
    def each(*ids: int):
        for pk in ids:
            yield Rows(Question, where=Q(pk=pk))

    assert len(find_dataset("each", "1,2,3").rules) == 3


def test_mistakes_name_the_dataset_with_its_arguments():
    dataset("numbers")(numbers)
    with pytest.raises(WrongDeclaration, match="'numbers:3' has a rule on"):
        find_dataset("numbers", "3")


def test_a_dataset_of_rules_takes_no_arguments():
    opt_in(Question)
    Dataset("plain", Rows(Question))
    with pytest.raises(WrongDeclaration, match="takes no arguments") as caught:
        find_dataset("plain", "3")
    assert caught.value.check_id == "replicator.E034"
    assert find_dataset("plain").arguments == ""


def test_names_are_refused_as_those_of_other_datasets():
    opt_in(Question)
    Dataset("taken", Rows(Question))
    dataset("numbers")(numbers)
    for name in ("taken", "numbers", "a:b", ""):
        with pytest.raises(ConfigurationError):
            dataset(name)(numbers)
    with pytest.raises(ConfigurationError, match="malformed"):

        @dataset
        def nameless(*ids: int):
            return numbers(*ids)

    again = dataset("again")
    again(numbers)
    with pytest.raises(ConfigurationError, match="test_signature"):
        again(numbers)
    with pytest.raises(ConfigurationError):
        Dataset("numbers", Rows(Question))
    assert list(declared_datasets()) == ["taken", "numbers", "again"]
