"""What `replicator check` probes on a target.

E140 the role may not make temporary tables
E141 the schema `replicator` is missing and the role may not create it
E142 another environment has written the replication state: the database is a copy
E143 a command subscribed to a dataset that the code does not have any more
W140 the log has no topic of the source yet
W141 a table has triggers of its own, which fire for replicated rows too
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress

import psycopg
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as Advice

from replicator.datasets import find_dataset
from replicator.errors import WrongDeclaration
from replicator.log.port import open_log
from replicator.models import StreamPosition
from replicator.plan import Release, TableName
from replicator.postgres import driver_errors
from replicator.preflight import (
    TableFacts,
    column_messages,
    read_tables,
    server_messages,
    table_messages,
)
from replicator.settings import ReplicatorSettings, Subscription, stream_topic
from replicator_apply.life import subscriptions_here
from replicator_apply.state import copied, owners

PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE")
PREPARE = "Run `replicator prepare target` as the owner of the database."


def probe(settings: ReplicatorSettings, connection: psycopg.Connection) -> list[CheckMessage]:
    """Probe the database of a target, and the logs it reads.

    Raises:
        DatabaseUnavailable, LogUnavailable: it is away.
    """
    with driver_errors("probing the target"):
        messages = list(server_messages(connection))
        messages += _database(connection)
        messages += _state(settings, connection)
        every = subscriptions_here(settings, connection)
        messages += _lost(settings, every)
        releases = _releases(every)
        tables = sorted({release.table for release in releases})
        named = sorted(frozenset[TableName]().union(*(each.named_by for each in releases)))
        for facts in read_tables(connection, tables, PRIVILEGES):
            messages += table_messages(facts)
            messages += trigger_checks(facts)
        messages += column_messages(connection, [*{r.table: r for r in releases}.values()])
        # What rows point at by name is made here where it is not.
        for facts in read_tables(connection, named, ["SELECT", "INSERT"]):
            messages += table_messages(facts)
    for subscription in every:
        messages += _topic(settings, subscription)
    return messages


def subscribes(settings: ReplicatorSettings, connection: psycopg.Connection) -> bool:
    """Say whether settings or commands subscribe to anything. Raises DatabaseUnavailable."""
    with driver_errors("looking at subscriptions"):
        return bool(subscriptions_here(settings, connection))


def _lost(settings: ReplicatorSettings, every: Iterable[Subscription]) -> Iterator[CheckMessage]:
    """Find what commands subscribed to and the code does not have any more."""
    for each in every:
        try:
            find_dataset(each.name, each.arguments)
        except WrongDeclaration as error:
            if each not in settings.subscriptions:
                text = f"A command subscribed to {each.dataset}, which waits: {error}."
                hint = f"Bring it back, or run `replicator unsubscribe {each.dataset}`."
                yield Error(text, hint, id="replicator.E143")


def _releases(every: Iterable[Subscription]) -> list[Release]:
    plans = []
    for each in every:
        with suppress(WrongDeclaration):
            plans.append(find_dataset(each.name, each.arguments))
    return [release for plan in plans for release in plan.releases]


def trigger_checks(facts: TableFacts) -> Iterator[CheckMessage]:
    """Say which triggers of the target may change what is written. Pure."""
    if facts.triggers:
        text = f"It has triggers that fire for replicated rows too: {', '.join(facts.triggers)}."
        hint = "See that they change no replicated column; `replicator verify` would show it."
        yield Advice(text, hint, obj=facts.label, id="replicator.W141")


def _database(connection: psycopg.Connection) -> Iterator[CheckMessage]:
    row = connection.execute(
        "SELECT has_database_privilege(current_database(), 'TEMPORARY'),"
        " has_database_privilege(current_database(), 'CREATE'),"
        " coalesce((SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace"
        "           WHERE nspname = 'replicator'), false)"
    ).fetchone()
    temporary, create, in_schema = row if row is not None else (False, False, False)
    if not temporary:
        text = "The role may not make temporary tables."
        yield Error(text, "Run GRANT TEMPORARY ON DATABASE … TO the role.", id="replicator.E140")
    if not create and not in_schema:
        text = "The role may not create tables in the schema `replicator`, or the schema."
        yield Error(text, PREPARE, id="replicator.E141")


def _state(settings: ReplicatorSettings, connection: psycopg.Connection) -> Iterator[CheckMessage]:
    name = TableName("public", StreamPosition._meta.db_table)
    (facts,) = read_tables(connection, [name], PRIVILEGES)
    if facts.kind is None:
        return  # E108 says so.
    yield from table_messages(facts)
    if "SELECT" in facts.lacking:
        return
    with connection.cursor() as cursor:
        for owner in owners(cursor):
            if owner != settings.environment:
                refusal = copied(owner, settings.environment)
                yield Error(str(refusal), refusal.remedy, id="replicator.E142")


def _topic(settings: ReplicatorSettings, subscription: Subscription) -> Iterator[CheckMessage]:
    name = stream_topic(subscription.source, subscription.stream)
    place = subscription.source, subscription.stream
    if not open_log(*settings.log_of_stream(*place)).state(name).exists:
        text = "The log has no such topic: nothing has been published yet."
        hint = f"Start `replicator capture` in {subscription.source}; apply waits for it."
        yield Advice(text, hint, obj=name, id="replicator.W140")
