"""What datasets mean, on rows of the source: the specification, as plain as can be. Pure.

A row belongs if a chain of rules ties it to a `Rows` rule, and no foreign key of it dangles, unless
NULL may be written there. All datasets of a target are one plan: a row that one of them holds is
there for the foreign keys of all.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property

from replicator.plan import ChildrenRule, DatasetPlan, Edge, ReferencedRule, RowsRule, TableName

Row = tuple[str, str]
"""Table and key, both as text."""
Member = tuple[str, Row]
"""Name of a dataset, and a row."""


@dataclass
class Facts:
    """What of a state of the source the rules look at.

    Attributes:
        points: by row and edge, the row pointed at.
        passes: by dataset and number of the rule, the rows that pass its filter, and are selected.
        eligible: of rules of which the source chooses rows, those that pass the filter.
    """

    points: dict[Row, dict[Edge, Row]] = field(default_factory=dict)
    passes: dict[tuple[str, int], set[Row]] = field(default_factory=dict)
    eligible: dict[tuple[str, int], set[Row]] = field(default_factory=dict)

    def with_chosen(self, chosen: Mapping[tuple[str, int], set[Row]]) -> "Facts":
        """Give the facts as a target knows them, with the keys that it has for chosen ones."""
        known = {which: rows & chosen.get(which, set()) for which, rows in self.eligible.items()}
        return Facts(self.points, {**self.passes, **known}, self.eligible)

    def with_all_eligible(self) -> "Facts":
        """Give the facts as if every row that may be chosen were."""
        return Facts(self.points, {**self.passes, **self.eligible}, self.eligible)

    @cached_property
    def pointers(self) -> dict[Row, list[tuple[Row, Edge]]]:
        """Who points at a row, and by which edge."""
        index: dict[Row, list[tuple[Row, Edge]]] = defaultdict(list)
        for row, edges in self.points.items():
            for edge, target in edges.items():
                index[target].append((row, edge))
        return index


@dataclass
class Meaning:
    """The plan of one target.

    Attributes:
        plans: its datasets, by name.
    """

    plans: Mapping[str, DatasetPlan]

    def of(self, names: Set[str]) -> "Meaning":
        """Give the plan of some of its datasets."""
        if names not in self._parts:
            some = {name: plan for name, plan in self.plans.items() if name in names}
            self._parts[frozenset(names)] = Meaning(some)
        return self._parts[frozenset(names)]

    @cached_property
    def _parts(self) -> dict[Set[str], "Meaning"]:
        return {}

    @cached_property
    def chooses(self) -> bool:
        """Whether the source chooses rows of some rule, so that a target may lag behind it."""
        return any(rule.selection for plan in self.plans.values() for rule in plan.paged)

    @cached_property
    def edges(self) -> set[Edge]:
        """All foreign keys that Postgres guards, between tables of the plan."""
        tables = {release.table for plan in self.plans.values() for release in plan.releases}
        return {
            Edge(release.table, key.columns, key.to, key.to_columns)
            for plan in self.plans.values()
            for release in plan.releases
            for key in release.foreign_keys
            if key.constrained and key.to in tables
        }

    @cached_property
    def followed(self) -> list[Edge]:
        """The edges that matter: those, and the edges of rules."""
        rules = [rule for plan in self.plans.values() for rule in plan.rules]
        led = {e for rule in rules if isinstance(rule, ChildrenRule) for e in rule.edges}
        pulled = {rule.edge for rule in rules if isinstance(rule, ReferencedRule)}
        return sorted(self.edges | self.nulls | led | pulled, key=str)

    def apart(self, table: TableName) -> list[str]:
        """Name the columns of a table in which NULL may stand for a value."""
        return sorted(edge.columns[0] for edge in self.nulls if edge.table == table)

    @cached_property
    def loose(self) -> set[TableName]:
        """Tables whose rows others may point at before they are there."""
        rules = [rule for plan in self.plans.values() for rule in plan.rules]
        led = {e for rule in rules if isinstance(rule, ChildrenRule) for e in rule.edges}
        return {edge.to for edge in led if edge.generic}

    @cached_property
    def nulls(self) -> set[Edge]:
        """Where NULL may be written."""
        return {edge for plan in self.plans.values() for edge in plan.nulls}

    @cached_property
    def whole(self) -> dict[str, set[str]]:
        """By dataset, the tables of which every row belongs, come what may."""
        return {name: self._whole(name) for name in self.plans}

    def _whole(self, name: str) -> set[str]:
        plan = self.plans[name]
        whole = {
            plan.table_of(r).name for r in plan.rules if isinstance(r, RowsRule) and r.takes_all
        }
        pulling = {r.edge for r in plan.rules if isinstance(r, ReferencedRule) and not r.filter}
        while out := {
            edge.table.name
            for edge in self.edges - self.nulls - pulling
            if edge.table.name in whole and edge.to.name not in whole
        }:
            whole -= out
        return whole

    def pulls(self, name: str, edge: Edge) -> bool:
        """Whether what an edge points at belongs whenever its row does."""
        return edge.to.name in self.whole[name] or any(
            isinstance(r, ReferencedRule) and r.edge == edge and r.filter is None
            for r in self.plans[name].rules
        )

    @cached_property
    def gates(self) -> set[Edge]:
        """Edges that can keep a row out."""
        return {
            edge
            for edge in self.edges - self.nulls
            if not all(
                self.pulls(name, edge)
                for name, plan in self.plans.items()
                if any(release.table == edge.table for release in plan.releases)
            )
        }

    def grounded(self, facts: Facts, eligible: set[Member]) -> set[Member]:
        """Give what a chain of rules ties to a `Rows` rule, among what is eligible."""
        members = set[Member]()
        todo = [
            (name, row)
            for name, plan in self.plans.items()
            for number, rule in enumerate(plan.rules)
            if isinstance(rule, RowsRule)
            for row in facts.passes[name, number]
        ]
        while todo:
            member = name, row = todo.pop()
            if member in members or member not in eligible:
                continue
            members.add(member)
            todo += self.led_to(facts, members, name, row)
        return members

    def led_to(self, facts: Facts, members: set[Member], name: str, row: Row) -> Iterator[Member]:
        """Give what goes by some rule with a row that belongs, if these belong as well."""
        for number, rule in enumerate(self.plans[name].rules):
            if isinstance(rule, ReferencedRule):
                target = facts.points[row].get(rule.edge)
                if target and target in facts.passes[name, number]:
                    yield name, target
            elif isinstance(rule, ChildrenRule):
                for child, edge in facts.pointers[row]:
                    if (
                        edge in rule.edges
                        and child in facts.passes[name, number]
                        and all((name, facts.points[child].get(e)) in members for e in rule.edges)
                    ):
                        yield name, child

    def members(self, facts: Facts, frozen: Set[Row] = frozenset()) -> set[Member]:
        """Give what belongs: the largest set that is grounded and in which nothing dangles.

        Args:
            facts: of a state of the source.
            frozen: rows of paused subscriptions; they stand, and may be pointed at.
        """
        eligible = {(name, row) for name in self.plans for row in facts.points}
        while True:
            members = self.grounded(facts, eligible)
            present = {row for _, row in members}
            here = present | frozen
            bad = {row for row in present if self._dangles(facts, row, here)}
            if not bad:
                return members
            eligible = {member for member in eligible if member[1] not in bad}

    def _dangles(self, facts: Facts, row: Row, present: set[Row]) -> bool:
        return any(
            edge in self.edges and edge not in self.nulls and target not in present
            for edge, target in facts.points[row].items()
        )

    def closure(self, facts: Facts, rows: Iterable[Row]) -> set[Row]:
        """Give what a fetch brings: down to what hangs on the rows, up to what they pull in."""
        found, todo = set[Row](), list(rows)
        while todo:
            row = todo.pop()
            if row not in found:
                found.add(row)
                todo += self._beside(facts, row)
        return found

    def _beside(self, facts: Facts, row: Row) -> Iterator[Row]:
        down = self.gates | {
            edge
            for plan in self.plans.values()
            for rule in plan.rules
            if isinstance(rule, ChildrenRule)
            for edge in rule.edges
        }
        yield from (child for child, edge in facts.pointers[row] if edge in down)
        for edge, target in facts.points.get(row, {}).items():
            if any(
                self.pulls(name, edge)
                or any(isinstance(r, ReferencedRule) and r.edge == edge for r in plan.rules)
                for name, plan in self.plans.items()
            ):
                yield target
