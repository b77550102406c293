"""What must be true of a target, given the states that the source went through. Pure."""

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

from replicator.plan import TableName
from replicator_apply.plan import KEPT
from tests.support.oracle.fixpoint import Meaning, Member, Row
from tests.support.oracle.states import SourceState, TargetState
from tests.support.oracle.system import APART, is_local

_MARK = re.compile(r"\(1,(\d+)\)")


class Broken(AssertionError):
    """The target is not what it must be."""


@dataclass(frozen=True)
class Judge:
    """Compares.

    Attributes:
        states: the source after each of its transactions, by number.
        left: rows that became local as a subscription ended.
        loose: datasets whose subscriptions were once paused.
    """

    states: Mapping[int, SourceState]
    left: Set[Row] = frozenset()
    loose: Set[str] = frozenset()

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
        state = self.states[number]
        found = list(self._wrong(target, state))
        if not target.runs:
            found += self._lacking(target, state)
            if not any(target.wanted.values()):
                found += self._excess(target, state)
        if found:
            raise Broken(f"after transaction {number}: " + "; ".join(found[:20]))

    def rest(self, target: TargetState, number: int) -> None:
        """Check what must be true when all is quiet after transaction `number`. Raises Broken."""
        state = self.states[number]
        found = list(self._wrong(target, state))
        found += self._lacking(target, state)
        found += self._excess(target, state)
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
                elif (
                    KEPT not in receipts
                    and key not in target.wanted[table]
                    and target.is_current(table, key, self.loose)
                ):
                    yield from self._wrong_row(target, (table, key), row, state)
            for key in target.receipts[table].keys() - rows.keys():
                yield f"{table} {key} has a receipt and is not there"

    def _wrong_row(
        self, target: TargetState, row: Row, text: str, state: SourceState
    ) -> Iterator[str]:
        table, key = row
        source = state.rows[table].get(key)
        if source is None:
            yield f"{table} {key} is here and gone from the source"
        elif (expected := self._expected(target, row, (source, text), state)) != text:
            yield f"{table} {key} is {text}, and on the source {expected}"

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

    def _excess(self, target: TargetState, state: SourceState) -> Iterator[str]:
        """Look for receipts of rows that do not belong."""
        members = self._members(target, state)
        for table, receipts in target.receipts.items():
            for key, holders in receipts.items():
                for number in holders - {KEPT}:
                    one = target.subscribed.get(number)
                    if one is None:
                        yield f"{table} {key} has a receipt of {number}, which has ended"
                    elif not one.paused and (one.dataset, (table, key)) not in members:
                        yield f"{table} {key} does not belong to {one.dataset} and has its receipt"

    def _lacking(self, target: TargetState, state: SourceState) -> Iterator[str]:
        """Look for rows that belong, are not there, and of which no fetch is under way."""
        wanted = [(table, key) for table, keys in target.wanted.items() for key in keys]
        coming = self._meaning(target, state).closure(state.facts, wanted)
        numbers = {one.dataset: number for number, one in target.subscribed.items()}
        ending = {one.dataset for one in target.subscribed.values() if one.leaving}
        for name, (table, key) in self._members(target, state):
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
