"""Does kafka-python look as the modules expect that reach into it? Pure."""

import inspect
from collections.abc import Callable

import kafka

_VERSION = "3.0."

Finding = tuple[bool, str]
"""Whether something is as expected, and what it is."""


def first_missing(*findings: Finding) -> str | None:
    """Name the first thing that is not as expected; None if all are."""
    return next((what for fine, what in findings if not fine), None)


def known_version() -> Finding:
    """Find whether the version is one that the modules were written for."""
    return kafka.__version__.startswith(_VERSION), f"version {kafka.__version__}"


def has(thing: object, *names: str) -> bool:
    """Say whether a thing has all of these attributes."""
    return all(hasattr(thing, name) for name in names)


def arguments(function: Callable[..., object]) -> list[str]:
    """Name the arguments of a function, in order."""
    return list(inspect.signature(function).parameters)
