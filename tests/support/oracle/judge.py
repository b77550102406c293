"""What must be true of a target, given the states that the source went through. Pure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from replicator_apply.plan import KEPT
from tests.support.oracle.states import SourceState, TargetState
from tests.support.oracle.system import is_local

_MARK = re.compile(r"\(1,(\d+)\)")


class Broken(AssertionError):
    """The target is not what it must be."""


@dataclass(frozen=True)
class Judge:
    """Compares.

    Attributes:
        states: the source after each of its transactions, by number.
        subscriptions: name of the dataset of each.
    """

    states: Mapping[int, SourceState]
    subscriptions: Mapping[int, str]

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
        found = list(self._wrong(target, self.states[number]))
        if not target.runs:
            found += self._lacking(target, self.states[number])
        if found:
            raise Broken(f"after transaction {number}: " + "; ".join(found[:20]))

    def rest(self, target: TargetState, number: int) -> None:
        """Check what must be true when all is quiet after transaction `number`. Raises Broken."""
        state = self.states[number]
        found = list(self._wrong(target, state))
        found += self._lacking(target, state)
        found += [f"wanted {table} {keys}" for table, keys in target.wanted.items() if keys]
        if found:
            raise Broken(f"at rest after transaction {number}: " + "; ".join(found[:20]))

    def _wrong(self, target: TargetState, state: SourceState) -> Iterator[str]:
        """Look at each row that is there."""
        for table, rows in target.rows.items():
            for key, row in rows.items():
                receipts = target.receipts[table].get(key, set())
                if is_local(key) or not receipts:
                    if receipts or not is_local(key):
                        yield f"{table} {key} has receipts {sorted(receipts)}"
                elif KEPT not in receipts and key not in target.wanted[table]:
                    yield from self._wrong_row(table, key, row, receipts, state)
            for key in target.receipts[table].keys() - rows.keys():
                yield f"{table} {key} has a receipt and is not there"

    def _wrong_row(
        self, table: str, key: str, row: str, receipts: set[int], state: SourceState
    ) -> Iterator[str]:
        source = state.rows[table].get(key)
        if source is None:
            yield f"{table} {key} is here and gone from the source"
        elif source != row:
            yield f"{table} {key} is {row}, and on the source {source}"
        for subscription in receipts:
            name = self.subscriptions[subscription]
            if key not in state.members[name].get(table, set()):
                yield f"{table} {key} does not belong to {name} and has its receipt"

    def _lacking(self, target: TargetState, state: SourceState) -> Iterator[str]:
        """Look for rows that belong and are not there."""
        for subscription, name in self.subscriptions.items():
            for table, keys in state.members[name].items():
                for key in keys - target.wanted[table]:
                    if subscription not in target.held(table, key):
                        yield f"{table} {key} belongs to {name} and is not here"
