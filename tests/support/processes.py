"""Commands as child processes: their output in a file, ended by process id and by nothing else."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


class ProcessFailed(AssertionError):
    """A process ended or was late with what the test waits for; the text ends with its output."""


def wait_until(condition: Callable[[], bool], timeout: float, what: str) -> None:
    """Poll `condition` every 20 ms until it is true.

    Raises:
        AssertionError: `timeout` seconds have passed.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(0.02)


class Process:
    """A child process whose standard output and error go into one file.

    Args:
        command: the program and its arguments.
        log: file that its output is appended to.
        env: its whole environment; None is this process' own.
        cwd: its working directory.
        user: system user to run as; only root may name another one.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path = REPOSITORY,
        user: str | None = None,
    ) -> None:
        self.command = [str(part) for part in command]
        self.log = log
        self._start_of_log = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=None if env is None else dict(env),
                cwd=cwd,
                user=user,
                group=None if user is None else _primary_group(user),
                extra_groups=None if user is None else [],
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, negative signal number, or None while it runs."""
        return self._popen.poll()

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        return self.returncode is None

    def output(self) -> str:
        """All that this process has written so far."""
        with self.log.open("rb") as log:
            log.seek(self._start_of_log)
            return log.read().decode(errors="replace")

    def wait(self, timeout: float = 30) -> int:
        """Wait for its end and give the exit code.

        Raises:
            ProcessFailed: it still runs after `timeout` seconds.
        """
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise self.failure(f"still runs after {timeout} s") from None

    def wait_for_output(self, pattern: str, timeout: float = 30) -> re.Match[str]:
        """Wait until its output matches the regular expression `pattern`.

        Raises:
            ProcessFailed: it ended, or `timeout` seconds passed, without a match.
        """
        deadline = time.monotonic() + timeout
        while True:
            ended = not self.running
            match = re.search(pattern, self.output(), re.MULTILINE)
            if match:
                return match
            if ended:
                raise self.failure(f"ended with {self.returncode} before it wrote {pattern!r}")
            if time.monotonic() > deadline:
                raise self.failure(f"did not write {pattern!r} within {timeout} s")
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.running:
            self._popen.send_signal(number)

    def terminate(self, timeout: float = 30) -> int:
        """SIGTERM, wait for the end, and give the exit code.

        Raises:
            ProcessFailed: it still runs after `timeout` seconds.
        """
        self.send(signal.SIGTERM)
        return self.wait(timeout)

    def kill9(self) -> None:
        """SIGKILL it and the children that it has now, and wait for its end."""
        children = _children(self.pid) if self.running else []
        self.send(signal.SIGKILL)
        for child in children:
            _kill_if_there(child)
        self._popen.wait()

    def failure(self, what: str) -> ProcessFailed:
        """Make the error that tells `what` went wrong, with the last of the output."""
        tail = "\n".join(self.output().splitlines()[-60:])
        return ProcessFailed(f"{' '.join(self.command)}: {what}; its output ends with:\n{tail}")


def _primary_group(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid


def _children(pid: int) -> list[int]:
    """Ids of the direct children; none where the system has no /proc."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def _kill_if_there(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
