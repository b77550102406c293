"""What a dataset means, as values to draw: which rule hangs on which, and what leaves. Pure.

`explain` makes an `Explanation` of a compiled dataset; `--json` is this. How it is written is in
`replicator.drawing`.
"""

from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

import msgspec

from replicator.plan import TEXT_TYPES as TEXT
from replicator.plan import (
    And,
    ChildrenRule,
    Compare,
    DatasetPlan,
    Edge,
    Filter,
    IsNull,
    LatestRows,
    Listed,
    Lookup,
    Not,
    Or,
    ReferencedRule,
    RowsRule,
    Rule,
    Sampled,
    SampledRows,
    Selection,
    TableName,
)
from replicator.relations import edges_by, edges_of, pulls, steps_of, undecided, whole_tables

Policy: TypeAlias = Literal["referenced", "null", "required", "not guarded", "none!"]
"""What becomes of a row whose other end is not in the dataset; `none!`: nobody has decided."""

_WORDS: dict[Lookup, str] = {
    "exact": "=",
    "lt": "<",
    "lte": "<=",
    "gt": ">",
    "gte": ">=",
    "startswith": "starts with",
    "contains": "contains",
    "endswith": "ends with",
}


class Node(msgspec.Struct, frozen=True):
    """A rule where it hangs.

    Attributes:
        rule: its kind.
        model: of its rows.
        by: the foreign keys by which it hangs; none: by itself.
        on: the models that it hangs on, by each of these.
        where: its filter, as people read it; "" if every row passes.
        select: which of these rows are chosen, as people read it; "" if all of them are.
        policies: foreign keys of the model with a policy, and what becomes of rows that leave, at
            its first rule only.
        again: what hangs on it is drawn elsewhere; it may be its own beginning.
        hanging: the rules that hang on the model.
    """

    rule: Literal["Rows", "Children", "Referenced"]
    model: str
    by: tuple[str, ...] = ()
    on: tuple[str, ...] = ()
    where: str = ""
    select: str = ""
    policies: tuple[str, ...] = ()
    again: bool = False
    hanging: tuple["Node", ...] = ()


class Leaving(msgspec.Struct, frozen=True):
    """A foreign key that may lead out of the dataset."""

    model: str
    columns: tuple[str, ...]
    to: str
    policy: Policy


class Table(msgspec.Struct, frozen=True):
    """A table of the dataset.

    Attributes:
        released: how many of its columns travel.
        columns: how many the model has; those that Postgres computes are not among them.
    """

    model: str
    table: str
    key: tuple[str, ...]
    released: int
    columns: int


class Count(msgspec.Struct, frozen=True):
    """Rows of each model: what they are, and how many."""

    of: str
    rows: dict[str, int]


class Explanation(msgspec.Struct, frozen=True):
    """All that `replicator explain` shows; `--json` is this.

    Attributes:
        rules: the `Rows` rules with all that hangs on them; then, if any, rules that hang on none.
        every: seconds after which rows are chosen anew; None: no rule chooses.
        counts: of this environment's database; none if they could not be had.
        note: why they could not.
    """

    dataset: str
    stream: str
    fingerprint: str
    rules: tuple[Node, ...]
    tables: tuple[Table, ...]
    leaving: tuple[Leaving, ...]
    every: float | None = None
    counts: tuple[Count, ...] = ()
    note: str = ""


def explain(plan: DatasetPlan) -> Explanation:
    """Explain a dataset; counts are added by who can count."""
    return Explanation(
        plan.name,
        plan.stream,
        plan.fingerprint,
        _Tree(plan).grow(),
        tuple(
            Table(r.label, str(r.table), r.key, len(r.columns), len(r.columns) + len(r.excluded))
            for r in plan.releases
        ),
        tuple(_leaving(plan)),
        plan.every,
    )


class _Tree:
    """Hangs rules on each other; what hangs on a model is drawn once."""

    def __init__(self, plan: DatasetPlan) -> None:
        self._plan = plan
        self._drawn = set[Rule]()
        self._grown = set[TableName]()
        self._told = set[str]()

    def grow(self) -> tuple[Node, ...]:
        begins = [rule for rule in self._plan.rules if isinstance(rule, RowsRule)]
        last = {rule.label: rule for rule in begins}
        nodes = [self._node(rule, grows=last[rule.label] is rule) for rule in begins]
        for rule in self._plan.rules:
            if rule not in self._drawn:
                nodes.append(self._node(rule))  # noqa: PERF401 (each draws others)
        return tuple(nodes)

    def _node(self, rule: Rule, *, grows: bool = True) -> Node:
        self._drawn.add(rule)
        table = self._plan.table_of(rule)
        policies = () if rule.label in self._told else tuple(self._policies(table))
        self._told.add(rule.label)
        again = grows and table in self._grown and any(self._hanging(table))
        hanging: tuple[Node, ...] = ()
        if grows and table not in self._grown:
            self._grown.add(table)
            hanging = tuple(map(self._node, self._hanging(table)))
        by = tuple(map(str, edges_by(rule)))
        where = "" if rule.filter is None else readable(rule.filter)
        kind, select = _KINDS[type(rule)], selected(getattr(rule, "selection", None))
        on = self._on(rule)
        return Node(kind, rule.label, by, on, where, select, policies, again, hanging)

    def _on(self, rule: Rule) -> tuple[str, ...]:
        labels = {release.table: release.label for release in self._plan.releases}
        return tuple(labels[table] for _, table in steps_of(rule))

    def _hanging(self, table: TableName) -> Iterator[Rule]:
        """Give the rules by which other rows belong because rows of a table do."""
        return (r for r in self._plan.rules if any(on == table for _, on in steps_of(r)))

    def _policies(self, table: TableName) -> Iterator[str]:
        for policy, edges in (("null", self._plan.nulls), ("required", self._plan.required)):
            for edge in edges:
                if edge.table == table:
                    yield f"{policy} {', '.join(edge.columns)}"
        for said in self._plan.on_leave:
            if said.table == table:
                yield f"on leave: {said}"


_KINDS: dict[type, Literal["Rows", "Children", "Referenced"]] = {
    RowsRule: "Rows",
    ChildrenRule: "Children",
    ReferencedRule: "Referenced",
}


def _leaving(plan: DatasetPlan) -> Iterator[Leaving]:
    """Give the foreign keys that may lead to rows which the dataset lacks, and their policies."""
    labels = {release.table: release.label for release in plan.releases}
    open_ends = undecided(plan)
    for release in plan.releases:
        guarded = set(edges_of(release))
        for key in release.foreign_keys:
            edge = key.edge_from(release.table)
            if not key.natural and edge.to not in whole_tables(plan):
                to = labels.get(edge.to, str(edge.to))
                policy = _policy(plan, edge, open_ends) if edge in guarded else "not guarded"
                if policy is not None:
                    yield Leaving(release.label, edge.columns, to, policy)


def _policy(plan: DatasetPlan, edge: Edge, open_ends: Iterable[Edge]) -> Policy | None:
    """Give the policy of a foreign key; None: the row that it leads to is always here."""
    if edge in plan.nulls:
        return "null"
    if edge in plan.required:
        return "required"
    if edge in open_ends:
        return "none!"
    return "referenced" if pulls(plan, edge) else None


# Filters in words --------------------------------------------------------------------------------


def readable(condition: Filter) -> str:
    """Write a filter for people, without outer parentheses."""
    match condition:
        case And(parts):
            return _joined(parts, " and ", "every row")
        case Or(parts):
            return _joined(parts, " or ", "no row")
        case Not(IsNull(column)):
            return f"{column} is not null"
        case Not(part):
            return f"not ({readable(part)})"
        case IsNull(column):
            return f"{column} is null"
        case Compare() | Sampled() | Listed():
            return _compared(condition)


def _joined(parts: tuple[Filter, ...], word: str, of_none: str) -> str:
    return word.join(map(_part, parts)) or of_none


def _part(part: Filter) -> str:
    text = readable(part)
    return f"({text})" if isinstance(part, And | Or) and len(part.parts) > 1 else text


def _compared(condition: Compare | Sampled | Listed) -> str:
    if isinstance(condition, Listed):
        return f"{', '.join(condition.columns)} is chosen"
    if isinstance(condition, Sampled):
        columns = ", ".join(condition.columns)
        return f"{columns} in a sample of {condition.percent} %{_seeded(condition.seed)}"
    values = [_value(value, condition.type) for value in condition.values]
    if condition.lookup == "range":
        return f"{condition.column} between {values[0]} and {values[1]}"
    if condition.lookup == "in":
        return f"{condition.column} in ({', '.join(values)})"
    return f"{condition.column} {_WORDS[condition.lookup]} {values[0]}"


def _seeded(seed: str) -> str:
    return f" (seed {seed!r})" if seed else ""


def _value(text: str, kind: str) -> str:
    return repr(text) if kind in TEXT or not text.isascii() or " " in text else text


def selected(selection: Selection | None) -> str:
    """Write a selection for people; "" if there is none."""
    match selection:
        case None:
            return ""
        case LatestRows(number, by):
            return f"the {number:,} latest by {by}"
        case SampledRows(number, seed):
            return f"a sample of {number:,}{_seeded(seed)}"
