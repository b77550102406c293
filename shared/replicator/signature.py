"""The arguments of a subscription, `polls:3,4`: from text to what a dataset's function takes.

The text is one line of CSV, so that a comma inside of an argument can be written: `"a,b",3`. Each
argument becomes what its parameter is annotated with. Every function raises `WrongDeclaration` with
the id of the system check that reports the same mistake.
"""

import csv
import inspect
from collections.abc import Iterator
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from inspect import Parameter, Signature
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from replicator.declare import AnyDataset, DatasetFunction, Rule, RuleSet, rules_in_full
from replicator.errors import WrongDeclaration
from replicator.plan import full_name

MAX_LENGTH = 500
"""Characters of a subscription's arguments; its table holds no more."""

SCALARS = (bool, int, float, str, Decimal, date, datetime, time, UUID)

_BY_POSITION = (
    Parameter.POSITIONAL_ONLY,
    Parameter.POSITIONAL_OR_KEYWORD,
    Parameter.VAR_POSITIONAL,
)


def rules_for(dataset: DatasetFunction, arguments: str) -> tuple[Rule, ...]:
    """Call a dataset's function with the arguments of a subscription.

    Args:
        dataset: the function, as declared.
        arguments: what follows the colon in `polls:3,4`; "" if nothing does.

    Raises:
        WrongDeclaration: the arguments do not fit, or the function fails or gives something else
            than rules.
    """
    try:
        rules = tuple(dataset.function(*_values(dataset, arguments)))
    except WrongDeclaration:
        raise
    # The project's code: what it raises must end no daemon that was only asked for a dataset.
    except Exception as error:
        raise WrongDeclaration(
            f"The function of dataset {full_name(dataset.name, arguments)!r} raised "
            f"{type(error).__name__}",
            check_id="replicator.E042",
            remedy=f"Correct the arguments or the function; it says: {error!r}.",
        ) from error
    if not rules or not all(isinstance(rule, Rule | RuleSet) for rule in rules):
        raise WrongDeclaration(
            f"The function of dataset {full_name(dataset.name, arguments)!r} gave "
            f"{'something else than rules' if rules else 'no rule'}",
            check_id="replicator.E042",
            remedy="Return a list of rules: [Rows(model), …].",
        )
    return rules_in_full(rules)


def signature_of(dataset: DatasetFunction) -> Signature:
    """Give the parameters of a dataset's function, annotations evaluated.

    Raises:
        WrongDeclaration: one of them cannot be written in a subscription.
    """
    try:
        signature = inspect.signature(dataset.function, eval_str=True)
    except (NameError, TypeError, ValueError) as error:
        raise WrongDeclaration(
            f"The parameters of the function of dataset {dataset.name!r} cannot be read: {error}",
            check_id="replicator.E040",
            remedy="Register a function, and import what its annotations name.",
        ) from error
    for parameter in signature.parameters.values():
        if problem := _problem(parameter):
            raise WrongDeclaration(
                f"The function of dataset {dataset.name!r} has a parameter {parameter.name!r} "
                f"that {problem}",
                check_id="replicator.E040",
                remedy="Parameters are positional, and annotated with nothing (a string), "
                f"{', '.join(each.__name__ for each in SCALARS)}, an Enum, a Literal of strings, "
                "or one of these or None.",
            )
    return signature


def needs_arguments(signature: Signature) -> bool:
    """Whether nothing can be said of the rules before arguments are known."""
    parameters = signature.parameters.values()
    return any(
        parameter.kind is Parameter.VAR_POSITIONAL or parameter.default is Parameter.empty
        for parameter in parameters
    )


def takes_none(dataset: AnyDataset) -> WrongDeclaration:
    """Make the error that arguments are given to a dataset which takes none."""
    return WrongDeclaration(
        f"Dataset {dataset.name!r} takes no arguments",
        check_id="replicator.E034",
        remedy=f"Write {dataset.name!r}.",
    )


def _problem(parameter: Parameter) -> str:
    if parameter.kind not in _BY_POSITION:
        return "cannot be given by position"
    if not _has_text(parameter.annotation):
        return f"has no text form: {inspect.formatannotation(parameter.annotation)}"
    return ""


def _has_text(annotation: object) -> bool:
    """Whether each value of a type is written in one way, as one argument."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _has_text(parts[0])
    if origin is Literal:
        return all(isinstance(part, str) for part in parts)
    if origin in (Union, UnionType):
        others = [part for part in parts if part is not NoneType]
        return len(others) == 1 and _has_text(others[0])
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return True
    return annotation is Parameter.empty or annotation in SCALARS


def _values(dataset: DatasetFunction, arguments: str) -> Iterator[object]:
    """Give the arguments in their order, each as its parameter wants it."""
    signature, texts = signature_of(dataset), _split(dataset, arguments)
    parameters = list(signature.parameters.values())
    if texts and not parameters:
        raise takes_none(dataset)
    try:
        signature.bind(*texts)
    except TypeError as error:
        raise _misfit(dataset, arguments, str(error)) from error
    for number, text in enumerate(texts):
        # Only a last parameter `*name` takes more than one.
        parameter = parameters[min(number, len(parameters) - 1)]
        kind = str if parameter.annotation is Parameter.empty else parameter.annotation
        try:
            yield TypeAdapter(kind).validate_strings(text)
        except ValidationError as error:
            message = f"{parameter.name}: {error.errors()[0]['msg']}"
            raise _misfit(dataset, arguments, message) from error


def _split(dataset: DatasetFunction, arguments: str) -> list[str]:
    if len(arguments) > MAX_LENGTH:
        raise _misfit(dataset, arguments[:20] + "…", f"longer than {MAX_LENGTH} characters")
    try:
        # A blank behind a comma is for the reader.
        return next(csv.reader([arguments], strict=True, skipinitialspace=True), [])
    except csv.Error as error:
        raise _misfit(dataset, arguments, str(error)) from error


def _misfit(dataset: DatasetFunction, arguments: str, problem: str) -> WrongDeclaration:
    signature = signature_of(dataset).replace(return_annotation=Signature.empty)
    return WrongDeclaration(
        f"The arguments of {full_name(dataset.name, arguments)!r} do not fit its dataset: "
        f"{problem}",
        check_id="replicator.E041",
        remedy=f"The dataset is {dataset.name}{signature}; separate arguments by commas, and put "
        'one that holds a comma in double quotes: "a,b".',
    )
