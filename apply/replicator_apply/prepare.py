"""What of apply needs privileges: the schema `replicator` and a table of receipts per table.

`replicator prepare target` runs it as the owner of the database; apply runs it by itself where its
role may. Blocks on Postgres.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import psycopg
from psycopg import sql

from replicator.datasets import find_dataset
from replicator.errors import Refused
from replicator.log import open_log
from replicator.plan import TableName
from replicator.postgres import connect, connection_parameters, driver_errors
from replicator.settings import ReplicatorSettings, requests_topic
from replicator_apply.catalog import TableShape, read_shapes
from replicator_apply.life import subscriptions_here
from replicator_apply.plan import receipts_name

Connection = psycopg.Connection[Any]
REMEDY = "Run `replicator prepare target` as the owner of the database."


def receipts_statements(connection: Connection, shapes: Iterable[TableShape]) -> list[sql.Composed]:
    """Give the statements that make the receipts of some tables, less what is there."""
    statements = []
    if not _exists(connection, "SELECT to_regnamespace('replicator')"):
        statements.append(sql.SQL("CREATE SCHEMA replicator").format())
    for shape in shapes:
        name = receipts_name(shape.name)
        found = sql.SQL("SELECT to_regclass({})").format(_regclass(name))
        if not _exists(connection, found):
            statements += _receipts(shape, sql.Identifier("replicator", name))
    return statements


def _regclass(name: str) -> sql.Literal:
    return sql.Literal('replicator."{}"'.format(name.replace('"', '""')))


def _exists(connection: Connection, question: str | sql.Composed) -> bool:
    row = connection.execute(question).fetchone()
    return bool(row and row[0])


def _receipts(shape: TableShape, receipts: sql.Identifier) -> list[sql.Composed]:
    """Make a table's receipts: the columns of its key, a subscription and a generation."""
    columns = sql.SQL(", ").join(
        sql.SQL("{} {} NOT NULL").format(sql.Identifier(name), sql.SQL(shape.columns[name].type))
        for name in shape.key
    )
    key = sql.SQL(", ").join(map(sql.Identifier, shape.key))
    return [
        sql.SQL(
            "CREATE TABLE {} ({}, subscription_id integer NOT NULL, generation integer NOT NULL, "
            "PRIMARY KEY ({}, subscription_id))"
        ).format(receipts, columns, key),
        sql.SQL("CREATE INDEX ON {} (subscription_id, generation)").format(receipts),
    ]


def ensure_receipts(
    connection: Connection, shapes: Mapping[TableName, TableShape], *, may_prepare: bool
) -> None:
    """Make the receipts that are missing, in the caller's transaction.

    Raises:
        Refused: they are missing, and apply must not or may not make them.
    """
    # Workers of several streams may share a table.
    connection.execute("SELECT pg_advisory_xact_lock(hashtext('replicator receipts'))")
    statements = receipts_statements(connection, shapes.values())
    if statements and not may_prepare:
        raise Refused("Tables of receipts are missing, and AUTO_PREPARE is off.", remedy=REMEDY)
    try:
        for statement in statements:
            connection.execute(statement)
    except psycopg.errors.InsufficientPrivilege as error:
        raise Refused("Apply's role may not make the tables of receipts.", remedy=REMEDY) from error


def prepare_target(
    settings: ReplicatorSettings, databases: Mapping[str, Any], *, sql_only: bool
) -> list[str]:
    """Do, or with `sql_only` only give, what apply needs done in this environment.

    Raises:
        Refused: the role may not run a statement.
        Unfit: a table is missing.
        DatabaseUnavailable, LogUnavailable: what it prepares is away.
    """
    entry = settings.entry_of(databases)
    parameters = connection_parameters(entry, settings.direct, application="replicator prepare")
    with connect(parameters) as connection, driver_errors("preparing the target"):
        every = subscriptions_here(settings, connection)
        datasets = [find_dataset(each.name, each.arguments) for each in every]
        tables = {release.table for dataset in datasets for release in dataset.releases}
        shapes = read_shapes(connection, sorted(tables))
        statements = receipts_statements(connection, shapes.values())
        texts = [f"{statement.as_string(connection)};" for statement in statements]
        if sql_only:
            return texts
        try:
            with connection.transaction():
                for statement in statements:
                    connection.execute(statement)
        except psycopg.errors.InsufficientPrivilege as error:
            raise Refused(
                "The role may not make the tables of receipts.",
                remedy="Run it as the owner of the database, or give --sql to an administrator.",
            ) from error
    for each in every:
        topic = requests_topic(each.source, each.stream, settings.environment)
        open_log(*settings.log_of_stream(each.source, each.stream)).create(topic)
    return texts
