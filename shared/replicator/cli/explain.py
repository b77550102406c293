"""`replicator explain`: draws a dataset, with the numbers of rows on this side.

    replicator_capture.members:count(connection, plan) -> tuple[Count, …]
    replicator_apply.receipts:count(connection, plan)  -> tuple[Count, …]

TARGETS make an environment a source; a target it is if it has a subscription to the dataset.
"""

import sys
from importlib import import_module

import msgspec
from msgspec.structs import replace

from replicator.cli.arguments import Arguments
from replicator.database import open_database
from replicator.datasets import find_dataset
from replicator.drawing import mermaid_of, text_of
from replicator.errors import ReplicatorError
from replicator.explain import Count, Explanation, explain
from replicator.plan import DatasetPlan, split_name
from replicator.settings import ReplicatorSettings, load_settings


def run(arguments: Arguments) -> int:
    """Explain a dataset; 1 if a foreign key leaves it that has no policy.

    Raises:
        ConfigurationError: there is no such dataset, or it is declared wrongly.
    """
    plan = find_dataset(*split_name(arguments.dataset))
    explanation = explain(plan)
    if arguments.mermaid:
        sys.stdout.write(mermaid_of(explanation))
    else:
        explanation = counted(explanation, plan, load_settings())
        sys.stdout.write(as_json(explanation) if arguments.json else text_of(explanation))
    return 1 if any(each.policy == "none!" for each in explanation.leaving) else 0


def as_json(explanation: Explanation) -> str:
    """Write it for programs: the fields of `Explanation`."""
    return msgspec.json.encode(explanation).decode() + "\n"


def counted(
    explanation: Explanation, plan: DatasetPlan, settings: ReplicatorSettings
) -> Explanation:
    """Add the numbers of rows, or why they could not be had."""
    sides = ["replicator_capture.members"] if settings.targets else []
    # Commands subscribe, too: only the database knows.
    sides.append("replicator_apply.receipts")
    counts: tuple[Count, ...] = ()
    try:
        with open_database(settings, "replicator explain") as connection:
            for side in sides:
                counts += import_module(side).count(connection, plan)
    except ReplicatorError as error:
        # What was asked for is the drawing; the numbers are beside it.
        return replace(explanation, counts=counts, note=f"{error} {error.remedy}".strip())
    if not counts and not settings.targets:
        note = "this environment neither publishes (TARGETS) nor subscribes to it (SUBSCRIPTIONS)."
        return replace(explanation, note=note)
    return replace(explanation, counts=counts)
