"""Backfill and verify runs, as a command begins, watches and ends them. Blocks on Postgres."""

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from replicator.models import BackfillRun, Subscription, VerifyRun
from replicator_apply.state import UNKNOWN, Place, start_run, state_table

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Backfill:
    """How a backfill run stands.

    Attributes:
        refused: why it does not go on, "" if it does.
        unknown: because the code of apply does not know the dataset.
        gated: its subscription waits, for that or because the source refuses the dataset.
    """

    id: int
    state: str
    rows_done: int
    rows_estimated: int | None
    sweeping: bool
    suspects: int | None
    refused: str
    unknown: bool
    gated: bool
    subscription: int

    @property
    def done(self) -> int:
        """Rows read so far."""
        return self.rows_done

    @property
    def estimated(self) -> int | None:
        """Rows that the source expects, in all."""
        return self.rows_estimated

    @property
    def ended(self) -> bool:
        """Whether it waits for nothing but a person."""
        return self.state != "running"

    @property
    def note(self) -> str:
        """Why it does not go on."""
        if self.unknown:
            return f"It waits: {self.refused}"
        return f"The source does not answer: {self.refused}" if self.refused else ""


@dataclass(frozen=True, slots=True)
class Verification:
    """How a verify run stands."""

    id: int
    state: str
    rows_checked: int
    missing: int
    extra: int
    different: int
    local: int
    left_out: int
    findings: list[list[str]]

    @property
    def done(self) -> int:
        """Rows compared so far."""
        return self.rows_checked

    @property
    def estimated(self) -> int | None:
        """Rows to compare: not known."""
        return None

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.state != "running"

    @property
    def note(self) -> str:
        """Nothing: the result is told at the end."""
        return ""

    @property
    def differences(self) -> int:
        """Rows that are known not to be equal."""
        return self.missing + self.extra + self.different + self.local


def _compose(text: str) -> sql.Composed:
    return sql.SQL(text).format(
        run=state_table(BackfillRun),
        check=state_table(VerifyRun),
        subscription=state_table(Subscription),
        unknown=UNKNOWN,
    )


_FIND = _compose(
    "SELECT id FROM {subscription} WHERE source = %(source)s AND stream = %(stream)s "
    "AND dataset = %(dataset)s AND arguments = %(arguments)s"
)
_LOCK = _compose("SELECT FROM {subscription} WHERE id = %s FOR UPDATE")
_UNFINISHED = _compose(
    "SELECT id, state FROM {run} WHERE subscription_id = %s AND NOT light "
    "AND state IN ('running', 'paused', 'waiting')"
)
_SET_STATE = _compose(
    "UPDATE {run} SET state = %s, updated_at = now() WHERE id = %s "
    "AND state IN ('running', 'paused', 'waiting')"
)
_FORGET = _compose(
    "WITH forgotten AS (DELETE FROM {run} WHERE id = %(run)s AND state = 'paused' "
    "AND rows_done = 0 RETURNING subscription_id) "
    # Another fingerprint than the rules' has apply begin.
    "UPDATE {subscription} SET fingerprint = '' WHERE id IN (SELECT subscription_id FROM forgotten)"
)
_BACKFILL = _compose(
    "SELECT r.id, r.state, r.rows_done, r.rows_estimated, r.sweeping, r.suspects, "
    "coalesce(nullif(r.note, ''), s.gate), {unknown}, s.gate <> '', s.id "
    "FROM {run} r JOIN {subscription} s ON s.id = r.subscription_id WHERE r.id = %s"
)
_CONFIRM = _compose(
    "UPDATE {run} SET confirmed = true, state = 'running', updated_at = now() "
    "WHERE id = %s AND state = 'waiting'"
)
_CHECK = _compose("INSERT INTO {check} (subscription_id) VALUES (%s) RETURNING id")
_VERIFICATION = _compose(
    "SELECT id, state, rows_checked, missing, extra, different, local, left_out, findings "
    "FROM {check} WHERE id = %s"
)
_CANCEL = _compose(
    "UPDATE {check} SET state = 'cancelled', updated_at = now(), finished_at = now() "
    "WHERE id = %s AND state = 'running'"
)


def find_subscription(
    connection: Connection, place: Place, dataset: str, arguments: str
) -> int | None:
    """Give the id of a stored subscription; None: apply has never run with it."""
    values = {**place.parameters, "dataset": dataset, "arguments": arguments}
    row = connection.execute(_FIND, values).fetchone()
    return int(row[0]) if row else None


def begin_backfill(connection: Connection, subscription: int) -> tuple[int, bool]:
    """Begin a backfill, or resume the one that is not through; gives its id, and if it resumes.

    It takes the place of a scheduled run, which only chooses rows anew. Of two commands at once the
    second waits, and follows the run of the first.
    """
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(_LOCK, (subscription,))
        row = cursor.execute(_UNFINISHED, (subscription,)).fetchone()
        if row is None:
            return start_run(cursor, subscription, "command"), False
        number, state = row
        if state == "paused":
            cursor.execute(_SET_STATE, ("running", number))
        return int(number), True


def pause_backfill(connection: Connection, run: int) -> None:
    """Let a run rest until it is resumed."""
    connection.execute(_SET_STATE, ("paused", run))


def forget_backfill(connection: Connection, run: int) -> None:
    """Take back a run that has not read anything: apply begins one when it next starts."""
    connection.execute(_FORGET, {"run": run})


def look_at_backfill(connection: Connection, run: int) -> Backfill:
    """Read how a backfill stands. Raises LookupError: there is no such run."""
    row = connection.execute(_BACKFILL, (run,)).fetchone()
    if row is None:
        raise LookupError(run)
    return Backfill(*row)


def confirm_run(connection: Connection, run: int) -> bool:
    """Let a run that waits for a person go on; False: none such waits."""
    return connection.execute(_CONFIRM, (run,)).rowcount == 1


def begin_verification(connection: Connection, subscription: int) -> int:
    """Begin to compare; gives the run's id."""
    row = connection.execute(_CHECK, (subscription,)).fetchone()
    if row is None:
        raise LookupError(subscription)
    return int(row[0])


def cancel_verification(connection: Connection, run: int) -> None:
    """End a comparison that nobody waits for any more."""
    connection.execute(_CANCEL, (run,))


def look_at_verification(connection: Connection, run: int) -> Verification:
    """Read how a comparison stands. Raises LookupError: there is no such run."""
    row = connection.execute(_VERIFICATION, (run,)).fetchone()
    if row is None:
        raise LookupError(run)
    return Verification(*row)
