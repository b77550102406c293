"""Generic foreign keys of Django's models, as edges. Needs `django.setup()` and no database.

Source: https://docs.djangoproject.com/en/5.2/ref/contrib/contenttypes/#generic-relations
"""

from typing import Any, Literal, NamedTuple, TypeAlias

from django.apps import apps
from django.db.models import CharField, Field, IntegerField, Model, TextField, UUIDField
from django.db.models import ForeignKey as DjangoForeignKey

from replicator.columns import column_name
from replicator.compiler import find_model
from replicator.errors import WrongDeclaration
from replicator.plan import Edge, Generic, Release

_Family: TypeAlias = Literal["integer", "uuid", "text", "other"]


class GenericKey(NamedTuple):
    """A generic foreign key.

    Attributes:
        model: that points.
        kind: name of its field for the content type.
        key: name of its field for the other's primary key.
        concrete: whether content types of proxies are never named.
    """

    model: type[Model]
    kind: str
    key: str
    concrete: bool


def generic_keys(model: type[Model]) -> dict[str, GenericKey]:
    """Give a model's generic foreign keys by their names."""
    return {
        field.name: GenericKey(model, field.ct_field, field.fk_field, field.for_concrete_model)
        for field in _fields(model, "GenericForeignKey")
    }


def generic_relations(model: type[Model]) -> dict[str, GenericKey]:
    """Give what a model's generic relations go back along, by their names."""
    return {
        field.name: GenericKey(
            field.related_model,
            field.content_type_field_name,
            field.object_id_field_name,
            field.for_concrete_model,
        )
        for field in _fields(model, "GenericRelation")
    }


def _fields(model: type[Model], kind: str) -> list[Any]:
    if not apps.is_installed("django.contrib.contenttypes"):
        return []
    from django.contrib.contenttypes import fields  # noqa: PLC0415 (if installed)

    found = getattr(fields, kind)
    return [field for field in model._meta.private_fields if isinstance(field, found)]


def generic_edge(release: Release, key: GenericKey, parent: Release) -> Edge | None:
    """Give the edge by which rows point at those of one model; None: they cannot.

    Args:
        release: of the model that points.
        key: by which it does.
        parent: release of the model pointed at.

    Raises:
        WrongDeclaration: the columns are not released.
    """
    object_id = _concrete(key.model, key.key)
    columns = column_name(object_id), column_name(_concrete(key.model, key.kind))
    if missing := [column for column in columns if column not in release.columns]:
        raise WrongDeclaration(
            f"{release.label}: its generic foreign key needs {missing[0]}, which is not released",
            check_id="replicator.E036",
            remedy="Release both of its columns in opt_in.",
        )
    written = _written(object_id, parent)
    if written is None:
        return None
    names = _names(find_model(parent.label), concrete=key.concrete)
    generic = Generic(columns[1], names, written)
    return Edge(release.table, columns[:1], parent.table, parent.key, generic)


def _concrete(model: type[Model], name: str) -> "Field[Any, Any]":
    return next(field for field in model._meta.concrete_fields if field.name == name)


def _names(model: type[Model], *, concrete: bool) -> tuple[str, ...]:
    """Name the content types that mean a model's rows."""
    proxies = [] if concrete else [m for m in apps.get_models() if _is_proxy_of(m, model)]
    named = sorted(f"{m._meta.app_label}.{m._meta.model_name}" for m in proxies)
    return (f"{model._meta.app_label}.{model._meta.model_name}", *named)


def _is_proxy_of(proxy: type[Model], model: type[Model]) -> bool:
    return proxy._meta.proxy and proxy._meta.concrete_model is model


def _written(
    object_id: "Field[Any, Any]", parent: Release
) -> Literal["", "integer", "uuid"] | None:
    """Say how a column holds keys of a model; None: it cannot."""
    key = find_model(parent.label)._meta.pk
    if len(parent.key) != 1 or key is None:
        return None
    held, own = _family(object_id), _family(key)
    if held == own and own != "other":
        return ""
    return own if held == "text" and own in {"integer", "uuid"} else None


def _family(field: "Field[Any, Any]") -> _Family:
    while isinstance(field, DjangoForeignKey):
        field = field.target_field
    if isinstance(field, IntegerField):
        return "integer"
    if isinstance(field, UUIDField):
        return "uuid"
    return "text" if isinstance(field, CharField | TextField) else "other"
