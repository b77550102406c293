"""Row selectors in histories: drawn, and what they mean, in plain Python. Pure but for the ORM."""

import hashlib
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from django.db.models import Model

from replicator import Rows
from replicator.selectors import Latest, Sample, Selector, Share
from tests.support.oracle.history import Rule
from tests.support.oracle.tables import BY_LABEL

SHARE = 0.3
"""Of histories, those with selectors."""

_BY = {
    "polls.Question": ("pub_date", "priority", "question_text", "published"),
    "polls.Choice": ("votes", "rank"),
    "polls.Vote": ("weight", "cast_at"),
    "pages.Page": ("title", "live"),
    "pages.Article": ("read_minutes",),
    "shop.Product": ("price", "active"),
    "shop.Stock": ("amount",),
    "shop.OrderLine": ("amount",),
    "kinds.Specimen": ("big", "moment", "exact"),
}
"""Columns that rows are ordered by, of which many have equal values."""


def with_selectors(datasets: Mapping[str, Sequence[Rule]], chance: Random) -> dict[str, list[Rule]]:
    """Let some of the filtered `Rows` rules select; whole tables stay whole."""
    return {
        name: [_drawn(rule, chance) if _may_select(rule) else rule for rule in rules]
        for name, rules in datasets.items()
    }


def _may_select(rule: Rule) -> bool:
    return rule[1] is not None and (len(rule) < 3 or rule[2] == "Rows")


def _drawn(rule: Rule, chance: Random) -> Rule:
    label, where, _, options = (*rule, "Rows", {})[:4]
    more: dict[str, Any] = {}
    if chance.random() < 0.25:
        more["keys"] = [_key(label, chance) for _ in range(chance.choice([0, 3, 6, 9]))]
    if chance.random() < 0.7:
        more["select"] = _select(label, chance)
    if chance.random() < 0.4 and more and "=None" not in where:
        # Else few rows would pass both. A condition on a foreign key keeps it from dangling.
        where = None
    return [label, where, "Rows", {**options, **more}]


def _key(label: str, chance: Random) -> Any:
    values = [draw(chance) for draw in BY_LABEL[label].key.values()]
    # What is drawn from rows that are there is an expression.
    texts = [text.strip("'") if text[0] != "(" else str(chance.randint(1, 12)) for text in values]
    return texts if len(texts) > 1 else texts[0]


def _select(label: str, chance: Random) -> str:
    number, every = chance.choice([1, 2, 3, 5, 8]), chance.choice(["4s", "1h", "1h"])
    seed = chance.choice(["", "a", "b"])
    by = chance.choice([*_BY.get(label, ()), *list(BY_LABEL[label].key)[:1]])
    return chance.choice(
        [
            f"sample(percent={chance.choice([25, 50, 80, 0.1])}, seed={seed!r})",
            f"sample({number}, seed={seed!r}, every={every!r})",
            f"latest({number}, by={by!r}, every={every!r})",
        ]
    )


def selects(datasets: Mapping[str, Sequence[Rule]]) -> bool:
    """Whether a history has rules of which the source chooses the rows."""
    options = [rule[3] for rules in datasets.values() for rule in rules if len(rule) > 3]
    return any("percent" not in each.get("select", "percent") for each in options)


# What they mean -----------------------------------------------------------------------------------


def selected(rule: Rows, rows: Sequence[Model]) -> list[Model]:
    """Give the rows that a rule selects, of those that pass its `where`."""
    keys = None if rule.keys is None else {_spelled(key) for key in rule.keys}
    passing = [row for row in rows if keys is None or _spelled(row.pk) in keys]
    return _by(rule.select, passing)


def _spelled(key: Any) -> str:
    parts = key if isinstance(key, tuple | list) else (key,)
    return ",".join(str(part).lower() for part in parts)


def _by(select: Selector | None, rows: list[Model]) -> list[Model]:
    match select:
        case Share(percent, seed):
            limit = int(percent / 100 * 2**64).to_bytes(9, "big")[1:] if percent < 100 else b"\xff"
            return [row for row in rows if _hash(row, seed) < limit]
        case Sample(number, seed):
            return sorted(rows, key=lambda row: _hash(row, seed))[:number]
        case Latest(number, by):
            given = [row for row in rows if getattr(row, by) is not None]
            given.sort(key=lambda row: (_ordered(getattr(row, by)), row.pk), reverse=True)
            return given[:number]
        case None:
            return rows


def _ordered(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


def _hash(row: Model, seed: str) -> bytes:
    texts = [str(value) for value in (row.pk if isinstance(row.pk, tuple) else (row.pk,))]
    parts = [part for text in texts for part in (str(len(text)), text)]
    return hashlib.sha256(":".join([seed, *parts]).encode()).digest()
