"""What `replicator status` knows, as values: collected by either side, written by the command.

    replicator_capture.status:collect(settings, connection, log) -> tuple[SourceStream, …]
    replicator_apply.status:collect(settings, connection)        -> tuple[TargetStream, …]

All ages are in seconds, sizes in bytes, positions as Postgres writes LSNs.
"""

from collections.abc import Iterator

import msgspec


class Problem(msgspec.Struct, frozen=True):
    """Something that needs a person: what, and what to do."""

    what: str
    remedy: str


class TargetReport(msgspec.Struct, frozen=True):
    """What a target last told its source.

    Attributes:
        target: its environment.
        age: since it wrote that; None: it has never written.
        position: every transaction below it is applied there.
        behind: WAL between that and what the source has written by now.
        lag: age of the commit that it applied last.
        oldest_wanted: age of its oldest fetch that is under way.
        counts: figures by name.
    """

    target: str
    age: float | None = None
    epoch: str = ""
    position: str = ""
    behind: int | None = None
    lag: float | None = None
    oldest_wanted: float | None = None
    counts: dict[str, int] = {}
    problems: tuple[Problem, ...] = ()


class SourceStream(msgspec.Struct, frozen=True):
    """One stream that this environment publishes.

    Attributes:
        slot: name of its slot; "" if there is none.
        active: a capture streams from it.
        wal_status: as in pg_replication_slots.
        retained: WAL that the slot holds on the disk.
        safe: WAL that may be written before the slot is lost; None without a limit.
        confirmed: position that the log has safely.
        behind: WAL written and not confirmed yet.
        topic: where it is published.
        records: offsets that the log holds: from, to.
        beat_age: since capture wrote its last beat; None: never.
    """

    stream: str
    slot: str = ""
    epoch: str = ""
    active: bool = False
    wal_status: str = ""
    retained: int = 0
    safe: int | None = None
    confirmed: str = ""
    behind: int | None = None
    topic: str = ""
    records: tuple[int, int] | None = None
    beat_age: float | None = None
    targets: tuple[TargetReport, ...] = ()
    problems: tuple[Problem, ...] = ()


class Run(msgspec.Struct, frozen=True):
    """A backfill that has not finished.

    Attributes:
        age: since it last made progress.
        refused: why the source does not answer it, "" if it does.
    """

    run: int
    state: str
    reason: str
    rows: int
    estimated: int | None
    suspects: int | None
    age: float
    refused: str = ""


class Held(msgspec.Struct, frozen=True):
    """One subscription.

    Attributes:
        dataset: with its arguments.
        rows: how many are ours because of it.
        generation: number of its newest backfill.
        backfill: the one that has not finished, if there is one.
        declared: the settings name it.
        gate: why the source does not answer for it, "" if it does.
        chosen_age: how long ago the source was asked which rows it chooses; None: no rule selects.
        by_command: `replicator subscribe` made it.
        paused: its rows stand as they are.
        leaving: it is being ended: "remove" or "keep" its rows; else "".
        unknown: it is the code of apply that does not know the dataset; `gate` says so.
    """

    dataset: str
    rows: int
    generation: int
    backfill: Run | None = None
    declared: bool = True
    gate: str = ""
    chosen_age: float | None = None
    by_command: bool = False
    paused: bool = False
    leaving: str = ""
    unknown: bool = False


class DueCalls(msgspec.Struct, frozen=True):
    """Calls of one function of `on_applied` that are still to be made, for one table.

    Attributes:
        calls: how many.
        age: of the oldest.
        resting: how many have failed so often that those behind them go on.
        failing: since the first failure of one that is still to be made; None: none has failed.
        error: what was raised last, "" if nothing.
        declared: whether this code declares the function for the table.
    """

    function: str
    table: str
    calls: int
    age: float
    resting: int = 0
    failing: float | None = None
    error: str = ""
    declared: bool = True


class TargetStream(msgspec.Struct, frozen=True):
    """One stream that this environment applies.

    Attributes:
        active: a worker applies it here.
        position: every transaction below it is applied.
        applied_age: since the last batch.
        commit_age: of the newest commit that is applied: the lag, while the source is busy.
        log_offset: where reading goes on.
        wanted: rows that a fetch is to bring.
        oldest_wanted: age of the oldest of them.
        source_report: what the source last told of itself.
        source_report_age: since it did.
        due: calls of functions after apply that are still to be made.
    """

    source: str
    stream: str
    active: bool = False
    epoch: str = ""
    position: str = ""
    applied_age: float | None = None
    commit_age: float | None = None
    log_offset: int | None = None
    wanted: int = 0
    oldest_wanted: float | None = None
    source_report: dict[str, str | int | bool | None] = {}
    source_report_age: float | None = None
    subscriptions: tuple[Held, ...] = ()
    due: tuple[DueCalls, ...] = ()
    problems: tuple[Problem, ...] = ()


class Status(msgspec.Struct, frozen=True):
    """All that `replicator status` shows; `--json` is this."""

    environment: str
    source: tuple[SourceStream, ...] = ()
    target: tuple[TargetStream, ...] = ()

    def problems(self) -> Iterator[tuple[str, Problem]]:
        """Give all problems, each with where it is."""
        for stream in self.source:
            for problem in stream.problems:
                yield f"stream {stream.stream}", problem
            for report in stream.targets:
                for problem in report.problems:
                    yield f"target {report.target}", problem
        for applied in self.target:
            for problem in applied.problems:
                yield f"source {applied.source}, stream {applied.stream}", problem
