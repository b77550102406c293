"""Databases of the sample project: connected to the ORM, migrated, and made quickly.

Blocks on Postgres.
"""

import contextlib
from collections.abc import Iterator
from weakref import WeakKeyDictionary

import psycopg
from django.core.management import call_command
from django.db import connections

from tests.support.postgres import PostgresServer
from tests.support.sample.environments import django_database


@contextlib.contextmanager
def connected(alias: str, conninfo: str) -> Iterator[str]:
    """Let the ORM of this process use a database under `alias`, which may be `default`.

    Closes the connection of this thread at the end; other threads close their own.
    """
    # Models can be imported only when Django's apps are loaded.
    from django.contrib.contenttypes.models import ContentType

    before = connections.databases.get(alias)
    _forget(alias)
    connections.databases[alias] = connections.configure_settings(
        {"default": {}, alias: django_database(conninfo)}
    )[alias]
    ContentType.objects.clear_cache()
    try:
        yield alias
    finally:
        _forget(alias)
        ContentType.objects.clear_cache()
        del connections.databases[alias]
        if before is not None:
            connections.databases[alias] = before


def _forget(alias: str) -> None:
    """Close and drop this thread's connection of `alias`, so that the next one is made anew."""
    if hasattr(connections._connections, alias):  # type: ignore[attr-defined]
        connections[alias].close()
        del connections[alias]


def migrate(conninfo: str) -> None:
    """Apply all migrations of the sample project to a database."""
    with connected("migrating", conninfo):
        call_command("migrate", database="migrating", verbosity=0, interactive=False)


_OTHER_KEYS = """
DO $$ DECLARE key record; BEGIN
  SET CONSTRAINTS ALL DEFERRED;
  FOR key IN
    SELECT c.conrelid::regclass AS "table", a.attname AS "column" FROM pg_constraint c
    JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
    WHERE c.contype = 'f'
    AND c.confrelid IN ('django_content_type'::regclass, 'auth_permission'::regclass)
  LOOP
    EXECUTE format('UPDATE %s SET %I = %I + {0}', key."table", key."column", key."column");
  END LOOP;
  UPDATE auth_permission SET id = id + {0};
  UPDATE django_content_type SET id = id + {0};
END $$
"""


def other_keys(conninfo: str, distance: int) -> None:
    """Give content types and permissions other keys, as they have in each real environment."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(_OTHER_KEYS.format(distance).encode())


class SampleTemplates:
    """One migrated template database per server, made when first asked for."""

    def __init__(self) -> None:
        self._templates: WeakKeyDictionary[PostgresServer, str] = WeakKeyDictionary()
        self._clones = 0

    def clone(self, server: PostgresServer, name: str = "sample", **settings: str) -> str:
        """Create a migrated, empty database and give its name; see `create_database`.

        Content types and permissions have other keys in each, as in real environments.
        """
        if server not in self._templates:
            self._templates[server] = migrated_database(server)
        made = server.create_database(name, template=self._templates[server], **settings)
        self._clones += 1
        other_keys(server.conninfo(made), self._clones * 1_000)
        return made


def migrated_database(server: PostgresServer) -> str:
    """Create a database, apply all migrations of the sample project, and give its name."""
    name = server.create_database("migrated")
    migrate(server.conninfo(name))
    return name
