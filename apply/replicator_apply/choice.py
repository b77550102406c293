"""What the pages of rules with a selection bring: the keys that the source has chosen.

Such a rule is here as if its keys had been named: the target keeps them (`ChosenRow`), and follows
their rows live. The keys of a page are noted before the rules are followed on its rows; with the
last page those go that the run has not brought, and with them the rows that nothing else holds.
Nothing need be asked for that: what leaves a selection may well be on the source still.
Blocks on Postgres.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import psycopg
from psycopg import sql

from replicator.plan import DatasetPlan, RowsRule
from replicator.sql_parts import Sql
from replicator_apply.assemble import Transaction
from replicator_apply.backfill import fuse_of, held_by, page_id, runs_of
from replicator_apply.choice_sql import carry_chosen, count_dropped, count_noted, note_chosen
from replicator_apply.collapse import key_cells
from replicator_apply.decode import Cell
from replicator_apply.plan import SubscribedDataset, Table, TargetPlan, receipts_name
from replicator_apply.receipts import receipt_tables
from replicator_apply.state import Place, Run, forget_chosen, save_run
from replicator_apply.table_sql import TableSql

Cursor = psycopg.Cursor[Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """One page of a rule with a selection.

    Attributes:
        subscription: its id.
        rule: the rule.
        table: of the rule's model.
        run: the run that brings it; 0: it is only tried.
        keys: what the source has chosen.
        drops: whether what this run has not brought is chosen no more.
        span: limits that to some keys, as a condition on `t`.
    """

    subscription: int
    rule: RowsRule
    table: Table
    run: int
    keys: Sequence[Sequence[Cell]]
    drops: bool
    span: Sql = field(default_factory=lambda: sql.SQL("TRUE"))


def chosen_keys(transaction: Transaction) -> list[Sequence[Cell]]:
    """Give the keys that an answer's rule has chosen: those of its first records."""
    answer = transaction.answer
    number = answer.chosen if answer is not None else None
    return [key_cells(key) for key, _ in islice(transaction.keys_and_events(), number or 0)]


def choices_of(
    cursor: Cursor, place: Place, plan: TargetPlan, answers: Sequence[Transaction]
) -> list[Choice]:
    """Find out which answers are pages of runs that are under way; of each page the first."""
    found: dict[str, Choice] = {}
    runs = {page_id(run): run for run in runs_of(cursor, place, plan)}
    for transaction in answers:
        answer = transaction.answer
        if answer is None or answer.chosen is None or answer.request in found:
            continue
        run = runs.get(answer.request)
        if run is not None:
            subscription = plan.subscription(run.subscription)
            rule = subscription.dataset.paged[run.rule]
            choice = Choice(
                subscription.id,
                rule,
                plan.tables[subscription.dataset.table_of(rule)],
                run.id,
                chosen_keys(transaction),
                drops=answer.last_key is None,
            )
            found[answer.request] = _noted(cursor, place, subscription, run, choice)
    return list(found.values())


def _noted(
    cursor: Cursor, place: Place, subscription: SubscribedDataset, run: Run, choice: Choice
) -> Choice:
    """Note the keys; if more would go than the fuse allows, the run waits for a person.

    Rows that fall out because others are chosen in their place are no reason to wait; those that
    fall out though there is room for them may tell of an accident.
    """
    text = TableSql(choice.table, *place)
    note(cursor, text, choice)
    if not choice.drops or run.confirmed or choice.rule.selection is None:
        return choice
    if _count(cursor, count_noted(choice)) >= choice.rule.selection.number:
        return choice
    dropped = _count(cursor, count_dropped(text, choice))
    if dropped <= fuse_of(subscription, held_by(cursor, choice.table, subscription)):
        return choice
    save_run(cursor, replace(run, state="waiting"), suspects=dropped)
    return replace(choice, drops=False)


def carry_over(cursor: Cursor, subscription: int, dataset: DatasetPlan) -> None:
    """Forget what was chosen for rules that a dataset has no more, but for what it still may have.

    Rows that it holds stay chosen until the first page of a new rule says otherwise: without it,
    each that an event tells of would leave for a moment.
    """
    rules = [rule.name for rule in dataset.paged]
    made = set(receipt_tables(cursor.connection))
    for rule in dataset.paged:
        release = dataset.release(rule.label)
        if rule.selection is not None and receipts_name(release.table) in made:
            cursor.execute(carry_chosen(subscription, rule, release, rules))
    forget_chosen(cursor, subscription, rules)


def note(cursor: Cursor, text: TableSql, choice: Choice) -> None:
    """Note the keys of a page as chosen."""
    cursor.execute(note_chosen(text, choice), prepare=False)


def _count(cursor: Cursor, statement: sql.Composed) -> int:
    row = cursor.execute(statement).fetchone()
    return int(row[0]) if row else 0
