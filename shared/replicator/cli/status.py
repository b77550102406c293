"""`replicator status`: collects from both sides and writes it, for people or as JSON."""

import sys
from collections.abc import Iterator
from importlib import import_module

import msgspec
from msgspec.structs import asdict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from replicator.cli.arguments import Arguments
from replicator.database import open_database
from replicator.log.port import open_log
from replicator.settings import ReplicatorSettings, load_settings
from replicator.status import Held, SourceStream, Status, TargetReport, TargetStream
from replicator.words import of_rows

_TOLD = ("problem", "retained_bytes", "safe_wal_bytes", "slot", "wal_status")
"""What of a source's last report is for people; `--json` has all of it."""
LATE = 30.0
"""Seconds of lag from which on a target is said to be behind; a beat comes every ten."""


def run(arguments: Arguments) -> int:
    """Show the status; 1 if something needs a person.

    Raises:
        DatabaseUnavailable, LogUnavailable: what it asks is away.
    """
    status = gather(load_settings())
    if arguments.json:
        sys.stdout.write(as_json(status) + "\n")
    else:
        show(status, Console(highlight=False, markup=False, emoji=False, soft_wrap=True))
    return 1 if any(status.problems()) else 0


def as_json(status: Status) -> str:
    """Write it for programs: the fields of `Status`, and all problems in one list."""
    problems = [{"where": where, **asdict(what)} for where, what in status.problems()]
    return msgspec.json.encode({**asdict(status), "problems": problems}).decode()


def gather(settings: ReplicatorSettings) -> Status:
    """Ask both sides."""
    source = import_module("replicator_capture.status")
    target = import_module("replicator_apply.status")
    log = open_log(settings.log, settings.log_options)
    with open_database(settings, "replicator status") as connection:
        return Status(
            settings.environment,
            source.collect(settings, connection, log),
            target.collect(settings, connection),
        )


def show(status: Status, console: Console) -> None:
    """Write it for people."""
    console.print(Text(f"Environment {status.environment}", "bold"))
    for published in status.source:
        _block(console, f"publishes stream {published.stream}", _source(published))
        for report in published.targets:
            _block(console, f"  target {report.target}", _report(report))
    for applied in status.target:
        _block(console, f"applies {applied.source}, stream {applied.stream}", _target(applied))
        for held in applied.subscriptions:
            _block(console, f"  dataset {held.dataset}", _held(held))
    if not status.source and not status.target:
        console.print("It neither publishes (TARGETS) nor subscribes (SUBSCRIPTIONS).")
    for where, problem in status.problems():
        console.print(Text(f"\n✘ {where}: {problem.what}", "bold red"))
        if problem.remedy:
            console.print(Text(f"  → {problem.remedy}"))
    if (status.source or status.target) and not any(status.problems()):
        late = "".join(f"; {each}" for each in _late(status))
        console.print(Text(f"\n✔ everything runs{late}", "bold yellow" if late else "bold green"))


def _late(status: Status) -> Iterator[str]:
    """Name the targets that are behind, though nothing is in their way."""
    for published in status.source:
        for report in published.targets:
            if report.lag is not None and report.lag > LATE:
                yield f"target {report.target} is {report.lag:,.0f} s behind"


def _block(console: Console, title: str, lines: Iterator[tuple[str, str]]) -> None:
    console.print(Text(f"\n{title}", "bold"))
    table = Table.grid(padding=(0, 2))
    indent = " " * (len(title) - len(title.lstrip()) + 2)
    for name, value in lines:
        table.add_row(Text(f"{indent}{name}"), Text(value))
    console.print(table)


def _source(stream: SourceStream) -> Iterator[tuple[str, str]]:
    if stream.slot:
        state = "active" if stream.active else "not active"
        yield "slot", f"{stream.slot}, {state}, wal_status {stream.wal_status or 'none'}"
        limit = "no limit" if stream.safe is None else f"{size(stream.safe)} until it is lost"
        yield "WAL held", f"{size(stream.retained)}, {limit}"
        yield "confirmed", f"{stream.confirmed}, {size(stream.behind)} behind"
    if stream.records:
        begin, end = stream.records
        yield "log", f"{stream.topic}, offsets {begin:,} to {end:,}"
    yield "last beat", age(stream.beat_age)


def _report(report: TargetReport) -> Iterator[tuple[str, str]]:
    yield "reported", age(report.age)
    if report.age is not None:
        yield "applied to", f"{report.position or 'nothing yet'}, {size(report.behind)} behind"
        yield "lag", "unknown" if report.lag is None else f"{report.lag:,.1f} s"
        counts = ", ".join(f"{name} {count:,}" for name, count in report.counts.items())
        if counts:
            yield "counts", counts


def _target(stream: TargetStream) -> Iterator[tuple[str, str]]:
    yield "worker", "active" if stream.active else "not active"
    if stream.position:
        yield "applied to", f"{stream.position} of epoch {stream.epoch}"
        yield "last batch", f"{age(stream.applied_age)}, committed there {age(stream.commit_age)}"
        oldest = "" if stream.oldest_wanted is None else f", oldest {age(stream.oldest_wanted)}"
        yield "wanted", f"{of_rows(stream.wanted)}{oldest}"
    for due in stream.due:
        yield "on_applied", f"{due.function}: {due.calls:,} due for {due.table}, {age(due.age)}"
    if stream.source_report:
        told = ", ".join(
            f"{name} {value}"
            for name, value in sorted(stream.source_report.items())
            if name in _TOLD and value not in ("", None)
        )
        yield "source told", f"{age(stream.source_report_age)}: {told}"


def _held(held: Held) -> Iterator[tuple[str, str]]:
    paused = ", which stand as they are: paused" if held.paused else ""
    yield "rows", f"{held.rows:,}{paused}"
    if held.chosen_age is not None:
        yield "chosen", age(held.chosen_age)
    if held.by_command:
        yield "made by", "replicator subscribe"
    if held.leaving:
        yield "ends", "its rows go" if held.leaving == "remove" else "its rows become local"
    run_ = held.backfill
    if run_ is not None:
        of = "" if run_.estimated is None else f" of about {run_.estimated:,}"
        yield (
            f"backfill {run_.run}",
            f"{run_.state} ({run_.reason}), {run_.rows:,}{of} rows, {age(run_.age)}",
        )


def age(seconds: float | None) -> str:
    """Write how long ago something was."""
    if seconds is None:
        return "never"
    if seconds < 120:
        return f"{seconds:.1f} s ago"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min ago"
    return f"{seconds / 3600:.0f} h ago"


def size(count: int | None) -> str:
    """Write a number of bytes."""
    if count is None:
        return "unknown"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:,.0f} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"
