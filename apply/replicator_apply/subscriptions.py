"""Settings, declarations and stored state → the plan of one stream. Blocks on Postgres."""

import logging
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql

from replicator.datasets import find_dataset
from replicator.declare import declared_hooks
from replicator.errors import ConfigurationError
from replicator.plan import DatasetPlan, Release, TableName
from replicator.settings import ReplicatorSettings, Subscription
from replicator.sql_parts import equal
from replicator_apply.catalog import read_shapes
from replicator_apply.defaults import absent_values, defaults
from replicator_apply.make_plan import make_plan
from replicator_apply.names import LocalKeys
from replicator_apply.plan import LEFT, SubscribedDataset, TargetPlan
from replicator_apply.prepare import ensure_receipts
from replicator_apply.state import (
    Place,
    StoredSubscription,
    forget_chosen,
    start_run,
    store_subscription,
    stored_subscriptions,
    undeclare_others,
)

logger = logging.getLogger(__name__)

Connection = psycopg.Connection[Any]


def places(settings: ReplicatorSettings) -> list[Place]:
    """List the streams that the settings subscribe to, each once."""
    return list(dict.fromkeys(Place(s.source, s.stream) for s in settings.subscriptions))


def declared_at(settings: ReplicatorSettings, place: Place) -> list[Subscription]:
    """List the subscriptions of one stream that the settings declare."""
    return [s for s in settings.subscriptions if (s.source, s.stream) == place]


def store_declared(connection: Connection, settings: ReplicatorSettings, place: Place) -> None:
    """Store what the settings declare; begin a backfill of what is new or has changed its rules.

    What they declare no more rests: the code may not have its dataset any more either.
    """
    with connection.transaction(), connection.cursor() as cursor:
        before = {(s.dataset, s.arguments): s for s in stored_subscriptions(cursor, place)}
        for subscription in declared_at(settings, place):
            dataset = find_dataset(subscription.name, subscription.arguments)
            _must_be_of(dataset, subscription)
            store_subscription(cursor, place, subscription, dataset.fingerprint)
            _begin(cursor, place, before.get((dataset.name, dataset.arguments)), dataset)
        _rest_others(cursor, settings, place)


def _rest_others(cursor: psycopg.Cursor[Any], settings: ReplicatorSettings, place: Place) -> None:
    """Apply no more what the settings do not declare, and say so once."""
    declared = {(s.name, s.arguments) for s in declared_at(settings, place)}
    stored = stored_subscriptions(cursor, place)
    kept = [s.id for s in stored if (s.dataset, s.arguments) in declared]
    for dataset in undeclare_others(cursor, place, kept):
        logger.warning(
            "Subscription to %s of %s is not declared any more; its rows stay as they are.",
            dataset,
            place.source,
            extra={"event": "undeclared_subscription"},
        )


def _begin(
    cursor: psycopg.Cursor[Any],
    place: Place,
    before: StoredSubscription | None,
    dataset: DatasetPlan,
) -> None:
    if before is not None and before.fingerprint == dataset.fingerprint:
        return
    reason = "subscribed" if before is None else "rules changed"
    for stored in stored_subscriptions(cursor, place):
        if (stored.dataset, stored.arguments) == (dataset.name, dataset.arguments):
            forget_chosen(cursor, stored.id, [rule.name for rule in dataset.paged])
            start_run(cursor, stored.id, reason)


def _must_be_of(dataset: DatasetPlan, subscription: Subscription) -> None:
    if dataset.stream != subscription.stream:
        raise ConfigurationError(
            f"Dataset {dataset.full_name!r} travels in stream {dataset.stream!r}, and the "
            f"subscription names {subscription.stream!r}.",
            remedy="Correct `stream` in REPLICATOR['SUBSCRIPTIONS'].",
        )


def load_plan(connection: Connection, settings: ReplicatorSettings, place: Place) -> TargetPlan:
    """Compile the declared subscriptions against the tables here; make their receipts.

    Raises:
        ConfigurationError: a dataset is not declared, or does not take the arguments.
        Unfit: a table does not fit.
    """
    fuses = {(s.name, s.arguments): s.fuse for s in declared_at(settings, place)}
    with connection.transaction(), connection.cursor() as cursor:
        subscribed = [
            SubscribedDataset(
                stored.id,
                find_dataset(stored.dataset, stored.arguments),
                stored.generation,
                stored.on_clash,
                fuses.get((stored.dataset, stored.arguments)),
                gated=bool(stored.gate),
            )
            for stored in stored_subscriptions(cursor, place)
        ]
        releases = {r.table: r for one in subscribed for r in one.dataset.releases}
        shapes = read_shapes(connection, sorted(releases))
        filled = {
            name: defaults(connection, release, shapes[name], settings.database)
            for name, release in releases.items()
        }
        absent = {
            name: absent_values(connection, release, shapes[name], settings.database)
            for name, release in releases.items()
        }
        local = LocalKeys(settings)
        local.load(connection, releases.values())
        keys_of = {name: local.of(release) for name, release in releases.items()}
        plan = make_plan(
            subscribed,
            shapes,
            filled,
            absent=absent,
            keys_of=keys_of,
            hooks=hooks_of(releases),
        )
        ensure_receipts(connection, shapes, may_prepare=settings.auto_prepare)
        _forget_removed(cursor, plan)
    return plan


def _forget_removed(cursor: psycopg.Cursor[Any], plan: TargetPlan) -> None:
    """Forget rows that left and stayed, and that somebody has deleted here."""
    for table in plan.tables.values():
        if table.stay:
            cursor.execute(
                sql.SQL(
                    "DELETE FROM {} r WHERE r.subscription_id = {} "
                    "AND NOT EXISTS (SELECT FROM {} t WHERE {})"
                ).format(
                    table.receipts, LEFT, table.identifier, equal(table.key, "t", table.key, "r")
                )
            )


def hooks_of(releases: Mapping[TableName, Release]) -> dict[TableName, list[str]]:
    """Name the functions that are called after rows of some tables were applied."""
    return {
        table: [h.name for h in declared_hooks() if h.label.lower() == release.label.lower()]
        for table, release in releases.items()
    }
