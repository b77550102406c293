"""A real Kafka broker: one KRaft node, from Maven's jars, in a temporary folder, on free ports.

`REPLICATOR_TEST_KAFKA` (host:port[,host:port…]) names a running cluster instead; that one is never
stopped. The jars are kept between runs in the user's cache folder.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.processes import Process, ProcessFailed
from tests.support.proxy import TcpProxy

GIVEN_BY = "REPLICATOR_TEST_KAFKA"
VERSION = "4.1.0"

_HERE = Path(__file__).parent

# https://kafka.apache.org/documentation/#brokerconfigs
_SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    # A killed broker may register again when its session has expired (default 9 s).
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.cleaner.dedupe.buffer.size": "4194304",
    "log.retention.check.interval.ms": "1000",
    "log.segment.delete.delay.ms": "100",
    "controlled.shutdown.enable": "false",
}


class Broker:
    """The files and the process of a broker that this session made."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._jars = fetch_jars()
        self.folder = Path(tempfile.mkdtemp(prefix="replicator-kafka-"))
        self.port = free_port()
        self.inner_port = free_port()
        self.proxied_port = free_port()
        self._log = self.folder / "server.log"
        self._process: Process | None = None
        with contextlib.ExitStack() as undo:
            undo.callback(self.remove)
            self._configure(settings)
            self._format()
            self.start()
            undo.pop_all()

    @property
    def _config(self) -> Path:
        return self.folder / "server.properties"

    def _configure(self, settings: Mapping[str, str]) -> None:
        host = "127.0.0.1"
        controller = f"{host}:{free_port()}"
        plain = f"PLAINTEXT://{host}:{self.port}"
        values = {
            **_SETTINGS,
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"{plain},PROXIED://{host}:{self.inner_port},CONTROLLER://{controller}",
            "advertised.listeners": f"{plain},PROXIED://{host}:{self.proxied_port}",
            "log.dirs": str(self.folder / "data"),
            **settings,
        }
        self._config.write_text("".join(f"{key}={value}\n" for key, value in values.items()))

    def _format(self) -> None:
        cluster = ["--cluster-id", "cmVwbGljYXRvci10ZXN0cw"]
        tool = ["kafka.tools.StorageTool", "format", *cluster, "--config", str(self._config)]
        formatted = self._java("64m", *tool)
        if formatted.wait(60):
            raise formatted.failure("formatting failed")

    def _java(self, heap: str, *arguments: str) -> Process:
        java = shutil.which("java") or "java"
        logging = f"-Dlog4j2.configurationFile={_HERE / 'kafka-log4j2.properties'}"
        # The serial collector and one level of compilation: quick to start, easy on two cores.
        machine = [f"-Xms{heap}", f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        command = [java, *machine, logging, "-cp", f"{self._jars}/*", *arguments]
        return Process(command, self._log, cwd=self.folder)

    def start(self, timeout: float = 60) -> None:
        """Start the broker and wait until it serves clients.

        Raises:
            ProcessFailed: it ended, or does not serve after `timeout` seconds.
        """
        self._process = self._java("512m", "kafka.Kafka", str(self._config))
        # Written when the broker is registered and unfenced, so that it can lead partitions.
        self._process.wait_for_output("Kafka Server started", timeout)

    @property
    def pid(self) -> int | None:
        """Its process id; None before it was started."""
        return self._process.pid if self._process else None

    def kill9(self) -> None:
        """SIGKILL the broker."""
        if self._process:
            self._process.kill9()

    def stop(self) -> None:
        """Shut the broker down; does nothing if it does not run."""
        if self._process is None:
            return
        self._process.send(signal.SIGTERM)
        try:
            self._process.wait(15)
        except ProcessFailed:
            self._process.kill9()

    def remove(self) -> None:
        """Kill the broker and delete its files."""
        self.kill9()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        """All that the broker has written to its log."""
        return self._log.read_text(errors="replace")


class KafkaBroker:
    """A running broker, made by this session or given by `REPLICATOR_TEST_KAFKA`."""

    def __init__(self, bootstrap: str, broker: Broker | None) -> None:
        self.bootstrap = bootstrap
        self._broker = broker

    @classmethod
    def start(cls, **settings: str) -> "KafkaBroker":
        """Make and start a broker, or name the given one.

        Args:
            settings: settings of `server.properties`, dots written as underscores.

        Raises:
            FileNotFoundError: Java, or Maven and the jars, are not on this machine.
            ProcessFailed: the broker did not start, or the jars could not be fetched.
        """
        if GIVEN_BY in os.environ:
            return cls(os.environ[GIVEN_BY], None)
        dotted = {name.replace("_", "."): value for name, value in settings.items()}
        broker = Broker(dotted)
        return cls(f"127.0.0.1:{broker.port}", broker)

    @property
    def url(self) -> str:
        """The value of the setting LOG for this broker."""
        return f"kafka://{self.bootstrap}"

    @property
    def pid(self) -> int | None:
        """Its process id; None for a given broker."""
        return self._broker.pid if self._broker else None

    def topic(self, name: str = "test") -> str:
        """Give a topic name that nobody has used; the topic is not created."""
        return f"{name}.{uuid.uuid4().hex[:12]}"

    def proxy(self) -> TcpProxy:
        """Start a proxy in front of the broker; only one can be open at a time.

        Clients that bootstrap at its port stay behind it, because the broker advertises this port
        to them (https://kafka.apache.org/documentation/#brokerconfigs_advertised.listeners).
        """
        own = self._own()
        return TcpProxy(own.inner_port, own.proxied_port)

    def kill9(self) -> None:
        """SIGKILL the broker; skips the test on a given one."""
        self._own().kill9()

    def restart(self) -> None:
        """Stop the broker if it runs, start it and wait for it; skips on a given one."""
        self._own().stop()
        self._own().start()

    def halt(self) -> None:
        """Shut the broker down and keep its files, for `restart`; skips on a given one."""
        self._own().stop()

    def log(self) -> str:
        """The broker's log; skips the test on a given one."""
        return self._own().log()

    def stop(self) -> None:
        """Remove the broker, if this session made it."""
        if self._broker:
            self._broker.remove()

    def _own(self) -> Broker:
        if self._broker is None:
            pytest.skip(f"the broker of {GIVEN_BY} is not ours to stop or to look into")
        return self._broker


def missing_tools() -> str:
    """Say which program a broker needs and this machine lacks; empty if none."""
    if GIVEN_BY in os.environ:
        return ""
    needed = ["java"] if _cache().is_dir() else ["java", "mvn"]
    return ", ".join(tool for tool in needed if shutil.which(tool) is None)


def fetch_jars() -> Path:
    """Give the folder of the broker's jars; the first time, Maven downloads them.

    Raises:
        FileNotFoundError: Maven is not on this machine.
        subprocess.CalledProcessError: Maven could not fetch them.
    """
    cache = _cache()
    if cache.is_dir():
        return cache
    cache.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix="jars-", dir=cache.parent))
    pom = shutil.copy(_HERE / "kafka-broker.pom.xml", fresh / "pom.xml")
    command = ["mvn", "--batch-mode", "--quiet", "--file", str(pom), f"-Dkafka.version={VERSION}"]
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime"]
    subprocess.run(
        [*command, *goal, f"-DoutputDirectory={fresh / 'jars'}"], check=True, timeout=300
    )
    try:
        (fresh / "jars").rename(cache)
    except OSError:
        # Another session has been quicker; its jars are the same.
        if not cache.is_dir():
            raise
    shutil.rmtree(fresh, ignore_errors=True)
    return cache


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "replicator-tests" / f"kafka-{VERSION}"
