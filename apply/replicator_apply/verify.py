"""Compares the rows of a subscription with the source's, by hashes, while both sides move.

A page of hashes stands in the stream at an exact position; the target compares in the transaction
that reaches it. Rows that the answer's repeated events touch, and rows that are wanted, are exempt.
Blocks on Postgres.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import psycopg
from psycopg import sql

from replicator.envelope import Answer, RowHash
from replicator.filter_sql import key_text
from replicator.key_order import ordered
from replicator.models import VerifyRun, WantedRow
from replicator.natural_keys import travelling_sql
from replicator.plan import DatasetPlan, RowsRule
from replicator.requests import PageRequest
from replicator.sql_parts import all_of, any_of, column, equal, equal_to, identifiers
from replicator_apply.assemble import VERIFY, Transaction
from replicator_apply.batch import Applier
from replicator_apply.candidate_sql import CandidateSql
from replicator_apply.catalog import Column
from replicator_apply.choice import Choice, chosen_keys
from replicator_apply.collapse import key_cells
from replicator_apply.copytext import OPTIONS, escaped_line
from replicator_apply.decode import Cell, Skimmed
from replicator_apply.dropped import dropped_of, keys_dropped
from replicator_apply.make_plan import own_filter
from replicator_apply.plan import SubscribedDataset, Table, TargetPlan
from replicator_apply.state import Place, state_table
from replicator_apply.trial import KINDS, Difference, differences, is_related, left_out

Cursor = psycopg.Cursor[Any]

PAGE = 10_000
RELATED_PAGE = 1_000
"""Rows of a page, and where each may bring a tree along."""
FINDINGS = 100
"""Differences that are stored with their keys; the others are counted."""
_LEFT_OUT = "left out"
"""A row that differs, and that a fetch is about to bring."""


@dataclass(frozen=True, slots=True)
class Check:
    """A row of `replicator_verifyrun` that is under way."""

    id: int
    subscription: int
    rule: int
    after_key: str
    findings: list[list[Any]]


_OPEN = (
    "SELECT v.id, v.subscription_id, v.rule, v.after_key, v.findings FROM {check} v "
    "JOIN public.replicator_subscription s ON s.id = v.subscription_id "
    "WHERE s.source = %(source)s AND s.stream = %(stream)s "
    "AND v.subscription_id = ANY(%(known)s) AND v.state = 'running' ORDER BY v.id"
)
_SAVE = (
    "UPDATE {} SET rule = %(rule)s, after_key = %(after_key)s, state = %(state)s::text, "
    "rows_checked = rows_checked + %(checked)s, missing = missing + %(missing)s, "
    "extra = extra + %(extra)s, different = different + %(different)s, "
    "local = local + %(local)s, left_out = left_out + %(left_out)s, "
    "findings = %(findings)s::jsonb, updated_at = now(), "
    "finished_at = CASE WHEN %(state)s::text = 'finished' THEN now() END WHERE id = %(id)s"
)


def open_checks(cursor: Cursor, place: Place, plan: TargetPlan) -> list[Check]:
    """Read the verify runs under way of a stream's subscriptions, as the plan has them."""
    statement = sql.SQL(_OPEN).format(check=state_table(VerifyRun))
    known = [each.id for each in plan.subscriptions]
    return [Check(*row) for row in cursor.execute(statement, {**place.parameters, "known": known})]


def check_id(check: Check) -> str:
    """Name the request for a check's next page."""
    after = hashlib.sha256(check.after_key.encode()).hexdigest()[:12]
    return f"{VERIFY}{check.id}-{check.rule}-{after}"


def check_request(plan: TargetPlan, check: Check, target: str) -> PageRequest:
    """Ask for a check's next page: for hashes, or for rows where rows belong because of others."""
    subscription = plan.subscription(check.subscription)
    related = is_related(plan, subscription)
    return PageRequest(
        target=target,
        id=check_id(check),
        plan=plan.named,
        hashes=not related,
        dataset=subscription.dataset.name,
        arguments=subscription.dataset.arguments,
        rule=check.rule,
        after=msgspec.json.decode(check.after_key, type=tuple) if check.after_key else None,
        limit=RELATED_PAGE if related else PAGE,
    )


def compare(cursor: Cursor, place: Place, applier: Applier, transaction: Transaction) -> bool:
    """Compare a page; the target must stand at the answer's position. True if it did."""
    answer, plan = transaction.answer, applier.plan
    if answer is None or answer.plan != plan.fingerprint:
        return False
    for check in open_checks(cursor, place, plan):
        if check_id(check) == answer.request:
            if answer.refused is not None:
                if not answer.refused_datasets:  # else it is asked for without them, or ended
                    end_check(cursor, check, answer.refused)
            elif is_related(plan, plan.subscription(check.subscription)):
                _compare_rows(cursor, place, applier, check, transaction)
            else:
                _compare(cursor, place, plan, check, transaction)
            return True
    return False


def _compare_rows(
    cursor: Cursor, place: Place, applier: Applier, check: Check, transaction: Transaction
) -> None:
    """Follow the rules on the page and all that came with it, and compare."""
    answer, plan = transaction.answer, applier.plan
    if answer is None:
        return
    subscription = plan.subscription(check.subscription)
    dataset = subscription.dataset
    rule = dataset.paged[check.rule]
    table = plan.tables[dataset.table_of(rule)]
    text = CandidateSql(table, *place)
    span, choice = _span(table, check, answer), None
    unread = all_of([text.passed(rule.filter, "t"), span])
    if rule.selection is not None:
        # Held rows that it does not choose now are looked at as the rules take them out.
        choice = Choice(
            subscription.id, rule, table, 0, chosen_keys(transaction), drops=True, span=span
        )
        unread = sql.SQL("FALSE")
    with applier.trial(cursor, transaction, choice) as batch:
        found, checked = differences(cursor, batch, subscription, (table, unread))
        result = _Result(checked, found, left_out(cursor, batch, subscription))
    _save(cursor, check, dataset, result, answer.last_key)


def end_check(cursor: Cursor, check: Check, reason: str) -> None:
    """End a comparison that the source does not answer, with the reason."""
    findings = msgspec.json.encode([*check.findings, ["refused", reason, ""]]).decode()
    statement = sql.SQL(
        "UPDATE {} SET state = 'cancelled', findings = %s::jsonb, updated_at = now(), "
        "finished_at = now() WHERE id = %s"
    ).format(state_table(VerifyRun))
    cursor.execute(statement, (findings, check.id))


def _compare(
    cursor: Cursor, place: Place, plan: TargetPlan, check: Check, transaction: Transaction
) -> None:
    answer = transaction.answer
    if answer is None:
        return
    subscription = plan.subscription(check.subscription)
    rule = subscription.dataset.paged[check.rule]
    table = plan.tables[subscription.dataset.release(rule.label).table]
    hashes, exempt = _sort(transaction.keys_and_events(), table)
    _load(cursor, table, hashes, exempt)
    rows = _as_the_source(cursor, _difference(place, table, subscription, check, answer))
    found = [Difference(kind, str(table.name), key) for kind, key in rows if kind != _LEFT_OUT]
    result = _Result(len(hashes), found, left_out=len(rows) - len(found))
    _save(cursor, check, subscription.dataset, result, answer.last_key)


def _as_the_source(cursor: Cursor, query: sql.Composed) -> list[tuple[str, str]]:
    """Give what a query selects, with values written as at the source.

    The text of a regclass depends on the search path, under which the source's is empty; but an
    operator, such as citext's, is looked for when the query is declared.
    """
    # Without parameters: a filter may hold percent signs.
    cursor.execute(sql.SQL("DECLARE replicator_difference CURSOR FOR {}").format(query))
    before = cursor.execute("SELECT current_setting('search_path')").fetchall()[0]
    cursor.execute("SET LOCAL search_path = ''")
    rows = cursor.execute("FETCH ALL FROM replicator_difference").fetchall()
    cursor.execute("SELECT set_config('search_path', %s, true)", before)
    cursor.execute("CLOSE replicator_difference")
    return rows


def _sort(
    records: Iterable[tuple[bytes, Any]], table: Table
) -> tuple[list[RowHash], list[Sequence[Cell]]]:
    """Part an answer's hashes from the keys that its repeated events touch."""
    hashes: list[RowHash] = []
    exempt: list[Sequence[Cell]] = []
    for key, event in records:
        if isinstance(event, Skimmed):
            hashes += event.hashes
        elif key.startswith(table.prefix):
            exempt.append(key_cells(key))
    return hashes, exempt


def _load(
    cursor: Cursor, table: Table, hashes: Sequence[RowHash], exempt: Sequence[Sequence[Cell]]
) -> None:
    key = identifiers(table.key)
    for name in ("replicator_hashes", "replicator_exempt"):
        cursor.execute(sql.SQL("DROP TABLE IF EXISTS pg_temp.{}").format(sql.Identifier(name)))
        cursor.execute(
            sql.SQL(
                "CREATE TEMP TABLE {} ON COMMIT DROP AS "
                "SELECT {}, ''::text AS _hash FROM {} WITH NO DATA"
            ).format(sql.Identifier(name), key, table.identifier)
        )
    copy_hashes = sql.SQL("COPY pg_temp.replicator_hashes ({}, _hash) FROM STDIN {}")
    with cursor.copy(copy_hashes.format(key, OPTIONS)) as copy:
        copy.write("".join(escaped_line((*row.key, row.hash)) for row in hashes))
    copy_exempt = sql.SQL("COPY pg_temp.replicator_exempt ({}) FROM STDIN {}")
    with cursor.copy(copy_exempt.format(key, OPTIONS)) as copy:
        copy.write("".join(map(escaped_line, exempt)))


def _difference(
    place: Place, table: Table, subscription: SubscribedDataset, check: Check, answer: Answer
) -> sql.Composed:
    """Select kind and key of each row that differs: missing, extra, different, local or left out.

    Where NULL stands in place of a row that is not here, its true value counts.
    """
    rule = subscription.dataset.paged[check.rule]
    text = CandidateSql(table, *place)
    same = equal(table.key, "t", table.key, "h")
    either = [sql.SQL("coalesce(t.{0}, h.{0})").format(column(name)) for name in table.key]
    return sql.SQL(
        "SELECT CASE WHEN EXISTS (SELECT FROM {wanted} w WHERE w.table_name = {name} AND {asked}) "
        "THEN {left_out} WHEN t._hash IS NULL AND {local} THEN 'local' "
        "WHEN t._hash IS NULL THEN 'missing' WHEN h._hash IS NULL THEN 'extra' "
        "ELSE 'different' END, {key} FROM (SELECT {tkey}, md5(ROW({cells})::text) AS _hash "
        "FROM {table} t JOIN {receipts} r ON {tr} AND r.subscription_id = {subscription} "
        "WHERE {belongs} AND {span}) t FULL JOIN pg_temp.replicator_hashes h ON {same} "
        "WHERE t._hash IS DISTINCT FROM h._hash AND NOT EXISTS "
        "(SELECT FROM pg_temp.replicator_exempt e WHERE {exempt}) "
        "AND NOT (t._hash IS NULL AND {others})"
    ).format(
        left_out=sql.Literal(_LEFT_OUT),
        wanted=state_table(WantedRow),
        local=text.is_local("h"),
        others=text.is_held("h") if subscription.new else sql.SQL("FALSE"),
        subscription=sql.Literal(subscription.id),
        name=sql.Literal(str(table.name)),
        key=key_text(either),
        asked=text.same_stored("w", either),
        tkey=identifiers(table.key, "t"),
        cells=sql.SQL(", ").join(_as_on_source(text, name) for name in table.columns),
        table=table.identifier,
        receipts=table.receipts,
        tr=equal(table.key, "t", table.key, "r"),
        belongs=_belongs(text, subscription, rule),
        span=_span(table, check, answer),
        same=same,
        exempt=equal_to(table.key, "e", either),
    )


def _as_on_source(text: CandidateSql, name: str) -> sql.Composable:
    """Give a column of a held row as it travels."""
    value = text.true_value(name, "t")
    return travelling_sql(text.table.release, name, value, dangling="-")


def _belongs(text: CandidateSql, subscription: SubscribedDataset, rule: RowsRule) -> sql.Composable:
    """Whether a held row is to be compared: it passes, and is chosen, here or on the source now."""
    passes = text.passed(own_filter(subscription, rule), "t")
    if rule.selection is None:
        return passes
    chosen = sql.SQL("EXISTS (SELECT FROM pg_temp.replicator_hashes c WHERE {})").format(
        equal(text.table.key, "c", text.table.key, "t")
    )
    return any_of([passes, chosen])


def _span(table: Table, check: Check, answer: Answer) -> sql.Composable:
    """Limit to the keys that the page spans: behind the last one of the page before, to its own."""
    after = msgspec.json.decode(check.after_key) if check.after_key else None
    parts = [
        sql.SQL("({}) {} ({})").format(
            sql.SQL(", ").join(
                ordered(column(name, "t"), collated=table.shape.columns[name].collated)
                for name in table.key
            ),
            sql.SQL(operator),
            sql.SQL(", ").join(
                _bound(cell, table.shape.columns[name])
                for name, cell in zip(table.key, key, strict=True)
            ),
        )
        for operator, key in ((">", after), ("<=", answer.last_key))
        if key is not None
    ]
    return sql.SQL(" AND ").join(parts) if parts else sql.SQL("TRUE")


def _bound(cell: Cell, shape: Column) -> sql.Composable:
    kind = "text" if shape.collated else shape.type
    return sql.SQL("{}::{}").format(sql.Literal(str(cell)), sql.SQL(kind))


@dataclass(frozen=True, slots=True)
class _Result:
    """What comparing a page gave: rows compared, each that differs, and how many were left out."""

    checked: int
    found: Sequence[Difference]
    left_out: int


def _save(
    cursor: Cursor,
    check: Check,
    dataset: DatasetPlan,
    result: _Result,
    last_key: Sequence[Cell] | None,
) -> None:
    found = result.found
    kinds = [each.kind for each in found]
    counts = {kind: kinds.count(kind) for kind in KINDS}
    room = max(0, FINDINGS - len(check.findings))
    findings = check.findings + [list(each) for each in found[:room]]
    last, rules = last_key is None, len(dataset.paged)
    rule = check.rule + 1 if last else check.rule
    if rule >= rules:
        # No page tells of what it holds of other tables.
        dropped = dropped_of(cursor, check.subscription, dataset)
        counts["extra"] += dropped.rows
        rest = keys_dropped(cursor, check.subscription, dropped, FINDINGS - len(findings))
        findings += [["extra", *each] for each in rest]
    values = {
        "id": check.id,
        "rule": rule,
        "after_key": "" if last else msgspec.json.encode(last_key).decode(),
        "state": "finished" if rule >= rules else "running",
        "checked": result.checked,
        "left_out": result.left_out,
        "findings": msgspec.json.encode(findings).decode(),
        **counts,
    }
    cursor.execute(sql.SQL(_SAVE).format(state_table(VerifyRun)), values)
