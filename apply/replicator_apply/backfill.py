"""A backfill's way through the target: pages of each rule, then the sweep. Blocks on Postgres.

What a run has reached is stored in the transaction that wrote the page's rows, so that it resumes
on either side. The sweep asks by key for every row of ours that no page brought; what the source
does not have either comes back as a delete. More of them than the fuse allows wait for a person.
"""

import hashlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import psycopg
from psycopg import sql

from replicator.envelope import Answer
from replicator.plan import RowsRule, split_name
from replicator.requests import KeysRequest, PageRequest
from replicator.words import of_rows
from replicator_apply.assemble import Transaction
from replicator_apply.dropped import Dropped, dropped_of, is_awaited
from replicator_apply.plan import SubscribedDataset, Table, TargetPlan, receipts_name
from replicator_apply.receipts import count_held
from replicator_apply.state import (
    Place,
    Run,
    about_run,
    gate,
    note_refusal,
    note_wanted_answer,
    save_run,
    unfinished_runs,
    with_page,
)

logger = logging.getLogger(__name__)

Cursor = psycopg.Cursor[Any]

KEYS = "keys-"
"""How the ids of requests for wanted rows begin."""
PAGE = 10_000
"""Rows of a page."""
SWEEP = 1_000
"""Suspects that are asked for at once."""
FUSE_ROWS = 1_000
FUSE_SHARE = 0.1
"""A sweep of more suspects than both, in rows and as a share of those held, needs a person."""


def page_id(run: Run) -> str:
    """Name the request for a run's next page; the same page has the same name after a restart."""
    after = hashlib.sha256(run.after_key.encode()).hexdigest()[:12]
    return f"page-{run.id}-{run.generation}-{run.rule}-{after}"


def sweep_id(run: Run, turn: int | str) -> str:
    """Name a request for suspects."""
    return f"sweep-{run.id}-{run.generation}-{turn}"


def page_request(plan: TargetPlan, run: Run, target: str, *, limit: int = PAGE) -> PageRequest:
    """Ask for a run's next page."""
    subscription = plan.subscription(run.subscription)
    return PageRequest(
        target=target,
        id=page_id(run),
        plan=plan.named,
        dataset=subscription.dataset.name,
        arguments=subscription.dataset.arguments,
        rule=run.rule,
        after=msgspec.json.decode(run.after_key, type=tuple) if run.after_key else None,
        limit=limit,
    )


def keys_request(
    plan: TargetPlan, target: str, name: str, keys: Mapping[str, Sequence[tuple[Any, ...]]]
) -> KeysRequest:
    """Ask for rows by key."""
    return KeysRequest(
        target=target,
        id=name,
        plan=plan.named,
        keys={table: tuple(rows) for table, rows in keys.items()},
    )


# In the transaction of the batch that holds the answers -------------------------------------------


def runs_of(cursor: Cursor, place: Place, plan: TargetPlan) -> list[Run]:
    """Read the unfinished runs that write the plan's generations.

    One that a command has just begun waits for the next plan: by this one, its rows would get
    receipts of the generation before, and be suspect again at once.
    """
    known = {(s.id, s.generation) for s in plan.subscriptions}
    runs = unfinished_runs(cursor, place)
    return [run for run in runs if (run.subscription, run.generation) in known]


def turn_pages(
    cursor: Cursor, place: Place, plan: TargetPlan, answers: Sequence[Transaction]
) -> None:
    """Store how far the answers bring the runs, and what the source refuses."""
    for transaction in answers:
        answer = transaction.answer
        if answer is None:
            continue
        for name in answer.refused_datasets:
            gate(cursor, place, *split_name(name), answer.refused or "")
        if answer.request.startswith(KEYS):
            # What is refused for some datasets is asked for without them.
            reason = None if answer.refused_datasets else answer.refused or ""
            note_wanted_answer(cursor, place, reason)
            continue
        for run in runs_of(cursor, place, plan):
            if _is_about_others(answer, plan, run):
                continue
            if answer.request == page_id(run):
                _turn_page(cursor, plan, run, answer, transaction)
            elif answer.request.startswith(sweep_id(run, "")):
                note_refusal(cursor, run, answer.refused or "")


def _is_about_others(answer: Answer, plan: TargetPlan, run: Run) -> bool:
    """Whether a run is refused for other datasets of its plan: it is asked for without them."""
    mine = plan.subscription(run.subscription).dataset.full_name
    return bool(answer.refused_datasets) and mine not in answer.refused_datasets


def _turn_page(
    cursor: Cursor, plan: TargetPlan, run: Run, answer: Answer, transaction: Transaction
) -> None:
    if answer.refused is not None:
        note_refusal(cursor, run, answer.refused)
        return
    if run.state == "waiting":
        return  # A person must allow what its rule would take out; the page is asked for again.
    rows = _rows_of_page(plan, run, transaction)
    if answer.last_key is not None:
        after = msgspec.json.encode(answer.last_key).decode()
        after_page = with_page(run, run.rule, after, rows)
    else:
        pages = plan.subscription(run.subscription).dataset.paged
        after_page = _behind_rule(with_page(run, run.rule + 1, "", rows), pages)
    save_run(cursor, after_page, estimated=answer.estimated)


def _behind_rule(run: Run, pages: Sequence[RowsRule]) -> Run:
    """Go on to the next rule of a run; behind the last one there is the sweep, or nothing."""
    if not run.light:
        return replace(run, sweeping=run.rule >= len(pages))
    following = next_selecting(pages, run.rule)
    if following is None:
        return replace(run, state="finished")
    return replace(run, rule=following)


def next_selecting(pages: Sequence[RowsRule], begin: int = 0) -> int | None:
    """Give the number of the first rule with a selection from a rule on; None: there is none."""
    selecting = (n for n, rule in enumerate(pages) if n >= begin and rule.selection is not None)
    return next(selecting, None)


def _rows_of_page(plan: TargetPlan, run: Run, transaction: Transaction) -> int:
    """Count the rows that were read of the rule's own table.

    The answer also has the rows of other tables that these refer to, which come with pages of
    their own, and repeated events. What is not in memory is known by its table only.
    """
    if transaction.answer is not None and transaction.answer.chosen is not None:
        return transaction.answer.chosen
    dataset = plan.subscription(run.subscription).dataset
    prefix = plan.tables[dataset.release(dataset.rules[run.rule].label).table].prefix
    return sum(
        key.startswith(prefix) and (event is None or event.op == "r")
        for key, event in transaction.keys_and_events()
    )


# The sweep ---------------------------------------------------------------------------------------


def advance_sweep(cursor: Cursor, plan: TargetPlan, run: Run, answered: int | None = None) -> Run:
    """Find out where a sweep stands: finished, waiting for a person, or asking.

    Args:
        cursor: of the target.
        plan: what the target holds.
        run: it sweeps.
        answered: suspects that were asked for and answered since the last time; None: nothing was
            asked for yet. Then all are counted, which takes long where they are many.
    """
    subscription = plan.subscription(run.subscription)
    suspects, blown = (run.suspects or 0) - (answered or 0), False
    if answered is None or suspects <= 0 or not _any_suspect(cursor, plan, run):
        dropped = dropped_of(cursor, subscription.id, subscription.dataset)
        _, suspects, blown = _look(cursor, run, subscription, dropped)
    if suspects == 0:
        finished = replace(run, state="finished")
        save_run(cursor, finished, suspects=None)
        _tell_end(cursor, subscription, run)
        return finished
    after = replace(run, state="waiting" if blown else "running")
    save_run(cursor, after, suspects=suspects)
    return after


def _tell_end(cursor: Cursor, subscription: SubscribedDataset, run: Run) -> None:
    name, (reason, seconds) = subscription.dataset.full_name, about_run(cursor, run.id)
    logger.info(
        "Backfill %s of %s (%s) is complete: %s read in %s s.",
        run.id,
        name,
        reason,
        of_rows(run.rows_done),
        f"{seconds:,.1f}",
        extra={
            "event": "backfill_complete",
            "dataset": name,
            "rows": run.rows_done,
            "seconds": seconds,
        },
    )


def tell_begun(cursor: Cursor, place: Place, plan: TargetPlan, told: set[int]) -> None:
    """Write to the log which backfills are under way, each once; scheduled ones are told apart."""
    for run in runs_of(cursor, place, plan):
        if run.id in told or run.light or run.state != "running":
            continue
        told.add(run.id)
        name, (reason, _) = (
            plan.subscription(run.subscription).dataset.full_name,
            about_run(cursor, run.id),
        )
        does = "goes on" if run.rows_done or run.sweeping else "begins"
        logger.info(
            "Backfill %s of %s (%s) %s.",
            run.id,
            name,
            reason,
            does,
            extra={"event": "backfill", "dataset": name},
        )


def _look(
    cursor: Cursor, run: Run, subscription: SubscribedDataset, dropped: Dropped
) -> tuple[int, int, bool]:
    """Count the suspects of a sweep, those that can be asked for and all.

    All are those, too, that were dropped. And tell whether they are more
    than may go unconfirmed.
    """
    names = [receipts_name(release.table) for release in subscription.dataset.releases]
    own = sum(_count_suspects(cursor, name, subscription) for name in names)
    suspects = own + dropped.rows
    blown = False
    if not run.confirmed and suspects > fuse_of(subscription, 0):
        held = dropped.rows + sum(
            count_held(cursor.connection, name, subscription.id) for name in names
        )
        blown = suspects > fuse_of(subscription, held)
    return own, suspects + sum(dropped.forgotten.values()), blown


def _any_suspect(cursor: Cursor, plan: TargetPlan, run: Run) -> bool:
    return bool(suspects(cursor, plan, run, 1))


def may_drop(
    cursor: Cursor, run: Run, runs: Sequence[Run], subscriptions: Collection[SubscribedDataset]
) -> Dropped | None:
    """Say what may leave now of tables that a run's dataset has no more; None: nothing may.

    All else must be swept before: rows of which nobody knows how they are keep what they point at,
    and nobody would look at that again.

    Args:
        cursor: of the target.
        run: it sweeps.
        runs: all of the stream that are not through.
        subscriptions: of the stream, those that are paused aside.
    """
    subscription = next(each for each in subscriptions if each.id == run.subscription)
    if run.state != "running" or subscription.gated:
        return None
    dropped = dropped_of(cursor, subscription.id, subscription.dataset)
    if not dropped.tables or is_awaited(dropped, run, runs, subscriptions):
        return None
    own, _, blown = _look(cursor, run, subscription, dropped)
    return None if own or blown else dropped


def fuse_of(subscription: SubscribedDataset, held: int) -> int:
    """Give the number of rows that a sweep may ask for unconfirmed."""
    if subscription.fuse is not None:
        return subscription.fuse
    return max(FUSE_ROWS, int(held * FUSE_SHARE))


def tables_of(plan: TargetPlan, subscription: SubscribedDataset) -> list[Table]:
    """List the tables of a subscription."""
    return [plan.tables[release.table] for release in subscription.dataset.releases]


_SUSPECT = "FROM {receipts} WHERE subscription_id = {subscription} AND generation < {generation}"
"""A condition without parameters: a table's name may hold a percent sign."""


def _count_suspects(cursor: Cursor, name: str, subscription: SubscribedDataset) -> int:
    """Count the rows of ours that the newest backfill has not seen, by one table of receipts."""
    statement = sql.SQL("SELECT count(*) " + _SUSPECT).format(
        receipts=sql.Identifier("replicator", name),
        subscription=subscription.id,
        generation=subscription.generation,
    )
    row = cursor.execute(statement).fetchone()
    return int(row[0]) if row else 0


def held_by(cursor: Cursor, table: Table, subscription: SubscribedDataset) -> int:
    """Count the rows of a table that a subscription holds."""
    return count_held(cursor.connection, receipts_name(table.name), subscription.id)


def suspects(
    cursor: Cursor, plan: TargetPlan, run: Run, limit: int = SWEEP
) -> dict[str, list[tuple[str, ...]]]:
    """Give some suspects of a run, by table, their keys as text."""
    subscription = plan.subscription(run.subscription)
    found: dict[str, list[tuple[str, ...]]] = {}
    left = limit
    for table in tables_of(plan, subscription):
        keys = list(_suspects_of(cursor, table, subscription, left))
        if keys:
            found[str(table.name)] = keys
            left -= len(keys)
        if left <= 0:
            break
    return found


def _suspects_of(
    cursor: Cursor, table: Table, subscription: SubscribedDataset, limit: int
) -> Iterator[tuple[str, ...]]:
    statement = sql.SQL("SELECT {key} " + _SUSPECT + " LIMIT {limit}").format(
        key=sql.SQL(", ").join(
            sql.SQL("{}::text").format(sql.Identifier(name)) for name in table.key
        ),
        receipts=table.receipts,
        subscription=subscription.id,
        generation=subscription.generation,
        limit=limit,
    )
    yield from cursor.execute(statement)
