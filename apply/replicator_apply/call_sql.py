"""The SQL that stores which rows were written, for the functions of `on_applied`. Pure.

It runs in the transaction that writes the rows, and for no table without such a function.
"""

from collections.abc import Sequence
from functools import cached_property

import msgspec
from psycopg import sql

from replicator.filter_sql import key_json
from replicator.models import AppliedCall
from replicator.sql_parts import Sql, column
from replicator_apply.decode import Cell, Row
from replicator_apply.sql_text import TableText
from replicator_apply.values import cells_of

CHUNK = 1_000
"""Keys of one call at most."""
CALLS = sql.Identifier("public", AppliedCall._meta.db_table)


class CallSql(TableText):
    """Statements that store calls."""

    def _store_calls(self, rows: str, before: str = "", **names: Sql) -> str:
        """Store rows in chunks, for each function.

        Args:
            rows: a query that gives `op` (c, u or d) and `row_key`, the key as jsonb.
            before: what stands before the INSERT.
            names: parts of both.
        """
        lists = (
            sql.SQL("coalesce(jsonb_agg(x.row_key) FILTER (WHERE x.op = {}), '[]')").format(op)
            for op in "cud"
        )
        return self.compose(
            "{before}INSERT INTO {calls} (source, stream, table_name, function, inserted, updated, "
            "deleted) SELECT {source}, {stream}, {name}, f.name, {lists} FROM (SELECT w.op, "
            "w.row_key, (row_number() OVER () - 1) / {chunk} AS number FROM ({written}) w) x "
            "CROSS JOIN unnest({functions}::text[]) f(name) "
            "GROUP BY x.number, f.name ORDER BY x.number, f.name",
            before=self.part(before, **names),
            written=self.part(rows, **names),
            calls=CALLS,
            lists=sql.SQL(", ").join(lists),
            chunk=sql.Literal(CHUNK),
            functions=sql.Literal(list(self.table.hooks)),
        )

    def key_json(self, alias: str) -> Sql:
        """Write the key of the row of an alias as a jsonb array of the text of its values."""
        return key_json(column(name, alias) for name in self.table.key)

    @cached_property
    def call_for_written(self) -> str:
        """Store what is about to be written by the verdicts; before it is, to tell new rows."""
        return self._store_calls(
            "SELECT CASE WHEN s._verdict = 'l' THEN 'd' WHEN t.ctid IS NULL THEN 'c' ELSE 'u' END "
            "AS op, {key_json} AS row_key FROM {stage} s LEFT JOIN {table} t ON {ts} WHERE "
            "CASE WHEN s._verdict = 'w' THEN t.ctid IS NOT NULL OR s._complete "
            "WHEN s._verdict IN ({told}) THEN t.ctid IS NOT NULL AND NOT {elsewhere} "
            "ELSE false END",
            key_json=self.key_json("s"),
            # What only stays is as it was; what is marked has changed.
            told=sql.SQL("'l', 's'" if self.table.mark else "'l'"),
            elsewhere=self.is_held_elsewhere("s"),
        )

    @cached_property
    def call_for_changed(self) -> str:
        """Store the staged rows that are written straight away, all of them ours."""
        return self._store_calls(
            "SELECT 'u' AS op, {key_json} AS row_key FROM {stage} s WHERE s._present",
            key_json=self.key_json("s"),
        )

    @cached_property
    def call_for_gone(self) -> str:
        """Store the staged keys whose rows are about to be deleted straight away."""
        return self._store_calls(
            "SELECT 'd' AS op, {key_json} AS row_key FROM {stage} s JOIN {table} t ON {ts} "
            "WHERE NOT s._present AND {held} AND NOT {elsewhere}",
            key_json=self.key_json("s"),
            held=self.is_held("s"),
            elsewhere=self.is_held_elsewhere("s"),
        )

    def call_for_born(self, rows: Sequence[Row], fields: Sequence[str]) -> str:
        """Store rows that were created and are written straight away.

        Args:
            rows: at least one.
            fields: those of the key.
        """
        keys = [[_text(getattr(row, field)) for field in fields] for row in rows]
        named = (*self.place, str(self.table.name))
        calls = [
            (
                *named,
                function,
                msgspec.json.encode(keys[begin : begin + CHUNK]).decode(),
                "[]",
                "[]",
            )
            for begin in range(0, len(keys), CHUNK)
            for function in self.table.hooks
        ]
        return self.compose(
            "INSERT INTO {calls} (source, stream, table_name, function, inserted, updated, deleted)"
            " VALUES ",
            calls=CALLS,
        ) + cells_of(calls)


def _text(cell: Cell) -> str:
    """Write a value of a key as Postgres does."""
    return str(cell).lower() if isinstance(cell, bool) else str(cell)
