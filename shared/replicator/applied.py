"""What a function of `on_applied` is told: which rows of a model apply has written. Pure."""

from dataclasses import dataclass
from typing import Any, TypeAlias

from django.db.models import Model

PrimaryKey: TypeAlias = Any
"""A primary key as the model's field has it in Python; a tuple if it has several columns."""


@dataclass(frozen=True, slots=True)
class Applied:
    """Rows of one model that were written, by primary key; a key stands in one of the three only.

    It tells of the past, at least once: look at the database for how the rows are now.

    Attributes:
        model: the model.
        inserted: rows that are new here.
        updated: rows that were here already, changed or written again as they were.
        deleted: rows that are here no more.
    """

    model: type[Model]
    inserted: tuple[PrimaryKey, ...] = ()
    updated: tuple[PrimaryKey, ...] = ()
    deleted: tuple[PrimaryKey, ...] = ()
