"""The models: nothing in them knows of replication."""

from typing import ClassVar

from django.db import models


class Topic(models.Model):
    """What questions are about."""

    name = models.CharField(max_length=200)
    objects: ClassVar[models.Manager["Topic"]] = models.Manager()

    def __str__(self) -> str:
        return self.name


class Question(models.Model):
    """A question, public once it is published."""

    topic = models.ForeignKey(Topic, on_delete=models.CASCADE)
    text = models.CharField(max_length=200)
    body = models.TextField(default="")
    published = models.BooleanField(default=False)
    objects: ClassVar[models.Manager["Question"]] = models.Manager()

    def __str__(self) -> str:
        return self.text
