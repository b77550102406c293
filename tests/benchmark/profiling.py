"""Where a daemon spends its time: py-spy beside it, a flame graph, and its samples by function.

Profiling costs time itself: figures of a profiled run are not to be compared with others.
"""

import shutil
import signal
import sys
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
        folder: where the flame graphs are written; None: does nothing.
        title: what is measured.
        daemons: process ids by name.
    """

    def __init__(self, folder: Path | None, title: str, daemons: Mapping[str, int]) -> None:
        self._daemons = {} if folder is None else daemons
        self._title = title
        self._folder = folder or Path()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._samplers: list[Process] = []

    def __enter__(self) -> Self:
        for name, pid in self._daemons.items():
            for form, ending in (("raw", "txt"), ("flamegraph", "svg")):
                output = self._folder / f"{self._title}-{name}.{ending}"
                command: list[str | Path] = [
                    py_spy(), "record", "--pid", str(pid), "--rate", str(RATE), "--format", form,
                    "--nonblocking", "--threads", "--output", output,
                ]  # fmt: skip
                self._samplers.append(Process(command, output.with_suffix(f".{form}.log")))
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        for sampler in self._samplers:
            sampler.send(signal.SIGINT)
        for sampler in self._samplers:
            sampler.wait(20)
        for name in self._daemons:
            print(f"\n{self._title} {name}: share of samples, alone and with what it called")
            _print_functions((self._folder / f"{self._title}-{name}.txt").read_text())


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
