"""The SQL of the fast path: changes written without a verdict. Pure."""

from collections.abc import Iterable, Sequence
from functools import cached_property

from psycopg import sql

from replicator.plan import Filter, columns_of
from replicator.sql_parts import Sql, all_of, any_of, column, identifiers
from replicator_apply.candidate_sql import passes
from replicator_apply.copytext import OPTIONS
from replicator_apply.decode import Cell
from replicator_apply.plan import Support
from replicator_apply.rule_sql import Others, RuleSql
from replicator_apply.sql_text import once
from replicator_apply.values import array
from replicator_apply.write_sql import WriteSql

_WHOLE_NUMBERS = ("smallint", "integer", "bigint")


class DirectSql(WriteSql, RuleSql):
    """Statements that write changes straight away."""

    # What needs no verdict -----------------------------------------------------------------------

    @once
    def lacking(self, support: Support, others: Others) -> tuple[str, str]:
        """Give the numbers, from 1, of the values of an edge under which no row is ours.

        The statement's beginning and end; between them belongs what `arrays` writes.
        """
        edge = support.edge
        names = [f"k{place}" for place in range(len(edge.columns))]
        values = [column(name, "k") for name in names]
        other, quiet = others[edge.to], frozenset({edge.to})
        if support.subscription is None:
            here = other.is_here(edge.to_columns, values, quiet)
        else:
            here = other.belongs(support.subscription, edge.to_columns, values, quiet)
        end = self.part(
            ") WITH ORDINALITY AS k ({names}, number) WHERE NOT {here}",
            names=identifiers(names),
            here=here,
        )
        return "SELECT k.number FROM unnest(", end.as_string()

    @cached_property
    def nobodys(self) -> tuple[str, str]:
        """Give the numbers, from 1, of the keys under which no row is ours; as `lacking`."""
        end = self.part(
            ") WITH ORDINALITY AS k ({key}, _number) WHERE NOT {held}", held=self.is_held("k")
        )
        return "SELECT k._number FROM unnest(", end.as_string()

    def none_between(self, low: int, high: int) -> str:
        """Ask whether no row is ours from a key to another one, both whole numbers."""
        begin, end = self._none_between
        return f"{begin}{low} AND {high}{end}"

    @cached_property
    def _none_between(self) -> tuple[str, str]:
        begin = self.part("SELECT NOT EXISTS (SELECT FROM {receipts} r WHERE r.{key} BETWEEN ")
        return begin.as_string(), self.part(" AND r.subscription_id {ours})").as_string()

    @cached_property
    def has_whole_key(self) -> bool:
        """Whether the key is one column of whole numbers."""
        columns = self.table.shape.columns
        return len(self.table.key) == 1 and columns[self.table.key[0]].type in _WHOLE_NUMBERS

    def arrays(self, names: Sequence[str], columns: Iterable[Iterable[Cell]]) -> str:
        """Write the values of some columns, none of them NULL, as array literals."""
        return (
            sql.SQL(", ")
            .join(
                sql.SQL("{}::{}[]").format(
                    sql.Literal(array(cells)), sql.SQL(self.table.shape.columns[name].type)
                )
                for name, cells in zip(names, columns, strict=True)
            )
            .as_string()
        )

    @cached_property
    def update_steady(self) -> str | None:
        """Write staged rows of ours that change nothing by which rows are tied; give their numbers.

        None: there is nothing but the key.
        """
        settable = [name for name in self.table.columns if name not in self.table.key]
        if not settable:
            return None
        return self.compose(
            "UPDATE {table} t SET {assignments} FROM {stage} s "
            "WHERE {ts} AND s._present AND {held} AND {same} RETURNING s._round",
            assignments=self._assignments(settable),
            held=self.is_held("s"),
            same=self._same_ties,
        )

    @property
    def _same_ties(self) -> Sql:
        """Whether a staged row passes the filters that the held one passes, and points alike."""
        conditions: list[Filter | None] = []
        for membership in self.table.memberships:
            conditions.append(membership.filter)
            conditions += [rule.filter for rule in membership.children]
            conditions += [rule.filter for rule in membership.referenced]
        filters = [c for c in dict.fromkeys(conditions) if c is not None and columns_of(c)]
        facts = [(passes(c, "t"), passes(c, "s")) for c in filters]
        facts += [(column(name, "t"), column(name, "s")) for name in self.table.settled.tying]
        return all_of(sql.SQL("{} IS NOT DISTINCT FROM {}").format(*fact) for fact in facts)

    @cached_property
    def foreign(self) -> str:
        """Give the numbers of staged rows that are nobody's, and that pass no filter."""
        filters = [passes(m.filter, "s") for m in self.table.memberships]
        return self.compose(
            "SELECT s._round FROM {stage} s WHERE s._present AND NOT {passes} "
            "AND NOT EXISTS (SELECT FROM {receipts} r WHERE {rs})",
            passes=any_of(filters),
        )

    @cached_property
    def empty_stage(self) -> str:
        """Take what is written off the staging table."""
        return self.compose("DELETE FROM {stage}")

    # Writing -------------------------------------------------------------------------------------

    @cached_property
    def copy_table(self) -> str:
        """COPY new rows straight into the table, behind the defaults of other columns."""
        return self.compose(
            "COPY {table} ({filled}) FROM STDIN {options}",
            filled=identifiers((*self.table.defaults, *self.table.columns)),
            options=OPTIONS,
        )

    @cached_property
    def insert_values(self) -> str:
        """Begin to insert new rows, behind the defaults of other columns; VALUES follow."""
        return self.compose(
            "INSERT INTO {table} ({filled}) OVERRIDING SYSTEM VALUE VALUES ",
            filled=identifiers((*self.table.defaults, *self.table.columns)),
        )

    @cached_property
    def insert_receipts(self) -> str:
        """Begin to insert the receipts of new rows; VALUES follow."""
        return self.compose("INSERT INTO {receipts} (subscription_id, generation, {key}) VALUES ")

    @cached_property
    def insert_changed(self) -> str:
        """Begin to stage changed rows; VALUES follow."""
        return self.compose("INSERT INTO {stage} (_present, {columns}) VALUES ")

    @cached_property
    def insert_numbered(self) -> str:
        """Begin to stage changed rows with their numbers; VALUES follow."""
        return self.compose("INSERT INTO {stage} (_present, _round, {columns}) VALUES ")

    @cached_property
    def insert_gone(self) -> str:
        """Begin to stage deleted keys; VALUES follow."""
        return self.compose("INSERT INTO {stage} (_present, {key}) VALUES ")

    @cached_property
    def copy_receipts(self) -> str:
        """COPY the receipts of new rows."""
        return self.compose(
            "COPY {receipts} (subscription_id, generation, {key}) FROM STDIN {options}",
            options=OPTIONS,
        )

    @cached_property
    def copy_changed(self) -> str:
        """COPY changed rows into the staging table."""
        return self.compose(
            "COPY {stage} (_present, {columns}) FROM STDIN {options}", options=OPTIONS
        )

    @cached_property
    def copy_numbered(self) -> str:
        """COPY changed rows with their numbers into the staging table."""
        return self.compose(
            "COPY {stage} (_present, _round, {columns}) FROM STDIN {options}", options=OPTIONS
        )

    @cached_property
    def copy_gone(self) -> str:
        """COPY deleted keys into the staging table."""
        return self.compose("COPY {stage} (_present, {key}) FROM STDIN {options}", options=OPTIONS)

    @cached_property
    def update_held(self) -> str | None:
        """Write all columns of staged rows that are ours; None: there is nothing but the key."""
        settable = [name for name in self.table.columns if name not in self.table.key]
        if not settable:
            return None
        return self.compose(
            "UPDATE {table} t SET {assignments} FROM {stage} s "
            "WHERE {ts} AND s._present AND {held}",
            assignments=self._assignments(settable),
            held=self.is_held("s"),
        )

    @cached_property
    def insert_entering(self) -> str:
        """Insert the staged rows that are not ours; it fails on a local row under their key."""
        return self.compose(
            "INSERT INTO {table} ({columns}{more}) OVERRIDING SYSTEM VALUE "
            "SELECT {scolumns}{values} FROM {stage} s WHERE s._present AND NOT {held}",
            held=self.is_held("s"),
            **self._defaults,
        )

    @cached_property
    def receipts_entering(self) -> list[str]:
        """Note for each subscription that it has the staged rows, and has seen them anew."""
        return [
            self.compose(
                "INSERT INTO {receipts} AS r (subscription_id, {key}, generation) "
                "SELECT {number}, {skey}, {generation} FROM {stage} s WHERE s._present "
                "ON CONFLICT ({key}, subscription_id) DO UPDATE SET generation = "
                "EXCLUDED.generation WHERE r.generation <> EXCLUDED.generation",
                number=sql.Literal(membership.subscription),
                generation=sql.Literal(membership.generation),
            )
            for membership in self.table.memberships
        ]

    @cached_property
    def delete_held(self) -> str:
        """Delete the staged keys that are ours."""
        return self.compose(
            "DELETE FROM {table} t USING {stage} s WHERE {ts} AND NOT s._present AND {held} "
            "AND NOT {elsewhere}",
            held=self.is_held("s"),
            elsewhere=self.is_held_elsewhere("s"),
        )

    @cached_property
    def delete_receipts(self) -> str:
        """Drop the receipts of the staged keys."""
        return self.compose(
            "DELETE FROM {receipts} r USING {stage} s WHERE {rs} AND NOT s._present "
            # Else the subselect's table, read from end to end, would count for each row.
            "AND r.subscription_id <> ALL (ARRAY({other_streams}))"
        )

    @cached_property
    def delete_many(self) -> tuple[str, str]:
        """Drop the receipts of keys, and delete the rows of those that are ours.

        The statement's beginning and end; between them belong the keys, an array for each column.
        """
        end = self.part(
            "RETURNING {rkey}, r.subscription_id {ours} AS _mine) "
            "DELETE FROM {table} t USING dropped d WHERE d._mine AND {td} "
            "AND (NOT EXISTS ({other_streams}) OR NOT {elsewhere})",
            td=self.same_key("t", "d"),
            elsewhere=self._has_receipt("d", "r.subscription_id = ANY (ARRAY({other_streams}))"),
        )
        begin = self.part(
            "WITH dropped AS (DELETE FROM {receipts} r WHERE r.subscription_id "
            "<> ALL (ARRAY({other_streams})) AND ({rkey}) "
        )
        one = len(self.table.key) == 1
        opening, closing = ("= ANY(", ") ") if one else ("IN (SELECT * FROM unnest(", ")) ")
        return begin.as_string() + opening, closing + end.as_string()
