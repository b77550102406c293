"""The SQL by which candidates belong, or no longer belong, because of other rows. Pure.

Over-delete and re-derive: what may have hung on a row that is lost is taken out first, and let in
again where something holds it still; so rows on a ring cannot keep each other alive.
Source: A. Gupta, I. S. Mumick, V. S. Subrahmanian, Maintaining Views Incrementally, SIGMOD 1993.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import LiteralString, TypeAlias

from psycopg import sql

from replicator.edge_sql import pointed, points_at
from replicator.filter_sql import key_text
from replicator.plan import ChildrenRule, Edge, ReferencedRule, TableName
from replicator.sql_parts import Sql, all_of, any_of, column, equal, equal_to, given, identifier
from replicator_apply.candidate_sql import CandidateSql, flag, may_pass, passes
from replicator_apply.catalog import Constraint
from replicator_apply.plan import Membership
from replicator_apply.sql_text import once

Quiet: TypeAlias = frozenset[TableName]
"""Tables without candidates: what their rows are stands in the receipts alone."""
NONE: Quiet = frozenset()
_NO_CANDIDATE = " AND NOT EXISTS (SELECT FROM {candidates} z WHERE {zr})"


class RuleSql(CandidateSql):
    """Statements on a table's candidates that look at candidates of other tables."""

    # What another table needs to know of this one ------------------------------------------------

    def belongs(
        self, number: int, columns: Sequence[str], values: Sequence[Sql], quiet: Quiet = NONE
    ) -> Sql:
        """Whether the row of this table with these values belongs to a subscription."""
        untouched = self._untouched(sql.SQL("= {}").format(number), columns, values, quiet)
        if self.table.name in quiet:
            return untouched
        return any_of([self._candidate(flag("_in", number, "x"), columns, values), untouched])

    def is_here(self, columns: Sequence[str], values: Sequence[Sql], quiet: Quiet = NONE) -> Sql:
        """Whether the row of this table with these values is one of ours in the end.

        Or a paused subscription's: it stands as long as that is paused.
        """
        untouched = self._untouched(self.part("{standing}"), columns, values, quiet)
        if self.table.name in quiet:
            return untouched
        return any_of([self._candidate(self.stays("x"), columns, values), untouched])

    def _candidate(self, inside: Sql, columns: Sequence[str], values: Sequence[Sql]) -> Sql:
        """Whether a candidate that is in has these values."""
        return self.part(
            "EXISTS (SELECT FROM {candidates} x WHERE {same} AND {inside})",
            same=equal_to(columns, "x", values),
            inside=inside,
        )

    def _untouched(
        self, whose: Sql, columns: Sequence[str], values: Sequence[Sql], quiet: Quiet = NONE
    ) -> Sql:
        """Whether a row that is no candidate has these values, and a receipt."""
        held = "EXISTS (SELECT FROM {rows} WHERE {same} AND r.subscription_id {whose}{untouched})"
        by_key = tuple(columns) == self.table.key
        joined = "{receipts} r" if by_key else "{table} y JOIN {receipts} r ON {ry}"
        unless = "" if self.table.name in quiet else _NO_CANDIDATE
        return self.part(
            held,
            rows=self.part(joined, ry=self.same_key("r", "y")),
            same=equal_to(columns, "r" if by_key else "y", values),
            whose=whose,
            untouched=self.part(unless, zr=self.same_key("z", "r")),
        )

    # Lost ----------------------------------------------------------------------------------------

    @once
    def draw_children(self, number: int, edge: Edge, parents: "RuleSql") -> str:
        """Draw in the children of rows that a subscription lost."""
        return self.draw(
            "JOIN {parents} p ON {same} WHERE {lost} AND {held}",
            parents=parents.table.candidates,
            same=points_at(edge, "t", "p"),
            lost=_lost(number, "p"),
            held=self.is_held_by(number, "t"),
        )

    @once
    def lose_children(self, membership: Membership, edge: Edge, parents: "RuleSql") -> str:
        """Take out the children of rows that the subscription lost; they may come back."""
        return self._lose(
            membership,
            "EXISTS (SELECT FROM {parents} p WHERE {same} AND {lost})",
            parents=parents.table.candidates,
            same=points_at(edge, "v", "p"),
            lost=_lost(membership.subscription, "p"),
        )

    @once
    def draw_pulled(self, number: int, edge: Edge, referrers: "RuleSql") -> str:
        """Draw in what rows pulled in that a subscription lost, or that point elsewhere now."""
        return self.draw(
            "WHERE {held} AND EXISTS (SELECT FROM {once_pulled})",
            held=self.is_held_by(number, "t"),
            once_pulled=_once_pulled(number, edge, referrers, "t"),
        )

    @once
    def lose_pulled(self, membership: Membership, edge: Edge, referrers: "RuleSql") -> str:
        """Take out what such rows pulled in; it may come back."""
        return self._lose(
            membership,
            "EXISTS (SELECT FROM {once_pulled})",
            once_pulled=_once_pulled(membership.subscription, edge, referrers, "v"),
        )

    def _lose(self, membership: Membership, where: LiteralString, **names: Sql) -> str:
        number = membership.subscription
        return self.compose(
            "UPDATE {candidates} v SET {set} = false WHERE {inside} AND {was} AND NOT {itself} "
            "AND {lost}",
            set=column(f"_in_{number}"),
            inside=flag("_in", number),
            was=flag("_was", number),
            itself=passes(membership.filter, "v"),
            lost=self.part(where, **names),
        )

    # Found ---------------------------------------------------------------------------------------

    @once
    def find(self, membership: Membership, others: "Others", quiet: Quiet) -> str:
        """Let in the candidates that a row which belongs holds."""
        return self.compose(
            "UPDATE {candidates} v SET {set} = true WHERE {may} AND NOT {inside} AND {held}",
            set=column(f"_in_{membership.subscription}"),
            may=flag("_may", membership.subscription),
            inside=flag("_in", membership.subscription),
            held=any_of(
                [
                    *(self._under(membership, r, others, (), quiet) for r in membership.children),
                    *(self._pulled_in(membership, r, others, quiet) for r in membership.referenced),
                ]
            ),
        )

    def _under(
        self,
        membership: Membership,
        rule: ChildrenRule,
        others: "Others",
        missing: Sequence[str],
        quiet: Quiet = NONE,
    ) -> Sql:
        """Whether all parents belong."""
        return all_of(
            [
                may_pass(rule.filter, "v", missing),
                *(
                    sql.SQL("TRUE")
                    if set(edge.own_columns) & set(missing)
                    else others[edge.to].belongs(
                        membership.subscription, edge.to_columns, pointed(edge, "v"), quiet
                    )
                    for edge in rule.edges
                ),
            ]
        )

    def _pulled_in(
        self, membership: Membership, rule: ReferencedRule, others: "Others", quiet: Quiet
    ) -> Sql:
        """Whether a row that belongs points at it."""
        edge = rule.edge
        values = [column(name, "v") for name in edge.to_columns]
        return all_of(
            [
                passes(rule.filter, "v"),
                others[edge.table].belongs(membership.subscription, edge.columns, values, quiet),
            ]
        )

    # Wanted --------------------------------------------------------------------------------------

    @once
    def want_open(self, membership: Membership, others: "Others") -> str:
        """Want changed rows that may belong and of which not all is known that hangs on them."""
        return self.compose(
            "UPDATE {candidates} v SET _wanted = true WHERE NOT v._wanted AND v._changed "
            "AND v._present AND v._complete AND (v._verdict <> 'o' OR NOT {inside}) "
            "AND NOT v._closed AND NOT {was} AND {possible}",
            inside=self.any_flag("_in"),
            was=flag("_was", membership.subscription),
            possible=self.may_belong(membership, others, ()),
        )

    @cached_property
    def want_born(self) -> str:
        """Want rows that are in and were born, which older rows may point at.

        Also one that is here: its deletion was missed.
        """
        inside = [flag("_in", m.subscription) for m in self.table.holders if not m.gated]
        return self.compose(
            "UPDATE {candidates} v SET _wanted = true WHERE v._verdict = 'w' AND v._changed "
            "AND v._closed AND NOT v._read AND {inside}",
            inside=any_of(inside),
        )

    @once
    def want_incomplete(self, number: int, missing: tuple[str, ...], others: "Others") -> str:
        """Want rows that are not ours, may belong and of which not every column is known."""
        return self.compose(
            "UPDATE {candidates} v SET _wanted = true WHERE v._present AND NOT v._complete "
            "AND NOT v._wanted AND v._set = {number} AND {possible}",
            number=sql.Literal(number),
            possible=any_of(
                self.may_belong(membership, others, missing)
                for membership in self.table.holders
                if not membership.gated
            ),
        )

    def may_belong(self, membership: Membership, others: "Others", missing: Sequence[str]) -> Sql:
        """Whether a row may belong to a subscription by its own facts and its parents.

        Not if it must wait for another row: that one brings it along.
        """
        held = any_of(
            [
                may_pass(membership.filter, "v", missing),
                *(self._under(membership, rule, others, missing) for rule in membership.children),
            ]
        )
        return all_of([held, *self._not_waiting(membership, others, missing)])

    def _not_waiting(
        self, membership: Membership, others: "Others", missing: Sequence[str]
    ) -> list[Sql]:
        conditions: list[Sql] = []
        for need in self.table.needs:
            if need.null or membership.subscription in need.pulled:
                continue
            if set(need.key.columns) & set(missing):
                continue
            conditions.append(sql.SQL("NOT {}").format(self.dangles(need.key, others)))
        return conditions

    @once
    def want_pulled(self, number: int, rule: ReferencedRule, others: "Others") -> list[str]:
        """Want what rows pull in that entered or changed, where it is not known."""
        edge, target = rule.edge, others[rule.edge.to]
        columns = [column(name, "v") for name in edge.columns]
        names: dict[str, Sql] = {
            "inside": flag("_in", number),
            "given": given(columns),
            "there": target.belongs(number, edge.to_columns, columns),
            "targets": target.table.candidates,
            "same": equal(edge.to_columns, "x", edge.columns, "v"),
        }
        staged = self.compose(
            "UPDATE {targets} x SET _wanted = true FROM {candidates} v WHERE {same} "
            "AND v._verdict = 'w' AND {inside} AND x._present AND NOT x._wanted "
            "AND NOT {xin} AND NOT (x._complete AND (x._closed OR {xwas}))",
            xin=flag("_in", number, "x"),
            xwas=flag("_was", number, "x"),
            **names,
        )
        names["here"] = self.table.candidates
        if tuple(edge.to_columns) != target.table.key:
            # Its key is not known; the answer to this row brings it along.
            return [
                staged,
                self.compose(
                    "UPDATE {here} v SET _wanted = true "
                    "WHERE v._verdict = 'w' AND {inside} AND {given} AND NOT {there}",
                    **names,
                ),
            ]
        rows: LiteralString = (
            "{here} v WHERE v._verdict = 'w' AND {inside} AND {given} AND NOT {there} "
            "AND NOT EXISTS (SELECT FROM {targets} x WHERE {same})"
        )
        return [staged, target.insert_wanted(key_text(columns), rows, "referenced", **names)]

    def dangles(self, key: Constraint, others: "Others") -> Sql:
        """Whether a foreign key of a candidate points at a row that is not here in the end."""
        columns = [column(name, "v") for name in key.columns]
        itself: list[Sql] = []
        if key.to == key.table:
            same = equal(key.columns, "v", key.to_columns, "v")
            itself.append(sql.SQL("NOT ({})").format(same))
        other = others.get(key.to)
        if other is not None and set(key.to_columns) <= set(other.table.looked_at):
            here = other.is_here(key.to_columns, columns)
        else:
            here = sql.SQL("EXISTS (SELECT FROM {} y WHERE {})").format(
                identifier(key.to),
                equal_to(key.to_columns, "y", columns),
            )
        return all_of([given(columns), *itself, sql.SQL("NOT {}").format(here)])


Others: TypeAlias = Mapping[TableName, RuleSql]
"""The tables of the plan that a batch may look at."""


def _once_pulled(number: int, edge: Edge, referrers: RuleSql, alias: str) -> Sql:
    """Select what referrers pointed at before, that were lost or point elsewhere now."""
    old = [referrers.true_value(name, "o") for name in edge.columns]
    moved = [
        sql.SQL("{} IS DISTINCT FROM {}").format(value, column(name, "q"))
        for name, value in zip(edge.columns, old, strict=True)
    ]
    return sql.SQL("{} q JOIN {} o ON {} WHERE {} AND (NOT {} OR {}) AND {}").format(
        referrers.table.candidates,
        referrers.table.identifier,
        referrers.same_key("o", "q"),
        flag("_was", number, "q"),
        flag("_in", number, "q"),
        any_of(moved),
        equal_to(edge.to_columns, alias, old),
    )


def _lost(number: int, alias: str) -> Sql:
    return sql.SQL("{} AND NOT {}").format(flag("_was", number, alias), flag("_in", number, alias))
