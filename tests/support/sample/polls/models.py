"""Polls: a tree of three tables, with a user at its root and personal data at its leaves."""

from django.conf import settings
from django.db import models
from django.utils import timezone


class Question(models.Model):
    """A question; `body` may be large enough to be TOASTed."""

    question_text = models.CharField(max_length=200)
    body = models.TextField(blank=True, default="")
    published = models.BooleanField(default=False)
    priority = models.IntegerField(null=True, blank=True)
    pub_date = models.DateTimeField(default=timezone.now)
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="questions"
    )

    def __str__(self) -> str:
        return self.question_text


class Choice(models.Model):
    """An answer that can be chosen; `rank` is unique in its question, so ranks can be swapped."""

    question = models.ForeignKey(Question, models.CASCADE, related_name="choices")
    choice_text = models.CharField(max_length=200)
    rank = models.IntegerField()
    votes = models.IntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["question", "rank"], name="polls_choice_rank")
        ]

    def __str__(self) -> str:
        return self.choice_text


class Vote(models.Model):
    """A vote, with personal data."""

    choice = models.ForeignKey(Choice, models.CASCADE, related_name="cast")
    voter_email = models.EmailField()
    ip_address = models.GenericIPAddressField(null=True, blank=True)
    weight = models.DecimalField(max_digits=12, decimal_places=4, default=1)
    cast_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return f"vote {self.pk}"
