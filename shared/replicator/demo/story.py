"""What the demo does in the source, step by step, and what must then be seen in the target."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from django.db import connection, transaction
from django.db.models import Q, QuerySet, Value
from django.db.models.functions import Concat, Length

from replicator.demo.polls.models import Question, Topic
from replicator.demo.watch import Difference, compare

TARGET = "target"
MANY = 10_000
"""Rows of the large transaction."""

LOCAL_TOPIC = 1_000_001
"""Key of a row that only the target has."""

_LONG = "A long answer. " * 8_000


class Step(NamedTuple):
    """One change.

    Attributes:
        done: what is done in the source.
        arrives: what the target makes of it.
        act: does it; returns when it is committed.
        look: one query on the target.
        expected: its answer once the change has arrived.
        whole: no other answer than the one before and the expected one may ever be seen.
    """

    done: str
    arrives: str
    act: Callable[[], object]
    look: Callable[[], object]
    expected: object
    whole: bool = True


def write_first_rows() -> tuple[int, int, int]:
    """Fill the source before anything is captured.

    Returns:
        How many topics, questions, and published questions there are.
    """
    for name in ("Databases", "Travel", "Food"):
        topic = Topic.objects.create(name=name)
        Question.objects.bulk_create(
            Question(topic=topic, text=f"{name} {number}?", published=number < 4)
            for number in range(1, 6)
        )
    return Topic.objects.count(), Question.objects.count(), published().count()


def write_local_row() -> None:
    """Give the target a row of its own."""
    Topic.objects.using(TARGET).create(pk=LOCAL_TOPIC, name="Only in stage")


def local_row_is_untouched() -> bool:
    """Say whether the target's own row is as it was."""
    return list(Topic.objects.using(TARGET).filter(pk=LOCAL_TOPIC).values_list("name")) == [
        ("Only in stage",)
    ]


def differences() -> list[Difference]:
    """Compare the dataset in the target with its querysets on the source."""
    return [
        compare(Topic.objects.all(), Topic.objects.using(TARGET).exclude(pk=LOCAL_TOPIC)),
        compare(published(), Question.objects.using(TARGET).all()),
    ]


def published() -> QuerySet[Question]:
    """Give the questions that the dataset declares, on the source."""
    return Question.objects.filter(Q(published=True))


def steps() -> Iterator[Step]:
    """Give the steps; each is made when the one before has arrived."""
    yield _backfill()
    yield _insert()
    yield _enter()
    yield _leave()
    yield _update()
    yield _delete()
    yield _cascade()
    yield _queryset_update()
    yield _raw_sql()
    yield _large_transaction()


def _backfill() -> Step:
    def look() -> object:
        topics = Topic.objects.using(TARGET).exclude(pk=LOCAL_TOPIC)
        return topics.count(), Question.objects.using(TARGET).count()

    return Step(
        "rows from before capture began",
        "backfill: 3 topics, 9 questions",
        lambda: None,
        look,
        (Topic.objects.count(), published().count()),
        whole=False,
    )


def _insert() -> Step:
    def act() -> None:
        with transaction.atomic():
            topic = Topic.objects.create(name="Music")
            Question.objects.create(topic=topic, text="Vinyl?", published=True)
            Question.objects.create(topic=topic, text="Encore?", body=_LONG)

    def look() -> object:
        questions = Question.objects.using(TARGET).filter(topic__name="Music")
        return list(questions.values_list("topic__name", "text"))

    return Step(
        "INSERT topic, question, long draft",
        "topic and question, no draft",
        act,
        look,
        [("Music", "Vinyl?")],
    )


def _enter() -> Step:
    def act() -> None:
        question = Question.objects.get(text="Encore?")
        question.published = True
        question.save(update_fields=["published"])

    def look() -> object:
        held = Question.objects.using(TARGET).filter(text="Encore?")
        return list(held.values_list(Length("body"), flat=True))

    return Step(
        "UPDATE publishes the draft",
        "it enters, with its long body",
        act,
        look,
        [len(_LONG)],
    )


def _leave() -> Step:
    def act() -> None:
        question = Question.objects.get(text="Travel 2?")
        question.published = False
        question.save()

    return Step("UPDATE unpublishes a question", "it leaves", act, _texts("Travel 2?"), [])


def _update() -> Step:
    def act() -> None:
        question = Question.objects.get(text="Travel 3?")
        question.text = "Where to next?"
        question.save()

    return Step(
        "UPDATE changes a text",
        "the same text",
        act,
        _texts("Where to next?"),
        ["Where to next?"],
    )


def _delete() -> Step:
    def act() -> None:
        Question.objects.get(text="Food 1?").delete()

    return Step("DELETE a question", "deleted", act, _texts("Food 1?"), [])


def _cascade() -> Step:
    def act() -> None:
        Topic.objects.get(name="Databases").delete()

    def look() -> object:
        topics = Topic.objects.using(TARGET).filter(name="Databases")
        return list(topics.values_list("name", "question__text"))

    return Step("topic.delete(), which cascades", "topic and questions deleted", act, look, [])


def _queryset_update() -> Step:
    def act() -> None:
        travel = Question.objects.filter(topic__name="Travel")
        travel.update(text=Concat(Value("Q: "), "text"))

    return Step(
        "QuerySet.update(), without signals",
        "the same texts",
        act,
        _texts("Q: ", "startswith"),
        ["Q: Travel 1?", "Q: Where to next?"],
    )


def _raw_sql() -> Step:
    def act() -> None:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE polls_topic SET name = upper(name) WHERE name = 'Food'")

    def look() -> object:
        return Topic.objects.using(TARGET).filter(name="FOOD").count()

    return Step("raw SQL, past the ORM", "the same name", act, look, 1)


def _large_transaction() -> Step:
    def act() -> None:
        topic = Topic.objects.get(name="Travel")
        with transaction.atomic():
            Question.objects.bulk_create(
                (Question(topic=topic, text=f"Bulk {n}?", published=True) for n in range(MANY)),
                batch_size=2_000,
            )

    def look() -> object:
        return Question.objects.using(TARGET).filter(text__startswith="Bulk").count()

    return Step(
        f"{MANY:,} rows in one transaction", f"{MANY:,} at once, never a part", act, look, MANY
    )


def _texts(text: str, lookup: str = "exact") -> Callable[[], object]:
    def look() -> object:
        held = Question.objects.using(TARGET).filter(**{f"text__{lookup}": text})
        return list(held.order_by("pk").values_list("text", flat=True))

    return look
