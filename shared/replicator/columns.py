"""Name and Postgres type of a Django field's column, whatever database this process uses."""

import re
from functools import lru_cache
from typing import Any, cast

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field
from django.db.utils import DEFAULT_DB_ALIAS, load_backend

# A cast to the bare name of these would cut the value to length 1.
_UNBOUNDED = {"char": "bpchar", "character": "bpchar", "bit": "varbit"}


def column_name(field: "Field[Any, Any]") -> str:
    """Name the column of a concrete field; the others, which have none, are not for here."""
    return cast("str", field.column)


def column_type(field: "Field[Any, Any]") -> str:
    """Name the Postgres type of a column without length or precision, fit for a cast.

    The modifier goes because a cast with it would round or cut a constant, which the ORM does not.
    """
    name = re.sub(r"\s*\([^)]*\)", "", field.db_type(_postgres()) or "").lower()
    return _UNBOUNDED.get(name, name)


def _postgres() -> BaseDatabaseWrapper:
    connection = connections[DEFAULT_DB_ALIAS]
    return connection if connection.vendor == "postgresql" else _unconnected()


@lru_cache(maxsize=1)
def _unconnected() -> BaseDatabaseWrapper:
    """Give a Postgres backend that knows its types and is never connected."""
    backend = load_backend("django.db.backends.postgresql")
    wrapper: BaseDatabaseWrapper = backend.DatabaseWrapper({"OPTIONS": {}}, "replicator-types")
    return wrapper
