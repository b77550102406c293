"""The fast path: changes written without a verdict, because the rules leave no choice.

Only for tables of which every row belongs, all are known and none is wanted, suspect or kept: what
the source did is then what the target must do. New rows go by COPY straight into the table, changed
and deleted ones by way of the staging table. Whatever does not come out as expected raises, the
target transaction is rolled back, and the batch takes the way through `rules`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import psycopg

from replicator.plan import TableName
from replicator_apply.collapse import TableChanges, key_cells
from replicator_apply.copytext import DELIMITER, chunk, escaped, escaped_line, line_function
from replicator_apply.decode import EventReader
from replicator_apply.plan import Membership, Table
from replicator_apply.sequences import Sequences
from replicator_apply.statements import TableSql
from replicator_apply.write import Written

Cursor = psycopg.Cursor[Any]


class Unexpected(Exception):
    """A row was not here, or was, against expectation."""


class DirectWriter:
    """Writes one table's changes directly; generated once per table."""

    def __init__(self, statements: TableSql) -> None:
        self.sql = statements
        self.table: Table = statements.table
        reader = self.table.reader
        self._fields = [f"c{i}" for i in range(len(reader.columns))]
        self._line = line_function(self._fields)
        self._key_fields = [f"c{reader.columns.index(name)}" for name in reader.key]
        self._key_line = line_function(self._key_fields)
        self._defaults = "".join(
            f"{escaped(text)}{DELIMITER}" for text in self.table.defaults.values()
        )

    def insert(self, cursor: Cursor, changes: TableChanges) -> None:
        """COPY the rows that were created, and their receipts."""
        rows = changes.born.values()
        with cursor.copy(self.sql.copy_table) as copy:
            copy.write(chunk(rows, self._fields, self._line, self._defaults))
        with cursor.copy(self.sql.copy_receipts) as copy:
            for membership in self.table.memberships:
                start = _start(membership)
                copy.write(chunk(rows, self._key_fields, self._key_line, start))

    def stage(self, cursor: Cursor, changes: TableChanges) -> None:
        """COPY what changed and what is gone into the staging table."""
        if changes.changed:
            with cursor.copy(self.sql.copy_changed) as copy:
                start = f"true{DELIMITER}"
                copy.write(chunk(changes.changed.values(), self._fields, self._line, start))
        if changes.gone:
            with cursor.copy(self.sql.copy_gone) as copy:
                lines = (escaped_line((False, *key_cells(key))) for key in changes.gone)
                copy.write("".join(lines))

    def update(self, cursor: Cursor, changes: TableChanges) -> int:
        """Write the changed rows; all of them must be ours."""
        statement = self.sql.update_held
        if statement is None:
            raise Unexpected
        count = cursor.execute(statement).rowcount
        if count != len(changes.changed):
            raise Unexpected
        return count

    def delete(self, cursor: Cursor) -> int:
        """Delete the rows that are gone, and their receipts; give the number of rows."""
        count = cursor.execute(self.sql.delete_held).rowcount
        cursor.execute(self.sql.delete_receipts)
        return count


def _start(membership: Membership) -> str:
    return f"{membership.subscription}{DELIMITER}{membership.generation}{DELIMITER}"


def may_write_directly(
    table: Table, changes: TableChanges, unsettled: Collection[TableName]
) -> bool:
    """Whether a table's changes need no verdict.

    Args:
        table: the table.
        changes: of one batch.
        unsettled: tables with wanted, suspect or kept rows.
    """
    return (
        table.whole
        and table.name not in unsettled
        and not changes.truncated
        and not changes.read
        and not (changes.gone and any(key.acts for key in table.shape.incoming))
        and _all_complete(changes.reader, changes)
    )


def _all_complete(reader: EventReader, changes: TableChanges) -> bool:
    kind = reader.row_type
    return all(type(row) is kind for row in changes.changed.values()) and all(
        type(row) is kind for row in changes.born.values()
    )


def write_directly(
    cursor: Cursor,
    order: Sequence[TableName],
    batch: Mapping[TableName, tuple[DirectWriter, TableChanges]],
    sequences: Sequences,
) -> Written:
    """Write one round of changes.

    Args:
        cursor: in the batch's transaction, constraints deferred.
        order: the tables, parents first.
        batch: writer and changes of each table.
        sequences: what advances them.

    Raises:
        Unexpected, psycopg.IntegrityError: the batch must take the other way.
    """
    written = Written()
    for name in order:
        writer, changes = batch[name]
        if changes.born:
            writer.insert(cursor, changes)
            written.add(name, "c", len(changes.born))
            sequences.follow_rows(cursor, writer.table, changes.born.values())
        if changes.changed or changes.gone:
            writer.stage(cursor, changes)
        if changes.changed:
            written.add(name, "u", writer.update(cursor, changes))
    for name in reversed(order):
        writer, changes = batch[name]
        if changes.gone:
            count = writer.delete(cursor)
            written.add(name, "d", count)
            if (absent := len(changes.gone) - changes.fleeting - count) > 0:
                written.absent[name] = absent
    return written
