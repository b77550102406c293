"""Telling the story: with Django set up, over both databases."""

import time
from pathlib import Path

from django.core.management import call_command
from django.db import connections

from replicator.demo import polls, story
from replicator.demo.environments.base import SOURCE_ENVIRONMENT, TARGET_ENVIRONMENT
from replicator.demo.log import remove_log
from replicator.demo.screen import Screen
from replicator.demo.story import Step
from replicator.demo.watch import Late, Watch
from replicator.settings import requests_topic, stream_topic


def prepare() -> str:
    """Migrate both databases and write the first rows; says what there is then."""
    for alias in ("default", story.TARGET):
        call_command("migrate", database=alias, verbosity=0)
    topics, questions, published = story.write_first_rows()
    story.write_local_row()
    return f"prod has {topics} topics and {questions} questions, of them {published} published"


def tell(screen: Screen, watch: Watch, began: float) -> bool:
    """Do every step and compare both sides in the end; says whether all was right.

    Args:
        screen: shows it.
        watch: looks at the target.
        began: when the demo did, on the monotonic clock.

    Raises:
        Stopped: a daemon has ended.
        KeyboardInterrupt: it is to stop.
    """
    screen.declaration(Path(polls.__path__[0]) / "replication.py")
    screen.heading()
    if not all(_arrives(step, screen, watch) for step in story.steps()):
        return False
    differences, untouched = story.differences(), story.local_row_is_untouched()
    screen.proof(differences)
    screen.local_row(untouched)
    good = untouched and all(each.is_none for each in differences)
    screen.verdict(good, time.monotonic() - began)
    return good


def finish(log: str) -> None:
    """Let go of the databases, and remove what the demo wrote to the log.

    Raises:
        LogUnavailable: Kafka is away.
    """
    connections.close_all()
    events = stream_topic(SOURCE_ENVIRONMENT, "main")
    requests = requests_topic(SOURCE_ENVIRONMENT, "main", TARGET_ENVIRONMENT)
    remove_log(log, (events, requests))


def _arrives(step: Step, screen: Screen, watch: Watch) -> bool:
    before = step.look()
    step.act()
    try:
        took, seen = watch.until(step.expected, step.look)
    except Late as error:
        screen.failed(step.done, str(error))
        return False
    if step.whole and any(answer not in (before, step.expected) for answer in seen):
        screen.failed(step.done, "a reader of stage saw a part of the transaction")
        return False
    screen.arrived(step.done, step.arrives, took)
    return True
