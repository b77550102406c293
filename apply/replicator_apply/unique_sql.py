"""The SQL for unique values that change hands inside a batch. Pure."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from psycopg import sql

from replicator.sql_parts import Sql, column, equal, identifiers
from replicator_apply.candidate_sql import CandidateSql
from replicator_apply.catalog import Constraint, PartialUnique
from replicator_apply.sql_text import among
from replicator_apply.write_sql import WriteSql


class Conflict(NamedTuple):
    """What is unique, as messages name it, and the join of the rows that want the same value."""

    what: str
    rows: Sql


class UniqueSql(WriteSql, CandidateSql):
    """Statements that free unique values."""

    def _conflict(self, columns: Sequence[str]) -> Sql:
        """Join: a row `t` that stands on the unique value of another, staged row `s`."""
        same = sql.SQL(
            "({0} = {1} OR {0} IS NULL AND {1} IS NULL)"
            if columns in self.table.shape.nulls_equal
            else "{0} = {1}"
        )
        values = (same.format(column(name, "t"), column(name, "s")) for name in columns)
        return sql.SQL("{} AND NOT ({}) AND s._verdict = 'w'").format(
            sql.SQL(" AND ").join(values), self.same_key("t", "s")
        )

    @cached_property
    def create_parking(self) -> str:
        """Make the table where rows stand while their unique values change hands."""
        return self.compose(
            "CREATE TEMP TABLE IF NOT EXISTS {parking_name} (LIKE {table} INCLUDING GENERATED)",
            parking_name=sql.Identifier(f"replicator_parking_{self.table.number}"),
        )

    def delete_early(self, columns: Sequence[str]) -> str:
        """Delete the leaving rows that stand on a unique value first."""
        return self.compose(
            "DELETE FROM {table} t USING {stage} l WHERE {tl} AND l._verdict = 'l' "
            "AND NOT {elsewhere} AND EXISTS (SELECT FROM {stage} s WHERE {conflict})",
            tl=self.same_key("t", "l"),
            elsewhere=self.is_held_elsewhere("l"),
            conflict=self._conflict(columns),
        )

    def park(self, columns: Sequence[str]) -> str:
        """Take the written rows that stand on a unique value off the table."""
        return self.compose(
            "WITH parked AS (DELETE FROM {table} t USING {stage} w WHERE {tw} "
            "AND w._verdict = 'w' AND EXISTS (SELECT FROM {stage} s WHERE {conflict}) "
            "RETURNING {tcolumns}) INSERT INTO {parking} ({all}) SELECT {all} FROM parked",
            tw=self.same_key("t", "w"),
            conflict=self._conflict(columns),
            tcolumns=identifiers(self._stored, "t"),
            all=identifiers(self._stored),
        )

    @cached_property
    def park_all(self) -> str:
        """Take every written row off the table."""
        return self.compose(
            "WITH parked AS (DELETE FROM {table} t USING {stage} w WHERE {tw} "
            "AND w._verdict = 'w' RETURNING {tcolumns}) "
            "INSERT INTO {parking} ({all}) SELECT {all} FROM parked",
            tw=self.same_key("t", "w"),
            tcolumns=identifiers(self._stored, "t"),
            all=identifiers(self._stored),
        )

    @cached_property
    def _stored(self) -> list[str]:
        return [name for name, c in self.table.shape.columns.items() if not c.generated]

    def update_parked(self, columns: Sequence[str], number: int) -> str | None:
        """As `update`, on the rows that are parked."""
        return self._update(self.table.parking, columns, number)

    @cached_property
    def unpark(self) -> str:
        """Put the parked rows back."""
        return self.compose(
            "INSERT INTO {table} ({all}) OVERRIDING SYSTEM VALUE SELECT {all} FROM {parking}",
            all=identifiers(self._stored),
        )

    @cached_property
    def empty_parking(self) -> str:
        """Empty the table where rows stood."""
        return self.compose("TRUNCATE {parking}")

    def step_aside(self, columns: Sequence[str], name: str, value: Sql) -> str:
        """Give the written rows that stand on a unique value a passing value instead."""
        return self.compose(
            "UPDATE {table} t SET {last} = {value} FROM {stage} w WHERE {tw} "
            "AND w._verdict = 'w' AND EXISTS (SELECT FROM {stage} s WHERE {conflict})",
            last=column(name),
            value=value,
            tw=self.same_key("t", "w"),
            conflict=self._conflict(columns),
        )

    def _partial_conflict(self, index: PartialUnique) -> Sql:
        """As `_conflict`, for an index that is partial or on expressions."""
        # Each side is computed over that row alone: the expressions name columns without a table.
        side = "(SELECT ROW({values}) FROM (SELECT {row}) one WHERE ({condition}){distinct})"
        values = sql.SQL(", ").join(map(_trusted, index.values))
        # Two records are equal where both have NULL.
        distinct = "" if index.nulls_equal else " AND ROW({}) IS NOT NULL"
        names = {
            "values": values,
            "condition": _trusted(index.condition),
            "distinct": sql.SQL(distinct).format(values),
        }
        rows: tuple[Sql, Sql] = sql.SQL("t.*"), self._as_written(index)
        mine, theirs = (sql.SQL(side).format(row=row, **names) for row in rows)
        return sql.SQL("({} = {}) AND NOT ({}) AND s._verdict = 'w'").format(
            mine, theirs, self.same_key("t", "s")
        )

    def _as_written(self, index: PartialUnique) -> Sql:
        """Select a staged row with all columns that an index looks at: it will not be marked."""
        mark = self.table.mark
        if mark is None or mark.column not in index.columns:
            return sql.SQL("s.*")
        return sql.SQL("s.*, {}::{} AS {}").format(
            sql.SQL("false" if mark.flag else "NULL"),
            sql.SQL(self.table.shape.columns[mark.column].type),
            column(mark.column),
        )

    @cached_property
    def conflicts(self) -> list[Conflict]:
        """Give those of each unique index that can be looked at; see `_conflict`."""
        known = set(self.table.columns)
        plain = [each for each in self.table.shape.unique if set(each) <= known]
        partial = [each for each in self.table.shape.partial if each.columns <= known]
        return [
            *(
                Conflict(f"the unique column(s) {', '.join(each)}", self._conflict(each))
                for each in plain
            ),
            *map(self._of_index, partial),
        ]

    @cached_property
    def standing(self) -> list[Conflict]:
        """As `conflicts`, when rows that left are marked: of indexes on the mark, too."""
        if (mark := self.table.mark) is None:
            return self.conflicts
        known = {*self.table.columns, mark.column}
        partial = self.table.shape.partial
        marked = [each for each in partial if mark.column in each.columns <= known]
        return [*self.conflicts, *map(self._of_index, marked)]

    def _of_index(self, index: PartialUnique) -> Conflict:
        what = f"the unique index on {', '.join(index.values)}"
        return Conflict(what, self._partial_conflict(index))

    @cached_property
    def check_unique(self) -> str | None:
        """Check now the unique constraints that may be checked at the end; None: there is none."""
        if not self.table.shape.deferrable:
            return None
        schema = self.table.name.schema
        return self.compose(
            "SET CONSTRAINTS {constraints} IMMEDIATE",
            constraints=sql.SQL(", ").join(
                sql.Identifier(schema, name) for name in self.table.shape.deferrable
            ),
        )

    def draw_unsure(self, conflict: Sql) -> str:
        """Draw in rows of ours that stand on a unique value of a row that is written."""
        return self.draw(
            "JOIN {stage} s ON {conflict} WHERE {held}",
            conflict=conflict,
            held=self.is_held("t"),
        )

    def evict_unsure(self, conflict: Sql) -> str:
        """Take out those of them whose old version stands: the source cannot hold it; fetch."""
        return self.compose(
            "UPDATE {candidates} v SET _wanted = true, {out}{may} FROM {table} t WHERE {tv} "
            "AND v._verdict = 'o' AND {inside} AND EXISTS (SELECT FROM {stage} s WHERE {conflict})",
            out=sql.SQL("_way = true, " if self.table.stay else ""),
            may=self.shut_out,
            inside=self.any_flag("_in"),
            conflict=conflict,
        )

    def draw_left(self, conflict: Sql) -> str:
        """Draw in rows that left and stay, on a unique value of a row that is written.

        Those that they keep are candidates in every batch.
        """
        return self.draw(
            "JOIN {stage} s ON {conflict} WHERE {has_left} AND NOT {elsewhere}",
            conflict=conflict,
            has_left=self.has_left("t"),
            elsewhere=self.is_held_elsewhere("t"),
        )

    def make_way(self, conflict: Sql) -> str:
        """Have those make way, and what stays or is kept otherwise: both cannot be here."""
        return self.compose(
            "UPDATE {candidates} v SET _way = true, _held = true FROM {table} t WHERE {tv} "
            "AND {stays} AND EXISTS (SELECT FROM {stage} s WHERE {conflict})",
            stays=self._stays,
            conflict=conflict,
        )

    @property
    def _stays(self) -> Sql:
        """Whether a candidate left and stays or is kept, and does not make way yet."""
        return self.part(
            "NOT v._way AND NOT {inside} AND (v._verdict IN ('k', 's') OR {has_left})",
            inside=self.any_flag("_in"),
            has_left=self.has_left("v"),
        )

    def draw_behind(self, key: Constraint, to: "UniqueSql") -> str:
        """Draw in rows that left and stay, and point at rows that make way."""
        return self.draw(
            "JOIN {pointed} o ON {to} JOIN {parents} p ON {po} WHERE p._way AND {has_left} "
            "AND NOT {elsewhere}",
            **self._behind(key, to),
            has_left=self.has_left("t"),
            elsewhere=self.is_held_elsewhere("t"),
        )

    def make_way_behind(self, key: Constraint, to: "UniqueSql") -> str:
        """Have what stays or is kept, and points at rows that make way, go with them.

        Where NULL may be written in rows that stay by their policy, they stay.
        """
        return self.compose(
            "UPDATE {candidates} v SET _way = true, _held = true FROM {table} t "
            "JOIN {pointed} o ON {to} JOIN {parents} p ON {po} WHERE {tv} AND p._way AND {stays}"
            "{kept_}",
            **self._behind(key, to),
            stays=self._stays,
            kept_=sql.SQL(" AND v._verdict = 'k'" if self.table.nulls(key) else ""),
        )

    def _behind(self, key: Constraint, to: "UniqueSql") -> dict[str, Sql]:
        # By way of the table: of a row that is gone its candidate has the key alone.
        return {
            "pointed": to.table.identifier,
            "parents": to.table.candidates,
            "to": equal(key.columns, "t", key.to_columns, "o"),
            "po": to.same_key("p", "o"),
        }

    def count_local_values(self, conflict: Sql) -> str:
        """Count rows that stand on a unique value: local, kept or paused ones, and paused ones."""
        return self.compose(
            "SELECT count(*), count(*) FILTER (WHERE {frozen}) FROM {standing_}",
            frozen=self.any_receipt("t", self.table.frozen),
            standing_=self._standing(conflict),
        )

    def paused_on_values(self, conflict: Sql) -> str:
        """Give dataset and arguments of the paused subscriptions whose rows are among them."""
        return self.compose(
            "SELECT b.dataset, b.arguments FROM public.replicator_subscription b "
            "WHERE b.id {frozen} AND EXISTS (SELECT FROM {standing_} AND EXISTS (SELECT "
            "FROM {receipts} r WHERE {tr} AND r.subscription_id = b.id)) ORDER BY b.id",
            frozen=among(self.table.frozen),
            standing_=self._standing(conflict),
        )

    def _standing(self, conflict: Sql) -> Sql:
        return self.part(
            "{stage} s JOIN {table} t ON {conflict} WHERE NOT EXISTS "
            "(SELECT FROM {stage} o WHERE {ot} AND o._verdict IN ('w', 'l')) AND NOT {held}",
            conflict=conflict,
            ot=self.same_key("o", "t"),
            held=self.any_receipt("t", [m.subscription for m in self.table.holders]),
        )


def _trusted(text: str) -> Sql:
    """Take an expression as the target's own catalog writes it."""
    return sql.SQL(text.replace("{", "{{").replace("}", "}}"))
