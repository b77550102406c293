"""Which of the rows that pass a rule's `where` belong: a share, a number, or the latest of them.

    sample(percent=5)           a share: decided row by row, live
    sample(1000)                a number: which rows those are hangs on all others
    latest(100, by="pub_date")  likewise

What hangs on all others is chosen by the source, again and again (`every`). Between two times the
chosen keys are as if they had been named: their rows are followed live.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import TypeAlias

from replicator.place import wrong

HOURLY = timedelta(hours=1)
"""How often rows are chosen anew where nothing else is said."""
SHORTEST = timedelta(seconds=1)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_EVERY = re.compile(r"(\d{1,6})\s*([smhd])")
_MOST = 2**31 - 1
_LEAST = Decimal("0.000000001")


@dataclass(frozen=True, slots=True)
class Share:
    """A share of the rows: those whose key's hash is small enough.

    Attributes:
        percent: more than 0, at most 100.
        seed: other seeds give other rows.
    """

    percent: Decimal
    seed: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """A number of rows: those whose key's hash is smallest.

    Attributes:
        number: of rows.
        seed: other seeds give other rows.
        every: how often they are chosen anew.
    """

    number: int
    seed: str = ""
    every: timedelta = HOURLY


@dataclass(frozen=True, slots=True)
class Latest:
    """The rows with the greatest values of a column; those where it is NULL are none of them.

    Attributes:
        number: of rows.
        by: the column; of equal values those under the greatest keys.
        every: how often they are chosen anew.
    """

    number: int
    by: str
    every: timedelta = HOURLY


Selector: TypeAlias = Share | Sample | Latest


def latest(number: int, by: str, *, every: timedelta | str = HOURLY) -> Latest:
    """Select the rows with the greatest values of a column: `latest(100, by="pub_date")`.

    Args:
        number: of rows.
        by: a released column of the rule's model; rows where it is NULL are never selected.
        every: how often the source is asked which rows those are: a timedelta, or a text such as
            "90s", "15m", "6h" or "1d".

    Raises:
        ConfigurationError: one of them is something else.
    """
    _refuse_number("latest", number)
    if not isinstance(by, str) or not by:
        raise wrong("latest is not told by which column", 'Name a field, such as by="pub_date".')
    return Latest(number, by, _interval("latest", every))


def sample(
    number: int | None = None,
    *,
    percent: float | Decimal | None = None,
    seed: str = "",
    every: timedelta | str | None = None,
) -> Sample | Share:
    """Select rows as if by chance, and the same ones again and again: by a hash of their key.

    Args:
        number: so many rows.
        percent: in its place, about so many of a hundred rows: 0.5 is one in two hundred.
        seed: another one gives another sample. By the same one, rows of other models under the same
            keys are selected as well.
        every: how often the source is asked which rows `number` means; as of `latest`. A share
            needs none: it is followed live.

    Raises:
        ConfigurationError: one of them is something else, or not exactly one of `number` and
            `percent` is given.
    """
    if not isinstance(seed, str) or "\x00" in seed:
        raise wrong("The seed of sample is no text", 'Give a text, such as seed="a".')
    if (number is None) == (percent is None):
        raise wrong(
            "sample takes either a number of rows or percent", "Write sample(1000) or percent=5."
        )
    if number is not None:
        _refuse_number("sample", number)
        return Sample(number, seed, HOURLY if every is None else _interval("sample", every))
    if every is not None:
        raise wrong("sample has percent and every", "Remove every: a share is followed live.")
    return Share(_percent(percent), seed)


def _refuse_number(what: str, number: object) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= _MOST:
        raise wrong(
            f"{what} is to select {number!r} rows", f"Give a whole number of rows, 1 to {_MOST}."
        )


def _percent(percent: object) -> Decimal:
    if isinstance(percent, int | float | Decimal) and not isinstance(percent, bool):
        try:
            given = Decimal(str(percent))
        except InvalidOperation:
            given = Decimal(0)
        if given.is_finite() and _LEAST <= given <= 100:
            return given.normalize()
    raise wrong(f"sample is to select {percent!r} percent", f"Give {_LEAST:f} to 100.")


def _interval(what: str, every: object) -> timedelta:
    if isinstance(every, str) and (found := _EVERY.fullmatch(every.strip())):
        every = timedelta(**{_UNITS[found[2]]: int(found[1])})
    if not isinstance(every, timedelta) or every < SHORTEST:
        raise wrong(
            f"{what} is to be looked at every {every!r}",
            'Give a timedelta of a second or more, or a text such as "90s", "15m", "6h" or "1d".',
        )
    return every
