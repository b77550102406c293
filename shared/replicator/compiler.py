"""From opt-ins and Django's models to the releases of `replicator.plan`.

Reads model meta only; needs `django.setup()` and no database. Every function raises
`WrongDeclaration` with the id of the system check that reports the same mistake.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from django.apps import apps
from django.db.models import NOT_PROVIDED, Field, Model, UniqueConstraint
from django.db.models import ForeignKey as DjangoForeignKey

from replicator.columns import column_name
from replicator.declare import OptIn, declared_opt_ins
from replicator.errors import WrongDeclaration
from replicator.plan import ForeignKey, Release, TableName

AnyField: TypeAlias = "Field[Any, Any]"

BY_NATURAL_KEY = frozenset({"contenttypes.contenttype", "auth.permission"})
"""Tables that every environment fills by itself: the same row has another pk in each."""

OWN_APP = "replicator"
"""Label of the app whose tables hold the replication's own state."""


def releases(stream: str) -> tuple[Release, ...]:
    """Compile every opt-in of a stream, ordered by label.

    Raises:
        WrongDeclaration: a declaration names what does not exist.
    """
    compiled = (compile_release(d) for d in declared_opt_ins() if d.stream == stream)
    return tuple(sorted(compiled, key=lambda release: release.label))


def compile_release(declaration: OptIn) -> Release:
    """Compile what of one model may leave.

    Raises:
        WrongDeclaration: the model or a column does not exist, the model has no table of its own
            or one that stays in its environment, or the primary key is excluded or points at such a
            table.
    """
    model = find_model(declaration.label)
    _refuse_unfit(model)
    fields = model._meta.local_concrete_fields
    key = tuple(map(column_name, model._meta.pk_fields))
    generated = tuple(column_name(field) for field in fields if field.generated)
    written = [field for field in fields if not field.generated]
    columns = _released(declaration, fields, written, key)
    foreign_keys = tuple(_foreign_keys(written, columns))
    _refuse_key_by_name(model, key, foreign_keys)
    return Release(
        label=model._meta.label,
        table=table_of(model),
        key=key,
        columns=columns,
        excluded=tuple(name for name in map(column_name, written) if name not in columns),
        generated=generated,
        foreign_keys=foreign_keys,
        unique=_unique(model, columns),
        stream=declaration.stream,
    )


def unfilled(release: Release) -> tuple[str, ...]:
    """Name the excluded columns that may not be NULL and have no default, of field or database."""
    return tuple(
        column_name(field)
        for field in find_model(release.label)._meta.local_concrete_fields
        if column_name(field) in release.excluded
        and not field.null
        and field.db_default is NOT_PROVIDED
        and field.get_default() is None
    )


def find_model(label: str) -> type[Model]:
    """Give the model of a label `app_label.ModelName`, in any case.

    Raises:
        WrongDeclaration: there is no such model.
    """
    try:
        return apps.get_model(label)
    except (LookupError, ValueError) as error:
        raise WrongDeclaration(
            f"There is no model {label}",
            check_id="replicator.E010",
            remedy="Use app_label.ModelName of an installed app; abstract models have no table.",
        ) from error


def table_of(model: type[Model]) -> TableName:
    """Give a model's table; in schema `public` unless `db_table` is written `"schema"."table"`."""
    schema, separator, name = model._meta.db_table.strip('"').partition('"."')
    return TableName(schema, name) if separator else TableName("public", schema)


def _refuse_unfit(model: type[Model]) -> None:
    label = model._meta.label
    if model._meta.proxy:
        concrete = model._meta.concrete_model
        name = concrete._meta.label if concrete else "its model"
        problem, remedy = f"{label} is a proxy and has no table", f"Opt {name} in instead."
    elif model._meta.swapped:
        problem = f"{label} is swapped for {model._meta.swapped}"
        remedy = f"Opt {model._meta.swapped} in instead."
    elif model._meta.label_lower in BY_NATURAL_KEY:
        problem = f"{label} has other primary keys in every environment"
        remedy = "Remove the opt-in: each environment fills this table by itself (migrate)."
    elif model._meta.app_label == OWN_APP:
        problem = f"{label} is Replicator's own state, of this environment alone"
        remedy = "Remove the opt-in."
    else:
        return
    raise WrongDeclaration(problem, check_id="replicator.E011", remedy=remedy)


def _refuse_key_by_name(
    model: type[Model], key: tuple[str, ...], foreign_keys: Iterable[ForeignKey]
) -> None:
    if any(each.natural and set(each.columns) & set(key) for each in foreign_keys):
        raise WrongDeclaration(
            f"The primary key of {model._meta.label} points at a table in which the same row has "
            "another key in every environment",
            check_id="replicator.E011",
            remedy="Give the model a key of its own, or remove the opt-in.",
        )


def _released(
    declaration: OptIn,
    fields: Sequence[AnyField],
    written: Sequence[AnyField],
    key: tuple[str, ...],
) -> tuple[str, ...]:
    named = _columns(declaration, fields)
    if declaration.only is not None:
        kept = named | set(key)
        return tuple(name for name in map(column_name, written) if name in kept)
    if both := named & set(key):
        raise WrongDeclaration(
            f"opt_in({declaration.label}) excludes the primary key ({', '.join(sorted(both))})",
            check_id="replicator.E013",
            remedy="Remove it from exclude: rows are told apart by it.",
        )
    return tuple(name for name in map(column_name, written) if name not in named)


def _columns(declaration: OptIn, fields: Sequence[AnyField]) -> set[str]:
    """Resolve the names of `only` or `exclude`: field, attribute or column."""
    by_name = {
        name: column_name(field)
        for field in fields
        for name in (column_name(field), field.attname, field.name)
    }
    names = declaration.exclude if declaration.only is None else declaration.only
    if unknown := [name for name in names if name not in by_name]:
        raise WrongDeclaration(
            f"opt_in({declaration.label}) names unknown columns: {', '.join(unknown)}",
            check_id="replicator.E012",
            remedy=f"The table has: {', '.join(field.name for field in fields)}.",
        )
    return {by_name[name] for name in names}


def _foreign_keys(fields: Sequence[AnyField], columns: tuple[str, ...]) -> Iterable[ForeignKey]:
    for field in fields:
        if isinstance(field, DjangoForeignKey) and column_name(field) in columns:
            target = field.target_field
            yield ForeignKey(
                columns=(column_name(field),),
                to=table_of(target.model),
                to_columns=(column_name(target),),
                nullable=field.null,
                constrained=getattr(field, "db_constraint", True),
                natural=target.model._meta.label_lower in BY_NATURAL_KEY,
            )


def _unique(model: type[Model], columns: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    meta = model._meta
    column = {field.name: column_name(field) for field in meta.local_concrete_fields}
    sets: list[Sequence[str]] = [
        (f.name,) for f in meta.local_concrete_fields if f.unique and not f.primary_key
    ]
    sets += meta.unique_together
    sets += [
        constraint.fields
        for constraint in meta.constraints
        if isinstance(constraint, UniqueConstraint)
        and constraint.condition is None
        and not constraint.expressions
    ]
    found = [tuple(column.get(name, "") for name in names) for names in sets]
    return tuple(dict.fromkeys(names for names in found if set(names) <= set(columns)))
