"""Candidates → who enters, stays, leaves, is kept or wanted. Blocks on Postgres.

A row may enter if it is complete and *closed*: all that may belong because of it is in the batch.
First the rules are followed (over-delete, re-derive); then foreign keys are looked at: a row of
which one dangles steps back to its old version, or leaves, and the rules are followed again, until
nothing is bad. Usually one pass finds nothing. A row that may belong and cannot be written whole is
wanted: a fetch brings it with its whole tree.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import psycopg

from replicator.errors import Clash
from replicator.plan import Edge, TableName
from replicator_apply.catalog import Constraint
from replicator_apply.choice import Choice
from replicator_apply.choice_sql import draw_dropped, drop, untie_dropped
from replicator_apply.plan import Membership, TargetPlan, reading_columns
from replicator_apply.stage import MANY, Staged
from replicator_apply.table_sql import TableSql

Cursor = psycopg.Cursor[Any]
Batch = Mapping[TableName, Staged]


class Rules:
    """Follows the rules for one batch.

    Args:
        cursor: in the batch's transaction.
        plan: what the target holds.
        batch: the tables that are staged, and those that may be drawn in.
        choices: the pages among it of rules with a selection; their keys are noted.
        becomes_local: the subscription whose rows stay as local ones as it leaves them.

    Attributes:
        made_way: rows that left and do not stay, whatever their policy, by table.
    """

    def __init__(
        self,
        cursor: Cursor,
        plan: TargetPlan,
        batch: Batch,
        choices: Sequence[Choice] = (),
        becomes_local: int | None = None,
    ) -> None:
        self._cursor, self._plan, self._batch = cursor, plan, batch
        self._choices = [choice for choice in choices if choice.drops]
        self._becomes_local = becomes_local
        self._others: dict[TableName, TableSql] = {n: staged.sql for n, staged in batch.items()}
        self._order, self._rings = plan.in_order(frozenset(batch))
        self.made_way: dict[TableName, int] = {}
        self._waiting = False

    def settle(self) -> None:
        """Find out what every staged row means, and give each candidate its verdict.

        Raises:
            Clash: local rows stand under the keys of rows that enter, and the policy is `refuse`.
        """
        self.look()
        for staged in self._filled():
            self._refuse_clashes(staged)

    def look(self) -> None:
        """Make candidates of the staged rows, and give them their verdicts."""
        for staged in self._batch.values():
            self._take(staged)
        for choice in self._choices:
            self._drop(choice)
        self.follow()

    def follow(self) -> None:
        """Follow the rules until nothing is bad; then see what local rows keep here."""
        self._lose()
        self._find()
        while self._mend():
            for staged in self._filled():
                self._run(staged.sql.reset)
            self._lose()
            self._find()
        for staged in self._filled():
            self._run(staged.sql.conclude)
            if self._becomes_local is not None:
                self._run(staged.sql.let_stay(self._becomes_local))
        while self._keep():
            pass

    def _filled(self) -> Iterator[Staged]:
        for name in self._order:
            if self._batch[name].filled:
                yield self._batch[name]

    def _run(self, statement: str) -> int:
        return self._cursor.execute(statement).rowcount

    # What the batch tells of ---------------------------------------------------------------------

    def _take(self, staged: Staged) -> None:
        """Complete partial rows as far as can be, and make candidates of all."""
        if staged.keeps:
            staged.filled = self._run(staged.sql.stage_kept) > 0 or staged.filled
        if not staged.filled:
            return
        for number in range(1, len(staged.sets)):
            lacking = set(staged.missing(number))
            columns = [c for c in reading_columns(staged.table) if c in lacking]
            self._run(staged.sql.complete(columns, number))
        self._run(staged.sql.take_staged)
        if staged.size >= MANY:
            # Else the planner takes one verdict for the only one, and searches row by row.
            self._run(staged.sql.analyze)
            self._run(staged.sql.analyze_candidates)
        if len(staged.sets) > 1 and self._run(staged.sql.stand):
            self._run(staged.sql.reset)

    def _drop(self, choice: Choice) -> None:
        """Let rows that are chosen no more stand, or not, by the other rules."""
        staged = self._batch[choice.table.name]
        drawn = self._run(draw_dropped(staged.sql, choice))
        staged.filled = staged.filled or drawn > 0
        self._run(untie_dropped(staged.sql, choice))
        self._run(drop(staged.sql, choice))
        self._run(staged.sql.reset)

    def _refuse_clashes(self, staged: Staged) -> None:
        """Raise Clash if local rows stand where rows enter and must not become ours."""
        if staged.table.adopts:
            return
        found = self._cursor.execute(staged.sql.count_clashes).fetchone()
        if found and found[0]:
            raise Clash(
                f"{found[0]} local row(s) of table {staged.table.name} stand under primary keys "
                "that rows of the dataset have. Nothing of this batch was written."
            )

    # Rules ---------------------------------------------------------------------------------------

    def _edges(self) -> Iterator[tuple[Staged, Membership, Edge, bool]]:
        """Give each edge by which a row of a table hangs on another's, and whether it is pulled."""
        for name in self._order:
            staged = self._batch[name]
            for membership in staged.table.memberships:
                for rule in membership.children:
                    for edge in rule.edges:
                        yield staged, membership, edge, False
                for pulled in membership.referenced:
                    yield staged, membership, pulled.edge, True

    def _repeat(self, turn: Callable[[], int]) -> None:
        """Do something once, or as long as it moves rows where tables hang on each other."""
        while turn() and self._rings:
            pass

    def _lose(self) -> None:
        """Take out all that may have hung on a row which is lost."""
        self._repeat(lambda: sum(self._lose_by(*edge) for edge in self._edges()))

    def _lose_by(self, staged: Staged, membership: Membership, edge: Edge, pulled: bool) -> int:
        other = self._batch[edge.table if pulled else edge.to]
        if not other.filled:
            return 0
        number, text = membership.subscription, staged.sql
        if pulled:
            drawn = self._run(text.draw_pulled(number, edge, other.sql))
            lose = text.lose_pulled(membership, edge, other.sql)
        else:
            drawn = self._run(text.draw_children(number, edge, other.sql))
            lose = text.lose_children(membership, edge, other.sql)
        staged.filled = staged.filled or drawn > 0
        return self._run(lose) if staged.filled else 0

    def _find(self) -> None:
        """Let in what a row that belongs holds, and what that holds."""
        self._repeat(lambda: sum(self._find_in(staged) for staged in self._filled()))

    def _find_in(self, staged: Staged) -> int:
        quiet = frozenset(name for name, other in self._batch.items() if not other.filled)
        return sum(
            self._run(staged.sql.find(membership, self._others, quiet))
            for membership in staged.table.memberships
            if membership.related
        )

    # Foreign keys --------------------------------------------------------------------------------

    def _mend(self) -> int:
        """Take back rows whose foreign key dangles; give their number."""
        moved = 0
        for name in self._order:
            staged = self._batch[name]
            for need in staged.table.needs:
                if need.null:
                    continue
                other = self._batch.get(need.key.to)
                if other is not None and other.filled:
                    drawn = self._run(staged.sql.draw_referrers(need.key, self._others))
                    staged.filled = staged.filled or drawn > 0
                if staged.filled:
                    moved += self._run(staged.sql.refuse_dangling(need, self._others))
            if staged.filled and staged.table.needs:
                self._run(staged.sql.step_back)
        self._waiting = self._waiting or moved > 0
        if self._waiting:
            moved += sum(self._wait_with_child(*edge) for edge in self._edges())
        return moved

    def _wait_with_child(
        self, staged: Staged, membership: Membership, edge: Edge, pulled: bool
    ) -> int:
        """Take back what was born with a child that waits; give the number of such rows."""
        other = self._batch[edge.to]
        if pulled or not (staged.filled and other.filled):
            return 0
        return self._run(other.sql.wait_with_child(membership, edge, staged.sql))

    def _keep(self) -> int:
        """Keep leaving rows that local rows point at; give their number."""
        moved = 0
        for staged in list(self._filled()):
            incoming = staged.table.shape.incoming
            if any(key.acts for key in incoming):
                # A local row committed after the look at it would go with what it points at.
                self._run(staged.sql.lock_leaving())
            for key in incoming:
                referrer = self._others.get(key.table)
                if referrer is None:
                    moved += self._run(staged.sql.keep_for_local(key))
                else:
                    moved += self._run(staged.sql.keep_for_ours(key, referrer))
        return moved

    # Wanted --------------------------------------------------------------------------------------

    def want(self) -> None:
        """Note what must be fetched, and strike off what has been."""
        for staged in self._filled():
            self._want_open(staged)
        for staged in list(self._filled()):
            for number, rule in staged.table.pulling:
                for statement in staged.sql.want_pulled(number, rule, self._others):
                    self._run(statement)
        for staged in self._filled():
            self._run(staged.sql.settled)
            self._run(staged.sql.want)

    def _want_open(self, staged: Staged) -> None:
        if staged.table.loose:
            self._run(staged.sql.want_born)
        if not staged.table.closed:
            for membership in staged.table.memberships:
                if not membership.gated:
                    self._run(staged.sql.want_open(membership, self._others))
        for number in range(1, len(staged.sets)):
            missing = staged.missing(number)
            self._run(staged.sql.want_incomplete(number, missing, self._others))

    # NULL in place of rows that are not here -----------------------------------------------------

    def null_missing(self) -> None:
        """Write NULL where the policy says so, in staged rows and in held ones."""
        for name in self._order:
            staged = self._batch[name]
            needs = [need for need in staged.table.needs if need.null]
            if needs and staged.filled:
                self._run(staged.sql.forget_nulled())
            for need in needs:
                other = self._batch.get(need.key.to)
                if staged.filled:
                    for statement in staged.sql.null_staged(need, self._others):
                        self._run(statement)
                if other is not None and other.filled:
                    for statement in staged.sql.null_held(need, self._others):
                        self._run(statement)

    def restore(self) -> None:
        """Write the true values where the rows pointed at have come."""
        for name in self._order:
            staged = self._batch[name]
            for need in staged.table.needs:
                other = self._batch.get(need.key.to)
                if need.null and other is not None and other.filled:
                    self._run(staged.sql.restore(need, self._others))

    # Unique values -------------------------------------------------------------------------------

    def evict(self, staged: Staged) -> int:
        """Take out old versions that stand on a unique value of a row that is written."""
        moved = 0
        for _, conflict in staged.sql.conflicts:
            drawn = self._run(staged.sql.draw_unsure(conflict))
            staged.filled = staged.filled or drawn > 0
            moved += self._run(staged.sql.evict_unsure(conflict))
        return moved + self._make_way(staged)

    def _make_way(self, staged: Staged) -> int:
        """Let go what left and stays, or is kept, on a unique value of a row that is written.

        The source has given the value to another row, so that not both can be here. What local rows
        point at is kept all the same.
        """
        moved = 0
        for _, conflict in staged.sql.conflicts:
            drawn = self._run(staged.sql.draw_left(conflict))
            staged.filled = staged.filled or drawn > 0
            moved += self._run(staged.sql.make_way(conflict))
        self._note_way(staged, moved)
        if staged.table.name in self.made_way:
            moved += sum(self._make_way_behind(staged, k) for k in staged.table.shape.incoming)
        return moved

    def _make_way_behind(self, staged: Staged, key: Constraint) -> int:
        """Let go what stays or is kept, and points at rows that make way."""
        behind = self._batch.get(key.table)
        if behind is None:
            return 0
        if not behind.table.nulls(key):
            drawn = self._run(behind.sql.draw_behind(key, staged.sql))
            behind.filled = behind.filled or drawn > 0
        gone = self._run(behind.sql.make_way_behind(key, staged.sql))
        self._note_way(behind, gone)
        return gone

    def _note_way(self, staged: Staged, count: int) -> None:
        if count:
            self.made_way[staged.table.name] = self.made_way.get(staged.table.name, 0) + count

    def again(self) -> None:
        """Follow the rules again, after rows were taken out."""
        for staged in self._filled():
            self._run(staged.sql.reset)
        self.follow()
