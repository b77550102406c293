"""`replicator demo` as a person runs it: a process, its output, its exit code, and no remains."""

import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from kafka.admin import KafkaAdminClient

from tests.support.kafka import KafkaBroker

STEPS = (
    "rows from before capture began",
    "INSERT topic, question, long draft",
    "UPDATE publishes the draft",
    "UPDATE unpublishes a question",
    "UPDATE changes a text",
    "DELETE a question",
    "topic.delete(), which cascades",
    "QuerySet.update(), without signals",
    "raw SQL, past the ORM",
    "10,000 rows in one transaction",
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the demo puts everything; other users may pass, as through /tmp."""
    path = Path(tempfile.mkdtemp(prefix="demo-test-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@contextmanager
def demo(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    environment = {
        **os.environ,
        "TMPDIR": str(folder),
        "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path if path),
        "COLUMNS": "80",
    }
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    with subprocess.Popen(
        [sys.executable, "-m", "replicator", "demo", *options],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if text in line:
            return output
    raise AssertionError(f"the demo ended without {text!r}:\n{output}")


def remains(folder: Path) -> list[str]:
    """Processes that know the folder, and files in it."""
    found = [str(path) for path in folder.iterdir()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            known = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in known:
            found.append(known.decode(errors="replace"))
    return found


def children(process: subprocess.Popen[str]) -> dict[str, int]:
    """Process ids of the daemons, by name."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in listed}
    return {
        name: int(pid)
        for pid, words in lines.items()
        for name in ("capture", "apply")
        if name.encode() in words
    }


def child(process: subprocess.Popen[str], name: str) -> int:
    """Process id of a daemon that runs.

    The kernel's list of children may omit one while another ends (proc(5), task/tid/children).
    """
    until = time.monotonic() + 10
    while name not in (found := children(process)):
        assert process.poll() is None, f"the demo ended with {process.returncode}"
        assert time.monotonic() < until, f"no {name} runs: {found}"
        time.sleep(0.02)
    return found[name]


def test_it_tells_its_story_and_leaves_nothing_behind(folder: Path) -> None:
    with demo(folder) as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    for step in STEPS:
        assert re.search(rf"^✔ {re.escape(step)} .* ms$", output, re.MULTILINE), f"{step}\n{output}"
    assert re.search(r"^✔ Topic: 3 rows .*equal$", output, re.MULTILINE)
    assert re.search(r"^✔ Question: 10,006 rows .*equal$", output, re.MULTILINE)
    assert re.search(r"^✔ a row that only stage has +untouched$", output, re.MULTILINE)
    took = re.search(r"^stage equals prod, (\d+) s in all\.$", output, re.MULTILINE)
    assert took, output
    assert int(took[1]) < 60
    assert all(len(line) <= 90 for line in output.splitlines())
    assert not remains(folder)


def test_it_runs_on_kafka_and_removes_its_topics(folder: Path, kafka: KafkaBroker) -> None:
    admin = KafkaAdminClient(bootstrap_servers=kafka.url.removeprefix("kafka://"))
    try:
        # Other tests leave topics on the shared broker.
        before = set(admin.list_topics())
        with demo(folder, "--log", kafka.url) as process:
            output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        assert "The log is Kafka." in output
        assert re.search(r"^stage equals prod, ", output, re.MULTILINE)
        deadline = time.monotonic() + 20
        while set(admin.list_topics()) - before:
            assert time.monotonic() < deadline, "the demo's topics are still there"
            time.sleep(0.1)
    finally:
        admin.close()
    assert not remains(folder)


def test_keep_leaves_it_running_until_ctrl_c(folder: Path) -> None:
    with demo(folder, "--keep") as process:
        output = read_until(process, "Ctrl-C stops everything")
        source, target = re.findall(r"psql (postgresql://\S+)", output)
        for command in re.findall(r"^  (psql .*|replicator .*)$", output, re.MULTILINE):
            assert in_shell(output, command).returncode == 0, command
        with psycopg.connect(source, autocommit=True) as connection:
            connection.execute("INSERT INTO polls_topic (name) VALUES ('By hand')")
        with psycopg.connect(target, autocommit=True) as connection:
            query = "SELECT count(*) FROM polls_topic WHERE name = 'By hand'"
            deadline = time.monotonic() + 30
            while connection.execute(query).fetchone() != (1,):
                assert time.monotonic() < deadline, "the row did not arrive"
                time.sleep(0.01)
        for address in re.findall(r"http://([^/]+)/metrics", output):
            assert get(address, "/healthz") == 200
            assert get(address, "/readyz") == 200
            assert get(address, "/metrics") == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert not remains(folder)


def in_shell(output: str, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command that the demo prints, in a shell that knows nothing but the printed file."""
    (environment,) = re.findall(r"^  (\. /\S+)$", output, re.MULTILINE)
    script = f"{environment}\n{command.partition('#')[0]}"
    path = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    plain = {"PATH": "/usr/bin:/bin", "PYTHONPATH": path, "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        ["/bin/sh", "-ec", script],
        check=False,
        env=plain,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def get(address: str, path: str) -> int:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def test_a_log_of_its_own_is_removed_and_another_ones_refused(folder: Path) -> None:
    log = folder / "own.sqlite3"
    with demo(folder, "--log", f"sqlite:///{log}") as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert not remains(folder)
    log.touch()
    assert refusal(folder, f"sqlite:///{log}", 2).startswith(f"replicator: The file {log} is there")
    log.unlink()


@pytest.mark.parametrize(
    ("log", "code", "says"),
    [
        ("foo://x", 2, "The URL of the log must be kafka://host:port"),
        ("kafka://localhost", 2, "The URL of the log must name each broker with its port"),
        ("sqlite:///x", 2, "The URL of the log must have an absolute path"),
        ("sqlite:////no/such/folder/x", 3, "The log's file cannot be used"),
        ("kafka://127.0.0.1:1", 3, "No broker listens at 127.0.0.1:1."),
    ],
)
def test_a_log_that_cannot_be_used_is_refused_at_once(
    folder: Path, log: str, code: int, says: str
) -> None:
    began = time.monotonic()
    assert refusal(folder, log, code).startswith(f"replicator: {says}")
    assert time.monotonic() - began < 15


def refusal(folder: Path, log: str, code: int) -> str:
    """Run a demo that must not begin; what it says."""
    with demo(folder, "--log", log) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert len(output.splitlines()) == 2, output
    return output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_leaves_nothing_behind(folder: Path, number: signal.Signals) -> None:
    with demo(folder) as process:
        read_until(process, "done in prod")
        ended = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < ended:
            process.send_signal(number)  # Again and again: none may cut the end short.
            time.sleep(0.05)
        # The last one may meet the interpreter's own end.
        assert process.returncode in {130, -number}
    assert not remains(folder)


@pytest.mark.parametrize("name", ["capture", "apply"])
def test_a_daemon_that_ends_fails_it_with_its_last_lines(folder: Path, name: str) -> None:
    with demo(folder) as process:
        read_until(process, "done in prod")
        os.kill(child(process, name), signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 3, output
    assert f"The last lines of {name}:" in output
    assert f"replicator: {name} ended with exit code -9." in output
    assert not remains(folder)
