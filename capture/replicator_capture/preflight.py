"""What `replicator check` probes on a source.

E120 wal_level is not logical             E121 the database is a standby
E122 no replication slot is free          E123 no walsender is free
E124 the role may not replicate           E125 a replica identity lacks the key
E126 the publication is missing and capture may not create it
E127 a topic is missing                   W120 a topic's settings endanger the stream
E128 capture would refuse to start: slot, database and log do not belong together
E129 the publication lacks a table, or is not as capture makes it
W129 capture is going to change which tables the publication has
W121 the slot may fill the disk           W125 capture is going to set a replica identity
W122 a slot is left of an environment that publishes to nobody any more
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import psycopg
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as Advice
from psycopg.rows import class_row

from replicator.compiler import releases, table_of
from replicator.log.port import Log
from replicator.models import Beat
from replicator.plan import Release, TableName
from replicator.postgres import driver_errors
from replicator.preflight import (
    TableFacts,
    column_messages,
    read_tables,
    server_messages,
    table_messages,
)
from replicator.settings import ReplicatorSettings, requests_topic, stream_topic
from replicator_capture import prepare, publication, slot
from replicator_capture.facts import foresee
from replicator_capture.startup import PREPARE


class Server(NamedTuple):
    """Settings and privileges that logical replication needs.

    Attributes:
        slots: replication slots in use; `own_slots` of them are ours.
        senders: walsenders in use.
        replicates: the role has REPLICATION or is a superuser.
        creates: the role may create a publication in this database.
        keep: max_slot_wal_keep_size in MB; -1: unlimited.
    """

    wal_level: str
    standby: bool
    slots: int
    own_slots: int
    max_slots: int
    senders: int
    max_senders: int
    replicates: bool
    creates: bool
    keep: int


# https://www.postgresql.org/docs/current/logical-replication-config.html
_SERVER = """
SELECT current_setting('wal_level') AS wal_level, pg_is_in_recovery() AS standby,
       (SELECT count(*) FROM pg_replication_slots)::int AS slots,
       (SELECT count(*) FROM pg_replication_slots WHERE database = current_database()
        AND starts_with(slot_name::text, 'replicator_'))::int AS own_slots,
       current_setting('max_replication_slots')::int AS max_slots,
       (SELECT count(*) FROM pg_stat_replication)::int AS senders,
       current_setting('max_wal_senders')::int AS max_senders,
       (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user) AS replicates,
       has_database_privilege(current_database(), 'CREATE') AS creates,
       (SELECT setting::int FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS keep
"""


def probe(
    settings: ReplicatorSettings, connection: psycopg.Connection, log: Log
) -> list[CheckMessage]:
    """Probe database and log of a source.

    Raises:
        DatabaseUnavailable, LogUnavailable: it is away.
    """
    with driver_errors("probing the source"):
        messages = list(server_messages(connection))
        messages += _beat(connection)
        with connection.cursor(row_factory=class_row(Server)) as cursor:
            server = cursor.execute(_SERVER).fetchone()
        if server is not None:
            messages += server_checks(server)
        for stream in settings.streams:
            messages += _stream(connection, stream, releases(stream), settings.auto_prepare)
    for stream in settings.streams:
        messages += _topics(settings, stream, log)
    if not any(map(_hides_start, messages)):
        for stream in settings.streams:
            messages += _start(settings, stream, connection, log)
    return messages


def unused(settings: ReplicatorSettings, connection: psycopg.Connection) -> list[CheckMessage]:
    """Find what an environment has left that publishes to nobody. Raises DatabaseUnavailable."""
    with driver_errors("looking at the slots"):
        found = [each.name for stream in settings.streams for each in slot.find(connection, stream)]
    text = "This environment publishes to nobody (TARGETS is empty), and a slot of it holds WAL."
    return [Advice(text, slot.UNUSED, obj=name, id="replicator.W122") for name in found]


def _beat(connection: psycopg.Connection) -> Iterator[CheckMessage]:
    (facts,) = read_tables(connection, [table_of(Beat)], ["SELECT", "INSERT", "UPDATE"])
    if facts.kind is not None:  # E108 says so otherwise.
        yield from table_messages(facts)


def _hides_start(message: CheckMessage) -> bool:
    """Whether it says already that capture cannot start, or keeps from foreseeing its start."""
    number = str(message.id).removeprefix("replicator.")
    return number in {"E108", "E120", "E121"} or message.obj == str(table_of(Beat))


def _start(
    settings: ReplicatorSettings, stream: str, connection: psycopg.Connection, log: Log
) -> Iterator[CheckMessage]:
    refusal = foresee(connection, log, settings, stream)
    if refusal is not None:
        yield _error("E128", refusal.message, refusal.remedy)


def server_checks(server: Server) -> Iterator[CheckMessage]:
    """Say what of the server's settings is in the way. Pure."""
    if server.standby:
        text = "The database is a hot standby; capture needs the primary."
        yield _error("E121", text, "Point DATABASE, or DIRECT, at the primary.")
    if server.wal_level != "logical":
        hint = "Run ALTER SYSTEM SET wal_level = 'logical', and restart Postgres."
        yield _error("E120", f"wal_level is {server.wal_level}.", hint)
    if not server.own_slots and server.slots >= server.max_slots:
        text = f"All {server.max_slots} replication slots are in use."
        yield _error("E122", text, "Raise max_replication_slots, or drop slots nobody uses.")
    if server.senders >= server.max_senders:
        text = f"All {server.max_senders} walsenders are in use."
        yield _error("E123", text, "Raise max_wal_senders.")
    if not server.replicates:
        hint = "Run as a superuser: ALTER ROLE <role> REPLICATION."
        yield _error("E124", "The role may not replicate.", hint)
    if server.keep == -1:
        text = "max_slot_wal_keep_size is unlimited: while capture is away, WAL fills the disk."
        hint = "Set a limit that your disk bears; beyond it a new epoch is needed."
        yield Advice(text, hint, id="replicator.W121")


def _stream(
    connection: psycopg.Connection, stream: str, compiled: tuple[Release, ...], may_prepare: bool
) -> Iterator[CheckMessage]:
    keys = {(each.table.schema, each.table.name): each.key for each in compiled}
    tables = read_tables(connection, [each.table for each in compiled], ["SELECT"])
    for facts in tables:
        messages = list(table_messages(facts))
        yield from messages
        if not messages:
            yield from identity_checks(facts, keys[facts.schema, facts.name], may_prepare)
    yield from column_messages(connection, compiled)
    named = frozenset[TableName]().union(*(each.named_by for each in compiled))
    for facts in read_tables(connection, sorted(named), ["SELECT"]):
        yield from table_messages(facts)
    name = publication.name_of(stream)
    found = publication.read(connection, name)
    if found is not None:
        may_change = may_prepare and _may_change(connection, name, tables)
        todo = prepare.memberships(connection, found, compiled)
        yield from publication_checks(found, todo, may_change)
    elif not (may_prepare and _may_publish(connection, tables)):
        text = f"There is no publication {name}, and capture's role may not create it."
        yield _error("E126", text, PREPARE)


def publication_checks(
    found: publication.Publication, todo: Sequence[prepare.Statement], may_change: bool
) -> Iterator[CheckMessage]:
    """Say how a publication differs from what capture needs. Pure."""
    for problem in publication.problems(found):
        hint = f"Change the publication {found.name}, or drop it and begin a new epoch."
        yield _error("E129", problem, hint)
    for each in todo:
        if may_change:
            hint = "Nothing to do: capture is going to change it (AUTO_PREPARE)."
            yield Advice(each.problem, hint, id="replicator.W129")
        elif each.needed:
            yield _error("E129", each.problem, PREPARE)
        else:
            yield Advice(each.problem, PREPARE, id="replicator.W129")


def identity_checks(
    facts: TableFacts, key: tuple[str, ...], may_prepare: bool
) -> Iterator[CheckMessage]:
    """Say whether updates and deletes of a table would tell which row they mean. Pure."""
    if facts.kind == "p" or facts.identity == "f" or set(key) <= set(facts.identity_columns):
        return
    text = "Its replica identity lacks the primary key: updates and deletes would fail."
    if may_prepare and facts.owned:
        hint = "Nothing to do: capture is going to set it (AUTO_PREPARE)."
        yield Advice(text, hint, obj=facts.label, id="replicator.W125")
    else:
        yield Error(text, PREPARE, obj=facts.label, id="replicator.E125")


def _may_change(
    connection: psycopg.Connection, publication_name: str, tables: list[TableFacts]
) -> bool:
    row = connection.execute(
        "SELECT pg_has_role(pubowner, 'USAGE') FROM pg_publication WHERE pubname = %s",
        (publication_name,),
    ).fetchone()
    return bool(row and row[0]) and all(facts.owned for facts in tables if facts.kind)


def _may_publish(connection: psycopg.Connection, tables: list[TableFacts]) -> bool:
    row = connection.execute(
        "SELECT has_database_privilege(current_database(), 'CREATE')"
    ).fetchone()
    return bool(row and row[0]) and all(facts.owned for facts in tables if facts.kind)


def _topics(settings: ReplicatorSettings, stream: str, log: Log) -> Iterator[CheckMessage]:
    names = [stream_topic(settings.environment, stream)]
    names += [requests_topic(settings.environment, stream, each) for each in settings.targets]
    for name in names:
        state = log.state(name)
        if not state.exists and not settings.auto_prepare:
            yield Error("The topic does not exist.", PREPARE, obj=name, id="replicator.E127")
        for problem in state.problems:
            hint = "Change the topic's configuration."
            yield Advice(problem, hint, obj=name, id="replicator.W120")


def _error(number: str, text: str, hint: str) -> Error:
    return Error(text, hint, id=f"replicator.{number}")
