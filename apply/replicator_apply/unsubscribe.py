"""Ends a subscription: its rows leave by the rules, or become local ones. Blocks on Postgres.

So do its rows of tables on which its dataset has no rule any more (`drop_all`).

What it holds alone is staged as gone, though no event told of it, and the rules are followed as in
any batch: children go first, rows that local ones point at are kept, rows of other subscriptions
that needed one of it leave, too. What its rules say of rows that leave holds for the last time, and
functions of `on_applied` are told. All of it is one target transaction, however large: in parts, a
reader would see a tree half there. Killed in the middle it has done nothing, and begins anew.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from replicator.models import BackfillRun, ChosenRow, Subscription, VerifyRun
from replicator.plan import TableName
from replicator.postgres import is_passing
from replicator.settings import ReplicatorSettings
from replicator_apply.backfill import may_drop
from replicator_apply.catalog import read_shapes
from replicator_apply.dropped import Dropped, known_tables
from replicator_apply.make_plan import Apart, make_plan
from replicator_apply.plan import KEPT, LEFT, SubscribedDataset, TargetPlan, receipts_name
from replicator_apply.prepare import ensure_receipts
from replicator_apply.receipts import held_by, receipt_tables, tables_here
from replicator_apply.rules import Rules
from replicator_apply.stage import Staged, StagingTables
from replicator_apply.state import (
    Place,
    fence,
    forget_other_tables,
    known_subscriptions,
    state_table,
    stored_subscriptions,
    unfinished_runs,
    wanted_subscriptions,
)
from replicator_apply.subscriptions import (
    compiled,
    hooks_of,
    policies_of,
    standing_still,
    subscribed_datasets,
)
from replicator_apply.write import unwritable, write

logger = logging.getLogger(__name__)

Connection = psycopg.Connection[Any]
Cursor = psycopg.Cursor[Any]
Counts = dict[str, int]


@dataclass(frozen=True, slots=True)
class Ending:
    """A subscription that is to end, or only what it holds of tables that its dataset has no more.

    Attributes:
        subscription: its id.
        keep_rows: whether its rows stay as local ones.
        dropped: what is to end of it; None: all.
    """

    subscription: int
    keep_rows: bool = False
    dropped: Dropped | None = None


@dataclass(slots=True)
class Ended:
    """What the end of a subscription does to rows, by table.

    Attributes:
        removed: rows deleted.
        kept: rows that stay because local ones point at them.
        stay: rows that stay by the policy of their rules, marked or not.
        local: rows that become local.
        along: rows of other subscriptions that leave, because they needed one of these.
        shared: rows that others hold as well, which stay.
    """

    removed: Counts = field(default_factory=dict)
    kept: Counts = field(default_factory=dict)
    stay: Counts = field(default_factory=dict)
    local: Counts = field(default_factory=dict)
    along: Counts = field(default_factory=dict)
    shared: int = 0

    @property
    def deleted(self) -> int:
        """Rows that go, in all."""
        return sum(self.removed.values()) + sum(self.along.values())


_ENDINGS = sql.SQL(
    "SELECT id, leaving = 'keep' FROM {} WHERE source = %(source)s AND stream = %(stream)s "
    "AND leaving <> '' ORDER BY id"
).format(state_table(Subscription))
_DELETES = [
    sql.SQL("DELETE FROM {} WHERE {} = %s").format(state_table(model), sql.Identifier(column))
    for model, column in (
        (BackfillRun, "subscription_id"),
        (VerifyRun, "subscription_id"),
        (ChosenRow, "subscription_id"),
        (Subscription, "id"),
    )
]
_DELETE_RECEIPTS = sql.SQL("DELETE FROM {} WHERE subscription_id = {}")
"""Without parameters, as all that names a table of receipts: it may hold a percent sign."""
_NOBODY = [KEPT, LEFT]
"""Whose receipts are those of rows that left, and stay."""
_NOBODYS = sql.SQL("FROM {} r WHERE r.subscription_id = ANY({})")


def endings(cursor: Cursor, place: Place) -> list[Ending]:
    """Read which subscriptions of a stream are to end."""
    return [Ending(*row) for row in cursor.execute(_ENDINGS, place.parameters)]


def end_all(
    connection: Connection,
    settings: ReplicatorSettings,
    place: Place,
    alive: Callable[[], None] = lambda: None,
) -> None:
    """End every subscription of a stream that is to end; the caller holds the stream's lock.

    Raises:
        Unwritable: Postgres refuses it; nothing was changed.
        ConfigurationError: the dataset of another subscription cannot be compiled.
        Unfit: a table of another subscription is missing.
        DatabaseUnavailable, psycopg.OperationalError: try again.
    """
    with connection.cursor() as cursor:
        found = endings(cursor, place)
        names = {known.id: known.name for known in known_subscriptions(cursor)} if found else {}
    for ending in found:
        ended = _end(connection, settings, place, ending, alive)
        logger.info(
            "Subscription to %s of %s has ended: %s rows deleted, %s kept for local ones, %s stay "
            "as the rules say, %s local.",
            names[ending.subscription],
            place.source,
            ended.deleted,
            sum(ended.kept.values()),
            sum(ended.stay.values()),
            sum(ended.local.values()),
            extra={"event": "unsubscribed", "dataset": names[ending.subscription]},
        )


def drop_all(
    connection: Connection,
    settings: ReplicatorSettings,
    place: Place,
    alive: Callable[[], None] = lambda: None,
) -> None:
    """Have rows leave of tables that datasets have no more; the caller holds the stream's lock.

    Raises: as `end_all`.
    """
    with connection.cursor() as cursor:
        runs = unfinished_runs(cursor, place)
        sweeps = [run for run in runs if run.sweeping]
        if not sweeps:
            return
        subscribed = subscribed_datasets(settings, place, stored_subscriptions(cursor, place))
        known = {each.id: each for each in subscribed}
        due = [
            (known[run.subscription], may_drop(cursor, run, runs, subscribed))
            for run in sweeps
            if run.subscription in known  # else this code does not know it: its rows stand
        ]
    for subscription, dropped in due:
        if dropped is not None:
            ending = Ending(subscription.id, dropped=dropped)
            _tell_dropped(subscription, dropped, _end(connection, settings, place, ending, alive))


def _tell_dropped(subscription: SubscribedDataset, dropped: Dropped, ended: Ended) -> None:
    name = subscription.dataset.full_name
    if dropped.leaving:
        logger.warning(
            "Dataset %s has no rule any more on the table(s) of %s: %s rows deleted, %s kept for "
            "local ones, %s stay as the rules say.",
            name,
            ", ".join(dropped.leaving),
            ended.deleted,
            sum(ended.kept.values()),
            sum(ended.stay.values()),
            extra={"event": "dropped_tables", "dataset": name},
        )
    if dropped.forgotten:
        logger.warning(
            "Dataset %s has held rows of %s, which is not here any more or not opted in: its "
            "receipts are forgotten, and rows that are still there are local ones now.",
            name,
            ", ".join(dropped.forgotten),
            extra={"event": "forgotten_tables", "dataset": name},
        )


def foresee(
    connection: Connection, settings: ReplicatorSettings, place: Place, ending: Ending
) -> Ended:
    """Say what the end of a subscription would do now; nothing of it is done."""
    with _evaluated(connection, settings, place, ending) as work:
        return work.count()


def _end(
    connection: Connection,
    settings: ReplicatorSettings,
    place: Place,
    ending: Ending,
    alive: Callable[[], None],
) -> Ended:
    try:
        with _evaluated(connection, settings, place, ending, commit=True) as work:
            alive()
            ended = work.count()
            work.finish()
            alive()
    except psycopg.DatabaseError as error:
        if is_passing(error):
            raise
        raise unwritable(error) from error
    return ended


@contextmanager
def _evaluated(
    connection: Connection,
    settings: ReplicatorSettings,
    place: Place,
    ending: Ending,
    *,
    commit: bool = False,
) -> Iterator["_Work"]:
    """Follow the rules on all that the subscription holds alone, in a transaction."""
    receipts = _receipts(connection, ending)
    plan = _plan(connection, settings, place, ending, receipts)
    alone = _alone(connection, ending, receipts) if ending.keep_rows else []
    staging = StagingTables(connection, place)
    tables = plan.tied(name for name in plan.tables if receipts_name(name) in receipts)
    batch = {table.name: Staged(table, staging.prepare(table)) for table in tables}
    with connection.transaction(force_rollback=not commit), connection.cursor() as cursor:
        if commit:
            # Before anything is looked at: another worker may apply a batch.
            fence(cursor, place)
        shapes = {table.name: table.shape for table in tables}
        ensure_receipts(connection, shapes, may_prepare=settings.auto_prepare)
        for name, staged in batch.items():
            if receipts_name(name) in receipts:
                text = staged.sql.stage_leaving(ending.subscription)
                staged.size = cursor.execute(text).rowcount
                staged.filled = staged.size > 0
        local = ending.subscription if ending.keep_rows else None
        rules = Rules(cursor, plan, batch, becomes_local=local)
        rules.look()
        yield _Work(cursor, place, ending, receipts, alone, plan, batch, rules)
        for staged in batch.values():
            staging.use(staged.table, staged.size)
        staging.empty(cursor)


def _receipts(connection: Connection, ending: Ending) -> dict[str, int]:
    """Count the receipts that end, by table of receipts."""
    held = held_by(connection, ending.subscription)
    if ending.dropped is None:
        return held
    return {name: number for name, number in held.items() if name in ending.dropped.tables}


def _plan(
    connection: Connection,
    settings: ReplicatorSettings,
    place: Place,
    ending: Ending,
    receipts: Mapping[str, int],
) -> TargetPlan:
    """Compile what goes on, and all tables of which rows end, whatever the rules."""
    with connection.cursor() as cursor:
        others = wanted_subscriptions(cursor, place)
        if ending.dropped is None:
            others = [each for each in others if each.id != ending.subscription]
            tables, names = tables_here(connection), set(receipts)
        else:
            tables, names = known_tables(cursor), set(ending.dropped.leaving)
    subscribed = subscribed_datasets(settings, place, others)
    left = frozenset(table for table in tables if receipts_name(table) in names)
    held = {release.table for each in subscribed for release in each.dataset.releases}
    shapes = read_shapes(connection, sorted(left | held))
    paused = standing_still(others)
    # What local rows do is no matter of rules.
    mine = [k for k in known_subscriptions(connection) if k.id == ending.subscription]
    policies = policies_of([*paused, *([] if ending.keep_rows else mine)])
    frozen = [each.id for each in paused]
    apart = Apart(frozen, leaving=ending.subscription, left=left, policies=policies)
    return make_plan(subscribed, shapes, {}, hooks=hooks_of(left | held), apart=apart)


def _alone(connection: Connection, ending: Ending, receipts: Mapping[str, int]) -> list[str]:
    """List the tables of receipts of the one that ends, of tables that no other one holds."""
    mine, others = set(receipts), set[str]()
    for known in known_subscriptions(connection):
        tables = {r.table for plan in compiled(known) for r in plan.releases}
        if known.id == ending.subscription:
            mine |= set(map(receipts_name, tables))
        elif known.wanted:
            others |= set(map(receipts_name, tables))
    mine &= set(receipt_tables(connection))
    return [name for name in sorted(mine - others) if not _is_shared(connection, ending, name)]


def _is_shared(connection: Connection, ending: Ending, name: str) -> bool:
    """Whether another subscription has receipts in a table, wanted or not."""
    receipts = sql.Identifier("replicator", name)
    row = connection.execute(
        sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE subscription_id <> ALL({}))").format(
            receipts, [ending.subscription, *_NOBODY]
        )
    ).fetchone()
    return bool(row and row[0])


@dataclass(frozen=True, slots=True)
class _Work:
    """What was evaluated, in its transaction.

    Attributes:
        receipts: numbers of those that the subscription has, by table of receipts.
        alone: tables of receipts of which what left, and stays here, becomes local, too.
    """

    cursor: Cursor
    place: Place
    ending: Ending
    receipts: Mapping[str, int]
    alone: Sequence[str]
    plan: TargetPlan
    batch: Mapping[TableName, Staged]
    rules: Rules

    def count(self) -> Ended:
        """Say what the verdicts mean."""
        ended, mine = Ended(), 0
        stays = ended.local if self.ending.keep_rows else ended.kept
        kinds = (ended.removed, stays, ended.stay, ended.along, ended.stay)
        for name, staged in self.batch.items():
            statement = staged.sql.count_leaving(self.ending.subscription)
            found = self.cursor.execute(statement).fetchone() or (0,) * len(kinds)
            for counts, number in zip(kinds, found, strict=True):
                _add(counts, str(name), int(number))
            mine += sum(map(int, found[:3]))
        ended.shared = max(0, sum(self.receipts.values()) - mine)
        for receipts in self.alone:
            count = sql.SQL("SELECT count(*) {}").format(_nobodys(receipts))
            row = self.cursor.execute(count).fetchone()
            _add(ended.local, receipts, int(row[0]) if row else 0)
        return ended

    def finish(self) -> None:
        """Write what the verdicts say, and forget the subscription."""
        write(self.cursor, self.rules, self.batch)
        number = self.ending.subscription
        if self.ending.keep_rows:
            for staged in self.batch.values():
                self.cursor.execute(staged.sql.forget_left(number))
        for name in self.alone:
            self.cursor.execute(sql.SQL("DELETE {}").format(_nobodys(name)))
        for name in self.receipts:
            receipts = sql.Identifier("replicator", name)
            self.cursor.execute(_DELETE_RECEIPTS.format(receipts, number))
        for statement in _DELETES if self.ending.dropped is None else ():
            self.cursor.execute(statement, (number,))
        held = [r.table for s in self.plan.subscriptions for r in s.dataset.releases]
        forget_other_tables(self.cursor, self.place, held)


def _nobodys(name: str) -> sql.Composed:
    return _NOBODYS.format(sql.Identifier("replicator", name), _NOBODY)


def _add(counts: Counts, name: str, number: int) -> None:
    if number:
        counts[name] = counts.get(name, 0) + number
