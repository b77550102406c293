"""The tables of the benchmark."""

from django.db import models


class Parcel(models.Model):
    """A row of about 140 bytes."""

    depot = models.IntegerField()
    batch = models.IntegerField()
    weight = models.IntegerField()
    paid = models.BooleanField()
    returned = models.BooleanField()
    sent_at = models.DateTimeField()
    changed_at = models.DateTimeField()
    label = models.CharField(max_length=40)
    note = models.TextField()


class Signal(models.Model):
    """One row, changed behind a workload: when it is here, so is all before it."""

    value = models.BigIntegerField()
