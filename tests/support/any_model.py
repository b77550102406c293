"""Models of tables with columns of any Postgres type, made by a test and forgotten at its end."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from django.apps import apps
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

APP = "kinds"


class AnyField(models.TextField):  # type: ignore[type-arg]
    """A column of the given type."""

    def __init__(self, *, kind: str = "text", **options: Any) -> None:
        super().__init__(**options)
        self.kind = kind

    def db_type(self, connection: BaseDatabaseWrapper) -> str:  # noqa: ARG002 (Django's signature)
        """Name the type."""
        return self.kind


@contextlib.contextmanager
def any_model(
    name: str, columns: Mapping[str, str], key: str | None = None
) -> Iterator[type[models.Model]]:
    """Make an unmanaged model of the table `kinds_<name in lower case>`.

    Args:
        name: of the model.
        columns: type by column.
        key: the column that is the primary key; None: an integer column `id` in addition.
    """
    fields: dict[str, Any] = {
        column: AnyField(kind=kind, primary_key=column == key, null=column != key)
        for column, kind in columns.items()
    }
    if key is None:
        fields["id"] = models.IntegerField(primary_key=True)
    meta = type(
        "Meta", (), {"app_label": APP, "managed": False, "db_table": f"kinds_{name.lower()}"}
    )
    try:
        yield type(name, (models.Model,), {"__module__": __name__, "Meta": meta, **fields})
    finally:
        apps.all_models[APP].pop(name.lower(), None)
        apps.clear_cache()


def create_table(model: type[models.Model]) -> str:
    """Write the statement that creates a model's table."""
    columns = ", ".join(
        f'"{field.column}" {getattr(field, "kind", "integer")}'
        f"{' PRIMARY KEY' if field.primary_key else ''}"
        for field in model._meta.concrete_fields
    )
    return f'CREATE TABLE public."{model._meta.db_table}" ({columns})'
