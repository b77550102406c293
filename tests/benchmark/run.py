"""One workload on one system: prepared, written, timed, and checked for equality."""

import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.benchmark import backfill, entries, latency, trees
from tests.benchmark.profiling import Profile
from tests.benchmark.shapes import SHAPE_TABLES
from tests.benchmark.sites import Connection, Site, open_connection, tidy
from tests.benchmark.systems import Related, Replicator, System, running, standing
from tests.benchmark.usage import CpuMeter, peak_mb
from tests.benchmark.workloads import WORKLOADS, Workload, fill
from tests.support.processes import wait_until

PATIENCE = 600.0
POLL = 0.01


class Result(msgspec.Struct):
    """What one run of a workload on a system took.

    Attributes:
        workload: its name.
        system: its name.
        turn: which repetition.
        load: the machine's load average of the minute before.
        rows: changed on the source.
        seconds: until the target had all of it.
        cpu_us_per_row: microseconds of CPU time per row, by process.
        peak_mb: most memory at once, by daemon.
        latency_ms: p50, p95 and p99; only of L and B.
        torn: transactions or trees of which a reader saw a part; only of L, B, W6 and W9.
        figures: what else was measured, by name; only of W9.
    """

    workload: str
    system: str
    turn: int
    load: float
    rows: int
    seconds: float
    cpu_us_per_row: dict[str, float]
    peak_mb: dict[str, float]
    latency_ms: dict[str, float] = {}
    torn: int | None = None
    figures: dict[str, float] = {}

    @property
    def rows_per_second(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


@dataclass(frozen=True)
class Options:
    """How all workloads are run.

    Attributes:
        scale: share of the rows, or of L's time.
        profile: whether the daemons are sampled, and where their flame graphs go.
        held: rows that the table of parcels has before each workload, at least.
    """

    scale: float = 1.0
    profile: Path | None = None
    held: int = 0


class Unequal(AssertionError):
    """Source and target do not hold the same rows at the end of a workload."""


def run_workload(workload: Workload, system: System, turn: int, options: Options) -> Result:
    """Run a workload on a system that is stopped; it is stopped again afterwards.

    Raises:
        Unequal: the target does not hold what the source does.
        AssertionError: it took too long.
    """
    rows = max(100, int(workload.rows * options.scale))
    load = os.getloadavg()[0]
    site = system.site
    with open_connection(site.source) as source, open_connection(site.target) as target:
        if workload.fill is not None:
            workload.fill(source, rows)
        _prepare(system, source, target, max(options.held, int(workload.before * rows)))
        with running(system), _watched(workload, site) as torn:
            _arrives(target, _send_signal(source))
            meter = CpuMeter(system.processes())
            profile = Profile(options.profile, workload.name, system.daemons())
            with source.transaction() if workload.live else standing(system):
                changed = workload.write(source, rows)
                value = _send_signal(source)
                meter.reset()
                begun = time.perf_counter()
            with profile:
                _arrives(target, value)
                wait_until(lambda: system.at_rest(target), PATIENCE, "nothing is wanted")
                seconds = time.perf_counter() - begun
            cpu = meter.seconds()
            peak = {name: peak_mb(pid) for name, pid in system.daemons().items()}
        compare(system, source, target)
    per_row = {name: used * 1e6 / changed for name, used in cpu.items()}
    result = Result(workload.name, system.name, turn, load, changed, seconds, per_row, peak)
    return result if torn is None else msgspec.structs.replace(result, torn=torn.trees)


def _watched(workload: Workload, site: Site) -> AbstractContextManager[trees.Torn | None]:
    return trees.watched(site) if workload.trees else nullcontext()


def run_latency(system: System, turn: int, options: Options) -> Result:
    """Run L on a system that is stopped; it is stopped again afterwards.

    Raises:
        Unequal, AssertionError: as `run_workload`.
    """
    load = os.getloadavg()[0]
    site = system.site
    with open_connection(site.source) as source, open_connection(site.target) as target:
        _prepare(system, source, target, 0)
        with running(system):
            _arrives(target, _send_signal(source))
            # Daemons and brokers run for weeks: the first seconds of a JVM are nobody's latency.
            latency.measure(site, latency.WARM_UP * options.scale)
            meter = CpuMeter(system.processes())
            begun = time.perf_counter()
            with Profile(options.profile, "L", system.daemons()):
                measured = latency.measure(site, latency.SECONDS * options.scale)
            seconds = time.perf_counter() - begun
            cpu = meter.seconds()
            peak = {name: peak_mb(pid) for name, pid in system.daemons().items()}
        compare(system, source, target)
    rows = len(measured.milliseconds) * latency.SIZE
    return Result(
        "L",
        system.name,
        turn,
        load,
        rows,
        seconds,
        {name: used * 1e6 / rows for name, used in cpu.items()},
        peak,
        _percentiles(measured),
        measured.torn,
    )


def run_backfill(system: Replicator, turn: int, options: Options) -> Result:
    """Run B on a system that is stopped; it is stopped again afterwards.

    Raises:
        Unequal, AssertionError: as `run_workload`.
    """
    rows, load = max(100, int(backfill.ROWS * options.scale)), os.getloadavg()[0]
    with open_connection(system.site.source) as source:
        with open_connection(system.site.target) as target:
            _prepare(system, source, target, rows)
        row = source.execute("SELECT count(*) FROM parcels_parcel").fetchone()
        held = int(row[0]) if row else 0
        with system.newcomer() as site, Profile(options.profile, "B", system.daemons()):
            meter = CpuMeter(system.processes())
            brought = backfill.watch(site)
            cpu = meter.seconds()
            peak = {name: peak_mb(pid) for name, pid in system.daemons().items()}
            with open_connection(site.target) as target:
                _arrives(target, _send_signal(source))
        with open_connection(site.target) as target:
            compare(system, source, target)
    streamed = brought.latency
    return Result(
        "B",
        system.name,
        turn,
        load,
        held,
        brought.seconds,
        {name: used * 1e6 / (held + brought.streamed) for name, used in cpu.items()},
        peak,
        {} if streamed is None else _percentiles(streamed),
        None if streamed is None else streamed.torn,
    )


def _percentiles(measured: latency.Latency) -> dict[str, float]:
    return {f"p{share}": measured.percentile(share / 100) for share in (50, 95, 99)}


def run_entries(kind: entries.Entries, system: Replicator, turn: int, options: Options) -> Result:
    """Run W9 on a system that is stopped and follows rules; it is stopped again afterwards.

    Raises:
        Unequal, AssertionError: as `run_workload`.
    """
    rows = max(100, int(entries.ROWS * options.scale))
    load = os.getloadavg()[0]
    site = system.site
    with open_connection(site.source) as source, open_connection(site.target) as target:
        kind.fill(source, rows)
        _prepare(system, source, target, 0)
        log = system.log_url
        with running(system):
            _arrives(target, _send_signal(source))
            records, requests = entries.log_ends(log, system.name)
            with entries.flowing(site, kind) as flow:
                time.sleep(entries.WARM_UP)
                meter = CpuMeter(system.processes())
                with Profile(options.profile, kind.name, system.daemons()):
                    kind.enter(source)
                    begun = time.perf_counter()
                    wait_until(lambda: flow.through is not None, PATIENCE, "the first is here")
                    _arrives(target, _send_signal(source))
                    wait_until(lambda: system.at_rest(target), PATIENCE, "nothing is wanted")
                    ended = time.perf_counter()
                time.sleep(entries.AFTERWARDS)
                cpu = meter.seconds()
            peak = {name: peak_mb(pid) for name, pid in system.daemons().items()}
        figures = entries.figures(flow, target, begun, ended)
        figures |= entries.log_figures(log, system.name, records, requests)
        compare(system, source, target)
    return Result(
        kind.name,
        system.name,
        turn,
        load,
        rows,
        ended - begun,
        {name: used * 1e6 / rows for name, used in cpu.items()},
        peak,
        torn=flow.torn,
        figures=figures,
    )


def _prepare(system: System, source: Connection, target: Connection, rows: int) -> None:
    """Let the rows arrive that a workload needs, and bring both databases to rest."""
    with running(system):
        fill(source, rows)
        _arrives(target, _send_signal(source))
    tidy(source)
    tidy(target)


def _send_signal(source: Connection) -> int:
    """Change the signal; gives the value that it has now."""
    found = source.execute(
        "INSERT INTO parcels_signal (id, value) VALUES (1, 1) "
        "ON CONFLICT (id) DO UPDATE SET value = parcels_signal.value + 1 RETURNING value"
    ).fetchone()
    if found is None:
        raise LookupError("the signal gave no value")
    return int(found[0])


def _arrives(target: Connection, value: int) -> None:
    """Wait until the signal has reached the target, and with it all that was written before."""
    until = time.monotonic() + PATIENCE
    while target.execute("SELECT 1 FROM parcels_signal WHERE value = %s", [value]).rowcount == 0:
        if time.monotonic() > until:
            raise AssertionError(f"signal {value} did not arrive within {PATIENCE:.0f} s")
        time.sleep(POLL)


_CONTENT = "SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {} t WHERE {}"
TABLES = ("parcel", "question", "choice", "vote", "voter", "leaflet", *SHAPE_TABLES)


def compare(system: System, source: Connection, target: Connection) -> None:
    """See whether the target holds what the system brings. Raises Unequal."""
    for name in TABLES:
        table = f"parcels_{name}"
        condition = system.belongs.get(name, "true")
        here = source.execute(_CONTENT.format(table, condition)).fetchone()
        there = target.execute(_CONTENT.format(table, "true")).fetchone()
        if here != there:
            raise Unequal(
                f"of {table} the source has {here} (rows, sum of their hashes), the target {there}"
            )


def run_one(name: str, system: System, turn: int, options: Options) -> Result | None:
    """Run the workload of a name; None: it is not for this system.

    Raises:
        Unequal, AssertionError: as `run_workload`.
    """
    entering = next((kind for kind in entries.KINDS if kind.name == name), None)
    if name == "L":
        return run_latency(system, turn, options)
    if name == "B":
        return run_backfill(system, turn, options) if type(system) is Replicator else None
    if entering is not None:
        return run_entries(entering, system, turn, options) if type(system) is Related else None
    workload = next(each for each in WORKLOADS if each.name == name)
    return run_workload(workload, system, turn, options)
