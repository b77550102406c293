"""The SQL for foreign keys: rows that must leave, wait or be kept, and values set to NULL. Pure."""

from psycopg import sql

from replicator.edge_sql import points_at
from replicator.plan import Edge
from replicator.sql_parts import Sql, all_of, any_of, column, equal, identifier
from replicator_apply.call_sql import CallSql
from replicator_apply.candidate_sql import NULLED, flag
from replicator_apply.catalog import Constraint
from replicator_apply.plan import LEFT, Membership, Need, Table
from replicator_apply.rule_sql import Others, RuleSql
from replicator_apply.sql_text import among, once


class ReferenceSql(CallSql, RuleSql):
    """Statements on candidates whose foreign keys dangle, and on those that others point at."""

    # Ours that point at what is not here ---------------------------------------------------------

    @once
    def draw_referrers(self, key: Constraint, others: Others) -> str:
        """Draw in rows of ours that point at rows which are ours no more."""
        to = others[key.to]
        return self.draw(
            "JOIN {parents} p ON {same} WHERE p._held AND NOT {stays} AND {held}",
            parents=to.table.candidates,
            same=equal(key.columns, "t", key.to_columns, "p"),
            stays=to.stays("p"),
            held=self.is_held("t"),
        )

    @once
    def refuse_dangling(self, need: Need, others: Others) -> str:
        """Take rows back whose foreign key dangles.

        If the row pointed at is on its way, they are wanted, and their old version stands if that
        can; else they wait outside, and that row's answer will bring them along.
        """
        pulled = any_of(flag("_in", number) for number in sorted(need.pulled))
        return self.compose(
            "UPDATE {candidates} v SET _back = v._verdict = 'w' AND v._held AND {pulled}, "
            "_wanted = v._wanted OR {pulled}, {may} WHERE {inside} AND {dangles}",
            pulled=pulled,
            may=self.shut_out,
            inside=self.any_flag("_in"),
            dangles=self.dangles(need.key, others),
        )

    @once
    def wait_with_child(self, membership: Membership, edge: Edge, child: "ReferenceSql") -> str:
        """Take born rows back of which a born child waits: their answer shows the whole tree.

        Not rows that a fetch has read, or they would be asked for without an end.
        """
        return self.compose(
            "UPDATE {candidates} v SET _wanted = true, {may} WHERE v._verdict = 'w' "
            "AND v._changed AND NOT v._held AND NOT v._read AND {inside} AND EXISTS "
            "(SELECT FROM {children} c WHERE {same} AND c._wanted AND c._verdict = 'w' "
            "AND NOT c._held AND NOT c._read)",
            may=self.shut_out,
            inside=flag("_in", membership.subscription),
            children=child.table.candidates,
            same=points_at(edge, "c", "v"),
        )

    # Local rows that point at ours ---------------------------------------------------------------

    @once
    def lock_leaving(self) -> str:
        """Lock the rows that leave, so that no local row can come to point at one any more."""
        return self.compose(
            "SELECT count(*) FROM (SELECT FROM {table} t JOIN {candidates} v ON {tv} "
            "WHERE v._verdict = 'l' ORDER BY {vkey} FOR UPDATE OF t) locked"
        )

    @once
    def keep_for_local(self, key: Constraint) -> str:
        """Keep leaving rows that local rows of a table without receipts point at."""
        return self.compose(
            "UPDATE {candidates} v SET _verdict = 'k' WHERE v._verdict = 'l' AND EXISTS "
            "(SELECT FROM {referrer} x WHERE {xv})",
            referrer=identifier(key.table),
            xv=equal(key.columns, "x", key.to_columns, "v"),
        )

    @once
    def keep_for_ours(self, key: Constraint, referrer: "ReferenceSql") -> str:
        """Keep leaving rows that rows of a table point at which stand as they are.

        Those are local ones, kept ones, another stream's, and a paused subscription's, also after
        it was resumed, until its backfill has told how they are. A row that stays by its policy
        counts as a local one, unless NULL may be written in it.
        """
        table = referrer.table
        null = table.nulls(key)
        known = [m.subscription for m in table.holders]
        stay = sql.SQL("IN ('k', 's')" if table.stay and not null else "= 'k'")
        return self.compose(
            "UPDATE {candidates} v SET _verdict = 'k' WHERE v._verdict = 'l' AND EXISTS "
            "(SELECT FROM {referrer} x WHERE {xv} AND NOT EXISTS (SELECT FROM {others_} y "
            "WHERE {yx} AND (y._verdict IN ('w', 'o') AND {yin} "
            "OR y._verdict = 'l' AND NOT {elsewhere})) "
            "AND ({elsewhere} OR EXISTS (SELECT FROM {others_} z "
            "WHERE {zx} AND (z._verdict {stay} OR z._verdict = 'o' AND NOT {zin})) "
            "OR NOT EXISTS (SELECT FROM {other_receipts} q "
            "WHERE {qx} AND q.subscription_id {theirs} AND {certain})))",
            elsewhere=referrer.is_held_elsewhere("x"),
            theirs=among([*known, LEFT] if table.stay and null else known),
            certain=all_of(
                self.part(
                    "NOT (q.subscription_id = {number} AND q.generation < {doubted})",
                    number=sql.Literal(m.subscription),
                    doubted=sql.Literal(m.doubted),
                )
                for m in table.holders
                if m.doubted
            ),
            stay=stay,
            yin=referrer.any_flag("_in", "y"),
            zin=referrer.any_flag("_in", "z"),
            referrer=table.identifier,
            others_=table.candidates,
            other_receipts=table.receipts,
            xv=equal(key.columns, "x", key.to_columns, "v"),
            yx=referrer.same_key("y", "x"),
            zx=referrer.same_key("z", "x"),
            qx=referrer.same_key("q", "x"),
        )

    # NULL in place of a row that is not here -----------------------------------------------------

    @once
    def forget_nulled(self) -> str:
        """Forget true values of rows that the batch brings anew, or that leave."""
        return self.compose(
            "DELETE FROM {nulled} n USING {candidates} v WHERE n.source = {source} "
            "AND n.stream = {stream} AND n.table_name = {name} AND {same} "
            "AND v._verdict <> 'o'",
            nulled=NULLED,
            same=self.same_nulled("v"),
        )

    @once
    def null_staged(self, need: Need, others: Others) -> list[str]:
        """Write NULL for the rows that are written and point at what is not here."""
        (name,) = need.key.columns
        rows = self.part(
            "{candidates} v WHERE v._verdict = 'w' AND {inside} AND {dangles}",
            inside=self.any_flag("_in"),
            dangles=self.dangles(need.key, others),
        )
        return [
            self._note_nulled(name, rows, "v"),
            self.compose(
                "UPDATE {stage} s SET {column} = NULL WHERE EXISTS (SELECT FROM {rows} AND {sv})",
                column=column(name),
                rows=rows,
            ),
        ]

    @once
    def null_held(self, need: Need, others: Others) -> list[str]:
        """Write NULL in held rows that point at rows which leave."""
        (name,) = need.key.columns
        to = others[need.key.to]
        same = equal(need.key.columns, "t", need.key.to_columns, "p")
        where = self.part(
            "{same} AND p._verdict IN ({leaving}) AND {held} "
            "AND NOT EXISTS (SELECT FROM {candidates} v WHERE {tv} AND v._verdict <> 'o')",
            same=same,
            leaving=to.leaving,
            held=self.is_held("t"),
        )
        parents = to.table.candidates
        rows = self.part("{table} t, {parents} p WHERE {where}", parents=parents, where=where)
        calls = "SELECT 'u' AS op, {key_json} AS row_key FROM {which}"
        return [
            *(
                [self._store_calls(calls, key_json=self.key_json("t"), which=rows)]
                if self.table.hooks
                else []
            ),
            self._note_nulled(name, rows, "t"),
            self.compose(
                "UPDATE {table} t SET {column} = NULL FROM {parents} p WHERE {where}",
                column=column(name),
                parents=parents,
                where=where,
            ),
            *(self._null_left(name, same, parents) if self.table.stay else []),
        ]

    def _null_left(self, name: str, same: Sql, parents: Sql) -> list[str]:
        """Write NULL, for good, in rows that left and stay and point at rows that are deleted."""
        rows = self.part(
            "{table} t, {parents} p WHERE {same} AND p._verdict = 'l' AND {has_left}",
            same=same,
            parents=parents,
            has_left=self.has_left("t"),
        )
        write = self.compose(
            "UPDATE {table} t SET {column} = NULL FROM {parents} p WHERE {same} "
            "AND p._verdict = 'l' AND {has_left}",
            column=column(name),
            parents=parents,
            same=same,
            has_left=self.has_left("t"),
        )
        calls = "SELECT 'u' AS op, {key_json} AS row_key FROM {which}"
        told = [self._store_calls(calls, key_json=self.key_json("t"), which=rows)]
        return [*(told if self.table.hooks else []), write]

    def _note_nulled(self, name: str, rows: Sql, alias: str) -> str:
        return self.compose(
            "INSERT INTO {nulled} (source, stream, table_name, row_key, column_name, value) "
            "SELECT {source}, {stream}, {name}, {row_key}, {named}, {value}::text FROM {rows} "
            "ON CONFLICT (source, stream, table_name, row_key, column_name) "
            "DO UPDATE SET value = EXCLUDED.value",
            nulled=NULLED,
            row_key=self.row_key(alias),
            named=sql.Literal(name),
            value=column(name, alias),
            rows=rows,
        )

    @once
    def restore(self, need: Need, others: Others) -> str:
        """Write the true value where the row pointed at has come."""
        (name,), (to_name,) = need.key.columns, need.key.to_columns
        to = others[need.key.to]
        forget = (
            "WITH back AS (DELETE FROM {nulled} n USING {parents} p WHERE n.source = {source} "
            "AND n.stream = {stream} AND n.table_name = {name} AND n.column_name = {named} "
            "AND {same} AND p._verdict = 'w' AND {inside} RETURNING n.row_key, n.value)"
        )
        write = "UPDATE {table} t SET {column} = back.value::{type} FROM back WHERE {found}"
        names = {
            "nulled": NULLED,
            "parents": to.table.candidates,
            "named": sql.Literal(name),
            "same": self._same_value(name, to.table, to_name),
            "inside": to.any_flag("_in", "p"),
            "column": column(name),
            "type": sql.SQL(self.table.shape.columns[name].type),
            "found": self._by_row_key("back.row_key"),
        }
        if not self.table.hooks:
            return self.compose(f"{forget} {write}", **names)
        return self._store_calls(
            "SELECT 'u' AS op, written.row_key FROM written",
            f"{forget}, written AS ({write} RETURNING {{key_json}} AS row_key) ",
            key_json=self.key_json("t"),
            **names,
        )

    def _same_value(self, name: str, to: Table, to_name: str) -> Sql:
        """Whether the nulled value `n` of a column is that of `p` which it pointed at.

        Args:
            name: the column.
            to: the table of `p`.
            to_name: the column there.
        """
        columns, value = self.table.shape.columns, column(to_name, "p")
        if columns[name].one_spelling and to.shape.columns[to_name].one_spelling:
            return self.part("n.value = {value}::text", value=value)
        # That of another column may be no value of this type.
        return self.part(
            "CASE WHEN n.table_name = {name} AND n.column_name = {named} THEN n.value::{type} END "
            "= {value}",
            named=sql.Literal(name),
            type=sql.SQL(columns[name].type),
            value=value,
        )

    def _by_row_key(self, text: str) -> Sql:
        """Find a row by its key as text, by way of the primary key's index."""
        return all_of(
            sql.SQL("{} = ({}::jsonb ->> {})::{}").format(
                column(name, "t"),
                sql.SQL(text),
                sql.Literal(place),
                sql.SQL(self.table.shape.columns[name].type),
            )
            for place, name in enumerate(self.table.key)
        )
