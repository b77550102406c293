"""The source's part of `replicator status`: slots, the log, and what targets last reported.

Blocks on database and log.
"""

import time
from typing import NamedTuple

import psycopg
from psycopg import sql

from replicator.compiler import releases
from replicator.errors import BadRecord
from replicator.log.port import Log
from replicator.log.tail import last_records
from replicator.models import Beat
from replicator.positions import Lsn, format_lsn, parse_lsn
from replicator.postgres import driver_errors
from replicator.requests import Report, parse
from replicator.settings import ReplicatorSettings, requests_topic, stream_topic
from replicator.status import Problem, SourceStream, TargetReport
from replicator_capture import prepare, publication
from replicator_capture import slot as slots
from replicator_capture.facts import foresee
from replicator_capture.slot import Slot
from replicator_capture.startup import PREPARE, Refuse

SILENT_AFTER = 60.0
"""Seconds without a report after which a target counts as silent; it writes every few seconds."""

_REACH = 50


def collect(
    settings: ReplicatorSettings, connection: psycopg.Connection, log: Log
) -> tuple[SourceStream, ...]:
    """Describe every stream that this environment publishes; none if it publishes nothing.

    Raises:
        DatabaseUnavailable, LogUnavailable: try again.
    """
    with driver_errors("reading the slots"):
        now = _Now(connection, _written(connection), _beat_age(connection))
        found = {stream: slots.find(connection, stream) for stream in settings.streams}
    if not settings.targets and not any(found.values()):
        return ()
    return tuple(_stream(settings, log, stream, found[stream], now) for stream in found)


class _Now(NamedTuple):
    connection: psycopg.Connection
    written: Lsn
    beat_age: float | None


def _stream(
    settings: ReplicatorSettings, log: Log, stream: str, found: list[Slot], now: _Now
) -> SourceStream:
    topic = stream_topic(settings.environment, stream)
    state = log.state(topic)
    slot = found[0] if found else None
    confirmed = slot.confirmed if slot else None
    refusal = foresee(now.connection, log, settings, stream)
    return SourceStream(
        stream=stream,
        slot=slot.name if slot else "",
        epoch=slot.epoch if slot else "",
        active=slot.active if slot else False,
        wal_status=slot.wal_status if slot else "",
        retained=slot.retained if slot else 0,
        safe=slot.safe_wal_size if slot else None,
        confirmed="" if confirmed is None else format_lsn(confirmed),
        behind=None if confirmed is None else max(now.written - confirmed, 0),
        topic=topic,
        records=(state.begin, state.end) if state.exists else None,
        beat_age=now.beat_age,
        targets=tuple(
            report(log, requests_topic(settings.environment, stream, target), target, now.written)
            for target in sorted(settings.targets)
        ),
        problems=(
            *(_problems(found, refusal) if settings.publishes else _unused(found)),
            *(_unprepared(settings, stream, now.connection) if found else ()),
            *(Problem(each, "Change the topic's configuration.") for each in state.problems),
        ),
    )


def _unused(found: list[Slot]) -> list[Problem]:
    what = "This environment publishes to nobody (TARGETS is empty), and slot {} holds WAL."
    return [Problem(what.format(each.name), slots.UNUSED) for each in found]


def _problems(found: list[Slot], refusal: Refuse | None) -> list[Problem]:
    if refusal is not None:
        return [Problem(refusal.message, refusal.remedy)]
    if not found:
        return [Problem("Capture has not begun: there is no slot.", "Run `replicator capture`.")]
    # Several are refused.
    (slot,) = found
    if slot.wal_status == "unreserved":
        return [
            Problem(
                "The slot is about to be lost: it holds more than max_slot_wal_keep_size.",
                "See that capture runs and the log accepts records, or raise the limit.",
            )
        ]
    if not slot.active:
        return [Problem("No capture streams from the slot.", "Run `replicator capture`.")]
    return []


def _unprepared(
    settings: ReplicatorSettings, stream: str, connection: psycopg.Connection
) -> list[Problem]:
    """Say what is wrong with tables and publication since capture has begun."""
    remedy, compiled = PREPARE, releases(stream)
    if settings.auto_prepare:
        remedy = f"Wait a minute: capture mends it if its role may. {PREPARE}"
    with driver_errors("comparing the publication"):
        found = publication.read(connection, publication.name_of(stream))
        if found is None:  # A start would be refused for it.
            return []
        todo = prepare.statements(connection, stream, compiled)
        unfit = [
            *prepare.unreplicable(connection, compiled),
            *publication.problems(found),
        ]
    return [
        *(Problem(each, "`replicator check` says what to do.") for each in unfit),
        *(Problem(each.problem, remedy) for each in todo if each.needed),
    ]


def report(log: Log, topic: str, target: str, written: Lsn) -> TargetReport:
    """Give the newest report on a target's requests topic.

    Raises:
        LogUnavailable: the log is away.
    """
    for record in reversed(last_records(log, topic, _REACH)):
        try:
            message = parse(record.value)
        except BadRecord:
            continue
        if isinstance(message, Report) and message.target == target:
            return _described(message, written)
    return TargetReport(target)


def _described(message: Report, written: Lsn) -> TargetReport:
    age = max(time.time() - message.at_ms / 1000, 0.0)
    problems = [Problem(each.message, each.remedy) for each in message.errors]
    if age > SILENT_AFTER:
        what = f"It has not reported for {age:,.0f} s."
        problems.append(Problem(what, f"See whether `replicator apply` runs in {message.target}."))
    return TargetReport(
        target=message.target,
        age=age,
        epoch=message.epoch,
        position=format_lsn(Lsn(message.next)),
        behind=max(written - message.next, 0) if message.next else None,
        lag=message.lag_s,
        oldest_wanted=message.oldest_wanted_s,
        counts=message.counts,
        problems=tuple(problems),
    )


def _written(connection: psycopg.Connection) -> Lsn:
    row = connection.execute(
        "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()"
        " ELSE pg_current_wal_lsn() END::text"
    ).fetchone()
    return parse_lsn(row[0]) if row else Lsn(0)


def _beat_age(connection: psycopg.Connection) -> float | None:
    statement = sql.SQL("SELECT extract(epoch FROM clock_timestamp() - at)::float8 FROM {}").format(
        sql.Identifier("public", Beat._meta.db_table)
    )
    row = connection.execute(statement).fetchone()
    return None if row is None else float(row[0])
