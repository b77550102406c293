"""The replication slot of a stream: the only thing that capture keeps between two starts.

Named `replicator_<stream>__<epoch>`: one slot is one epoch. Blocks on the database only; errors of
the driver pass through, to be translated by the caller (`replicator.postgres`).

Source: https://www.postgresql.org/docs/current/view-pg-replication-slots.html
"""

import re
import secrets
from typing import NamedTuple

from psycopg import Connection, sql
from psycopg.rows import class_row

from replicator.positions import EpochId, Lsn, parse_lsn

PLUGIN = "pgoutput"
_FAILOVER_SINCE = 170000


class Slot(NamedTuple):
    """A slot of this database, as Postgres describes it.

    Attributes:
        epoch: the tail of its name.
        active: a walsender streams from it.
        active_pid: process id of that walsender.
        wal_status: reserved, extended, unreserved or lost; "" while nothing is reserved.
        confirmed: what Postgres has been told is safe; None right after creation.
        restart: oldest WAL that the slot holds; None once the slot is lost.
        retained: bytes of WAL that it holds.
        safe_wal_size: bytes that may be written before it is lost; None without a limit.
        synced: it has been copied here from a primary by slot synchronisation (17+).
        invalidation: why Postgres gave it up (17+), "" if it has not.
    """

    name: str
    plugin: str
    active: bool
    active_pid: int | None
    wal_status: str
    confirmed: Lsn | None
    restart: Lsn | None
    retained: int
    safe_wal_size: int | None
    synced: bool
    invalidation: str

    @property
    def epoch(self) -> EpochId:
        """The epoch that the slot is."""
        return EpochId(self.name[-8:])


class _Row(NamedTuple):
    name: str
    plugin: str
    active: bool
    active_pid: int | None
    wal_status: str
    confirmed: str | None
    restart: str | None
    retained: int
    safe_wal_size: int | None
    synced: bool
    invalidation: str


_SLOTS = """
SELECT slot_name::text AS name, plugin::text AS plugin, active, active_pid,
       coalesce(wal_status, '') AS wal_status,
       confirmed_flush_lsn::text AS confirmed, restart_lsn::text AS restart,
       coalesce(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                     ELSE pg_current_wal_lsn() END - restart_lsn, 0)::int8 AS retained,
       safe_wal_size,
       coalesce((to_jsonb(s) ->> 'synced')::bool, false) AS synced,
       coalesce(to_jsonb(s) ->> 'invalidation_reason', '') AS invalidation
FROM pg_replication_slots s
WHERE database = current_database() AND starts_with(slot_name::text, %s)
ORDER BY slot_name
"""


UNUSED = (
    "If it is a source, say in TARGETS who may ask for what. Else drop slot and publication: "
    'see docs/operations.md, "An environment that no longer publishes".'
)
"""What to do about a slot where nobody may ask for anything."""


def prefix_of(stream: str) -> str:
    """Give what the names of all slots of a stream begin with."""
    return f"replicator_{stream}__"


def name_of(stream: str, epoch: EpochId) -> str:
    """Name of the slot that is this epoch of a stream."""
    return prefix_of(stream) + epoch


def new_epoch_id() -> EpochId:
    """Draw the id of a new epoch: eight hexadecimal digits."""
    return EpochId(secrets.token_hex(4))


def find(connection: Connection, stream: str) -> list[Slot]:
    """Describe the slots of a stream in this database, by name."""
    prefix = prefix_of(stream)
    with connection.cursor(row_factory=class_row(_Row)) as cursor:
        rows = cursor.execute(_SLOTS, (prefix,)).fetchall()
    return [
        Slot(*row[:5], _lsn(row.confirmed), _lsn(row.restart), *row[7:])
        for row in rows
        if re.fullmatch("[0-9a-f]{8}", row.name.removeprefix(prefix))
    ]


def create(connection: Connection, name: str) -> Lsn:
    """Create the slot and return where it starts.

    Waits until every transaction that runs now has ended. On Postgres 17 and newer the slot may be
    synchronised to standbys (`failover`).
    """
    options = sql.SQL("false, false")
    if connection.info.server_version >= _FAILOVER_SINCE:
        options = sql.SQL("false, false, true")
    row = connection.execute(
        sql.SQL("SELECT lsn::text FROM pg_create_logical_replication_slot({}, {}, {})").format(
            sql.Literal(name), sql.Literal(PLUGIN), options
        )
    ).fetchone()
    if row is None:
        raise AssertionError("pg_create_logical_replication_slot gives one row")
    return parse_lsn(row[0])


def drop(connection: Connection, name: str) -> None:
    """Drop the slot; Postgres refuses while it is active (SQLSTATE 55006)."""
    connection.execute("SELECT pg_drop_replication_slot(%s)", (name,))


def _lsn(text: str | None) -> Lsn | None:
    return None if text is None else parse_lsn(text)
