"""The SQL that writes what is staged into the table. Pure."""

from collections.abc import Sequence
from functools import cached_property

from psycopg import sql

from replicator.sql_parts import Sql, column
from replicator_apply.call_sql import CallSql


class WriteSql(CallSql):
    """Statements that write staged rows; `_verdict` says which."""

    def update(self, columns: Sequence[str], number: int) -> str | None:
        """Write the columns that came to rows that are here; None: there is nothing but the key."""
        return self._update(self.table.identifier, columns, number)

    def _update(self, rows: Sql, columns: Sequence[str], number: int) -> str | None:
        assignments = self._assigned(columns)
        if not assignments:
            return None
        return self.compose(
            "UPDATE {rows} t SET {assignments} FROM {stage} s "
            "WHERE {ts} AND s._verdict = 'w' AND s._set = {number}",
            assignments=sql.SQL(", ").join(assignments),
            number=sql.Literal(number),
            rows=rows,
        )

    def _assigned(self, columns: Sequence[str]) -> list[Sql]:
        """Assign columns that came; one that marks rows which left is reset where one is back."""
        settable = self._settable(columns)
        assigned = [self._assignments(settable)] if settable else []
        if (mark := self.table.mark) is not None:
            back = "{column} = CASE WHEN {has_left} THEN {free} ELSE {old} END"
            assigned.append(
                self.part(
                    back,
                    column=column(mark.column),
                    has_left=self.has_left("s"),
                    free=sql.SQL("false" if mark.flag else "NULL"),
                    old=column(mark.column, "t"),
                )
            )
        return assigned

    def _settable(self, columns: Sequence[str]) -> list[str]:
        """Leave out the key, unless it may be here in another spelling."""
        if self.table.respelled:
            return list(columns)
        return [name for name in columns if name not in self.table.key]

    def _assignments(self, columns: Sequence[str]) -> Sql:
        return sql.SQL(", ").join(
            sql.SQL("{} = {}").format(column(name), column(name, "s")) for name in columns
        )

    @cached_property
    def insert(self) -> str:
        """Write the rows that are not here."""
        return self.compose(
            "INSERT INTO {table} ({columns}{more}) OVERRIDING SYSTEM VALUE "
            "SELECT {scolumns}{values} FROM {stage} s WHERE s._verdict = 'w' AND s._complete "
            "AND NOT EXISTS (SELECT FROM {table} t WHERE {ts})",
            **self._defaults,
        )

    @property
    def _defaults(self) -> dict[str, Sql]:
        """Name the columns of new rows that nothing else fills, and give their values."""
        defaults, columns = self.table.defaults, self.table.shape.columns
        return {
            "more": sql.Composed([sql.SQL(", {}").format(column(name)) for name in defaults]),
            "values": sql.Composed(
                [
                    sql.SQL(", {}::{}").format(text, sql.SQL(columns[name].type))
                    for name, text in defaults.items()
                ]
            ),
        }

    @cached_property
    def mark_left(self) -> str:
        """Mark the rows that leave and stay; the time at which one was marked here before stays."""
        if (mark := self.table.mark) is None:
            raise LookupError(str(self.table.name))
        time = self.part("coalesce({old}, now())", old=column(mark.column, "t"))
        return self.compose(
            "UPDATE {table} t SET {column} = {marked} FROM {stage} s "
            "WHERE {ts} AND s._verdict = 's' AND NOT {elsewhere}",
            column=column(mark.column),
            marked=sql.SQL("true") if mark.flag else time,
            elsewhere=self.is_held_elsewhere("s"),
        )

    @cached_property
    def receipts_back(self) -> str:
        """Forget that rows left, which are written again."""
        return self.compose(
            "DELETE FROM {receipts} r USING {stage} s WHERE {rs} AND s._verdict = 'w' "
            "AND r.subscription_id = {left}"
        )

    @cached_property
    def delete(self) -> str:
        """Delete the rows that leave, but for those that another stream holds too."""
        return self.compose(
            "DELETE FROM {table} t USING {stage} s WHERE {ts} AND s._verdict = 'l' "
            "AND NOT {elsewhere}",
            elsewhere=self.is_held_elsewhere("s"),
        )
