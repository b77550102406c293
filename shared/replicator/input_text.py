"""Python values as the input texts of Postgres' types.

The texts mean the same in every session (https://www.postgresql.org/docs/current/datatype.html):
ISO dates, moments in UTC, bytes in hexadecimal.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.utils import timezone

_INTEGER_BITS = {"smallint": 16, "integer": 32, "bigint": 64}


def input_text(value: object, kind: str) -> str:
    r"""Give Postgres' input text of a value that a field has prepared for the database.

    Args:
        value: bool, int, float, Decimal, str, bytes, date, time, datetime, timedelta or UUID;
            a naive datetime is one of settings.TIME_ZONE.
        kind: the column's type, without length.

    Raises:
        TypeError: no text form is known for the value.
        ValueError: the type cannot hold the value.
    """
    for types, render in _RENDER:
        if isinstance(value, types):
            return render(value, kind)
    raise TypeError(f"a {type(value).__name__} has no text form here")


def _integer(value: int, kind: str) -> str:
    bits = _INTEGER_BITS.get(kind)
    if bits is not None and not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise ValueError(f"the number is out of range for {kind}")
    return str(int(value))


def _string(value: str) -> str:
    if "\x00" in value:
        raise ValueError("Postgres' text cannot hold a NUL character")
    # Members of a str-Enum print their name, not their value, by str().
    return str.__str__(value)


def _moment(value: datetime) -> str:
    aware = timezone.make_aware(value) if timezone.is_naive(value) else value
    return aware.astimezone(UTC).isoformat()


def _interval(value: timedelta) -> str:
    return f"{value.days} days {value.seconds} seconds {value.microseconds} microseconds"


# In this order: bool is an int, datetime is a date.
_RENDER: tuple[tuple[type | tuple[type, ...], Callable[[Any, str], str]], ...] = (
    (bool, lambda value, _: "true" if value else "false"),
    (int, _integer),
    (str, lambda value, _: _string(value)),
    ((bytes, memoryview), lambda value, _: "\\x" + bytes(value).hex()),
    (datetime, lambda value, _: _moment(value)),
    (timedelta, lambda value, _: _interval(value)),
    ((date, time), lambda value, _: value.isoformat()),
    ((float, Decimal, UUID), lambda value, _: str(value)),
)
