"""What processes cost: CPU time and memory, out of /proc (Linux only)."""

import os
from collections.abc import Mapping
from pathlib import Path

Processes = Mapping[str, tuple[int, ...]]
"""Process ids by the name under which they are reported."""

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: tuple[int, ...]) -> float:
    """Give user and system time of some processes so far, their threads included."""
    return sum(_cpu_ticks(pid) for pid in pids) / _TICKS


def _cpu_ticks(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return 0
    # The command, in parentheses, may hold blanks (proc(5)); utime and stime are fields 14 and 15.
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def peak_mb(pid: int) -> float:
    """Give the most memory that a process has had at once, in MB (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


class CpuMeter:
    """CPU time of processes since it was made, or reset."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self.reset()

    def reset(self) -> None:
        """Count from now on."""
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        return {name: cpu_seconds(pids) for name, pids in self._processes.items()}

    def seconds(self) -> dict[str, float]:
        """Give what each has used since."""
        return {name: now - self._before[name] for name, now in self._now().items()}
