"""From a rule's `where`, `keys` and `select` to the filter and the selection of its plan.

What can be told from a row alone goes into the filter: keys, and a share of them. What hangs on
other rows, a number of rows, becomes a `Selection`. Pure but for the models' meta.
"""

from collections.abc import Sequence
from typing import Any

from django.db.models import Field, Model, Q

from replicator.columns import column_name, column_type
from replicator.declare import Rows
from replicator.errors import WrongDeclaration
from replicator.plan import (
    ONE_SPELLING,
    And,
    Filter,
    LatestRows,
    Or,
    Release,
    Sampled,
    SampledRows,
    Selection,
)
from replicator.selectors import Latest, Sample, Share
from replicator.where import COMPARABLE, compile_where


def compile_filter(model: type[Model], rule: Rows, release: Release) -> Filter | None:
    """Compile what a row must pass by itself: `where`, `keys` and a share; None: every row does.

    Raises:
        WrongDeclaration: the filter is refused, or keys or share do not fit the primary key.
    """
    keys = None if rule.keys is None else _keys(model, list(rule.keys), release)
    parts = (compile_where(model, rule.where, release), keys, _share(model, rule, release))
    given = tuple(part for part in parts if part is not None)
    return And(given) if len(given) > 1 else given[0] if given else None


def compile_selection(model: type[Model], rule: Rows, release: Release) -> Selection | None:
    """Compile which of these rows are chosen; None: all of them belong.

    Raises:
        WrongDeclaration: the column is not there or has no order, or rows of this model cannot be
            named to the other side by their key.
    """
    select = rule.select
    if isinstance(select, Sample):
        _must_have_one_spelling(model, release)
        return SampledRows(select.number, select.seed)
    if isinstance(select, Latest):
        _must_have_one_spelling(model, release)
        return LatestRows(select.number, *_ordered_column(model, select.by, release))
    return None


# Keys ---------------------------------------------------------------------------------------------


def _keys(model: type[Model], keys: Sequence[object], release: Release) -> Filter:
    fields = model._meta.pk_fields
    if any(key is None for key in keys):
        raise _wrong_keys(release, "one of them is None")
    try:
        if len(fields) == 1:
            return compile_where(model, Q(pk__in=keys), release) or Or(())
        # Order and repetition mean nothing, and must not change the fingerprint.
        found = {_composite(model, fields, key, release) for key in keys}
        return Or(tuple(sorted(found, key=repr)))
    except WrongDeclaration as error:
        raise _wrong_keys(release, str(error).partition("refused: ")[2] or str(error)) from error


def _composite(
    model: type[Model], fields: "Sequence[Field[Any, Any]]", key: object, release: Release
) -> Filter:
    if not isinstance(key, tuple | list) or len(key) != len(fields) or None in key:
        raise _wrong_keys(release, f"each must have the values of {', '.join(release.key)}")
    named = {field.name: value for field, value in zip(fields, key, strict=True)}
    return compile_where(model, Q(**named), release) or And(())


def _wrong_keys(release: Release, reason: str) -> WrongDeclaration:
    columns = ", ".join(release.key)
    alone = len(release.key) == 1
    return WrongDeclaration(
        f"The keys of Rows({release.label}) do not fit: {reason}",
        check_id="replicator.E046",
        remedy=f"Give values of {columns}." if alone else f"Give tuples of ({columns}).",
    )


# Samples and latest rows --------------------------------------------------------------------------


def _share(model: type[Model], rule: Rows, release: Release) -> Filter | None:
    share = rule.select
    if not isinstance(share, Share) or share.percent == 100:
        return None
    _must_have_one_spelling(model, release)
    return Sampled(release.key, f"{share.percent:f}", share.seed)


def _must_have_one_spelling(model: type[Model], release: Release) -> None:
    """Refuse keys that are equal and have several texts: 1.0 and 1.00, `a` and `A` as citext."""
    kinds = {column_name(field): column_type(field) for field in model._meta.pk_fields}
    if strange := [f"{name} ({kind})" for name, kind in kinds.items() if kind not in ONE_SPELLING]:
        raise WrongDeclaration(
            f"Rows({release.label}) cannot select by its primary key: {', '.join(strange)} may "
            "write one value in several ways",
            check_id="replicator.E047",
            remedy="Integers, UUIDs, texts, dates and timestamps can be; choose rows by where.",
        )


def _ordered_column(model: type[Model], name: str, release: Release) -> tuple[str, str]:
    """Resolve the column that rows are ordered by; gives its name and type."""
    for field in model._meta.local_concrete_fields:
        if name in (field.name, field.attname, field.column):
            column, kind = column_name(field), column_type(field)
            if column not in release.columns:
                raise _wrong_column(release, f"{name} is not released", "Release it in opt_in.")
            if kind not in COMPARABLE:
                raise _wrong_column(
                    release, f"{name} ({kind}) has no order", "Take a number, a date or a text."
                )
            return column, kind
    known = ", ".join(field.name for field in model._meta.local_concrete_fields)
    raise _wrong_column(release, f"it has no column {name!r}", f"Its columns are: {known}.")


def _wrong_column(release: Release, reason: str, remedy: str) -> WrongDeclaration:
    return WrongDeclaration(
        f"The latest of Rows({release.label}) cannot be told: {reason}",
        check_id="replicator.E047",
        remedy=remedy,
    )
