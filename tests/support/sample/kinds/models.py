"""Columns of many types, an enum type of the database, a generated column, a partitioned table."""

from django.contrib.postgres.fields import ArrayField, DateTimeRangeField, IntegerRangeField
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.functions import Length


class MoodField(models.TextField):  # type: ignore[type-arg]
    """A column of the database's enum type `kinds_mood` (sad, ok, happy)."""

    def db_type(self, connection: BaseDatabaseWrapper) -> str:  # noqa: ARG002 (Django's signature)
        """Name the type."""
        return "kinds_mood"


class Specimen(models.Model):
    """A row with a column of every type that Django and this project have."""

    small = models.SmallIntegerField(null=True)
    whole = models.IntegerField(null=True)
    big = models.BigIntegerField(null=True)
    yes = models.BooleanField(null=True)
    real = models.FloatField(null=True)
    exact = models.DecimalField(max_digits=30, decimal_places=10, null=True)
    line = models.CharField(max_length=100, null=True)
    text = models.TextField(null=True)
    day = models.DateField(null=True)
    clock = models.TimeField(null=True)
    moment = models.DateTimeField(null=True)
    lasting = models.DurationField(null=True)
    key = models.UUIDField(null=True)
    address = models.GenericIPAddressField(null=True)
    raw = models.BinaryField(null=True)
    data = models.JSONField(null=True)
    numbers = ArrayField(models.IntegerField(null=True), null=True)
    words = ArrayField(ArrayField(models.TextField(null=True)), null=True)
    span = IntegerRangeField(null=True)
    period = DateTimeRangeField(null=True)
    mood = MoodField(null=True)
    length = models.GeneratedField(
        expression=Length("text"), output_field=models.IntegerField(), db_persist=True
    )

    def __str__(self) -> str:
        return f"specimen {self.pk}"


class Reading(models.Model):
    """A row of a partitioned table (ranges of `taken_on`), made by SQL."""

    pk = models.CompositePrimaryKey("sensor", "taken_on")
    sensor = models.IntegerField()
    taken_on = models.DateField()
    value = models.FloatField()

    class Meta:
        managed = False
        db_table = "kinds_reading"

    def __str__(self) -> str:
        return f"reading {self.pk}"
