"""What must be true of a target, given the states that the source went through. Pure."""

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field

from replicator.plan import TableName
from replicator.relations import on_leave
from replicator_apply.plan import KEPT, LEFT
from tests.support.oracle.fixpoint import Meaning, Member, Row
from tests.support.oracle.states import SourceState, TargetState
from tests.support.oracle.system import APART, is_local
from tests.support.oracle.tables import BY_NAME

_MARK = re.compile(r"\(1,(\d+)\)")


class Broken(AssertionError):
    """The target is not what it must be."""


@dataclass
class Judge:
    """Compares.

    Attributes:
        states: the source after each of its transactions, by number.
        left: rows that became local as a subscription ended.
        loose: datasets whose subscriptions were once paused.
        staying: rows that were held at an earlier rest, of tables whose rows stay.
        newest: number of the last transaction that a reader has seen.
    """

    states: Mapping[int, SourceState]
    left: Set[Row] = frozenset()
    loose: Set[str] = frozenset()
    staying: set[Row] = field(default_factory=set)
    newest: int = 0

    def mark(self, target: TargetState) -> int | None:
        """Give the number of the last transaction that the target shows; None: not there yet.

        Raises:
            Broken: the witnesses differ.
        """
        numbers = {int(m[1]) for m in map(_MARK.fullmatch, target.marks) if m}
        if len(numbers) > 1:
            raise Broken(f"a part of a transaction is visible: the witnesses say {numbers}")
        return numbers.pop() if numbers and len(target.marks) == 2 else None

    def moment(self, target: TargetState) -> None:
        """Check what must be true at every moment. Raises Broken."""
        number = self.mark(target)
        if number is None:
            return
        if number < self.newest:
            raise Broken(f"transaction {self.newest} was here, and {number} is")
        self.newest = number
        state = self.states[number]
        found = list(self._wrong(target, state))
        # What the source has chosen since is not known yet; all else is.
        members = self._as_chosen(target, state)
        if target.heavy or any(target.wanted.values()):
            # Not all is here, but what is here is whole trees.
            found += self._torn(target, state, members)
        if not target.heavy:
            found += self._lacking(target, state, members)
            if not any(target.wanted.values()):
                found += self._excess(target, members)
        if found:
            raise Broken(f"after transaction {number}: " + "; ".join(found[:20]))

    def rest(self, target: TargetState, number: int) -> None:
        """Check what must be true when all is quiet after transaction `number`. Raises Broken."""
        state = self.states[number]
        found = list(self._wrong(target, state))
        members = self._members(target, state)
        found += self._lacking(target, state, members)
        found += self._excess(target, members)
        found += self._staying(target, state)
        found += [f"wanted {table} {keys}" for table, keys in target.wanted.items() if keys]
        if found:
            raise Broken(f"at rest after transaction {number}: " + "; ".join(found[:20]))

    def _wrong(self, target: TargetState, state: SourceState) -> Iterator[str]:
        """Look at each row that is there."""
        for table, rows in target.rows.items():
            for key, row in rows.items():
                receipts = target.receipts[table].get(key, set())
                if is_local(key) or not receipts:
                    if receipts or not (is_local(key) or (table, key) in self.left):
                        yield f"{table} {key} has receipts {sorted(receipts)}"
                elif receipts & {KEPT, LEFT}:
                    continue
                elif key in target.wanted[table]:
                    if not self._once(table, key, row):
                        yield f"{table} {key} is wanted, and never was {row}"
                elif target.is_current(table, key, self.loose):
                    yield from self._wrong_row(target, (table, key), row, state)
            for key in target.receipts[table].keys() - rows.keys():
                yield f"{table} {key} has a receipt and is not there"

    def _once(self, table: str, key: str, text: str) -> bool:
        """Whether a row was once so on the source, columns aside in which NULL may stand."""
        head = text.split(APART, maxsplit=1)[0]
        versions = (state.rows[table].get(key) for state in self.states.values())
        return any(version is not None and version.split(APART)[0] == head for version in versions)

    def _wrong_row(
        self, target: TargetState, row: Row, text: str, state: SourceState
    ) -> Iterator[str]:
        table, key = row
        source = state.rows[table].get(key)
        if source is None:
            yield f"{table} {key} is here and gone from the source"
        elif (expected := self._expected(target, row, (source, text), state)) != text:
            yield f"{table} {key} is {text}, and on the source {expected}"
        for edge, end in state.facts.points.get(row, {}).items():
            if edge in state.meaning.edges - state.meaning.nulls:
                to, to_key = end
                if to_key not in target.rows[to]:
                    yield f"{table} {key} points at {to} {to_key}, which is not here"

    def _expected(
        self, target: TargetState, row: Row, texts: tuple[str, str], state: SourceState
    ) -> str:
        """Write NULL for what the policy says.

        Args:
            target: as it is.
            row: which one.
            texts: the row on the source, and here.
            state: of the source.
        """
        text, *values = texts[0].split(APART)
        found = texts[1].split(APART)[1:]
        edges = {edge.columns[0]: end for edge, end in state.facts.points[row].items()}
        names = state.meaning.apart(TableName("public", row[0]))
        for place, name in enumerate(names):
            if name in edges and not target.held(*edges[name]):
                # A row that is in no dataset, or not here yet. One that was left behind stands,
                # and may be pointed at where no dataset holds its table.
                values[place] = found[place] if edges[name] in self.left else ""
        return APART.join([text, *values])

    def _as_chosen(self, target: TargetState, state: SourceState) -> Set[Member]:
        """Give what belongs if the source chose what the target last heard of."""
        meaning = self._meaning(target, state)
        if not meaning.chooses:
            return self._members(target, state)
        numbers = {one.dataset: number for number, one in target.subscribed.items()}
        chosen = {
            (name, number): {
                (plan.table_of(rule).name, key)
                for key in target.chosen.get((numbers[name], rule.name), ())
            }
            for name, plan in meaning.plans.items()
            for number, rule in enumerate(plan.paged)
            if rule.selection is not None
        }
        return meaning.members(state.facts.with_chosen(chosen), target.frozen)

    def _excess(self, target: TargetState, members: Set[Member]) -> Iterator[str]:
        """Look for receipts of rows that do not belong."""
        for table, receipts in target.receipts.items():
            for key, holders in receipts.items():
                for number in holders - {KEPT, LEFT}:
                    one = target.subscribed.get(number)
                    if one is None:
                        yield f"{table} {key} has a receipt of {number}, which has ended"
                    elif not one.paused and (one.dataset, (table, key)) not in members:
                        yield f"{table} {key} does not belong to {one.dataset} and has its receipt"

    def _staying(self, target: TargetState, state: SourceState) -> Iterator[str]:
        """Look for rows that left and did not stay, or that are not marked as they must be."""
        for table, receipts in target.receipts.items():
            said = on_leave(state.meaning.plans.values(), TableName("public", table))
            if not any(policy.action != "delete" for policy in said):
                if any(LEFT in holders for holders in receipts.values()):
                    yield f"rows of {table} left and stay"
                continue
            held = {key for key in receipts if target.held(table, key)}
            left = {key for key in receipts if target.left(table, key)}
            before = {key for name, key in self.staying if name == table}
            yield from (f"{table} {key} left, and is held" for key in left & held)
            if not any(self._unique(state, name) for name in _pointed_at(table)):
                # Else it may have made way for another row, or together with one that it points at.
                yield from (f"{table} {key} left, and did not stay" for key in before - held - left)
            if any(policy.column for policy in said):
                # One that became local, marked, is marked still.
                marked = {
                    key
                    for key in target.marked[table]
                    if not is_local(key) and (table, key) not in self.left
                }
                unmarked = {key for key in left if (table, key) not in self.left} - marked
                wrong = (marked - left) | unmarked
                yield from (f"{table} {key} is marked wrongly" for key in wrong)
            self.staying.update((table, key) for key in held)

    def _unique(self, state: SourceState, table: str) -> bool:
        releases = (r for plan in state.meaning.plans.values() for r in plan.releases)
        return any(r.unique for r in releases if r.table.name == table)

    def forget_left(self) -> None:
        """Rows that left were deleted in the target."""
        self.staying.clear()

    def forget_local(self, rows: Set[Row]) -> None:
        """Rows became local: nobody keeps them here any more."""
        self.staying.difference_update(rows)

    def _torn(self, target: TargetState, state: SourceState, members: Set[Member]) -> Iterator[str]:
        """Look for trees of which a part is not here, and no fetch is under way.

        That is for rows that belong, and that by some rule go with a row that is here. It is no
        excuse that this row itself is fetched, unless its old version stands: it came too early.
        """
        meaning, facts = self._meaning(target, state), state.facts
        here = set(self._here(target, sure=False))
        sure = set(self._here(target, sure=True))
        wanted = [(table, key) for table, keys in target.wanted.items() for key in keys]
        stale = {row for row in wanted if self._stands(target, row, state)}
        coming = {
            name: meaning.closure(facts, (r for r in wanted if r in stale or (name, r) not in here))
            for name in meaning.plans
        }
        for name, row in sure & members:
            for other in meaning.led_to(facts, sure, name, row):
                if other in members - here and other[1] not in coming[name]:
                    yield f"{row} is here without {other[1]}, which belongs to {name} with it"

    def _here(self, target: TargetState, *, sure: bool) -> Iterator[Member]:
        """Give what is here.

        Args:
            target: as it is.
            sure: only that of which no backfill has yet to tell, since a subscription was resumed.
        """
        for number, one in target.subscribed.items():
            if one.paused or one.leaving:
                continue
            newest = one.generation if sure and one.dataset in self.loose else 0
            for table, receipts in target.receipts.items():
                for key, holders in receipts.items():
                    if number in holders and target.generations[table, key, number] >= newest:
                        yield one.dataset, (table, key)

    def _stands(self, target: TargetState, row: Row, state: SourceState) -> bool:
        """Whether the row here is none that must have come with its tree.

        It is an older version, or one that older rows may point at as Postgres does not guard.
        """
        table, key = row
        if TableName("public", table) in state.meaning.loose:
            return True
        text, source = target.rows[table].get(key), state.rows[table].get(key)
        return text is None or source is None or text.split(APART)[0] != source.split(APART)[0]

    def _lacking(
        self, target: TargetState, state: SourceState, members: Set[Member]
    ) -> Iterator[str]:
        """Look for rows that belong, are not there, and of which no fetch is under way."""
        wanted = [(table, key) for table, keys in target.wanted.items() for key in keys]
        coming = self._meaning(target, state).closure(state.facts, wanted)
        numbers = {one.dataset: number for number, one in target.subscribed.items()}
        ending = {one.dataset for one in target.subscribed.values() if one.leaving}
        for name, (table, key) in members:
            if name in ending:
                continue  # Its backfill was broken off.
            if numbers[name] not in target.held(table, key) and (table, key) not in coming:
                yield f"{table} {key} belongs to {name} and is not here"

    def _meaning(self, target: TargetState, state: SourceState) -> Meaning:
        """Give the plan of the subscriptions to whose rows events are applied."""
        names = frozenset(s.dataset for s in target.subscribed.values() if not s.paused)
        return state.meaning.of(names)

    def _members(self, target: TargetState, state: SourceState) -> Set[Member]:
        """Give what belongs to them."""
        frozen = target.frozen
        meaning = self._meaning(target, state)
        key = frozenset(meaning.plans), frozen
        if key not in state.members:
            state.members[key] = meaning.members(state.facts, frozen)
        return state.members[key]


def _pointed_at(table: str) -> set[str]:
    """Give a table and all that it points at, directly or not."""
    found, todo = {table}, [table]
    while todo:
        spec = BY_NAME.get(todo.pop())
        new = {link.to for link in spec.links} - found if spec is not None else set()
        found |= new
        todo += new
    return found
