"""What the rules decided → rows, receipts and wanted rows of the target. Blocks on Postgres.

Foreign keys are checked (deferred to the end where they are deferrable), never switched off.
Unique values that change hands inside a batch are freed first; most batches have none, so the
plain order is tried under a savepoint and only a violation leads there.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

import psycopg
from psycopg import sql

from replicator.errors import Clash, Unwritable
from replicator.plan import TableName, full_name
from replicator.postgres import is_passing
from replicator_apply.plan import Table
from replicator_apply.rules import Rules
from replicator_apply.stage import MANY, Staged
from replicator_apply.unique_sql import Conflict

Cursor = psycopg.Cursor[Any]

SHORT = 8
"""Characters of text in which a random value may well be taken."""


@dataclass
class Written:
    """Rows written, by table and op: c inserted, u updated, d deleted.

    `judged`: the rules had to look, so that rows may be wanted or kept now. `absent`: deletes of
    rows that should have been here and were not. `made_way`: rows that left and should have stayed,
    and whose unique value another row has. `looked`: tables at whose rows the rules have looked.
    """

    rows: dict[tuple[TableName, str], int] = field(default_factory=dict)
    judged: bool = False
    absent: dict[TableName, int] = field(default_factory=dict)
    made_way: dict[TableName, int] = field(default_factory=dict)
    looked: set[TableName] = field(default_factory=set)

    def add(self, table: TableName, op: str, count: int) -> None:
        """Count rows."""
        if count > 0:
            self.rows[table, op] = self.rows.get((table, op), 0) + count

    def merge(self, other: "Written") -> None:
        """Add what another round wrote."""
        for (table, op), count in other.rows.items():
            self.add(table, op, count)
        for table, count in other.absent.items():
            self.absent[table] = self.absent.get(table, 0) + count
        for table, count in other.made_way.items():
            self.made_way[table] = self.made_way.get(table, 0) + count
        self.looked |= other.looked


def write(cursor: Cursor, rules: Rules, batch: Mapping[TableName, Staged]) -> Written:
    """Write what the verdicts say.

    Raises:
        Clash: a local row stands on a unique value that a replicated row needs.
        psycopg.IntegrityError: Postgres refuses a row for another reason.
    """
    _finish(cursor, batch)
    cursor.execute("SAVEPOINT replicator_rows")
    try:
        written = _write_rows(cursor, rules, _filled(batch), freeing=False)
    except (psycopg.errors.UniqueViolation, psycopg.errors.ExclusionViolation):
        cursor.execute("ROLLBACK TO SAVEPOINT replicator_rows")
        while sum(rules.evict(staged) for staged in _filled(batch)):
            rules.again()
            _finish(cursor, batch)
        written = _write_rows(cursor, rules, _filled(batch), freeing=True)
    rules.want()
    written.judged = True
    written.looked = {staged.table.name for staged in _filled(batch)}
    written.made_way = rules.made_way
    return written


def _finish(cursor: Cursor, batch: Mapping[TableName, Staged]) -> None:
    for staged in _filled(batch):
        cursor.execute(staged.sql.finish_stage, prepare=False)


def _filled(batch: Mapping[TableName, Staged]) -> list[Staged]:
    return [staged for staged in parents_first(batch) if staged.filled]


def parents_first(batch: Mapping[TableName, Staged]) -> list[Staged]:
    """Order tables so that what is pointed at comes before what points; cycles anyhow."""
    graph = {
        name: {k.to for k in staged.table.shape.outgoing if k.to in batch and k.to != name}
        for name, staged in batch.items()
    }
    with suppress(CycleError):
        return [batch[name] for name in TopologicalSorter(graph).static_order()]
    return [batch[name] for name in sorted(batch)]


def _receipts(cursor: Cursor, staged: Staged) -> None:
    for membership in staged.table.holders:
        cursor.execute(staged.sql.receipts_enter(membership))
        cursor.execute(staged.sql.receipts_leave(membership))
    cursor.execute(staged.sql.receipts_kept, prepare=False)
    if staged.table.stay:
        cursor.execute(staged.sql.receipts_stay)


def _write_rows(
    cursor: Cursor, rules: Rules, filled: Sequence[Staged], *, freeing: bool
) -> Written:
    """Write receipts and rows; `freeing`: take rows off the unique values that others need."""
    for staged in filled:
        _receipts(cursor, staged)
    rules.null_missing()
    for staged in filled:
        if staged.table.hooks:
            cursor.execute(staged.sql.call_for_written)
    marked = Written()
    for staged in filled:
        if staged.table.mark:
            # Before others take their unique values, which may be free once they are marked.
            marked.add(staged.table.name, "u", cursor.execute(staged.sql.mark_left).rowcount)
    parked = [staged for staged in filled if freeing and _free_unique_values(cursor, staged)]
    written = _upsert_and_delete(cursor, filled, parked=parked)
    written.merge(marked)
    for staged in filled:
        if staged.table.stay:
            cursor.execute(staged.sql.receipts_back)
    rules.restore()
    for staged in filled:
        if staged.sql.check_unique is not None:
            cursor.execute(staged.sql.check_unique)
    return written


def _unique(staged: Staged) -> list[tuple[str, ...]]:
    """List the unique constraints on columns that replication writes."""
    table = staged.table
    return [tuple(each) for each in table.shape.unique if set(each) <= set(table.columns)]


def _upsert_and_delete(
    cursor: Cursor, filled: Sequence[Staged], *, parked: Sequence[Staged]
) -> Written:
    written = Written()
    for staged in filled:
        with naming(staged.table.name):
            _upsert(cursor, staged, written, parked=staged in parked)
    for staged in reversed(filled):
        written.add(staged.table.name, "d", cursor.execute(staged.sql.delete).rowcount)
    return written


def _upsert(cursor: Cursor, staged: Staged, written: Written, *, parked: bool) -> None:
    name = staged.table.name
    for number in range(len(staged.sets)):
        statement = staged.sql.update(staged.columns(number), number)
        if statement is not None:
            written.add(name, "u", cursor.execute(statement).rowcount)
    if parked:
        written.add(name, "u", _put_back(cursor, staged))
    with by_index(cursor, many=staged.size >= MANY):
        written.add(name, "c", cursor.execute(staged.sql.insert).rowcount)


_ELSE = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin")
ONLY_BY_INDEX: Final = tuple(f"SET LOCAL {name} = off" for name in _ELSE)
ANYHOW: Final = tuple(f"SET LOCAL {name} = on" for name in _ELSE)
"""Statements between which each staged row is looked up by the key's index.

The planner may find it cheaper to read a large table from end to end than to look 10,000 rows
up; and of a table that is being filled it knows nothing: one that was empty it reads for each
row, and so ever more of what the statement itself has written.
"""


@contextmanager
def by_index(cursor: Cursor, *, many: bool) -> Iterator[None]:
    """Have each staged row looked up by the key's index, if they are many."""
    if not many:
        yield
        return
    cursor.execute("; ".join(ONLY_BY_INDEX), prepare=False)
    yield
    cursor.execute("; ".join(ANYHOW), prepare=False)


def _put_back(cursor: Cursor, staged: Staged) -> int:
    """Change the parked rows and put them back on the table."""
    for number in range(len(staged.sets)):
        statement = staged.sql.update_parked(staged.columns(number), number)
        if statement is not None:
            cursor.execute(statement)
    count = cursor.execute(staged.sql.unpark).rowcount
    cursor.execute(staged.sql.empty_parking)
    return count


def _free_unique_values(cursor: Cursor, staged: Staged) -> bool:
    """Take rows off the unique values that others of the batch need; True if any is parked."""
    table, parked = staged.table, 0
    stays = any(key.minds for key in table.shape.incoming)
    for conflict in staged.sql.standing:
        _refuse_local_values(cursor, staged, conflict)
    for columns in _unique(staged):
        cursor.execute(staged.sql.delete_early(columns))
        if stays:
            _step_aside(cursor, staged, columns)
        else:
            cursor.execute(staged.sql.create_parking)
            parked += cursor.execute(staged.sql.park(columns)).rowcount
    if table.shape.excludes and not stays:
        # What is in whose way cannot be told by columns.
        cursor.execute(staged.sql.create_parking)
        cursor.execute(staged.sql.delete)
        parked += cursor.execute(staged.sql.park_all).rowcount
    return parked > 0


def _refuse_local_values(cursor: Cursor, staged: Staged, conflict: Conflict) -> None:
    found = cursor.execute(staged.sql.count_local_values(conflict.rows)).fetchone()
    if found and found[1]:
        paused = cursor.execute(staged.sql.paused_on_values(conflict.rows)).fetchall()
        names = [full_name(*each) for each in paused]
        raise Clash(
            f"{found[1]} row(s) of table {staged.table.name}, of the paused subscription(s) "
            f"{', '.join(names)}, still hold values of {conflict.what} that rows of the others "
            "have now. Nothing of this batch was written.",
            remedy=f"Run {' and '.join(f'`replicator resume {name}`' for name in names)}.",
        )
    if found and found[0]:
        which = (
            "local row(s), or row(s) that left and stay," if staged.table.stay else "local row(s)"
        )
        raise Clash(
            f"{found[0]} {which} of table {staged.table.name} hold values of {conflict.what} "
            "that rows of the dataset have. Nothing of this batch was written."
        )


def _step_aside(cursor: Cursor, staged: Staged, columns: Sequence[str]) -> None:
    """Where a row cannot be deleted for a moment, change its unique value for one."""
    name, value = passing_value(staged.table, columns)
    cursor.execute(staged.sql.step_aside(columns, name, value))


_PASSING = {
    "uuid": "gen_random_uuid()",
    "smallint": "32767 - {random}::bit(12)::integer",
    "integer": "2147483647 - {random}::bit(28)::integer",
    "bigint": "9223372036854775807 - {random}::bit(52)::bigint",
    "date": "date '5000-01-01' + {random}::bit(16)::integer",
    "timestamp without time zone": "timestamp '5000-01-01' + random() * interval '500 years'",
    "timestamp with time zone": "timestamptz '5000-01-01' + random() * interval '500 years'",
    "text": "{text}",
    "character varying": "{text}",
}
"""Values that hardly any row has, by type; positive, for many columns must not be negative."""


def passing_value(table: Table, columns: Sequence[str]) -> tuple[str, sql.Composable]:
    """Choose one of some unique columns, and give an expression for a value that no row has.

    Raises:
        Unwritable: no such value is known for their types.
    """
    shape = table.shape
    references = {name for key in shape.outgoing for name in key.columns}
    for name in sorted(columns, key=lambda each: each in references):
        column = shape.columns[name]
        if not column.not_null and columns not in shape.nulls_equal:
            return name, sql.SQL("NULL")
        kind, _, length = column.type.partition("(")
        if kind in _PASSING and not (length and int(length[:-1]) < SHORT):
            text = sql.SQL("md5(random()::text || t.ctid::text)")
            random = sql.SQL("('x' || {})").format(text)
            value = sql.SQL(_PASSING[kind]).format(text=text, random=random)
            return name, sql.SQL("({})::{}").format(value, sql.SQL(column.type))
    raise Unwritable(
        f"Rows of {table.name} change their values of the unique column(s) {', '.join(columns)} "
        "among each other, and no passing value is known for these types.",
        remedy="Make the foreign keys that point at the table deferrable and without an action "
        "on delete, as Django does.",
    )


@contextmanager
def naming(table: TableName) -> Iterator[None]:
    """Name the table that is written in errors in which Postgres does not.

    Raises:
        Unwritable: Postgres refuses a value, or what a trigger does.
    """
    try:
        yield
    except psycopg.IntegrityError:
        raise
    except psycopg.DatabaseError as error:
        if is_passing(error):
            raise
        raise unwritable(error, table) from error


_OF_THE_SERVER = {"53", "57", "58", "XX"}
"""Classes of SQLSTATE that tell of the server: no space, a time limit, a broken file."""


def unwritable(error: psycopg.Error, at: TableName | None = None) -> Unwritable:
    """Say which table and constraint a row offends, without its values.

    Args:
        error: the driver's.
        at: the table that was being written, which Postgres names for some errors only.
    """
    diag = error.diag
    kind = type(error).__name__
    table = f"{diag.schema_name}.{diag.table_name}" if diag.table_name else at or "a table"
    where = f" ({diag.constraint_name})" if diag.constraint_name else ""
    if isinstance(error, psycopg.errors.ForeignKeyViolation):
        remedy = (
            "A row points to one that is not here. Add the table it points to to the dataset, or "
            "create that row here."
        )
    elif error.sqlstate and error.sqlstate[:2] in _OF_THE_SERVER:
        remedy = "See the target's Postgres log and mend it; the stream goes on by itself."
    else:
        remedy = (
            "Compare the table's columns and constraints here with the source's, and migrate both "
            "to the same state; the stream goes on by itself."
        )
    return Unwritable(f"Postgres refuses a row of {table}: {kind}{where}.", remedy=remedy)
