"""The target's part of `replicator status`: positions, subscriptions, runs. Blocks on Postgres."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import psycopg
from msgspec import structs
from psycopg import sql
from psycopg.rows import dict_row

from replicator.compiler import find_model, table_of
from replicator.declare import declared_hooks
from replicator.errors import WrongDeclaration
from replicator.models import (
    AppliedCall,
    BackfillRun,
    ChosenRow,
    StreamPosition,
    Subscription,
    WantedRow,
)
from replicator.plan import full_name
from replicator.positions import Lsn, format_lsn
from replicator.postgres import driver_errors
from replicator.settings import ReplicatorSettings
from replicator.status import DueCalls, Held, Problem, Run, TargetStream
from replicator.words import of_rows
from replicator_apply.calls import TRIES
from replicator_apply.lock import is_locked
from replicator_apply.receipts import held_by_each
from replicator_apply.reports import remedy_of
from replicator_apply.state import TRIAL, Place, copied, other_code

_SCHEMA = "public"
_STALE = 120.0
"""Seconds without a batch or beat, or without an answer to a backfill, that are too many."""

Rows = list[dict[str, Any]]


def collect(
    settings: ReplicatorSettings, connection: psycopg.Connection
) -> tuple[TargetStream, ...]:
    """Describe every stream that this environment applies or has subscribed to.

    Raises:
        DatabaseUnavailable: try again.
    """
    with driver_errors("reading the replication state"):
        positions = {(row["source"], row["stream"]): row for row in _read(connection, _POSITIONS)}
        wanted = {(row["source"], row["stream"]): row for row in _read(connection, _WANTED)}
        held = _held(connection, settings)
        due = _due(connection)
    declared = {Place(each.source, each.stream) for each in settings.subscriptions}
    declared |= {Place(*place) for place, subs in held.items() if any(map(_is_wanted, subs))}
    places = sorted({*map(Place._make, (*positions, *held)), *declared})
    return tuple(
        _stream(
            _Look(
                settings.environment,
                place,
                place in declared,
                is_locked(connection, place),
                held.get(place, ()),
                due.get(place, ()),
            ),
            positions.get(place),
            wanted.get(place, {}),
        )
        for place in places
    )


def _is_wanted(held: Held) -> bool:
    """Whether a worker has to do with it."""
    return held.declared or held.by_command or bool(held.leaving)


class _Look(NamedTuple):
    """What is known of a stream beside its position.

    Attributes:
        environment: this one.
        declared: settings or commands subscribe to something of it.
        active: a worker applies it here.
        held: its subscriptions, declared or not.
        due: calls of functions that are still to be made.
    """

    environment: str
    place: Place
    declared: bool
    active: bool
    held: tuple[Held, ...]
    due: tuple[DueCalls, ...]


def _stream(
    look: _Look, position: Mapping[str, Any] | None, wanted: Mapping[str, Any]
) -> TargetStream:
    stream = TargetStream(
        *look.place,
        active=look.active,
        subscriptions=look.held,
        due=look.due,
        problems=(
            *_not_going(look, position),
            *_of_subscriptions(look.held),
            *_of_wanted(position, wanted),
            *_of_calls(look),
        ),
    )
    if position is None:
        return stream
    return structs.replace(
        stream,
        epoch=position["epoch"],
        position=format_lsn(Lsn(position["next_lsn"])),
        applied_age=position["applied_age"],
        commit_age=position["commit_age"],
        log_offset=position["log_offset"],
        wanted=wanted.get("count", 0),
        oldest_wanted=wanted.get("age"),
        source_report=position["source_report"],
        source_report_age=position["report_age"],
    )


def _not_going(look: _Look, position: Mapping[str, Any] | None) -> Iterator[Problem]:
    """Say why the stream does not go on."""
    if position and position["environment"] != look.environment:
        refusal = copied(position["environment"], look.environment)
        yield Problem(str(refusal), refusal.remedy)
        return
    if look.declared and not look.active:
        begun = "" if position else " It has not begun."
        yield Problem(f"No apply worker runs here.{begun}", "Run `replicator apply`.")
    elif look.declared and position is None:
        what = f"Apply runs, and has not begun: nothing has come from {look.place.source} yet."
        yield Problem(
            what,
            f"Start `replicator capture` in {look.place.source}; if it runs, see apply's log here.",
        )
    if position is None:
        return
    if position["stopped_reason"]:
        yield Problem(position["stopped_reason"], position["stopped_remedy"])
    elif look.active and position["applied_age"] > _STALE:
        what = f"Nothing has been applied for {position['applied_age']:,.0f} s, not even a beat."
        yield Problem(what, f"See whether `replicator capture` runs in {look.place.source}.")


def _of_wanted(position: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> Iterator[Problem]:
    """Say why rows that are wanted do not come."""
    if position is None or not wanted:
        return
    one = wanted["count"] == 1
    what = f"{of_rows(wanted['count'])} {'is' if one else 'are'} wanted, and the source"
    if position["wanted_refused"]:
        remedy = remedy_of(position["wanted_refused"])
        yield Problem(f"{what} refuses them: {position['wanted_refused']}", remedy)
        return
    answered = position["answered_age"]
    silent = wanted["age"] if answered is None else min(wanted["age"], answered)
    if silent > _STALE:
        remedy = "See that capture runs there, and that its TARGETS name this environment."
        yield Problem(f"{what} has not answered for {silent:,.0f} s.", remedy)


def _of_calls(look: _Look) -> Iterator[Problem]:
    """Say why functions are not called."""
    for due in look.due:
        what = f"{due.calls:,} call(s) of {due.function} for {due.table} are due"
        if not due.declared:
            remedy = "Declare it again (on_applied), or delete its rows of replicator_appliedcall."
            yield Problem(f"{what}, and no code declares it.", remedy)
        elif due.failing is not None:
            rest = f", {due.resting:,} of them rest" if due.resting else ""
            yield Problem(
                f"{what}{rest}: it has failed for {due.failing:,.0f} s: {due.error}",
                "Mend the function and restart apply, whose log says where it fails; what passes "
                "by itself needs nobody: it is called again.",
            )
        elif look.active and due.age > _STALE:
            remedy = "See whether it hangs or is slow; apply calls it again when it is restarted."
            yield Problem(f"{what}, the oldest for {due.age:,.0f} s.", remedy)


def _of_subscriptions(held: tuple[Held, ...]) -> list[Problem]:
    found = []
    for each in held:
        if not _is_wanted(each):
            found.append(_undeclared(each))
        if each.paused or each.leaving or not _is_wanted(each):
            continue
        run = each.backfill
        if each.gate:  # It tells of its backfill, too.
            found.append(_gated(each))
        elif run is not None and run.state == BackfillRun.State.RUNNING:
            found += _unanswered(run, each.dataset)
        if run is not None and run.state == BackfillRun.State.WAITING:
            what = (
                f"Backfill {run.run} of {each.dataset} would delete {of_rows(run.suspects or 0)}."
            )
            found.append(Problem(what, f"Look, then run `replicator confirm {run.run}`."))
    return found


def _gated(held: Held) -> Problem:
    if held.unknown:
        what = f"The subscription to {held.dataset} waits: {held.gate}"
        return Problem(what, other_code(held.dataset))
    return Problem(f"The source refuses {held.dataset}: {held.gate}", remedy_of(held.gate))


def _undeclared(held: Held) -> Problem:
    what = f"Subscription {held.dataset} is not declared any more; its rows stay as they are."
    remedy = (
        "Declare it again in SUBSCRIPTIONS, or run `replicator subscribe` or `replicator "
        f"unsubscribe {held.dataset}`."
    )
    return Problem(what, remedy)


def _unanswered(run: Run, dataset: str) -> list[Problem]:
    if run.refused:
        what = f"The source refuses backfill {run.run} of {dataset}: {run.refused}"
        return [Problem(what, remedy_of(run.refused))]
    if run.age < _STALE:
        return []
    what = f"Backfill {run.run} of {dataset} has had no answer for {run.age:,.0f} s."
    remedy = "See that capture runs there, and that its TARGETS name this environment and dataset."
    return [Problem(what, remedy)]


def _held(
    connection: psycopg.Connection, settings: ReplicatorSettings
) -> dict[tuple[str, str], tuple[Held, ...]]:
    declared = {(s.source, s.stream, s.name, s.arguments) for s in settings.subscriptions}
    rows = held_by_each(connection)
    runs = {row["subscription_id"]: _run(row) for row in _read(connection, _RUNS)}
    chosen = {row["subscription_id"]: row["age"] for row in _read(connection, _CHOSEN)}
    found: dict[tuple[str, str], tuple[Held, ...]] = {}
    for row in _read(connection, _SUBSCRIPTIONS):
        name = full_name(row["dataset"], row["arguments"])
        place = (row["source"], row["stream"])
        held = Held(
            name,
            rows.get(row["id"], 0),
            row["generation"],
            runs.get(row["id"]),
            (*place, row["dataset"], row["arguments"]) in declared,
            row["gate"],
            chosen.get(row["id"]),
            row["by_command"],
            row["paused"],
            row["leaving"],
            row["unknown"],
        )
        found[place] = (*found.get(place, ()), held)
    return found


def _due(connection: psycopg.Connection) -> dict[tuple[str, str], tuple[DueCalls, ...]]:
    declared = set()
    for hook in declared_hooks():
        with suppress(WrongDeclaration):
            declared.add((hook.name, str(table_of(find_model(hook.label)))))
    found: dict[tuple[str, str], tuple[DueCalls, ...]] = {}
    for row in _read(connection, _CALLS):
        place = (row.pop("source"), row.pop("stream"))
        known = (row["function"], row["table"]) in declared
        found[place] = (*found.get(place, ()), DueCalls(**row, declared=known))
    return found


def _run(row: Mapping[str, Any]) -> Run:
    return Run(
        run=row["id"],
        state=row["state"],
        reason=row["reason"],
        rows=row["rows_done"],
        estimated=row["rows_estimated"],
        suspects=row["suspects"],
        age=row["age"],
        refused=row["note"],
    )


def _read(connection: psycopg.Connection, statement: sql.Composed) -> Rows:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(statement).fetchall()


def _compose(text: str, model: type[Any]) -> sql.Composed:
    return sql.SQL(text).format(sql.Identifier(_SCHEMA, model._meta.db_table))


_POSITIONS = _compose(
    "SELECT environment, source, stream, epoch, next_lsn, log_offset, stopped_reason,"
    " stopped_remedy, source_report, wanted_refused,"
    " extract(epoch FROM now() - applied_at)::float8 AS applied_age,"
    " extract(epoch FROM now() - committed_at)::float8 AS commit_age,"
    " extract(epoch FROM now() - wanted_answered_at)::float8 AS answered_age,"
    " extract(epoch FROM now() - source_report_at)::float8 AS report_age"
    " FROM {}",
    StreamPosition,
)
_WANTED = _compose(
    "SELECT source, stream, count(*) AS count,"
    " extract(epoch FROM now() - min(created_at))::float8 AS age"
    " FROM {} GROUP BY source, stream",
    WantedRow,
)
_SUBSCRIPTIONS = sql.SQL(
    "SELECT id, source, stream, dataset, arguments, generation, gate, by_command,"
    " paused, leaving, gate <> '' AND gated_at IS NULL AS unknown FROM {} WHERE NOT ({})"
    " ORDER BY id"
).format(sql.Identifier(_SCHEMA, Subscription._meta.db_table), TRIAL)
_RUNS = _compose(
    "SELECT id, subscription_id, state, reason, rows_done, rows_estimated, suspects, note,"
    " extract(epoch FROM now() - updated_at)::float8 AS age"
    " FROM {} WHERE state IN ('running', 'paused', 'waiting')",
    BackfillRun,
)
_CALLS = sql.SQL(
    "SELECT source, stream, function, table_name AS table, count(*) AS calls,"
    " extract(epoch FROM now() - min(created_at))::float8 AS age,"
    " count(*) FILTER (WHERE tries >= {tries}) AS resting,"
    " extract(epoch FROM now() - min(failed_at))::float8 AS failing,"
    " coalesce((array_agg(error ORDER BY tried_at DESC NULLS LAST))[1], '') AS error"
    " FROM {table} GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
).format(tries=TRIES, table=sql.Identifier(_SCHEMA, AppliedCall._meta.db_table))
_CHOSEN = sql.SQL(
    "SELECT subscription_id, extract(epoch FROM now() - max(started_at))::float8 AS age"
    " FROM {run} WHERE state = 'finished' AND subscription_id IN (SELECT subscription_id"
    " FROM {chosen} UNION SELECT subscription_id FROM {run} WHERE light) GROUP BY 1"
).format(
    run=sql.Identifier(_SCHEMA, BackfillRun._meta.db_table),
    chosen=sql.Identifier(_SCHEMA, ChosenRow._meta.db_table),
)
