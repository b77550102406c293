"""The target's own tables: position, subscriptions, wanted rows, backfill runs. Blocks on Postgres.

All of it is written in the transaction that writes the rows, so that a crash leaves neither ahead.
The tables are Django models (`replicator.models`), read and written here by SQL.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import msgspec
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from replicator.envelope import Mark
from replicator.errors import Refused, ReplicatorError
from replicator.models import (
    BackfillRun,
    ChosenRow,
    NulledValue,
    StreamPosition,
    Subscription,
    WantedRow,
)
from replicator.plan import TableName, full_name
from replicator.positions import EpochId, Lsn, Offset, Position
from replicator.settings import Subscription as DeclaredSubscription
from replicator_apply.plan import KEPT, TargetPlan

Cursor = psycopg.Cursor[Any]
SCHEMA = "public"


def state_table(model: type[Any]) -> sql.Identifier:
    """Name the table of one of Replicator's models."""
    return sql.Identifier(SCHEMA, model._meta.db_table)


class Place(NamedTuple):
    """One stream as a target sees it: who publishes it, and its name."""

    source: str
    stream: str

    @property
    def parameters(self) -> dict[str, str]:
        """Placeholders that nearly every statement here has."""
        return self._asdict()


@dataclass(frozen=True, slots=True)
class StoredPosition:
    """The position row: where the stream stands, and where in the log reading goes on."""

    position: Position
    offset: Offset


STANDS = sql.SQL("(s.declared OR s.by_command) AND NOT s.paused AND s.leaving = ''")
"""Condition on the subscription `s`: that events are applied to its rows."""
TRIAL = sql.SQL("generation = 0 AND fingerprint = '' AND NOT declared AND NOT by_command")
"""Condition on a subscription: `replicator subscribe --dry-run` compares it, or was killed."""
UNKNOWN = sql.SQL("(s.gate <> '' AND s.gated_at IS NULL)")
"""Of the subscription `s`: it is not the source that refuses it, the code here does not know it."""


def _compose(text: str) -> sql.Composed:
    return sql.SQL(text).format(
        position=state_table(StreamPosition),
        subscription=state_table(Subscription),
        wanted=state_table(WantedRow),
        nulled=state_table(NulledValue),
        run=state_table(BackfillRun),
        chosen=state_table(ChosenRow),
        stands=STANDS,
        unknown=UNKNOWN,
        at=sql.SQL("WHERE source = %(source)s AND stream = %(stream)s"),
    )


_LOAD = _compose("SELECT environment, epoch, next_lsn, log_offset FROM {position} {at}")
_OWNERS = _compose("SELECT DISTINCT environment FROM {position} ORDER BY 1")
_BEGIN = _compose(
    "INSERT INTO {position} (environment, source, stream, epoch, next_lsn, log_offset) "
    "VALUES (%(environment)s, %(source)s, %(stream)s, %(epoch)s, %(next)s, %(offset)s) "
    "ON CONFLICT (source, stream) DO UPDATE SET epoch = EXCLUDED.epoch, "
    "next_lsn = EXCLUDED.next_lsn, log_offset = EXCLUDED.log_offset, applied_at = now(), "
    "stopped_reason = '', stopped_error = '', stopped_remedy = ''"
)
_STOP = _compose(
    "UPDATE {position} SET stopped_reason = %(reason)s, stopped_error = %(error)s, "
    "stopped_remedy = %(remedy)s {at}"
)
_READ_REPORT = _compose("SELECT source_report FROM {position} {at}")
_REPORT = _compose(
    "UPDATE {position} SET source_report = %(report)s, source_report_at = now() {at}"
)


def load_position(cursor: Cursor, place: Place, environment: str) -> StoredPosition | None:
    """Read where the stream stands; None: it has never been applied here.

    Raises:
        Refused: the position was written by another environment: this database is a copy.
    """
    row = cursor.execute(_LOAD, place.parameters).fetchone()
    if row is None:
        return None
    owner, epoch, next_lsn, offset = row
    if owner != environment:
        raise copied(owner, environment)
    return StoredPosition(Position(EpochId(epoch), Lsn(next_lsn)), Offset(offset))


def copied(owner: str, environment: str) -> Refused:
    """Make the refusal of state that another environment has written. Pure."""
    return Refused(
        f"The replication state in this database was written by environment {owner!r}, and "
        f"the settings say {environment!r}: the database is a copy.",
        remedy="Run `replicator reset-state` to begin anew here, or correct ENVIRONMENT.",
    )


def owners(cursor: Cursor) -> list[str]:
    """List the environments that have written positions here: this one, unless it is a copy."""
    return [str(owner) for (owner,) in cursor.execute(_OWNERS)]


def fence(cursor: Cursor, place: Place) -> StoredPosition | None:
    """Begin to apply: defer constraints, lock the position row until the end, and read it."""
    cursor.execute(fencing(place), prepare=False)
    cursor.nextset()
    return stored_of(cursor.fetchone())


def stored_of(row: Sequence[Any] | None) -> StoredPosition | None:
    """Read the row that `fencing` gives."""
    if row is None:
        return None
    return StoredPosition(Position(EpochId(row[0]), Lsn(row[1])), Offset(row[2]))


@cache
def fencing(place: Place) -> str:
    """Give both statements of `fence` as one text, so that they take one round trip."""
    return (
        sql.SQL(
            "SET CONSTRAINTS ALL DEFERRED; SELECT epoch, next_lsn, log_offset FROM {} "
            "WHERE source = {} AND stream = {} FOR UPDATE"
        )
        .format(state_table(StreamPosition), place.source, place.stream)
        .as_string()
    )


def begin_at(cursor: Cursor, place: Place, environment: str, stored: StoredPosition) -> None:
    """Begin at a position: the first one, the start of an epoch, or behind a gap."""
    position = stored.position
    values = {"epoch": position.epoch, "next": position.next, "offset": stored.offset}
    cursor.execute(_BEGIN, {**place.parameters, "environment": environment, **values})


def advancing(place: Place, following: StoredPosition, committed_ms: int) -> str:
    """Give the statement that stores how far a batch brings the stream."""
    begin, end = _advancing(place)
    return (
        f"{begin} next_lsn = {following.position.next}, log_offset = {following.offset}, "
        f"committed_at = to_timestamp({committed_ms} / 1000.0), {end}"
    )


@cache
def _advancing(place: Place) -> tuple[str, str]:
    """Give what is always the same of it, once composed."""
    update = sql.SQL("UPDATE {} SET").format(state_table(StreamPosition))
    rest = sql.SQL(
        "applied_at = now(), stopped_reason = '', stopped_error = '', stopped_remedy = '' "
        "WHERE source = {} AND stream = {}"
    ).format(place.source, place.stream)
    return update.as_string(), rest.as_string()


def note_stop(cursor: Cursor, place: Place, error: ReplicatorError | None) -> None:
    """Store why the stream stands still, for `status`; None: it may go on."""
    values = {
        "reason": "" if error is None else str(error),
        "error": "" if error is None else type(error).__name__,
        "remedy": "" if error is None else error.remedy,
    }
    cursor.execute(_STOP, {**place.parameters, **values})


def source_report(cursor: Cursor, place: Place) -> dict[str, Any]:
    """Read what the source last told of itself; empty if it has not."""
    row = cursor.execute(_READ_REPORT, place.parameters).fetchone()
    return dict(row[0]) if row else {}


def note_report(cursor: Cursor, place: Place, mark: Mark) -> None:
    """Store what the source tells of itself."""
    cursor.execute(_REPORT, {**place.parameters, "report": Jsonb(mark.health)})


# Subscriptions -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredSubscription:
    """A row of `replicator_subscription`, wanted or not.

    Attributes:
        id: of its row.
        place: the stream.
        dataset: its name, without arguments.
        arguments: as in `polls:3,4`; "" if there are none.
        fingerprint: of the rules that its rows here were written by.
        generation: of its newest backfill; receipts below it are suspect.
        on_clash: refuse or adopt local rows under its keys.
        gate: why the source refuses it, "" if it does not.
        declared: the settings name it.
        by_command: `replicator subscribe` made it.
        paused: its rows stand as they are.
        leaving: "remove" or "keep" while it is being ended, else "".
        doubted: receipts below this generation may not fit their rows.
        unknown: the code that applies does not know its dataset; `gate` says more.
    """

    id: int
    place: Place
    dataset: str
    arguments: str
    fingerprint: str
    generation: int
    on_clash: str
    gate: str
    declared: bool
    by_command: bool
    paused: bool
    leaving: str
    doubted: int
    unknown: bool

    @property
    def name(self) -> str:
        """The dataset with its arguments."""
        return full_name(self.dataset, self.arguments)

    @property
    def stands_still(self) -> bool:
        """Whether its rows stay as they are, whatever the source does."""
        return self.paused or self.unknown

    @property
    def wanted(self) -> bool:
        """Whether settings or command want it, paused or not."""
        return (self.declared or self.by_command) and not self.leaving


GATE_FOR = 300.0
"""Seconds after which a subscription that the source refused is asked for again."""
_SUBSCRIPTIONS = _compose(
    "SELECT id, source, stream, dataset, arguments, fingerprint, generation, on_clash, gate, "
    "declared, by_command, paused, leaving, doubted, {unknown} FROM {subscription} s ORDER BY id"
)
_UNDECLARE = _compose(
    "UPDATE {subscription} SET declared = false {at} AND declared AND id <> ALL(%(kept)s) "
    "RETURNING id, dataset, arguments, by_command"
)
_REFINGERPRINT = _compose("UPDATE {subscription} SET fingerprint = %s WHERE id = %s")
_SUBSCRIBE = _compose(
    "INSERT INTO {subscription} (source, stream, dataset, arguments, fingerprint, declared, "
    "on_clash) VALUES (%(source)s, %(stream)s, %(dataset)s, %(arguments)s, %(fingerprint)s, "
    "true, %(on_clash)s) ON CONFLICT (source, stream, dataset, arguments) DO UPDATE SET "
    "fingerprint = EXCLUDED.fingerprint, declared = true, on_clash = EXCLUDED.on_clash, "
    "leaving = ''"
)


def known_subscriptions(cursor: Cursor | psycopg.Connection[Any]) -> list[StoredSubscription]:
    """Read all subscriptions that are stored, oldest first."""
    return [
        StoredSubscription(number, Place(source, stream), *rest)
        for number, source, stream, *rest in cursor.execute(_SUBSCRIPTIONS)
    ]


def wanted_subscriptions(
    cursor: Cursor, place: Place, also: int | None = None
) -> list[StoredSubscription]:
    """Read the subscriptions of a stream, those of settings and of the command, oldest first.

    Args:
        cursor: of the target.
        place: the stream.
        also: one that nobody wants yet.
    """
    known = known_subscriptions(cursor)
    return [each for each in known if each.place == place and (each.wanted or each.id == also)]


def stored_subscriptions(cursor: Cursor, place: Place) -> list[StoredSubscription]:
    """Read those of them that are not paused: to their rows, events are applied."""
    return [each for each in wanted_subscriptions(cursor, place) if not each.paused]


_GATE = _compose(
    "UPDATE {subscription} SET gate = %(reason)s, gated_at = now() {at} AND dataset = %(dataset)s "
    "AND arguments = %(arguments)s"
)
_UNGATE = _compose(
    "UPDATE {subscription} s SET gate = '', gated_at = NULL {at} AND gate <> '' "
    "AND {stands} "
    "AND gated_at < now() - make_interval(secs => %(since)s) RETURNING id"
)
_SET_APART = _compose(
    "UPDATE {subscription} SET gate = %(reason)s, gated_at = NULL WHERE id = %(id)s "
    "AND (gate <> %(reason)s OR gated_at IS NOT NULL)"
)
_KNOW_AGAIN = _compose("UPDATE {subscription} s SET gate = '' WHERE s.id = %s AND {unknown}")


def gate(cursor: Cursor, place: Place, dataset: str, arguments: str, reason: str) -> None:
    """Ask no more for a subscription that the source refuses; its rows stay, and follow events."""
    names = {"dataset": dataset, "arguments": arguments, "reason": reason}
    cursor.execute(_GATE, {**place.parameters, **names})


def ungate(cursor: Cursor, place: Place, *, every: bool) -> None:
    """Ask again for subscriptions that were refused, for all that was not noted as wanted since.

    Args:
        cursor: of the target.
        place: the stream.
        every: also for those refused lately: either side runs other code now, perhaps.
    """
    values = {**place.parameters, "since": 0.0 if every else GATE_FOR}
    for (subscription,) in cursor.execute(_UNGATE, values).fetchall():
        restart_run(cursor, subscription, "refused before")


def set_apart(cursor: Cursor, subscription: int, reason: str) -> bool:
    """Let the rows of a subscription stand that this code does not know; False: they do already."""
    values = {"id": subscription, "reason": reason}
    return cursor.execute(_SET_APART, values).rowcount > 0


def other_code(name: str) -> str:
    """Say what is to be done about a subscription that the code which applies does not know."""
    return (
        "Restart apply with the code that declares the dataset, or run `replicator unsubscribe "
        f"{name}`."
    )


def know_again(cursor: Cursor, subscription: int) -> bool:
    """Note that the code knows a subscription; False: it has known it before."""
    return cursor.execute(_KNOW_AGAIN, (subscription,)).rowcount > 0


def store_subscription(
    cursor: Cursor, place: Place, declared: DeclaredSubscription, fingerprint: str
) -> None:
    """Store a subscription that the settings declare, with the fingerprint of its rules."""
    values = {
        "dataset": declared.name,
        "arguments": declared.arguments,
        "fingerprint": fingerprint,
        "on_clash": declared.on_clash,
    }
    cursor.execute(_SUBSCRIBE, {**place.parameters, **values})


_FORGET_CHOSEN = _compose("DELETE FROM {chosen} WHERE subscription_id = %s AND rule <> ALL(%s)")


def forget_chosen(cursor: Cursor, subscription: int, rules: Collection[str]) -> None:
    """Forget the keys that the source has chosen for rules which a dataset has no more."""
    cursor.execute(_FORGET_CHOSEN, (subscription, list(rules)))


def undeclare_others(cursor: Cursor, place: Place, kept: Collection[int]) -> list[str]:
    """Let subscriptions rest that nothing names any more; gives their names.

    Their rows and receipts stay. Named again, they are backfilled.
    """
    found = cursor.execute(_UNDECLARE, {**place.parameters, "kept": list(kept)}).fetchall()
    rest = [row for row in found if not row[3]]
    for subscription, *_ in rest:
        cancel_run(cursor, subscription)
    return [full_name(dataset, arguments) for _, dataset, arguments, _ in rest]


def store_fingerprint(cursor: Cursor, subscription: int, fingerprint: str) -> None:
    """Store of which rules a subscription's rows are."""
    cursor.execute(_REFINGERPRINT, (fingerprint, subscription))


# Backfill runs -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """An unfinished row of `replicator_backfillrun`."""

    id: int
    subscription: int
    generation: int
    state: str
    rule: int
    after_key: str
    sweeping: bool
    confirmed: bool
    rows_done: int
    light: bool
    suspects: int | None = None


_RUNS = _compose(
    "SELECT b.id, b.subscription_id, b.generation, b.state, b.rule, b.after_key, b.sweeping, "
    "b.confirmed, b.rows_done, b.light, b.suspects "
    "FROM {run} b JOIN {subscription} s ON s.id = b.subscription_id "
    "WHERE s.source = %(source)s AND s.stream = %(stream)s AND {stands} "
    "AND b.state IN ('running', 'paused', 'waiting') ORDER BY b.id"
)
_CANCEL = _compose(
    "UPDATE {run} SET state = 'cancelled', finished_at = now(), updated_at = now() "
    "WHERE subscription_id = %s AND state IN ('running', 'paused', 'waiting')"
)
_NEW_GENERATION = _compose(
    "UPDATE {subscription} SET generation = generation + 1 WHERE id = %s RETURNING generation"
)
_DOUBT = _compose("UPDATE {subscription} SET doubted = generation WHERE id = %s")
_NEW_RUN = _compose(
    "INSERT INTO {run} (subscription_id, generation, reason) VALUES (%s, %s, %s) RETURNING id"
)
_DUE = _compose(
    "SELECT 1 FROM {subscription} s WHERE s.id = %(subscription)s AND s.gate = '' AND {stands} "
    "AND NOT EXISTS (SELECT FROM {run} b WHERE b.subscription_id = s.id "
    "AND (b.state IN ('running', 'paused', 'waiting') OR b.state = 'finished' "
    "AND b.started_at > now() - make_interval(secs => %(every)s)))"
)
_SCHEDULE = _compose(
    # The lock is what a command holds while it begins a run, or lets the subscription rest.
    "INSERT INTO {run} (subscription_id, generation, reason, light, rule) "
    "SELECT s.id, s.generation, 'scheduled', true, %(rule)s FROM "
    "(SELECT s.id, s.generation FROM {subscription} s WHERE s.id = %(subscription)s "
    "AND {stands} FOR UPDATE) s "
    "ON CONFLICT DO NOTHING"
)
_FORGET_SCHEDULED = _compose(
    "DELETE FROM {run} WHERE subscription_id = %(subscription)s AND light "
    "AND state IN ('finished', 'cancelled')"
)
_RESTART_RUN = _compose(
    "UPDATE {run} SET generation = %(generation)s, rule = 0, after_key = '', sweeping = false, "
    "light = false, confirmed = false, "
    "state = CASE WHEN state = 'paused' THEN state ELSE 'running' END, "
    "rows_done = 0, rows_estimated = NULL, suspects = NULL, note = '', updated_at = now() "
    "WHERE subscription_id = %(subscription)s AND state IN ('running', 'paused', 'waiting')"
)
_SAVE_RUN = _compose(
    "UPDATE {run} SET state = CASE WHEN state = 'paused' AND %(state)s::text <> 'finished' "
    "THEN state ELSE %(state)s::text END, rule = %(rule)s, after_key = %(after_key)s, "
    "sweeping = %(sweeping)s, rows_done = %(rows_done)s, "
    # A sweep that asks for as many as before has had no answer.
    "updated_at = CASE WHEN sweeping AND state = %(state)s::text "
    "AND suspects = %(suspects)s::bigint THEN updated_at ELSE now() END, "
    "note = CASE WHEN %(sweeping)s THEN note ELSE '' END, "
    "rows_estimated = coalesce(%(estimated)s, rows_estimated), "
    "suspects = coalesce(%(suspects)s, suspects), "
    "finished_at = CASE WHEN %(state)s::text = 'finished' THEN now() END "
    # A command may have paused or cancelled it since it was read.
    "WHERE id = %(id)s AND state IN ('running', 'paused', 'waiting')"
)
_NOTE_RUN = _compose("UPDATE {run} SET note = %s, updated_at = now() WHERE id = %s")


def unfinished_runs(cursor: Cursor, place: Place) -> list[Run]:
    """Read the backfills of a stream that are not through."""
    return [Run(*row) for row in cursor.execute(_RUNS, place.parameters)]


def start_run(cursor: Cursor, subscription: int, reason: str, *, doubts: bool = False) -> int:
    """Begin a backfill: all receipts of the subscription become suspect. Gives the run's id.

    Args:
        cursor: of the target.
        subscription: its id.
        reason: why.
        doubts: what ties its rows to it is not known any more: its rules are others, or events
            were not applied to it for a while, and rows that others hold as well have changed.
    """
    cancel_run(cursor, subscription)
    generation = _only(cursor.execute(_NEW_GENERATION, (subscription,)))
    if doubts:
        cursor.execute(_DOUBT, (subscription,))
    return _only(cursor.execute(_NEW_RUN, (subscription, generation, reason)))


def cancel_run(cursor: Cursor, subscription: int) -> None:
    """End a subscription's backfill that is not through, if there is one."""
    cursor.execute(_CANCEL, (subscription,))


def schedule_run(cursor: Cursor, subscription: int, rule: int, every: float) -> bool:
    """Begin to choose rows anew if the last time is long ago; True if a run begins.

    Args:
        cursor: of the target.
        subscription: its id.
        rule: number of the first rule with a selection.
        every: seconds between the beginnings of two runs.
    """
    values = {"subscription": subscription, "rule": rule, "every": every}
    if cursor.execute(_DUE, values).fetchone() is None:
        return False
    if not cursor.execute(_SCHEDULE, values).rowcount:
        return False
    # They would be many, and tell nothing but when.
    cursor.execute(_FORGET_SCHEDULED, values)
    return True


def restart_run(cursor: Cursor, subscription: int, reason: str) -> None:
    """Begin a backfill; one that is not through begins anew, and whoever follows it goes on."""
    generation = _only(cursor.execute(_NEW_GENERATION, (subscription,)))
    values = {"subscription": subscription, "generation": generation}
    if not cursor.execute(_RESTART_RUN, values).rowcount:
        cursor.execute(_NEW_RUN, (subscription, generation, reason))


def _only(cursor: Cursor) -> int:
    row = cursor.fetchone()
    if row is None:
        raise LookupError("the statement gave no row")
    return int(row[0])


def save_run(
    cursor: Cursor, run: Run, *, estimated: int | None = None, suspects: int | None = None
) -> None:
    """Store a run's progress."""
    names = ("id", "state", "rule", "after_key", "sweeping", "rows_done")
    values = {name: getattr(run, name) for name in names}
    cursor.execute(_SAVE_RUN, {**values, "estimated": estimated, "suspects": suspects})


_ABOUT = _compose(
    "SELECT reason, extract(epoch FROM now() - started_at)::float8 FROM {run} WHERE id = %s"
)


def about_run(cursor: Cursor, run: int) -> tuple[str, float]:
    """Give why a run was begun, and how many seconds ago."""
    row = cursor.execute(_ABOUT, (run,)).fetchone()
    return (str(row[0]), float(row[1])) if row else ("", 0.0)


def note_refusal(cursor: Cursor, run: Run, reason: str) -> None:
    """Store why the source does not answer a run's requests; "" once it does."""
    cursor.execute(_NOTE_RUN, (reason, run.id))


def with_page(run: Run, rule: int, after_key: str, rows: int) -> Run:
    """Give a run one page on."""
    return replace(run, rule=rule, after_key=after_key, rows_done=run.rows_done + rows)


# Wanted rows -------------------------------------------------------------------------------------

_TO_ASK = _compose(
    "UPDATE {wanted} SET asked_at = now() WHERE id IN (SELECT id FROM (SELECT id, "
    "sum(octet_length(row_key)) OVER (ORDER BY id) - octet_length(row_key) AS before "
    "FROM (SELECT id, row_key FROM {wanted} WHERE id = ANY(ARRAY("
    # In the order of their ids, until there are enough. Else the planner takes the stream's rows
    # for few, and sorts all of them each time.
    "SELECT id FROM (SELECT * FROM {wanted} ORDER BY id OFFSET 0) w {at} "
    "AND (asked_at IS NULL OR asked_at < now() - make_interval(secs => %(patience)s)) "
    "LIMIT %(limit)s)) FOR UPDATE SKIP LOCKED) due) chosen "
    "WHERE before < %(size)s) RETURNING table_name, row_key"
)
_WANTED_REFUSED = _compose(
    "UPDATE {position} SET wanted_refused = coalesce(%(reason)s, wanted_refused), "
    "wanted_answered_at = now() {at}"
)
_ASK_AGAIN = _compose("UPDATE {wanted} SET asked_at = NULL {at}")
_FORGET_WANTED = _compose("DELETE FROM {wanted} {at} AND table_name <> ALL(%(tables)s::text[])")
_FORGET_NULLED = _compose("DELETE FROM {nulled} {at} AND table_name <> ALL(%(tables)s::text[])")
_WANTED_TABLES = _compose("SELECT table_name, count(*) FROM {wanted} {at} GROUP BY table_name")
_WANTED_OF = _compose(
    "SELECT t.name, (SELECT count(*) FROM (SELECT FROM {wanted} {at} AND table_name = t.name "
    "LIMIT %(limit)s) known) FROM unnest(%(tables)s::text[]) AS t (name)"
)


def wanted_to_ask(
    cursor: Cursor, place: Place, patience: float, limit: int, size: int
) -> dict[str, list[tuple[str, ...]]]:
    """Take the wanted keys that are due to be asked for, by table; note that they were asked for.

    Args:
        cursor: of the target.
        place: the stream.
        patience: seconds after which an unanswered key is asked for again.
        limit: keys at most.
        size: bytes of keys after which no more are taken.
    """
    values = {**place.parameters, "patience": patience, "limit": limit, "size": size}
    keys: dict[str, list[tuple[str, ...]]] = {}
    for table, key in cursor.execute(_TO_ASK, values):
        keys.setdefault(table, []).append(json_texts(key))
    return keys


def note_wanted_answer(cursor: Cursor, place: Place, reason: str | None) -> None:
    """Store that the source has answered for wanted rows, and why it refuses them.

    Args:
        cursor: on the target.
        place: the stream.
        reason: "" if it does not refuse them; None: it is about some of the datasets only.
    """
    cursor.execute(_WANTED_REFUSED, {**place.parameters, "reason": reason})


def ask_again(cursor: Cursor, place: Place) -> None:
    """Forget that wanted rows were asked for: who was asked has gone."""
    cursor.execute(_ASK_AGAIN, place.parameters)


def forget_other_tables(cursor: Cursor, place: Place, tables: Iterable[TableName]) -> None:
    """Forget what is noted of other tables than those that subscriptions hold.

    Nobody asks for wanted rows of theirs. When one comes to hold them again, it is backfilled.
    """
    held = list(map(str, tables))
    for statement in (_FORGET_WANTED, _FORGET_NULLED):
        cursor.execute(statement, {**place.parameters, "tables": held})


def wanted_by_table(cursor: Cursor, place: Place) -> dict[str, int]:
    """Count the wanted rows of each table that has some."""
    return {str(name): int(n) for name, n in cursor.execute(_WANTED_TABLES, place.parameters)}


def count_wanted(cursor: Cursor, place: Place, plan: TargetPlan) -> dict[str, int]:
    """Count the wanted rows of each table of a plan that has some, but not beyond `FEW` + 1."""
    values = {**place.parameters, "tables": list(map(str, plan.tables)), "limit": FEW + 1}
    return {str(name): int(n) for name, n in cursor.execute(_WANTED_OF, values) if n}


FEW = 2_000
"""Wanted rows of a table up to which they are counted, each time."""


def json_texts(row_key: str) -> tuple[str, ...]:
    """Read a key as it is stored: a JSON array of texts."""
    return tuple(msgspec.json.decode(row_key))


def tables_with_suspects(cursor: Cursor, place: Place, plan: TargetPlan) -> frozenset[TableName]:
    """List the tables that a backfill goes through: some of their rows are suspect, or not here."""
    running = {run.subscription for run in unfinished_runs(cursor, place) if not run.light}
    return frozenset(
        release.table
        for subscription in plan.subscriptions
        if subscription.id in running
        for release in subscription.dataset.releases
    )


def tables_awaiting(plan: TargetPlan, wanted: Mapping[str, int]) -> frozenset[TableName]:
    """List the tables with wanted rows of which all should be here, or stand under several keys."""
    return frozenset(
        name
        for name, table in plan.tables.items()
        if wanted.get(str(name)) and (table.direct or table.respelled)
    )


def tables_with_kept_rows(
    cursor: Cursor, plan: TargetPlan, among: Collection[TableName] | None = None
) -> set[TableName]:
    """List the tables with rows that left and stay for local ones; among some, None: among all."""
    tables = [t for name, t in plan.tables.items() if among is None or name in among]
    if not tables:
        return set()
    one = "SELECT {} WHERE EXISTS (SELECT FROM {} WHERE subscription_id = {})"
    parts = [sql.SQL(one).format(table.number, table.receipts, KEPT) for table in tables]
    numbers = {row[0] for row in cursor.execute(sql.SQL(" UNION ALL ").join(parts))}
    return {table.name for table in tables if table.number in numbers}


_STOPPED = _compose("SELECT stopped_reason, stopped_remedy, stopped_error FROM {position} {at}")


class Standstill(NamedTuple):
    """Why a stream stands, what to do, and the class of the error."""

    reason: str
    remedy: str
    error: str


def stop_of(cursor: Cursor, place: Place) -> Standstill | None:
    """Say why the stream stands; None: it does not."""
    row = cursor.execute(_STOPPED, place.parameters).fetchone()
    return Standstill(*map(str, row)) if row and row[0] else None
