"""The demo's child processes: started with a log file each, and always ended, by process id."""

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from replicator.errors import Stopped

STOP_TIMEOUT = 10.0
"""Seconds that a daemon gets to stop by itself."""


class Daemon:
    """One running daemon.

    Attributes:
        name: "capture" or "apply".
        log: file that receives what it writes.
    """

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    def require(self) -> None:
        """Raise Stopped if it has ended, with what it said last."""
        code = self._process.poll()
        if code is not None:
            raise Stopped(f"{self.name} ended with exit code {code}.")

    def tail(self, lines: int = 15) -> str:
        """Give the last lines that it wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """End it: SIGTERM, and SIGKILL if it does not listen."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def daemon(name: str, settings: str, folder: Path) -> Iterator[Daemon]:
    """Run `replicator <name>` while the body runs, as a user would, with this interpreter.

    It gets a session of its own, so that Ctrl-C reaches only the demo, which stops it in order.
    """
    log = folder / f"{name}.log"
    command = [sys.executable, "-m", "replicator", "--settings", settings, name]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    running = Daemon(name, process, log)
    try:
        yield running
    finally:
        running.stop()


def free_address() -> str:
    """Give an address of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def write_environment(path: Path, variables: dict[str, str], folders: Sequence[Path]) -> None:
    """Set variables for this process and its children, and write them for a person's shell.

    Args:
        path: of the file, to be read by the shell's `.`.
        variables: what is set.
        folders: of programs that the person needs; they come first on the shell's PATH.
    """
    os.environ.update(variables)
    path.touch(mode=0o600)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    lines.append(f'export PATH={shlex.quote(os.pathsep.join(map(str, folders)))}:"$PATH"')
    path.write_text("\n".join(lines) + "\n")
