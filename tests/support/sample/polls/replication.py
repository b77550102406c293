"""What of the polls, and of the users, may leave its environment."""

from django.db.models import Q

from replicator import (
    Children,
    Dataset,
    Referenced,
    Rows,
    dataset,
    latest,
    opt_in,
    opt_out,
    sample,
)
from replicator.declare import Rule
from tests.support.sample.polls.models import Choice, Question, Vote

opt_in(Question)
opt_in(Choice)
opt_in(Vote, exclude=["ip_address"])
opt_in("auth.User", only=["id", "username", "email"])
opt_out("auth.Group", "auth.User_groups", "auth.User_user_permissions")

Dataset("polls", Rows("auth.User"), Rows(Question), Rows(Choice), Rows(Vote))
Dataset(
    "published-polls",
    Rows("auth.User"),
    Rows(Question, where=Q(published=True)),
    Rows(Question, where=Q(priority__gte=5)),
)
Dataset(
    "poll-trees",
    Rows(Question, where=Q(published=True)),
    Children(Choice, of="question"),
    Children(Vote, of="choice", where=Q(weight__gt=0)),
    Referenced("auth.User"),
)
Dataset("authorless", Rows(Question, null=["author"]), Rows("auth.User", where=Q(pk__lt=5)))
Dataset("waiting", Rows(Question, required=["author"]), Rows("auth.User", where=Q(pk__lt=5)))
Dataset(
    "notable-questions",
    Rows("auth.User"),
    Rows(Question, where=Q(question_text__startswith="!") | ~Q(priority=0)),
    Rows(Question, where=Q(published=True, author__isnull=False)),
)
Dataset(
    "picked-polls",
    Rows(Question, where=Q(published=True), keys=[1, 2, 3]),
    Children(Choice, of="question"),
    Referenced("auth.User"),
)
Dataset(
    "half-the-polls",
    Rows(Question, where=~Q(priority=0), select=sample(percent=50, seed="half")),
    Children(Choice, of="question"),
    Referenced("auth.User"),
)
Dataset(
    "latest-polls",
    Rows(Question, where=Q(published=True), select=latest(3, by="pub_date")),
    Children(Choice, of="question"),
    Children(Vote, of="choice"),
    Referenced("auth.User"),
)
Dataset(
    "some-votes",
    Rows(Vote, select=sample(4, seed="some", every="6h"), required=["choice"]),
    Rows(Choice, where=Q(votes__lt=5)),
    Referenced(Question),
    Referenced("auth.User"),
)


@dataset("polls-by-id")
def polls_by_id(*ids: int) -> list[Rule]:
    """Some polls, each with all that hangs on it."""
    return [
        Rows(Question, where=Q(pk__in=ids)),
        Children(Choice, of="question"),
        Children(Vote, of="choice"),
        Referenced("auth.User"),
    ]


@dataset("questions-like")
def questions_like(text: str, priority: int = 0) -> list[Rule]:
    """Questions of some importance with a text in them."""
    where = Q(question_text__contains=text, priority__gte=priority)
    return [Rows(Question, where=where), Referenced("auth.User")]
