"""Databases of the sample project: connected to the ORM, migrated, and made quickly.

Blocks on Postgres. Imports Django lazily, since the project's settings import this module.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from psycopg.conninfo import conninfo_to_dict

from tests.support.postgres import PostgresServer

_NAMES = {"dbname": "NAME", "host": "HOST", "port": "PORT", "user": "USER", "password": "PASSWORD"}


def django_database(conninfo: str) -> dict[str, Any]:
    """Write a conninfo as an entry of Django's setting DATABASES."""
    parts = conninfo_to_dict(conninfo)
    entry: dict[str, Any] = {"ENGINE": "django.db.backends.postgresql", "OPTIONS": {}}
    for name, value in parts.items():
        if name in _NAMES:
            entry[_NAMES[name]] = str(value)
        else:
            entry["OPTIONS"][name] = value
    return entry


def environment(conninfo: str, replicator: Mapping[str, object]) -> dict[str, str]:
    """Give the environment variables that make a process one environment of the sample project.

    Args:
        conninfo: its database.
        replicator: its setting REPLICATOR.
    """
    return {
        "DJANGO_SETTINGS_MODULE": "tests.support.sample.settings",
        "SAMPLE_DATABASE": conninfo,
        "SAMPLE_REPLICATOR": json.dumps(replicator),
    }


@contextlib.contextmanager
def connected(alias: str, conninfo: str) -> Iterator[str]:
    """Let the ORM of this process use a database under `alias`, which may be `default`.

    Closes the connection of this thread at the end; other threads close their own.
    """
    from django.contrib.contenttypes.models import ContentType
    from django.db import connections

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
    from django.db import connections

    if hasattr(connections._connections, alias):  # type: ignore[attr-defined]
        connections[alias].close()
        del connections[alias]


def migrate(conninfo: str) -> None:
    """Apply all migrations of the sample project to a database."""
    from django.core.management import call_command

    with connected("migrating", conninfo):
        call_command("migrate", database="migrating", verbosity=0, interactive=False)


class SampleTemplates:
    """One migrated template database per server, made when first asked for."""

    def __init__(self) -> None:
        self._templates: dict[int, str] = {}

    def clone(self, server: PostgresServer, name: str = "sample", **settings: str) -> str:
        """Create a migrated, empty database and give its name; see `create_database`."""
        if id(server) not in self._templates:
            self._templates[id(server)] = migrated_database(server)
        return server.create_database(name, template=self._templates[id(server)], **settings)


def migrated_database(server: PostgresServer) -> str:
    """Create a database, apply all migrations of the sample project, and give its name."""
    name = server.create_database("migrated")
    migrate(server.conninfo(name))
    return name
