"""`replicator demo`: start everything, tell the story, prove it, stop everything."""

import os
import shutil
import signal
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

import django

from replicator.cli.arguments import Arguments
from replicator.demo.log import require_log
from replicator.demo.processes import Daemon, daemon, free_address, write_environment
from replicator.demo.screen import Screen
from replicator.embedded import Server, embedded_postgres
from replicator.errors import ReplicatorError
from replicator.stop import Stop

SOURCE, TARGET = "demo_source", "demo_target"
_SETTINGS = "replicator.demo.environments"
_PARTING_LOOK = 0.2
"""Seconds between two looks at daemons that are left running."""


def run(arguments: Arguments) -> int:
    """Run the demo; 0 if the target equals the source, 1 if not.

    Raises:
        ConfigurationError: the log is none, or another's file.
        ReplicatorError: something could not be started, or a daemon ended.
        KeyboardInterrupt: a signal ended it before its time.
    """
    with _signals_noted() as stop, ExitStack() as stack:
        return _Demo(stack, stop, Screen(), arguments).run()


class _Demo:
    """One run; everything that it starts is ended by `stack`, in reverse order."""

    def __init__(self, stack: ExitStack, stop: Stop, screen: Screen, arguments: Arguments) -> None:
        self._stack = stack
        self._stop = stop
        self._screen = screen
        self._keep = arguments.keep
        self._began = time.monotonic()
        self._folder = stack.enter_context(_temporary_folder())
        self._log = arguments.log or f"sqlite:///{self._folder}/log.sqlite3"
        self._environment = self._folder / "environment.sh"
        self._metrics = [free_address(), free_address()]

    def run(self) -> int:
        require_log(self._log)
        self._screen.title("Kafka" if self._log.startswith("kafka:") else "a sqlite file")
        server = self._start_databases()
        telling = _set_up_django()
        self._fill(telling)
        daemons = self._start_daemons()
        try:
            watch = telling.Watch(daemons, self._stop)
            good: bool = telling.tell(self._screen, watch, self._began)
        except ReplicatorError:
            self._screen.tails(daemons)
            raise
        if not good:
            self._screen.tails(daemons)
        elif self._keep:
            self._wait(server, daemons)
        return 0 if good else 1

    def _start_databases(self) -> Server:
        began = time.monotonic()
        server = self._stack.enter_context(embedded_postgres(self._folder, (SOURCE, TARGET)))
        scripts = Path(sysconfig.get_path("scripts"))
        write_environment(self._environment, self._variables(server), (scripts, server.binaries))
        major = server.version.partition(".")[0]
        self._screen.ready(f"Postgres {major} with two databases", time.monotonic() - began)
        return server

    def _variables(self, server: Server) -> dict[str, str]:
        kafka = self._log.startswith("kafka:")
        return {
            "REPLICATOR_DEMO_SOURCE": server.url(SOURCE),
            "REPLICATOR_DEMO_TARGET": server.url(TARGET),
            "REPLICATOR_DEMO_LOG": self._log,
            # On a Kafka that stays, every demo needs topics of its own.
            "REPLICATOR_DEMO_RUN": f"-{os.urandom(3).hex()}" if kafka else "",
            "REPLICATOR_DEMO_CAPTURE_METRICS": self._metrics[0],
            "REPLICATOR_DEMO_APPLY_METRICS": self._metrics[1],
        }

    def _fill(self, telling: ModuleType) -> None:
        began = time.monotonic()
        tables = telling.prepare()
        self._stack.callback(telling.finish, self._log)
        self._screen.ready(tables, time.monotonic() - began)

    def _start_daemons(self) -> list[Daemon]:
        began = time.monotonic()
        daemons = [
            self._stack.enter_context(daemon(name, f"{_SETTINGS}.{side}", self._folder))
            for name, side in (("capture", "source"), ("apply", "target"))
        ]
        self._screen.ready(
            "replicator capture (prod) and replicator apply (stage) run", time.monotonic() - began
        )
        return daemons

    def _wait(self, server: Server, daemons: Sequence[Daemon]) -> None:
        self._screen.invitation(
            server.url(SOURCE), server.url(TARGET), self._environment, self._metrics
        )
        while not self._stop.wait(_PARTING_LOOK):
            for each in daemons:
                each.require()


def _set_up_django() -> ModuleType:
    """Give the module `telling`; its models can be imported only now."""
    os.environ["DJANGO_SETTINGS_MODULE"] = f"{_SETTINGS}.story"
    django.setup()
    return import_module("replicator.demo.telling")


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Give a folder that other users may pass through but not list."""
    folder = Path(tempfile.mkdtemp(prefix="replicator-demo-"))
    try:
        folder.chmod(0o711)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _signals_noted() -> Iterator[Stop]:
    """Give a token that SIGINT, SIGTERM and SIGHUP set, and that is all they do.

    They come twice (an impatient person, `timeout`), and at any moment; so no signal ever cuts
    short the start or the end of a process. What waits looks at the token.
    """
    stop = Stop()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in signals
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.close()
