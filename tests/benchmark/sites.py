"""Where it all runs: two clusters and a broker, and a source and a target database per system."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from django.core.management import call_command

from tests.support.kafka import KafkaBroker
from tests.support.postgres import PostgresServer, available_versions
from tests.support.sample.databases import connected

# Alike for both systems. Vacuum runs between the workloads and not inside them; a stopped system
# keeps its walsender waiting.
_SETTINGS = {
    "autovacuum": "off",
    "shared_buffers": "512MB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
    "wal_sender_timeout": "0",
    "wal_receiver_timeout": "0",
}
Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Site:
    """A source and a target database of one system."""

    source: str
    target: str


@dataclass(frozen=True)
class Services:
    """The servers that all systems share."""

    source: PostgresServer
    target: PostgresServer
    broker: KafkaBroker | None

    def site(self, name: str) -> Site:
        """Make the databases of a system, their tables made by the project's migrations."""
        return Site(_made(self.source, name), _made(self.target, name))

    def target_database(self, name: str) -> str:
        """Make one more database on the target's server."""
        return _made(self.target, name)


def _made(server: PostgresServer, name: str) -> str:
    conninfo = server.conninfo(server.create_database(name))
    with connected("default", conninfo):
        call_command("migrate", verbosity=0, interactive=False)
    return conninfo


@contextmanager
def services(*, kafka: bool) -> Iterator[Services]:
    """Start the newest Postgres twice, with fsync as it is by default, and the broker."""
    version = available_versions()[-1]
    with ExitStack() as stack:
        servers = []
        for _ in range(2):
            servers.append(PostgresServer.start(version, fsync=True, settings=_SETTINGS))
            stack.callback(servers[-1].stop)
        broker = KafkaBroker.start() if kafka else None
        if broker is not None:
            stack.callback(broker.stop)
        yield Services(*servers, broker)


def open_connection(conninfo: str) -> Connection:
    """Open a session of the benchmark's own."""
    return psycopg.connect(conninfo, autocommit=True, application_name="benchmark")


def environment(conninfo: str, replicator: Mapping[str, object]) -> dict[str, str]:
    """Give the environment variables of a daemon of the benchmark's project."""
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.benchmark.project.settings",
        "BENCHMARK_DATABASE": conninfo,
        "BENCHMARK_REPLICATOR": json.dumps(replicator),
        "PYTHONUNBUFFERED": "1",
    }


def tidy(connection: Connection) -> None:
    """Bring a database to rest: vacuumed, analysed, all of it on disk."""
    connection.execute("VACUUM ANALYZE")
    connection.execute("CHECKPOINT")
