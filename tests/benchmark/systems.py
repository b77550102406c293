"""The systems that are compared: Replicator's daemons as processes, and native replication.

A system is set up once, and started and stopped around each workload, so that it alone runs.
`pause` stops what reads from the source with SIGSTOP: both are then as ready as they can be, and
the start-up of processes is in nobody's figures.
"""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from tests.benchmark.shapes import SHAPE_TABLES
from tests.benchmark.sites import Connection, Services, Site, environment, open_connection
from tests.benchmark.usage import Processes
from tests.support.processes import REPOSITORY, Process, wait_until

_DEPOTS = "INSERT INTO parcels_depot (id, open) SELECT n, true FROM generate_series(0, 96) AS n"
_PUBLISHED = "SELECT id FROM parcels_question WHERE published"
_CHOICES = f"SELECT id FROM parcels_choice WHERE question_id IN ({_PUBLISHED})"
READY = 120.0
"""Seconds that a system has to get ready."""
_PATH = os.pathsep.join(str(REPOSITORY / part) for part in ("capture", "apply", "shared", ""))


class System(Protocol):
    """What the benchmark asks of a system.

    Attributes:
        name: in the report.
        site: its databases.
    """

    @property
    def name(self) -> str:
        """Its name in the report."""

    @property
    def site(self) -> Site:
        """Its databases."""

    @property
    def belongs(self) -> Mapping[str, str]:
        """Which rows it brings: a condition by table, without its prefix; of others all."""

    def at_rest(self, target: Connection) -> bool:
        """Whether nothing more is under way once the last transaction has arrived."""

    def start(self) -> None:
        """Start it; what was written before has arrived afterwards or soon."""

    def stop(self) -> None:
        """End it; it keeps its place in the source's WAL."""

    def processes(self) -> Processes:
        """Name its processes, those of the servers included."""

    def daemons(self) -> dict[str, int]:
        """Name the processes of which memory is reported."""

    def paused(self) -> tuple[int, ...]:
        """Give the processes that stand while a backlog is written."""


class Replicator:
    """Capture and apply as processes, with the broker between them."""

    name = "replicator"
    dataset = "parcels"
    belongs: Mapping[str, str] = {}

    def __init__(self, services: Services) -> None:
        if services.broker is None:
            raise ValueError("Replicator is measured on Kafka.")
        self.site = services.site(self.name)
        with open_connection(self.site.source) as connection:
            connection.execute(_DEPOTS)
        self._services = services
        self._broker = services.broker
        self._folder = Path(tempfile.mkdtemp(prefix="replicator-benchmark-"))
        self._running: dict[str, Process] = {}

    @property
    def log_url(self) -> str:
        """Where the log is."""
        return self._broker.url

    def _environment(self, name: str, site: Site, target: str) -> dict[str, str]:
        if name == "capture":
            targets = {target: [self.dataset] for target in ("stage", "newcomer")}
            settings = {"ENVIRONMENT": self.name, "TARGETS": targets}
            conninfo = site.source
        else:
            subscriptions = [{"source": self.name, "dataset": self.dataset}]
            settings = {"ENVIRONMENT": target, "SUBSCRIPTIONS": subscriptions}
            conninfo = site.target
        whole = environment(conninfo, {"LOG": self._broker.url, **settings})
        return {**whole, "PYTHONPATH": _PATH}

    def _begin(self, site: Site, target: str, names: Sequence[str] = ("capture", "apply")) -> None:
        for name in names:
            command = [sys.executable, "-m", "replicator", name]
            log = self._folder / f"{name}-{target}.log"
            self._running[name] = Process(command, log, env=self._environment(name, site, target))

    @contextmanager
    def newcomer(self) -> Iterator[Site]:
        """Let it run with a target that has nothing yet, in place of the other one.

        Capture runs already when the target begins to ask.
        """
        home = self.site
        self.site = Site(home.source, self._services.target_database(f"newcomer_{self.name}"))
        try:
            self._begin(self.site, "newcomer", ["capture"])
            wait_until(lambda: bool(self.processes()["walsender"]), READY, "capture reads")
            self._begin(self.site, "newcomer", ["apply"])
            with open_connection(self.site.target) as connection:
                wait_until(lambda: bool(self._runs(connection)), READY, "it begins")
            yield self.site
        finally:
            self.stop()
            self.site = home

    @staticmethod
    def _runs(connection: Connection) -> int:
        return connection.execute("SELECT FROM replicator_backfillrun").rowcount

    def start(self) -> None:
        """See `System.start`; the first time, the empty tables are backfilled."""
        self._begin(self.site, "stage")
        with open_connection(self.site.target) as connection:
            wait_until(lambda: self._is_settled(connection), READY, "the backfill is through")
        # What the backfill has left unsettled is looked at every half a second, and the requests
        # topic is opened: what is stopped in it loses requests, which are repeated after long.
        time.sleep(4)

    def _is_settled(self, connection: Connection) -> bool:
        for name, process in self._running.items():
            if not process.running:
                raise process.failure(f"{name} ended")
        states = connection.execute("SELECT state FROM replicator_backfillrun").fetchall()
        return bool(states) and all(state == ("finished",) for state in states)

    def at_rest(self, target: Connection) -> bool:
        """See `System.at_rest`."""
        return target.execute("SELECT FROM replicator_wantedrow LIMIT 1").rowcount == 0

    def stop(self) -> None:
        """See `System.stop`."""
        for process in self._running.values():
            process.send(signal.SIGTERM)
        for process in self._running.values():
            process.wait(20)
        self._running.clear()

    def processes(self) -> Processes:
        """See `System.processes`."""
        pids = self._broker.pid
        return {
            **{name: (process.pid,) for name, process in self._running.items()},
            "walsender": _backends(self.site.source, "backend_type = 'walsender'"),
            "apply backend": _backends(self.site.target, "application_name = 'replicator apply'"),
            "broker": () if pids is None else (pids,),
        }

    def daemons(self) -> dict[str, int]:
        """See `System.daemons`."""
        return {name: process.pid for name, process in self._running.items()}

    def paused(self) -> tuple[int, ...]:
        """See `System.paused`."""
        return tuple(process.pid for process in self._running.values())


class Related(Replicator):
    """The same, with rules over relations.

    Every parcel is a child of a depot that is open; of the questions only some are published.
    """

    name = "related"
    dataset = "by-depot"
    belongs: Mapping[str, str] = {
        "question": "published",
        "leaflet": "published",
        "choice": f"question_id IN ({_PUBLISHED})",
        "vote": f"choice_id IN ({_CHOICES})",
        "voter": f"id IN (SELECT voter_id FROM parcels_vote WHERE choice_id IN ({_CHOICES}))",
    }


_PUBLISHED_TABLES = ("parcel", "question", "choice", "vote", "voter", "signal", *SHAPE_TABLES)
_PUBLICATION = ", ".join(f"parcels_{name}" for name in _PUBLISHED_TABLES)


class Native:
    """CREATE PUBLICATION and CREATE SUBSCRIPTION, as they are by default, but for streaming.

    https://www.postgresql.org/docs/current/sql-createsubscription.html
    """

    name = "native"
    belongs: Mapping[str, str] = {}

    def __init__(self, services: Services) -> None:
        self.site = services.site("native")
        with open_connection(self.site.source) as connection:
            connection.execute(f"CREATE PUBLICATION native FOR TABLE {_PUBLICATION}")
            connection.execute("SELECT pg_create_logical_replication_slot('native', 'pgoutput')")
        with open_connection(self.site.target) as connection:
            connection.execute(
                f"CREATE SUBSCRIPTION native CONNECTION '{self.site.source}' PUBLICATION native "
                "WITH (copy_data = false, create_slot = false, slot_name = 'native', "
                "streaming = off, enabled = false)"
            )

    def at_rest(self, target: Connection) -> bool:  # noqa: ARG002 (the port's)
        """See `System.at_rest`."""
        return True

    def _alter(self, what: str) -> None:
        with open_connection(self.site.target) as connection:
            connection.execute(f"ALTER SUBSCRIPTION native {what}")

    def start(self) -> None:
        """See `System.start`."""
        self._alter("ENABLE")
        wait_until(lambda: bool(self._worker() and self._walsender()), READY, "the worker runs")

    def stop(self) -> None:
        """See `System.stop`."""
        self._alter("DISABLE")
        wait_until(lambda: not self._worker() and not self._walsender(), READY, "the worker ended")

    def _worker(self) -> tuple[int, ...]:
        kind = "backend_type IN ('logical replication apply worker', 'logical replication worker')"
        return _backends(self.site.target, kind)

    def _walsender(self) -> tuple[int, ...]:
        return _backends(self.site.source, "backend_type = 'walsender'")

    def processes(self) -> Processes:
        """See `System.processes`."""
        return {"walsender": self._walsender(), "apply backend": self._worker()}

    def daemons(self) -> dict[str, int]:
        """See `System.daemons`."""
        return {}

    def paused(self) -> tuple[int, ...]:
        """See `System.paused`."""
        return self._worker()


SYSTEMS = {"replicator": Replicator, "related": Related, "native": Native}


@contextmanager
def running(system: System) -> Iterator[None]:
    """Let a system run while the body does."""
    with ExitStack() as stack:
        stack.callback(system.stop)
        system.start()
        yield


@contextmanager
def standing(system: System) -> Iterator[None]:
    """Hold a running system still while the body runs; it goes on at the end."""
    pids = system.paused()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _backends(conninfo: str, condition: str) -> tuple[int, ...]:
    with open_connection(conninfo) as connection:
        found = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
            f"AND {condition} ORDER BY pid"  # a constant of this module
        )
        return tuple(pid for (pid,) in found)
