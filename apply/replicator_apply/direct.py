"""The fast path: changes written without a verdict, because the rules leave no choice.

Only for tables of which no row is suspect or kept. Where every row
belongs, what the source did is what the target must do; else `sieve` says of which changes that is
so. New rows go straight into the table, changed and deleted ones by way of the staging table; by
COPY if they are many, else in one round trip. Whatever does not come out as expected raises, the
target transaction is rolled back, and the whole batch takes the way through `rules`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import psycopg

from replicator.plan import TableName
from replicator_apply.collapse import Entering, Made, TableChanges, key_cells
from replicator_apply.copytext import (
    DELIMITER,
    chunk,
    escaped,
    escaped_line,
    line_function,
    numbered_chunk,
    picked,
)
from replicator_apply.decode import EventReader, Row
from replicator_apply.plan import Membership, Table
from replicator_apply.sequences import Sequences
from replicator_apply.sieve import Sieve, Sorted, may_be_settled
from replicator_apply.table_sql import TableSql
from replicator_apply.values import SMALL, cells_of, values
from replicator_apply.write import ANYHOW, ONLY_BY_INDEX, Written

Cursor = psycopg.Cursor[Any]

CLOSE = 16
"""Keys of a page lie close together if there is a row for each so many of them on average: what
others hold between them is looked at, too."""


class Unexpected(Exception):
    """A row was not here, or was, against expectation."""


class DirectWriter:
    """Writes one table's changes directly; generated once per table.

    Args:
        statements: of the table.
        use: takes note of the number of rows that are staged.
    """

    def __init__(self, statements: TableSql, use: Callable[[int], None]) -> None:
        self.sql = statements
        self._use = use
        self.table: Table = statements.table
        reader = self.table.reader
        self._fields = [f"c{i}" for i in range(len(reader.columns))]
        self._line = line_function(self._fields)
        self._key_fields = [f"c{reader.columns.index(name)}" for name in reader.key]
        self._key_line = line_function(self._key_fields)
        self._defaults = "".join(
            f"{escaped(text)}{DELIMITER}" for text in self.table.defaults.values()
        )

    def insert(self, cursor: Cursor, changes: TableChanges, sequences: Sequences) -> None:
        """Write the rows that were created and their receipts, and advance the sequences."""
        rows = changes.born.values()
        if len(rows) <= SMALL:
            self._insert_few(cursor, rows, sequences)
        else:
            # Before the rows, so that it may go along with what begins the transaction.
            sequences.follow_rows(cursor, self.table, rows)
            self._insert_many(cursor, rows, changes.made.born if changes.made else ())

    def prepare(self, changes: TableChanges) -> None:
        """Make ahead, without the connection, what is sent for many rows."""
        if not self.table.direct or (changes.read and not self.table.enters_alone):
            return
        gone = self._arrays_of_gone(changes) if len(changes.gone) > SMALL else ""
        if changes.read:
            whole = _entering(changes)
            entering = self._entering_of(whole) if len(whole.changed) > SMALL else None
            changes.made = Made((), b"", gone, entering)
        else:
            changes.made = Made(
                self._lines(changes.born.values()) if len(changes.born) > SMALL else (),
                self._lines_of_changed(changes) if len(changes.changed) > SMALL else b"",
                gone,
            )

    def _insert_few(self, cursor: Cursor, rows: Collection[Row], sequences: Sequences) -> None:
        """Send all of it in one round trip."""
        ahead, noted = sequences.statements_for(self.table, rows)
        receipts = (
            values(rows, self._key_fields, (membership.subscription, membership.generation))
            for membership in self.table.memberships
        )
        _run(
            cursor,
            self.sql.insert_values + values(rows, self._fields, [*self.table.defaults.values()]),
            self.sql.insert_receipts + ", ".join(receipts),
            *self._calls_for(rows),
            *ahead,
        )
        sequences.note(noted)

    def _insert_many(
        self, cursor: Cursor, rows: Collection[Row], made: Sequence[bytes] = ()
    ) -> None:
        lines, *receipts = made or self._lines(rows)
        with cursor.copy(self.sql.copy_table) as copy:
            copy.write(lines)
        with cursor.copy(self.sql.copy_receipts) as copy:
            for part in receipts:
                copy.write(part)
        for statement in self._calls_for(rows):
            cursor.execute(statement, prepare=False)

    def _lines(self, rows: Collection[Row]) -> list[bytes]:
        """Write new rows as COPY text, and their receipts of each subscription."""
        receipts = (
            chunk(rows, self._key_fields, self._key_line, _start(membership))
            for membership in self.table.memberships
        )
        return [chunk(rows, self._fields, self._line, self._defaults), *receipts]

    def _calls_for(self, rows: Collection[Row]) -> list[str]:
        """Give what stores new rows for functions of `on_applied`; nothing if there are none."""
        return [self.sql.call_for_born([*rows], self._key_fields)] if self.table.hooks else []

    def _stage_changed(self, cursor: Cursor, changes: TableChanges) -> list[str]:
        """Bring the changed rows into the staging table, or give the statement that does."""
        rows = changes.changed.values()
        self._use(len(rows))
        if len(rows) <= SMALL:
            return [self.sql.insert_changed + values(rows, self._fields, (True,))]
        with cursor.copy(self.sql.copy_changed) as copy:
            copy.write((changes.made and changes.made.changed) or self._lines_of_changed(changes))
        return []

    def _lines_of_changed(self, changes: TableChanges) -> bytes:
        return chunk(changes.changed.values(), self._fields, self._line, f"true{DELIMITER}")

    def _arrays_of_gone(self, changes: TableChanges) -> str:
        columns = zip(*map(key_cells, changes.gone), strict=True)
        return self.sql.arrays(self.table.key, columns)

    def _stage_gone(self, cursor: Cursor, changes: TableChanges) -> list[str]:
        """Bring the deleted keys into the staging table, or give the statement that does."""
        self._use(len(changes.gone))
        cells = ((False, *key_cells(key)) for key in changes.gone)
        if len(changes.gone) <= SMALL:
            return [self.sql.insert_gone + cells_of(cells)]
        with cursor.copy(self.sql.copy_gone) as copy:
            copy.write("".join(map(escaped_line, cells)))
        return []

    def update(self, cursor: Cursor, changes: TableChanges) -> int:
        """Write the changed rows; all of them must be ours."""
        statement = self.sql.update_held
        if statement is None:
            raise Unexpected
        staged = self._stage_changed(cursor, changes)
        calls = [self.sql.call_for_changed] if self.table.hooks else []
        many = len(changes.changed) > SMALL
        count = _run(cursor, *staged, *calls, statement, by_index=many)[-1]
        if count != len(changes.changed):
            raise Unexpected
        return count

    def enter(self, cursor: Cursor, changes: TableChanges, sequences: Sequences) -> tuple[int, int]:
        """Write rows whole, whether they are ours already or not, and their receipts.

        Gives how many were created, and how many changed.
        """
        rows = changes.changed
        ahead, noted = sequences.statements_for(self.table, rows.values())
        enter = self._enter if len(rows) <= SMALL else self._enter_many
        changed, created = enter(cursor, changes, ahead)
        sequences.note(noted)
        return created, changed

    def _enter_many(
        self, cursor: Cursor, changes: TableChanges, ahead: Sequence[str]
    ) -> tuple[int, int]:
        """As `_enter`; what is new here, as most of a page, goes straight into the table."""
        rows = changes.changed
        entering = (changes.made and changes.made.entering) or self._entering_of(changes)
        numbers = self._new_of(cursor, entering, [*rows.values()], ahead)
        new = [entering.keys[number] for number in numbers]
        held = TableChanges(changes.reader, changed={k: rows[k] for k in rows.keys() - new})
        # What is ours comes first: it may leave a unique value to a row that is new here.
        changed, created = self._enter(cursor, held) if held.changed else (0, 0)
        if new:
            lines = entering.lines
            if held.changed:
                lines = [picked(text, numbers) for text in lines]
            self._insert_many(cursor, [rows[key] for key in new], lines)
        return changed, created + len(new)

    def _entering_of(self, changes: TableChanges) -> Entering:
        """Make what `enter` sends for many rows."""
        keys, rows = [*changes.changed], [*changes.changed.values()]
        read, read_free = self._close_together(keys, rows, changes.read)
        others = sorted({*range(len(keys))}.difference(read))
        return Entering(keys, read, read_free, others, self._lines(rows))

    def _close_together(
        self, keys: Sequence[bytes], rows: Sequence[Row], read: Collection[bytes]
    ) -> tuple[Sequence[int], str]:
        """Find the rows of a page, if one look can tell that none of them is here.

        Gives their numbers, and what asks for that.
        """
        if not self.sql.has_whole_key:
            return (), ""
        numbers = [number for number, key in enumerate(keys) if key in read]
        found = [getattr(rows[number], self._key_fields[0]) for number in numbers]
        if len(found) <= SMALL or not all(type(value) is int for value in found):
            return (), ""
        low, high = min(found), max(found)
        if high - low >= CLOSE * len(found):
            return (), ""
        return numbers, self.sql.none_between(low, high)

    def _new_of(
        self, cursor: Cursor, entering: Entering, rows: Sequence[Row], ahead: Sequence[str]
    ) -> list[int]:
        """Find the rows under whose keys none is ours; give their numbers, from 0, in order.

        `ahead`: statements that are sent along.
        """
        looks = [entering.read_free] if entering.read else []
        if entering.others:
            looks.append(self._look_for(entering.others, rows))
        answers = _ask(cursor, *ahead, *looks)[len(ahead) :]
        new = _numbered(entering.others, answers[-1]) if entering.others else []
        if entering.read:
            if answers[0] == [(True,)]:
                new += entering.read
            else:
                (found,) = _ask(cursor, self._look_for(entering.read, rows))
                new += _numbered(entering.read, found)
        return sorted(new)

    def _look_for(self, numbers: Sequence[int], rows: Sequence[Row]) -> str:
        """Ask which of some rows are nobody's, by a look for each; the answer counts from 1."""
        columns = (
            [getattr(rows[number], field) for number in numbers] for field in self._key_fields
        )
        begin, end = self.sql.nobodys
        return begin + self.sql.arrays(self.table.key, columns) + end

    def _enter(
        self, cursor: Cursor, changes: TableChanges, ahead: Sequence[str] = ()
    ) -> tuple[int, int]:
        """Write rows by way of the staging table; give how many changed, and were created."""
        update = self.sql.update_held
        if update is None:
            raise Unexpected
        before = [*ahead, *self._stage_changed(cursor, changes)]
        statements = (update, self.sql.insert_entering, *self.sql.receipts_entering)
        counts = _run(cursor, *before, *statements, by_index=len(changes.changed) > SMALL)
        changed, created = counts[len(before) : len(before) + 2]
        if changed + created != len(changes.changed):
            raise Unexpected
        return changed, created

    def update_steady(self, cursor: Cursor, rows: Collection[Row]) -> set[int]:
        """Write those of the rows that are ours and keep their ties; give their numbers."""
        statement = self.sql.update_steady
        if statement is None:
            return set()
        self._use(len(rows))
        if len(rows) <= SMALL:
            cells = ([True, n, *(getattr(r, f) for f in self._fields)] for n, r in enumerate(rows))
            cursor.execute(self.sql.insert_numbered + cells_of(cells), prepare=False)
        else:
            with cursor.copy(self.sql.copy_numbered) as copy:
                copy.write(numbered_chunk(rows, self._fields, self._line, f"true{DELIMITER}"))
        return {number for (number,) in cursor.execute(statement)}

    def delete(self, cursor: Cursor, changes: TableChanges) -> int:
        """Delete the rows that are gone, and their receipts; give the number of rows."""
        if len(changes.gone) > SMALL and not self.table.hooks:
            begin, end = self.sql.delete_many
            arrays = (changes.made and changes.made.gone) or self._arrays_of_gone(changes)
            return _run(cursor, begin + arrays + end, by_index=True)[0]
        staged = self._stage_gone(cursor, changes)
        calls = [self.sql.call_for_gone] if self.table.hooks else []
        statements = (*calls, self.sql.delete_held, self.sql.delete_receipts)
        return _run(cursor, *staged, *statements, by_index=len(changes.gone) > SMALL)[-2]


def _run(cursor: Cursor, *statements: str, by_index: bool = False) -> list[int]:
    """Run statements in one round trip; give the number of rows of each.

    `by_index`: each row is looked up by the key's index; see `write.ONLY_BY_INDEX`.
    """
    _send(cursor, *statements, by_index=by_index)
    counts = [cursor.rowcount]
    while len(counts) < len(statements) and cursor.nextset():
        counts.append(cursor.rowcount)
    return counts


def _ask(cursor: Cursor, *questions: str) -> list[list[tuple[Any, ...]]]:
    """Put questions in one round trip, and look rows up by index; give the rows of each answer."""
    _send(cursor, *questions, by_index=True)
    answers = [cursor.fetchall()]
    while len(answers) < len(questions) and cursor.nextset():
        answers.append(cursor.fetchall())
    return answers


def _numbered(numbers: Sequence[int], found: Iterable[tuple[int]]) -> list[int]:
    """Give those of the numbers that were found, of which each is told by its place, from 1."""
    return [numbers[place - 1] for (place,) in found]


def _send(cursor: Cursor, *statements: str, by_index: bool) -> None:
    """Send statements in one round trip; the result of the first one is the current one."""
    around = (ONLY_BY_INDEX, ANYHOW) if by_index else ((), ())
    # One text of several statements cannot be prepared.
    cursor.execute("; ".join((*around[0], *statements, *around[1])), prepare=False)
    for _ in around[0]:
        cursor.nextset()


def _start(membership: Membership) -> str:
    return f"{membership.subscription}{DELIMITER}{membership.generation}{DELIMITER}"


def may_write_directly(
    table: Table, changes: TableChanges, unsettled: Collection[TableName]
) -> bool:
    """Whether a table's changes, or some of them, need no verdict.

    Args:
        table: the table.
        changes: of one batch.
        unsettled: tables of which every change needs a verdict.
    """
    if table.name in unsettled or changes.truncated:
        return False
    if changes.read and not table.enters_alone:
        return False
    if not table.direct:
        return may_be_settled(table, changes)
    stays = table.stay is not None or any(key.acts for key in table.shape.incoming)
    return not (changes.gone and stays) and _all_complete(changes.reader, changes)


def _all_complete(reader: EventReader, changes: TableChanges) -> bool:
    kind = reader.row_type
    return all(type(row) is kind for row in changes.changed.values()) and all(
        type(row) is kind for row in changes.born.values()
    )


Part = tuple[DirectWriter, TableChanges]
"""Writer and changes of a table."""


class Unsure(NamedTuple):
    """What of a batch may be here already, or not yet.

    Attributes:
        filling: tables that a backfill fills: rows may be changed, or go, that are not here yet.
        answered: whether an answer is among the changes: it repeats what may have come before.
    """

    filling: Collection[TableName]
    answered: bool

    def enters(self, table: Table) -> bool:
        """Whether changed rows of a table are written as such that may be new."""
        return table.enters_alone and (self.answered or table.name in self.filling)


def write_directly(
    cursor: Cursor,
    batch: Mapping[TableName, Part],
    sieve: Sieve,
    sequences: Sequences,
    unsure: Unsure,
) -> tuple[Written, dict[TableName, TableChanges]]:
    """Write what of one round of changes needs no verdict; give what is left to the rules.

    Args:
        cursor: in the batch's transaction, constraints deferred.
        batch: the tables that may be written directly, parents first.
        sieve: sorts the changes of those of which not all need none.
        sequences: what advances them.
        unsure: what may be here already, or not yet.

    Raises:
        Unexpected, psycopg.IntegrityError: the batch must take the other way.
    """
    written, left = Written(), dict[TableName, TableChanges]()
    gone: list[Part] = []
    for name, (writer, changes) in batch.items():
        if writer.table.direct:
            again = unsure.answered and writer.table.enters_alone
            found = Sorted(_entering(changes) if again else changes, TableChanges(changes.reader))
        else:
            found = sieve.sort(writer.table, changes)
        settled = found.settled
        if settled.born:
            writer.insert(cursor, settled, sequences)
            written.add(name, "c", len(settled.born))
        if settled.changed and unsure.enters(writer.table):
            created, changed = writer.enter(cursor, settled, sequences)
            written.add(name, "c", created)
            written.add(name, "u", changed)
        elif settled.changed and writer.table.direct:
            written.add(name, "u", writer.update(cursor, settled))
        elif settled.changed:
            written.add(name, "u", _write_steady(cursor, writer, found, sieve))
        if settled.gone:
            gone.append((writer, settled))
        sieve.leave(name, found.rest)
        if found.rest.size:
            left[name] = found.rest
    for writer, settled in reversed(gone):
        _delete(cursor, writer, settled, written, expected=writer.table.name not in unsure.filling)
    return written, left


def _entering(changes: TableChanges) -> TableChanges:
    """Take new rows for such as may be here."""
    if not changes.born:
        return changes
    made = changes.made if changes.made and changes.made.entering else None
    return replace(changes, born={}, changed={**changes.changed, **changes.born}, made=made)


def _write_steady(cursor: Cursor, writer: DirectWriter, found: Sorted, sieve: Sieve) -> int:
    """Write the changed rows that are settled, and leave others to the rules; give their number."""
    keys, rows = zip(*found.settled.changed.items(), strict=True)
    done = writer.update_steady(cursor, rows)
    others = (number for number in range(len(rows)) if number not in done)
    for number in sieve.left_of_changed(writer.table, rows, others):
        found.rest.changed[keys[number]] = rows[number]
    return len(done)


def _delete(
    cursor: Cursor, writer: DirectWriter, changes: TableChanges, written: Written, *, expected: bool
) -> None:
    """Delete rows; `expected`: what a fetch has not missed should have been here."""
    name = writer.table.name
    count = writer.delete(cursor, changes)
    written.add(name, "d", count)
    absent = len(changes.gone.keys() - changes.read) - changes.fleeting - count
    if expected and writer.table.direct and absent > 0:
        written.absent[name] = absent
