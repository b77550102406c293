"""Where a daemon spends its time: py-spy beside it, its samples added up by function.

Profiling costs time itself: figures of a profiled run are not to be compared with others.
"""

import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.processes import Process

RATE = 250
"""Samples a second."""
SHOWN = 25


class Profile:
    """Samples daemons while the body runs, and prints what they did.

    Args:
        enabled: False: does nothing.
        title: what is measured.
        daemons: process ids by name.
    """

    def __init__(self, enabled: bool, title: str, daemons: Mapping[str, int]) -> None:
        self._daemons = daemons if enabled else {}
        self._title = title
        self._folder = Path(tempfile.mkdtemp(prefix="replicator-profile-")) if enabled else Path()
        self._samplers: dict[str, Process] = {}

    def __enter__(self) -> Self:
        for name, pid in self._daemons.items():
            command: list[str | Path] = [
                py_spy(), "record", "--pid", str(pid), "--rate", str(RATE), "--format", "raw",
                "--nonblocking", "--threads", "--output", self._folder / f"{name}.txt",
            ]  # fmt: skip
            self._samplers[name] = Process(command, self._folder / f"{name}.log")
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        for name, sampler in self._samplers.items():
            sampler.send(signal.SIGINT)
            sampler.wait(20)
            print(f"\n{self._title} {name}: share of samples, alone and with what it called")
            _print_functions((self._folder / f"{name}.txt").read_text())


def py_spy() -> str:
    """Find py-spy beside this interpreter or in the path.

    Raises:
        FileNotFoundError: it is not installed.
    """
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise FileNotFoundError("--profile needs py-spy: pip install py-spy")
    return found


def _print_functions(samples: str) -> None:
    """Add up lines of the form `frame;frame;frame count`, the innermost frame last."""
    alone: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for line in samples.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [frame.rpartition(":")[0] or frame for frame in stack.split(";")]
        alone[frames[-1]] += int(count)
        for frame in set(frames):
            whole[frame] += int(count)
    total = sum(alone.values()) or 1
    for frame, count in alone.most_common(SHOWN):
        print(f"  {count / total:6.1%} {whole[frame] / total:6.1%}  {frame}")
