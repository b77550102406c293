"""Results → a table for a person, and JSON for a machine. Pure."""

from collections.abc import Iterable, Sequence
from statistics import median

from tests.benchmark.entries import KINDS
from tests.benchmark.run import Result
from tests.benchmark.workloads import WORKLOADS

_TITLES = (
    {w.name: w.title for w in WORKLOADS}
    | {kind.name: kind.title for kind in KINDS}
    | {"L": "200 transactions/s of 5 rows", "B": "backfill, L's traffic meanwhile"}
)


def table(results: Sequence[Result]) -> str:
    """Write one line per workload and system: medians over the repetitions."""
    lines = [
        f"{'workload':<38}{'system':<12}{'rows/s':>9}{'of native':>11}"
        f"{'CPU µs/row':>12}  by process; peak memory; load before",
        "-" * 130,
    ]
    for workload in dict.fromkeys(r.workload for r in results):
        for system in dict.fromkeys(r.system for r in results):
            chosen = [r for r in results if (r.workload, r.system) == (workload, system)]
            if chosen:
                lines.append(_line(chosen, ratio(results, workload, system)))
    return "\n".join(lines)


def ratio(results: Sequence[Result], workload: str, system: str) -> float | None:
    """Give the median of a system's rates over native's in the same repetition."""
    native = {r.turn: r for r in results if (r.workload, r.system) == (workload, "native")}
    ratios = [
        r.rows_per_second / native[r.turn].rows_per_second
        for r in results
        if (r.workload, r.system) == (workload, system) and r.turn in native
    ]
    return median(ratios) if ratios else None


def _line(chosen: Sequence[Result], of_native: float | None) -> str:
    first = chosen[0]
    cpu = {name: median(r.cpu_us_per_row[name] for r in chosen) for name in first.cpu_us_per_row}
    peak = {name: max(r.peak_mb[name] for r in chosen) for name in first.peak_mb}
    is_latency = bool(first.latency_ms)
    shown = "" if of_native is None or first.workload == "L" else f"{of_native:.2f}"
    title = f"{first.workload} {_TITLES[first.workload]}"
    rate = median(r.rows_per_second for r in chosen)
    parts = [
        ", ".join(f"{name} {value:.2f}" for name, value in cpu.items()),
        ", ".join(f"{name} {value:.0f} MB" for name, value in peak.items()),
        "load " + "/".join(f"{r.load:.1f}" for r in chosen),
    ]
    if is_latency:
        parts.insert(0, _latency(chosen))
    elif first.torn is not None:
        parts.insert(0, f"torn {sum(r.torn or 0 for r in chosen)}")
    parts += [f"{n} {median(r.figures[n] for r in chosen):,.6g}" for n in first.figures]
    return (
        f"{title:<38}{first.system:<12}{rate:>9,.0f}{shown:>11}{sum(cpu.values()):>12.2f}  "
        + "; ".join(part for part in parts if part)
    )


def _latency(chosen: Iterable[Result]) -> str:
    results = list(chosen)
    values = ", ".join(
        f"{name} {median(r.latency_ms[name] for r in results):.1f} ms"
        for name in results[0].latency_ms
    )
    return f"{values}, torn {sum(r.torn or 0 for r in results)}"
