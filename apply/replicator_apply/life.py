"""Subscriptions that come and go while the stream flows, as commands ask. Blocks on Postgres.

What is asked for stands in the subscription's row; the worker of its stream sees it within a
second and acts on it, or the next worker does.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from replicator.models import Subscription, VerifyRun
from replicator.plan import DatasetPlan
from replicator.postgres import driver_errors
from replicator.settings import ReplicatorSettings
from replicator.settings import Subscription as WantedSubscription
from replicator.sql_parts import equal
from replicator_apply.receipts import held_by, key_of_receipts
from replicator_apply.state import (
    STANDS,
    TRIAL,
    Place,
    cancel_run,
    forget_chosen,
    known_subscriptions,
    start_run,
    state_table,
)

Connection = psycopg.Connection[Any]
Cursor = psycopg.Cursor[Any]


def _compose(text: str) -> sql.Composed:
    return sql.SQL(text).format(
        subscription=state_table(Subscription), check=state_table(VerifyRun), trial=TRIAL
    )


_SUBSCRIBE = _compose(
    "INSERT INTO {subscription} (source, stream, dataset, arguments, fingerprint, declared, "
    "by_command, on_clash) VALUES (%(source)s, %(stream)s, %(dataset)s, %(arguments)s, "
    "%(fingerprint)s, false, true, %(on_clash)s) "
    "ON CONFLICT (source, stream, dataset, arguments) DO UPDATE SET by_command = true, "
    "fingerprint = EXCLUDED.fingerprint, on_clash = EXCLUDED.on_clash, paused = false, "
    "leaving = '', gate = '', gated_at = NULL RETURNING id"
)
_END = _compose("UPDATE {subscription} SET leaving = %s, by_command = false WHERE id = %s")
_ON_CLASH = _compose(
    "UPDATE {subscription} SET on_clash = %(on_clash)s WHERE source = %(source)s "
    "AND stream = %(stream)s AND dataset = %(dataset)s AND arguments = %(arguments)s"
)
_PAUSE = _compose("UPDATE {subscription} SET paused = %s WHERE id = %s AND paused <> %s")
_LEAVING = _compose("SELECT leaving FROM {subscription} WHERE id = %s")
_TRY = _compose(
    "INSERT INTO {subscription} (source, stream, dataset, arguments, fingerprint, declared, "
    "on_clash) VALUES (%(source)s, %(stream)s, %(dataset)s, %(arguments)s, '', false, "
    "%(on_clash)s) ON CONFLICT (source, stream, dataset, arguments) DO UPDATE SET "
    "on_clash = EXCLUDED.on_clash RETURNING id"
)
_FORGET_TRIAL = (
    _compose("DELETE FROM {check} WHERE subscription_id = %s"),
    _compose("DELETE FROM {subscription} WHERE id = %s AND {trial}"),
)
# Whoever compares holds the lock; it goes with the session, however that ends.
_LOCK_TRIAL = "SELECT pg_advisory_lock_shared(hashtext('replicator trial'), %s)"
_UNLOCK_TRIAL = "SELECT pg_advisory_unlock_shared(hashtext('replicator trial'), %s)"
_TRIALS = _compose("SELECT id FROM {subscription} WHERE {trial} ORDER BY id")
_IS_ABANDONED = "SELECT pg_try_advisory_xact_lock(hashtext('replicator trial'), %s)"
_PLACES = _compose(
    "SELECT DISTINCT source, stream FROM {subscription} WHERE by_command OR leaving <> '' "
    "ORDER BY source, stream"
)
_SHARED = (
    "SELECT count(*) FROM {receipts} r WHERE r.subscription_id = {id} AND EXISTS "
    "(SELECT FROM {receipts} o JOIN {subscription} s ON s.id = o.subscription_id "
    "WHERE {same} AND o.subscription_id <> {id} AND {stands})"
)
"""Without parameters: a table's name may hold a percent sign."""
_CANCEL_CHECKS = _compose(
    "UPDATE {check} SET state = 'cancelled', updated_at = now(), finished_at = now() "
    "WHERE subscription_id = %s AND state IN ('running', 'paused')"
)


def all_subscriptions(
    settings: ReplicatorSettings, connection: Connection
) -> list[WantedSubscription]:
    """List what settings declare and what commands have made, each once; paused ones, too."""
    made = [
        WantedSubscription(
            source=known.place.source,
            dataset=known.name,
            stream=known.place.stream,
            on_clash="adopt" if known.on_clash == "adopt" else "refuse",
        )
        for known in known_subscriptions(connection)
        if known.by_command and not known.leaving
    ]
    every = {(s.source, s.stream, s.dataset): s for s in [*made, *settings.subscriptions]}
    return list(every.values())


def subscriptions_here(
    settings: ReplicatorSettings, connection: Connection
) -> Sequence[WantedSubscription]:
    """As `all_subscriptions`; those of settings where there is no state yet, or it is not seen."""
    try:
        with connection.transaction():
            return all_subscriptions(settings, connection)
    except (
        psycopg.errors.UndefinedTable,
        psycopg.errors.UndefinedColumn,
        psycopg.errors.InsufficientPrivilege,
    ):
        return settings.subscriptions


def known_here(connection: Connection) -> bool:
    """Say whether any subscription is stored, also one that rests or ends."""
    with driver_errors("looking at subscriptions"):
        return bool(known_subscriptions(connection))


def subscribe(connection: Connection, place: Place, dataset: DatasetPlan, on_clash: str) -> int:
    """Store a subscription and begin its backfill; gives the run's id."""
    values = {
        "dataset": dataset.name,
        "arguments": dataset.arguments,
        "fingerprint": dataset.fingerprint,
        "on_clash": on_clash,
    }
    with connection.transaction(), connection.cursor() as cursor:
        forget_trials(cursor)
        row = cursor.execute(_SUBSCRIBE, {**place.parameters, **values}).fetchone()
        if row is None:
            raise LookupError(dataset.full_name)
        forget_chosen(cursor, int(row[0]), [rule.name for rule in dataset.paged])
        return start_run(cursor, int(row[0]), "subscribed", doubts=True)


def set_on_clash(
    connection: Connection, place: Place, known: WantedSubscription, on_clash: str
) -> None:
    """Say anew what becomes of local rows under the keys of a subscription."""
    names = {"dataset": known.name, "arguments": known.arguments, "on_clash": on_clash}
    connection.execute(_ON_CLASH, {**place.parameters, **names})


def ask_to_end(connection: Connection, subscription: int, *, keep_rows: bool) -> None:
    """Ask for a subscription's end; its comparisons and backfills end now."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(_END, ("keep" if keep_rows else "remove", subscription))
        _end_runs(cursor, subscription)


def leaving(connection: Connection, subscription: int) -> str | None:
    """Say how far an end is: None once it is through, "" if it was taken back."""
    row = connection.execute(_LEAVING, (subscription,)).fetchone()
    return None if row is None else str(row[0])


@contextmanager
def on_trial(
    connection: Connection, place: Place, dataset: DatasetPlan, on_clash: str
) -> Iterator[int]:
    """Store a subscription that nobody applies, while the body runs; gives its id."""
    values = {"dataset": dataset.name, "arguments": dataset.arguments, "on_clash": on_clash}
    with connection.transaction(), connection.cursor() as cursor:
        forget_trials(cursor)
        row = cursor.execute(_TRY, {**place.parameters, **values}).fetchone()
        if row is None:
            raise LookupError(dataset.full_name)
        cursor.execute(_LOCK_TRIAL, (row[0],))
    try:
        yield int(row[0])
    finally:
        for statement in (*_FORGET_TRIAL, _UNLOCK_TRIAL):
            connection.execute(statement, (row[0],))


def forget_trials(cursor: Cursor) -> None:
    """Forget what dry runs stored that were killed; in a transaction."""
    for (subscription,) in cursor.execute(_TRIALS).fetchall():
        found = cursor.execute(_IS_ABANDONED, (subscription,)).fetchone()
        if found and found[0]:
            for statement in _FORGET_TRIAL:
                cursor.execute(statement, (subscription,))


def commanded_places(connection: Connection) -> list[Place]:
    """List the streams of which commands made subscriptions, or end some."""
    return [Place(*row) for row in connection.execute(_PLACES)]


def holdings(connection: Connection, subscription: int) -> tuple[int, int]:
    """Count the rows that a subscription holds, and those that others hold as well."""
    held = held_by(connection, subscription)
    return sum(held.values()), sum(_shared(connection, name, subscription) for name in held)


def _shared(connection: Connection, name: str, subscription: int) -> int:
    statement = sql.SQL(_SHARED).format(
        receipts=sql.Identifier("replicator", name),
        subscription=state_table(Subscription),
        same=_same_key(connection, name),
        stands=STANDS,
        id=subscription,
    )
    row = connection.execute(statement).fetchone()
    return int(row[0]) if row else 0


def _same_key(connection: Connection, name: str) -> sql.Composable:
    """Join receipts `o` and `r` of the same row."""
    key = key_of_receipts(connection, name)
    return equal(key, "o", key, "r")


def pause(connection: Connection, subscription: int) -> bool:
    """Let a subscription's rows stand as they are; False: they do already."""
    with connection.transaction(), connection.cursor() as cursor:
        if not cursor.execute(_PAUSE, (True, subscription, True)).rowcount:
            return False
        _end_runs(cursor, subscription)
        return True


def resume(connection: Connection, subscription: int) -> int | None:
    """Bring a paused subscription up to date; gives the run's id, None: it is not paused."""
    with connection.transaction(), connection.cursor() as cursor:
        if not cursor.execute(_PAUSE, (False, subscription, False)).rowcount:
            return None
        return start_run(cursor, subscription, "resumed", doubts=True)


def _end_runs(cursor: Cursor, subscription: int) -> None:
    cancel_run(cursor, subscription)
    cursor.execute(_CANCEL_CHECKS, (subscription,))
