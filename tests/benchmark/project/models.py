"""The tables of the benchmark."""

from django.db import models

from tests.benchmark.project.shapes import SHARDS, Bulky, Narrow, Wide

__all__ = ["SHARDS", "Bulky", "Choice", "Depot", "Leaflet", "Narrow", "Parcel", "Question"]
__all__ += ["Signal", "Vote", "Voter", "Wide"]


class Depot(models.Model):
    """What a parcel is a child of, in the dataset that follows relations."""

    open = models.BooleanField()


class Parcel(models.Model):
    """A row of about 140 bytes. No constraint guards the depot: nobody pays for checking it."""

    depot = models.ForeignKey(
        Depot, models.DO_NOTHING, db_column="depot", db_constraint=False, db_index=False
    )
    batch = models.IntegerField()
    weight = models.IntegerField()
    paid = models.BooleanField()
    returned = models.BooleanField()
    sent_at = models.DateTimeField()
    changed_at = models.DateTimeField()
    label = models.CharField(max_length=40)
    note = models.TextField()


class Voter(models.Model):
    """Whom votes point at; in the dataset that follows relations only because of them."""

    name = models.CharField(max_length=40)


class Question(models.Model):
    """The root of a tree, with four choices, in that dataset if it is published."""

    published = models.BooleanField()
    title = models.CharField(max_length=80)
    changed_at = models.DateTimeField()


class Choice(models.Model):
    """A child of a question."""

    question = models.ForeignKey(Question, models.CASCADE)
    text = models.CharField(max_length=80)


class Vote(models.Model):
    """A child of a choice. The weights below a question add up to 0 after every transaction."""

    choice = models.ForeignKey(Choice, models.CASCADE)
    voter = models.ForeignKey(Voter, models.CASCADE)
    weight = models.IntegerField()
    comment = models.CharField(max_length=80)


class Leaflet(models.Model):
    """A row that no other hangs on; in that dataset if it is published."""

    published = models.BooleanField()
    title = models.CharField(max_length=80)


class Signal(models.Model):
    """One row, changed behind a workload: when it is here, so is all before it."""

    value = models.BigIntegerField()
