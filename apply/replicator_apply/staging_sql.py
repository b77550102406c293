"""The SQL by which changes come into a table's staging table. Pure.

A staged row has the table's written columns, all nullable, and:

    _set       which columns came (an index into the batch's column sets; 0: all of them)
    _round     in which round of a large transaction it was staged
    _present   whether the row stands at the end of the batch
    _complete  whether all of its columns are known
    _read      whether a fetch has read it
    _born      whether the first that the batch tells of it is its creation
    _base      whether what stood before is the same row, and has the columns that did not come
    _verdict   w: written, l: leaves, k: leaves and is kept for a local row, s: leaves and stays by
               its policy
"""

from collections.abc import Sequence
from functools import cached_property

from psycopg import sql

from replicator.sql_parts import Sql, column, identifiers
from replicator_apply.copytext import OPTIONS
from replicator_apply.sql_text import TableText, among

CONTROL = (
    "_set smallint, _round integer, _present boolean, _complete boolean, _read boolean, "
    "_born boolean, _base boolean, _verdict \"char\" DEFAULT 'w'"
)


class StagingSql(TableText):
    """Statements that fill the staging table."""

    @cached_property
    def create_stage(self) -> str:
        """Make the staging table: the table's columns without constraints, and the control ones."""
        return self.compose(
            "CREATE TEMP TABLE {stage_name} AS SELECT {columns} "
            "FROM {table} WITH NO DATA; ALTER TABLE {stage} {adds}",
            stage_name=sql.Identifier(f"replicator_stage_{self.table.number}"),
            adds=sql.SQL(", ".join(f"ADD COLUMN {part.strip()}" for part in CONTROL.split(","))),
        )

    @cached_property
    def drop_temporary(self) -> str:
        """Drop what another plan's table of the same number has left."""
        return self.compose("DROP TABLE IF EXISTS {stage}, {candidates}, {parking}")

    @cached_property
    def empty_temporary(self) -> str:
        """Take all rows off the staging table and the candidates, where they are few."""
        return self.compose("DELETE FROM {stage}; DELETE FROM {candidates}")

    @cached_property
    def renew_temporary(self) -> str:
        """The same where they are many; what dead rows have taken is free again."""
        return self.compose("TRUNCATE {stage}, {candidates}")

    @cached_property
    def analyze(self) -> str:
        """Tell the planner how many rows are staged, and how."""
        return self.compose("ANALYZE {stage}")

    def copy_stage_columns(self, columns: Sequence[str]) -> str:
        """COPY rows of which only some columns came, or keys, into the staging table."""
        return self.compose(
            "COPY {stage} ({loaded}, {some}) FROM STDIN {options}",
            some=identifiers(columns),
            options=OPTIONS,
        )

    @cached_property
    def stage_truncated(self) -> str:
        """After a TRUNCATE: every row of ours that did not come back is gone."""
        return self.compose(
            "INSERT INTO {stage} ({loaded}, {key}) "
            "SELECT DISTINCT -1, {gone}, {rkey} FROM {receipts} r "
            "WHERE r.subscription_id {ours} AND NOT EXISTS (SELECT FROM {stage} s WHERE {rs})"
        )

    @cached_property
    def stage_kept(self) -> str:
        """Try the rows again that were kept for local rows; no event told of them (set -2)."""
        return self.compose(
            "INSERT INTO {stage} ({loaded}, {key}) "
            "SELECT -2, {gone}, {rkey} FROM {receipts} r "
            "WHERE r.subscription_id = {kept} AND NOT EXISTS (SELECT FROM {stage} s WHERE {rs})"
        )

    def stage_leaving(self, subscription: int) -> str:
        """Stage what a subscription that ends holds alone; no event told of it (set -2)."""
        return self.compose(
            "INSERT INTO {stage} ({loaded}, {key}) "
            "SELECT -2, {gone}, {rkey} FROM {receipts} r WHERE r.subscription_id = {number} "
            "AND NOT EXISTS (SELECT FROM {receipts} o WHERE {same} AND o.subscription_id {others})",
            number=sql.Literal(subscription),
            same=self.same_key("o", "r"),
            others=among(
                m.subscription for m in self.table.holders if m.subscription != subscription
            ),
        )

    @cached_property
    def staged_twice(self) -> str:
        """Whether several rounds brought the same key."""
        return self.compose("SELECT 1 FROM {stage} GROUP BY {key} HAVING count(*) > 1 LIMIT 1")

    @cached_property
    def older_rounds(self) -> str:
        """Drop what a later round says again; the columns are merged before."""
        return self.compose(
            "DELETE FROM {stage} s USING (SELECT {key}, max(_round) AS newest FROM {stage} "
            "GROUP BY {key} HAVING count(*) > 1) n WHERE s._round < n.newest AND {same}",
            same=self.same_key("s", "n"),
        )

    @cached_property
    def respelled(self) -> str:
        """Drop keys that are gone and stand in another spelling: the row is still there."""
        return self.compose(
            "DELETE FROM {stage} s USING {stage} o WHERE {same} AND NOT s._present AND o._present",
            same=self.same_key("s", "o"),
        )

    @cached_property
    def not_born(self) -> str:
        """A row that was here in another spelling of its key is not born."""
        return self.compose(
            "UPDATE {stage} s SET _born = false FROM {stage} o "
            "WHERE {same} AND s._born AND NOT o._present",
            same=self.same_key("s", "o"),
        )

    @cached_property
    def carry_born(self) -> str:
        """Whether a row was born is what the first round that has it says."""
        return self.compose(
            "UPDATE {stage} s SET _born = f._born FROM (SELECT DISTINCT ON ({key}) {key}, _born "
            "FROM {stage} ORDER BY {key}, _round) f WHERE {same} AND s._born <> f._born",
            same=self.same_key("s", "f"),
        )

    @cached_property
    def carry_read(self) -> str:
        """What a fetch read in an earlier round counts as read."""
        return self.compose(
            "UPDATE {stage} s SET _read = true FROM {stage} o "
            "WHERE {same} AND o._read AND NOT s._read",
            same=self.same_key("s", "o"),
        )

    def merge_round(
        self, turn: int, taken: Sequence[str], number: int, older: int, merged: int
    ) -> str:
        """Take columns that a round lacks from the one before it that has the row.

        Rounds are merged in ascending order, so that the earlier one is merged already.

        Args:
            turn: the round.
            taken: the columns to take.
            number: set of the rows that lack them.
            older: set of the earlier rows.
            merged: set of what comes out.
        """
        assignments = sql.SQL(", ").join(
            sql.SQL("{} = o.{}").format(column(name), column(name)) for name in taken
        )
        return self.compose(
            "UPDATE {stage} s SET {assignments}, _set = {merged}, _complete = {complete}, "
            "_base = o._base FROM {stage} o WHERE s._set = {number} AND s._round = {turn} "
            "AND s._present AND s._base "
            "AND o._present AND o._set = {older} AND {same} AND o._round = (SELECT max(p._round) "
            "FROM {stage} p WHERE {psame} AND p._round < s._round)",
            assignments=assignments,
            turn=sql.Literal(turn),
            number=sql.Literal(number),
            older=sql.Literal(older),
            merged=sql.Literal(merged),
            complete=sql.Literal(merged == 0),
            same=self.same_key("s", "o"),
            psame=self.same_key("p", "s"),
        )

    def complete(self, columns: Sequence[str], number: int) -> str:
        """Take what the rules look at from the held row, where not every column came.

        The row of a wanted key is no base: what it lacks is not known.
        """
        assignments: list[Sql] = [
            sql.SQL("{} = {}").format(column(name), column(name, "t")) for name in columns
        ]
        assignments.append(sql.SQL("_complete = true"))
        return self.compose(
            "UPDATE {stage} s SET {assignments} FROM {table} t WHERE s._set = {number} "
            "AND s._present AND s._base AND NOT s._complete AND {ts} AND {held} AND NOT {wanted}",
            assignments=sql.SQL(", ").join(assignments),
            number=sql.Literal(number),
            held=self.is_held("s"),
            wanted=self.is_wanted("s"),
        )
