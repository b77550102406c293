"""What content types and permissions of the source are called: key → name, as JSON text.

The stream tells keys, which are others in every environment; names travel. They are read when a run
begins, once a minute, and when a key turns up that is new. Then the reader waits, for a moment:
the row was committed before what points at it, or with it, and can be read as soon as Postgres
shows that commit to others. A row that has gone since is never found; what points at it has gone,
too, and its events follow.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import msgspec
import psycopg

from replicator.errors import Refused
from replicator.natural_keys import all_names_sql
from replicator.plan import Release, TableName
from replicator.postgres import Parameters, connect, driver_errors
from replicator_capture.rowtext import NameOf

WAITS = (0.0, 0.02, 0.1, 0.3, 0.6)
"""Seconds before each look for a key that is new."""
VAIN_FOR = 60.0
"""Seconds for which a key that was not found is not looked for again."""

_dumps = msgspec.json.Encoder().encode


class Names:
    """The names of one table's rows.

    Args:
        known: the names as they are, by key.
        read: reads them again.
        clock: monotonic seconds.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        known: Mapping[bytes, bytes],
        read: Callable[[], Mapping[bytes, bytes]],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._read, self._clock, self._sleep = read, clock, sleep
        self._vain: dict[bytes, float] = {}
        self.known = known
        """Replaced whole, from any thread, never changed."""

    def of(self, key: bytes) -> bytes:
        """Give the name of a row; b"": there is none.

        Raises:
            DatabaseUnavailable: the names cannot be read.
        """
        try:
            return self.known[key]
        except KeyError:
            return self._look_for(key)

    def _look_for(self, key: bytes) -> bytes:
        if self._clock() < self._vain.get(key, 0.0):
            return b""
        for wait in WAITS:
            self._sleep(wait)
            self.known = self._read()
            if name := self.known.get(key):
                return name
        self._vain[key] = self._clock() + VAIN_FOR
        return b""


class NameBook:
    """The names of all tables that a stream's releases refer to by name.

    Args:
        database: connection parameters of the source.
        releases: of the stream.
        connection: to read them with at first.

    Raises:
        DatabaseUnavailable, Unfit, Refused: they cannot be read.
    """

    def __init__(
        self, database: Parameters, releases: Iterable[Release], connection: psycopg.Connection
    ) -> None:
        self._database = database
        tables = sorted({table for each in releases for table in each.natural.values()})
        with driver_errors("reading content types"):
            self._names = {
                table: Names(_read(connection, table), partial(self._read_anew, table))
                for table in tables
            }

    def _read_anew(self, table: TableName) -> Mapping[bytes, bytes]:
        # On a connection of its own: the others may wait for a lock just now.
        with connect(self._database) as connection, driver_errors("reading content types"):
            return _read(connection, table)

    @property
    def by_table(self) -> Mapping[TableName, NameOf]:
        """What names the rows of each table."""
        return {table: names.of for table, names in self._names.items()}

    def refresh(self, connection: psycopg.Connection) -> None:
        """Read the names anew: a model may have been renamed."""
        for table, names in self._names.items():
            names.known = _read(connection, table)


def _read(connection: psycopg.Connection, table: TableName) -> Mapping[bytes, bytes]:
    try:
        rows = connection.execute(all_names_sql(table).as_string())
    except psycopg.errors.InsufficientPrivilege as error:
        raise Refused(
            f"Capture's role may not read {table}, by which content types and permissions travel.",
            remedy=f"Run GRANT SELECT ON {table} TO the role; `replicator prepare source --sql` "
            "lists all grants.",
        ) from error
    return {str(key).encode(): _dumps(str(name)) for key, name in rows if name is not None}
