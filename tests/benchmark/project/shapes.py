"""Tables of other shapes than a parcel's: few columns, many, large values, and many tables.

How many shards there are is told by BENCHMARK_TABLES; all of them are opted in.
"""

import os
from typing import Any

from django.db import models

TABLES = int(os.environ.get("BENCHMARK_TABLES", "0"))
"""Tables of the workload that spreads its rows over many."""
WIDTH = 60
"""Columns of the widest table."""


class Narrow(models.Model):
    """Five columns."""

    batch = models.IntegerField()
    weight = models.IntegerField()
    changed_at = models.DateTimeField()
    label = models.CharField(max_length=40)

    class Meta:
        app_label = "parcels"


class Bulky(models.Model):
    """One large value."""

    body = models.TextField()

    class Meta:
        app_label = "parcels"


def made(name: str, fields: "dict[str, models.Field[Any, Any]]") -> type[models.Model]:
    """Make a model of the app."""
    meta = type("Meta", (), {"app_label": "parcels"})
    return type(name, (models.Model,), {**fields, "Meta": meta, "__module__": __name__})


def wide_fields() -> "dict[str, models.Field[Any, Any]]":
    """Give the columns of the widest table but its key: numbers, times and texts by turns."""
    kinds = (
        models.IntegerField,
        models.DateTimeField,
        models.BooleanField,
        lambda: models.CharField(max_length=40),
    )
    return {f"c{n:02}": kinds[n % len(kinds)]() for n in range(1, WIDTH)}


def shard_fields() -> "dict[str, models.Field[Any, Any]]":
    """Give the columns of one of many tables."""
    return {"batch": models.IntegerField(), "note": models.TextField()}


def shard_name(number: int) -> str:
    """Name one of many tables' models."""
    return f"Shard{number:03}"


Wide = made("Wide", wide_fields())
SHARDS = [made(shard_name(n), shard_fields()) for n in range(TABLES)]
