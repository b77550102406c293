"""What a mark tells the target: the source's health, and tables that joined the stream.

A table that joins the publication, or joins it again, has rows that no event told of; every
subscription that holds it is backfilled. The mark names each table with a token that is another one
each time the table joins. Blocks on Postgres.
"""

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
import psycopg

from replicator.envelope import Mark
from replicator_apply.plan import TargetPlan
from replicator_apply.state import Place, note_report, source_report, start_run

Cursor = psycopg.Cursor[Any]
TABLE = "table:"
"""How the keys of a mark's health begin that name a table (`table:public.polls_question`)."""

logger = logging.getLogger(__name__)


def take_mark(cursor: Cursor, place: Place, plan: TargetPlan, mark: Mark) -> None:
    """Store what the source tells of itself; begin the backfills that it calls for."""
    before = source_report(cursor, place)
    note_report(
        cursor, place, msgspec.structs.replace(mark, health=with_tables(before, mark.health))
    )
    joined = joined_tables(before, mark.health)
    for subscription in plan.subscriptions:
        found = sorted(joined & {str(r.table) for r in subscription.dataset.releases})
        if found:
            logger.warning(
                "%s joined the stream; dataset %s is backfilled.",
                ", ".join(found),
                subscription.dataset.name,
                extra={"event": "table_joined", "dataset": subscription.dataset.name},
            )
            start_run(cursor, subscription.id, "table joined")


def with_tables(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Add to a mark's health the tables that it does not name, as an earlier one named them.

    A capture that has just started names none yet, and nobody has left the stream.
    """
    return {k: v for k, v in before.items() if k.startswith(TABLE)} | dict(now)


def joined_tables(before: Mapping[str, object], now: Mapping[str, object]) -> set[str]:
    """Name the tables that joined between two marks; none if no mark has named any before."""
    if not any(key.startswith(TABLE) for key in before):
        return set()
    return {
        key.removeprefix(TABLE)
        for key, token in now.items()
        if key.startswith(TABLE) and before.get(key) != token
    }
