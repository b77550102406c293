"""Settings, declarations and stored state → the plan of one stream. Blocks on Postgres."""

import logging
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, Protocol

import psycopg
from psycopg import sql

from replicator.compiler import find_model, table_of
from replicator.datasets import find_dataset
from replicator.declare import declared_hooks
from replicator.errors import ConfigurationError, WrongDeclaration
from replicator.plan import DatasetPlan, OnLeave, TableName
from replicator.requests import MAX_PLAN
from replicator.settings import ReplicatorSettings, Subscription
from replicator.sql_parts import equal
from replicator_apply.catalog import read_shapes
from replicator_apply.choice import carry_over
from replicator_apply.defaults import absent_values, defaults
from replicator_apply.life import forget_trials
from replicator_apply.make_plan import Apart, make_plan
from replicator_apply.names import LocalKeys
from replicator_apply.plan import LEFT, SubscribedDataset, TargetPlan, receipts_name
from replicator_apply.prepare import ensure_receipts
from replicator_apply.receipts import receipt_tables
from replicator_apply.state import (
    Place,
    StoredSubscription,
    forget_other_tables,
    know_again,
    other_code,
    set_apart,
    start_run,
    store_fingerprint,
    store_subscription,
    stored_subscriptions,
    undeclare_others,
    wanted_subscriptions,
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

    What they declare no more rests, unless the command made it: the code may not have its dataset
    any more either.

    Raises:
        ConfigurationError: there is no such dataset, or it is not of the stream.
    """
    with connection.transaction(), connection.cursor() as cursor:
        forget_trials(cursor)
        before = {(s.dataset, s.arguments): s for s in wanted_subscriptions(cursor, place)}
        for subscription in declared_at(settings, place):
            dataset = find_dataset(subscription.name, subscription.arguments)
            _must_be_of(dataset, subscription)
            store_subscription(cursor, place, subscription, dataset.fingerprint)
            _begin(cursor, place, before.get((dataset.name, dataset.arguments)), dataset)
        _rest_others(cursor, settings, place)
        for stored in wanted_subscriptions(cursor, place):
            for dataset in [] if stored.declared else compiled(stored):
                if stored.paused:
                    know_again(cursor, stored.id)  # Resumed, it is backfilled.
                else:
                    store_fingerprint(cursor, stored.id, dataset.fingerprint)
                    _begin(cursor, place, stored, dataset)


def set_unknown_apart(connection: Connection, place: Place) -> None:
    """Let subscriptions wait whose datasets this code does not know; the others go on.

    A command with other code has made them. Their rows stand as they are.
    """
    with connection.transaction(), connection.cursor() as cursor:
        for stored in wanted_subscriptions(cursor, place):
            try:
                find_dataset(stored.dataset, stored.arguments)
            except WrongDeclaration as error:
                if set_apart(cursor, stored.id, f"apply runs other code: {error}"):
                    logger.warning(
                        "Subscription to %s of %s waits: %s. %s",
                        stored.name,
                        place.source,
                        error,
                        other_code(stored.name),
                        extra={"event": "unknown_dataset", "dataset": stored.name},
                    )


def _rest_others(cursor: psycopg.Cursor[Any], settings: ReplicatorSettings, place: Place) -> None:
    """Apply no more what the settings do not declare, and say so once."""
    declared = {(s.name, s.arguments) for s in declared_at(settings, place)}
    stored = wanted_subscriptions(cursor, place)
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
    known_again = before is not None and know_again(cursor, before.id)
    if before is not None and before.fingerprint == dataset.fingerprint and not known_again:
        return
    if before is not None and before.paused:
        carry_over(cursor, before.id, dataset)
        return  # Resumed, it is backfilled.
    reason = "subscribed" if before is None else "rules changed"
    if known_again:
        reason = "known again"
    for stored in stored_subscriptions(cursor, place):
        if (stored.dataset, stored.arguments) == (dataset.name, dataset.arguments):
            carry_over(cursor, stored.id, dataset)
            start_run(cursor, stored.id, reason, doubts=True)


def _must_be_of(dataset: DatasetPlan, subscription: Subscription) -> None:
    if dataset.stream != subscription.stream:
        raise ConfigurationError(
            f"Dataset {dataset.full_name!r} travels in stream {dataset.stream!r}, and the "
            f"subscription names {subscription.stream!r}.",
            remedy="Correct `stream` in REPLICATOR['SUBSCRIPTIONS'].",
        )


def load_plan(
    connection: Connection, settings: ReplicatorSettings, place: Place, also: int | None = None
) -> TargetPlan:
    """Compile the subscriptions against the tables here; make their receipts.

    Args:
        connection: of the target.
        settings: of this environment.
        place: the stream.
        also: a subscription that nobody wants yet.

    Raises:
        ConfigurationError: there are too many subscriptions.
        Unfit: a table does not fit.
    """
    with connection.transaction(), connection.cursor() as cursor:
        wanted = wanted_subscriptions(cursor, place, also)
        must_not_be_too_many(len(wanted), place)
        subscribed = subscribed_datasets(settings, place, wanted)
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
            apart=_apart(cursor, wanted, releases),
        )
        ensure_receipts(connection, shapes, may_prepare=settings.auto_prepare)
        _forget_removed(cursor, plan)
        forget_other_tables(cursor, place, plan.tables)
    return plan


def must_not_be_too_many(subscriptions: int, place: Place) -> None:
    """Refuse more subscriptions to a stream than a request can name. Raises ConfigurationError."""
    if subscriptions > MAX_PLAN:
        raise ConfigurationError(
            f"{subscriptions:,} subscriptions to stream {place.stream} of {place.source} are too "
            f"many: at most {MAX_PLAN} can be applied.",
            remedy="Ask for several things by one: `polls:3,4` instead of `polls:3` and `polls:4`.",
        )


def subscribed_datasets(
    settings: ReplicatorSettings, place: Place, wanted: Iterable[StoredSubscription]
) -> list[SubscribedDataset]:
    """Compile the datasets of those subscriptions that are not paused, and that this code knows."""
    fuses = {(s.name, s.arguments): s.fuse for s in declared_at(settings, place)}
    return [
        SubscribedDataset(
            stored.id,
            dataset,
            stored.generation,
            stored.on_clash,
            fuses.get((stored.dataset, stored.arguments)),
            gated=bool(stored.gate) and not stored.unknown,
            doubted=stored.doubted,
        )
        for stored in wanted
        if not stored.paused
        for dataset in compiled(stored)
    ]


def _apart(
    cursor: psycopg.Cursor[Any],
    wanted: Iterable[StoredSubscription],
    tables: Collection[TableName],
) -> Apart:
    """Say what stands of those subscriptions that are paused, or that this code does not know."""
    paused = standing_still(wanted)
    frozen = [stored.id for stored in paused]
    made = set(receipt_tables(cursor.connection)) if frozen else set()
    standing = frozenset(
        table
        for table in tables
        if receipts_name(table) in made and _has_receipts(cursor, table, frozen)
    )
    return Apart(frozen, standing, policies=policies_of(paused))


def _has_receipts(
    cursor: psycopg.Cursor[Any], table: TableName, subscriptions: Sequence[int]
) -> bool:
    row = cursor.execute(
        sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE subscription_id = ANY({}))").format(
            sql.Identifier("replicator", receipts_name(table)), list(subscriptions)
        )  # Without parameters: a table's name may hold a percent sign.
    ).fetchone()
    return bool(row and row[0])


def standing_still(subscriptions: Iterable[StoredSubscription]) -> list[StoredSubscription]:
    """List those whose rows stay as they are: they are paused, or this code does not know them."""
    return [each for each in subscriptions if each.paused or not compiled(each)]


class Named(Protocol):
    """What names a subscription's dataset."""

    @property
    def dataset(self) -> str:
        """Its name."""

    @property
    def arguments(self) -> str:
        """As in `polls:3,4`."""


def policies_of(subscriptions: Iterable[Named]) -> tuple[OnLeave, ...]:
    """Say what becomes of rows that leave some subscriptions, as far as the code has them."""
    plans = chain.from_iterable(map(compiled, subscriptions))
    return tuple(dict.fromkeys(policy for plan in plans for policy in plan.on_leave))


def compiled(subscription: Named) -> list[DatasetPlan]:
    """Compile a subscription's dataset; none, if the code does not have it any more."""
    try:
        return [find_dataset(subscription.dataset, subscription.arguments)]
    except WrongDeclaration:
        return []


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


def hooks_of(tables: Collection[TableName]) -> dict[TableName, list[str]]:
    """Name the functions that are called after rows of some tables were applied."""
    found: dict[TableName, list[str]] = {}
    for hook in declared_hooks():
        with suppress(WrongDeclaration):  # Checks tell of it.
            table = table_of(find_model(hook.label))
            if table in tables:
                found.setdefault(table, []).append(hook.name)
    return found
