"""Settings, declarations and stored state → the plan of one stream. Blocks on Postgres."""

from typing import Any

import psycopg

from replicator.compiler import find_dataset
from replicator.errors import ConfigurationError
from replicator.plan import DatasetPlan
from replicator.settings import ReplicatorSettings, Subscription
from replicator_apply.catalog import read_shapes
from replicator_apply.defaults import absent_values, defaults
from replicator_apply.plan import SubscribedDataset, TargetPlan, make_plan
from replicator_apply.prepare import ensure_receipts
from replicator_apply.state import (
    Place,
    StoredSubscription,
    start_run,
    store_subscription,
    stored_subscriptions,
)

Connection = psycopg.Connection[Any]


def places(settings: ReplicatorSettings) -> list[Place]:
    """List the streams that the settings subscribe to, each once."""
    return list(dict.fromkeys(Place(s.source, s.stream) for s in settings.subscriptions))


def declared_at(settings: ReplicatorSettings, place: Place) -> list[Subscription]:
    """List the subscriptions of one stream that the settings declare."""
    return [s for s in settings.subscriptions if (s.source, s.stream) == place]


def store_declared(connection: Connection, settings: ReplicatorSettings, place: Place) -> None:
    """Store what the settings declare; begin a backfill of what is new or has changed its rules."""
    with connection.transaction(), connection.cursor() as cursor:
        before = {(s.dataset, s.arguments): s for s in stored_subscriptions(cursor, place)}
        for subscription in declared_at(settings, place):
            dataset = find_dataset(subscription.name)
            _must_be_of(dataset, subscription)
            store_subscription(cursor, place, subscription, dataset.fingerprint)
            _begin(cursor, place, before.get((dataset.name, subscription.arguments)), dataset)


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
        if stored.dataset == dataset.name and (before is None or stored.id == before.id):
            start_run(cursor, stored.id, reason)


def _must_be_of(dataset: DatasetPlan, subscription: Subscription) -> None:
    if dataset.stream != subscription.stream:
        raise ConfigurationError(
            f"Dataset {dataset.name!r} travels in stream {dataset.stream!r}, and the subscription "
            f"names {subscription.stream!r}.",
            remedy="Correct `stream` in REPLICATOR['SUBSCRIPTIONS'].",
        )


def load_plan(connection: Connection, settings: ReplicatorSettings, place: Place) -> TargetPlan:
    """Compile the stored subscriptions against the tables here; make their receipts.

    Raises:
        ConfigurationError: a dataset is not declared.
        Unfit: a table does not fit.
    """
    fuses = {(s.name, s.arguments): s.fuse for s in declared_at(settings, place)}
    with connection.transaction(), connection.cursor() as cursor:
        subscribed = [
            SubscribedDataset(
                stored.id,
                find_dataset(stored.dataset),
                stored.arguments,
                stored.generation,
                stored.on_clash,
                fuses.get((stored.dataset, stored.arguments)),
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
        plan = make_plan(subscribed, shapes, filled, absent)
        ensure_receipts(connection, shapes, may_prepare=settings.auto_prepare)
    return plan
