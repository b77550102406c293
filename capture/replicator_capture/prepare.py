"""What of capture needs privileges: publication, replica identities, topics.

`replicator prepare source` runs it as the owner of the tables; capture runs it by itself where its
role may. Statements are composed from the catalog and the models, never from outside.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import psycopg
from psycopg import sql

from replicator.compiler import releases as released_by
from replicator.errors import Refused
from replicator.log.port import open_log
from replicator.plan import Release
from replicator.postgres import connect, connection_parameters, driver_errors
from replicator.settings import ReplicatorSettings, requests_topic, stream_topic
from replicator.sql_parts import identifier
from replicator_capture import publication
from replicator_capture.publication import Table

logger = logging.getLogger(__name__)


class Statement(NamedTuple):
    """One statement that prepares the source.

    Attributes:
        sql: what to run.
        problem: what is wrong without it, a sentence.
        needed: capture must not run without it.
        creates_publication: it is the one that creates the publication.
    """

    sql: sql.Composed
    problem: str
    needed: bool = True
    creates_publication: bool = False


def tables_of(releases: Sequence[Release]) -> list[Table]:
    """Give the opted-in tables of a stream."""
    return [Table(each.table.schema, each.table.name, each.key) for each in releases]


def statements(
    connection: psycopg.Connection, stream: str, releases: Sequence[Release]
) -> list[Statement]:
    """Say what is to be done, in this order; nothing if all is prepared."""
    tables = tables_of(releases)
    oids = publication.find_oids(connection, tables)
    there = [table for table in tables if table.label in oids]
    name = publication.name_of(stream)
    found = publication.read(connection, name)
    todo = _identities(connection, there, oids)
    if found is None:
        return [*todo, _create(name, there)]
    return [*todo, *_memberships(found, there, oids)]


def memberships(
    connection: psycopg.Connection, found: publication.Publication, releases: Sequence[Release]
) -> list[Statement]:
    """Say which tables are to join or to leave the publication."""
    tables = tables_of(releases)
    oids = publication.find_oids(connection, tables)
    return _memberships(found, [table for table in tables if table.label in oids], oids)


def _memberships(
    found: publication.Publication, there: Sequence[Table], oids: dict[str, int]
) -> list[Statement]:
    name, todo = found.name, []
    difference = publication.compare(found, there, oids)
    if difference.missing:
        labels = ", ".join(table.label for table in difference.missing)
        problem = f"The publication {name} lacks {labels}."
        todo.append(Statement(publication.add_sql(name, difference.missing), problem))
    if difference.superfluous:
        labels = ", ".join(member.label for member in difference.superfluous)
        problem = f"The publication {name} has {labels}, which is not opted in."
        statement = publication.remove_sql(name, difference.superfluous)
        todo.append(Statement(statement, problem, needed=False))
    return todo


def _create(name: str, tables: Sequence[Table]) -> Statement:
    return Statement(
        publication.create_sql(name, tables),
        f"There is no publication {name}.",
        creates_publication=True,
    )


def _identities(
    connection: psycopg.Connection, tables: Sequence[Table], oids: dict[str, int]
) -> list[Statement]:
    keys = {oids[table.label]: table.key for table in tables}
    return [
        Statement(
            sql.SQL("ALTER TABLE {} REPLICA IDENTITY {}").format(
                sql.Identifier(relation.schema, relation.name),
                sql.SQL("DEFAULT" if relation.primary_has(keys[relation.root]) else "FULL"),
            ),
            publication.lacking_identity(relation, keys[relation.root]),
        )
        for relation in publication.read_relations(connection, keys)
        if publication.lacking_identity(relation, keys[relation.root])
    ]


def unreplicable(connection: psycopg.Connection, releases: Sequence[Release]) -> list[str]:
    """Say which opted-in tables cannot be replicated whatever is run, a sentence each."""
    tables = tables_of(releases)
    oids = publication.find_oids(connection, tables)
    missing = [
        f"{each.table} of {each.label} is not a table of this database."
        for each in releases
        if str(each.table) not in oids
    ]
    relations = publication.read_relations(connection, oids.values())
    return [*missing, *publication.unlogged(relations)]


def run(connection: psycopg.Connection, todo: Sequence[Statement]) -> list[Statement]:
    """Run what the role may; give those that it may not, or that a lock keeps from running."""
    refused = []
    for statement in todo:
        try:
            with connection.transaction():
                connection.execute("SET LOCAL lock_timeout = '10s'")
                connection.execute(statement.sql)
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.LockNotAvailable):
            refused.append(statement)
        else:
            logger.info(
                "Prepared: %s", statement.sql.as_string(connection), extra={"event": "prepared"}
            )
    return refused


def prepare_source(
    settings: ReplicatorSettings, databases: dict[str, dict[str, object]], *, sql_only: bool
) -> list[str]:
    """Prepare every stream of this environment.

    Args:
        settings: of Replicator.
        databases: `settings.DATABASES`.
        sql_only: only say what would be run.

    Returns:
        The statements that were, or would be, run.

    Raises:
        Refused: a table is missing or never reaches the WAL, or the role may not run a statement.
        DatabaseUnavailable, LogUnavailable: try again.
    """
    parameters = connection_parameters(
        settings.entry_of(databases), settings.direct, application="replicator prepare"
    )
    done: list[str] = []
    with connect(parameters) as connection, driver_errors("preparing the source"):
        for stream in settings.streams:
            releases = released_by(stream)
            _refuse_unreplicable(connection, releases)
            todo = statements(connection, stream, releases)
            texts = [each.sql.as_string(connection) + ";" for each in todo]
            done += [*texts, *_grants(connection, releases)] if sql_only else texts
            if not sql_only:
                _run_all(connection, todo)
                create_topics(settings, stream)
    return done


def _refuse_unreplicable(connection: psycopg.Connection, releases: Sequence[Release]) -> None:
    if problems := unreplicable(connection, releases):
        raise Refused(
            " ".join(problems),
            remedy="Run `manage.py migrate` against this database; of a table that is there, run "
            "ALTER TABLE … SET LOGGED, or opt it out.",
        )


def _run_all(connection: psycopg.Connection, todo: Sequence[Statement]) -> None:
    if refused := run(connection, todo):
        raise Refused(
            "The role may not run: "
            + "; ".join(each.sql.as_string(connection) for each in refused),
            remedy="Run `replicator prepare source --sql` and give it to the owner of the tables.",
        )


def _grants(connection: psycopg.Connection, releases: Sequence[Release]) -> list[str]:
    """Comments with what capture's own role needs, where it is not the owner."""
    named = {table for each in releases for table in each.named_by}
    read = [*(each.table for each in releases), *sorted(named)]
    tables = sql.SQL(", ").join(map(identifier, read))
    return [
        "-- The role that capture connects as, if it is not the owner of the tables:",
        "-- ALTER ROLE <role> LOGIN REPLICATION;",
        f"-- GRANT SELECT ON {tables.as_string(connection)} TO <role>;",
        '-- GRANT SELECT, INSERT, UPDATE ON "replicator_beat" TO <role>;',
    ]


def create_topics(settings: ReplicatorSettings, stream: str) -> list[str]:
    """Create the stream's topic and the targets' requests topics; give what endangers them."""
    log = open_log(settings.log, settings.log_options)
    names = [
        stream_topic(settings.environment, stream),
        *(requests_topic(settings.environment, stream, each) for each in settings.targets),
    ]
    for name in names:
        log.create(name)
    return list(log.state(names[0]).problems)
