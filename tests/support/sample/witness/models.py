"""Two witnesses of a transaction: a reader who sees different numbers has seen a part of one."""

from django.db import models


class First(models.Model):
    """Its only row has the number of the last transaction."""

    number = models.BigIntegerField()

    def __str__(self) -> str:
        return f"first {self.number}"


class Second(models.Model):
    """Its only row has the same number."""

    number = models.BigIntegerField()

    def __str__(self) -> str:
        return f"second {self.number}"
