"""What the rules of a dataset mean together: which rows hang on which, and what may go wrong.

A row belongs if a chain of rules ties it to a `RowsRule` (the least fixpoint), and no foreign key
of it dangles. A foreign key has one of three policies. *Null*: NULL is written while the row
pointed at is not here. *Pulled*: that row belongs whenever its referrer does, by a rule or because
all of its table does. Else *required*: the row waits outside until the other is here; such a
foreign key is a *gate*. Pure.
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from functools import lru_cache
from typing import TypeVar

from replicator.plan import (
    ChildrenRule,
    DatasetPlan,
    Edge,
    OnLeave,
    ReferencedRule,
    Release,
    RowsRule,
    Rule,
    TableName,
)

Node = TypeVar("Node")


def edges_of(release: Release) -> Iterator[Edge]:
    """Give the foreign keys that Postgres guards, among a table's released columns."""
    for key in release.foreign_keys:
        if key.constrained and not key.natural:
            yield key.edge_from(release.table)


def edges_by(rule: Rule) -> tuple[Edge, ...]:
    """Give the foreign keys by which a rule hangs on others."""
    if isinstance(rule, ChildrenRule):
        return rule.edges
    return (rule.edge,) if isinstance(rule, ReferencedRule) else ()


def steps_of(rule: Rule) -> Iterator[tuple[TableName, TableName]]:
    """Give pairs of tables: rows of the first hang by a rule on rows of the second."""
    pulled = isinstance(rule, ReferencedRule)
    for edge in edges_by(rule):
        yield (edge.to, edge.table) if pulled else (edge.table, edge.to)


@lru_cache(maxsize=256)
def whole_tables(dataset: DatasetPlan) -> frozenset[TableName]:
    """Name the tables of which every row belongs, come what may.

    That is every row of a `Rows` rule without a filter and, where Postgres guards a foreign key
    that is never NULL, every child of a whole table; unless a gate may keep a row out.
    """
    kept_out = set[TableName]()
    while True:
        whole = _grown(dataset, kept_out)
        out = {t for t in whole if any(e.to not in whole for e in _strict(dataset, t))}
        if not out:
            return frozenset(whole)
        kept_out |= out


def _grown(dataset: DatasetPlan, kept_out: set[TableName]) -> set[TableName]:
    """Begin with the tables that a rule takes all of, and add children of whole tables."""
    whole = {dataset.table_of(r) for r in dataset.rules if _takes_all(r)} - kept_out
    while True:
        children = (r for r in dataset.rules if _all_children(dataset, r, whole))
        more = {dataset.table_of(rule) for rule in children} - kept_out - whole
        if not more:
            return whole
        whole |= more


def _takes_all(rule: object) -> bool:
    return isinstance(rule, RowsRule) and rule.takes_all


def _all_children(dataset: DatasetPlan, rule: object, whole: set[TableName]) -> bool:
    if not isinstance(rule, ChildrenRule) or rule.filter is not None:
        return False
    return all(edge.to in whole and _always_points(dataset, edge) for edge in rule.edges)


def _always_points(dataset: DatasetPlan, edge: Edge) -> bool:
    keys = (k for r in dataset.releases if r.table == edge.table for k in r.foreign_keys)
    return (
        edge.generic is None
        and edge.to != edge.table
        and any(k.columns == edge.columns and k.constrained and not k.nullable for k in keys)
    )


def _strict(dataset: DatasetPlan, table: TableName) -> Iterator[Edge]:
    """Give the foreign keys of a table that have neither policy null nor a rule of their own."""
    pulling = {r.edge for r in dataset.rules if isinstance(r, ReferencedRule) and not r.filter}
    for release in dataset.releases:
        if release.table == table:
            yield from (e for e in edges_of(release) if e not in pulling | set(dataset.nulls))


def pulls(dataset: DatasetPlan, edge: Edge) -> bool:
    """Whether the row that an edge points at belongs whenever the row that points does."""
    rules = (r for r in dataset.rules if isinstance(r, ReferencedRule) and r.filter is None)
    return edge.to in whole_tables(dataset) or any(rule.edge == edge for rule in rules)


def nulls(datasets: Iterable[DatasetPlan]) -> frozenset[Edge]:
    """Give the edges with policy null; it is the same for every dataset of a plan."""
    return frozenset(edge for dataset in datasets for edge in dataset.nulls)


def on_leave(datasets: Iterable[DatasetPlan], table: TableName) -> list[OnLeave]:
    """Give what is said of rows of a table that leave, each once; more than one is a mistake.

    Where nothing is said they are deleted. What one dataset says holds for all of a plan.
    """
    said = (policy for dataset in datasets for policy in dataset.on_leave)
    return list(dict.fromkeys(policy for policy in said if policy.table == table))


def gates(datasets: Sequence[DatasetPlan]) -> frozenset[Edge]:
    """Give the edges that can keep a row out for as long as the row they point at is out."""
    free = nulls(datasets)
    return frozenset(
        edge
        for dataset in datasets
        for release in dataset.releases
        for edge in edges_of(release)
        if edge not in free and not all(pulls(d, edge) for d in datasets if _has(d, edge.table))
    )


def _has(dataset: DatasetPlan, table: TableName) -> bool:
    return any(release.table == table for release in dataset.releases)


def hangs_on(datasets: Sequence[DatasetPlan], table: TableName, without: Edge) -> set[TableName]:
    """Name the tables that the belonging of a table's rows depends on, directly or not.

    Args:
        datasets: of the plan.
        table: where to begin; among the result only if it hangs on itself by way of another.
        without: an edge that is left out.
    """
    steps = {(e.table, e.to) for e in gates(datasets) if e != without}
    for rule in (rule for dataset in datasets for rule in dataset.rules):
        if isinstance(rule, ReferencedRule):
            steps.add((rule.edge.to, rule.edge.table))
        elif isinstance(rule, ChildrenRule):
            steps |= {(e.table, e.to) for e in rule.edges if e != without}
    return reached(table, steps)


def reached(begin: Node, steps: Set[tuple[Node, Node]]) -> set[Node]:
    """Give all that can be reached in one step or more; its beginning only by a way back."""
    found, todo = set[Node](), {begin}
    while todo := {to for at, to in steps if at in todo} - found:
        found |= todo
    return found


def undecided(dataset: DatasetPlan) -> list[Edge]:
    """Give the foreign keys that leave a dataset and have no policy.

    An edge along which every rule on its table leads to a parent needs none: its row is here.
    """
    chosen = {*dataset.nulls, *dataset.required}
    return [
        edge
        for release in dataset.releases
        for edge in edges_of(release)
        if edge not in chosen
        and not pulls(dataset, edge)
        and not led_along(dataset.rules_of(edge.table), edge)
    ]


def led_along(rules: Iterable[Rule], edge: Edge) -> bool:
    """Whether by each of a table's rules a row belongs only where the row at an edge's end does."""
    return all(isinstance(rule, ChildrenRule) and edge in rule.edges for rule in rules)


def stuck(dataset: DatasetPlan) -> list[tuple[Edge, Edge]]:
    """Give pairs of a pulling edge and a required one that may keep the row pulled in out."""
    return [
        (rule.edge, edge)
        for rule in dataset.rules
        if isinstance(rule, ReferencedRule)
        for edge in _strict(dataset, rule.edge.to)
        if not pulls(dataset, edge) and rule.edge not in dataset.nulls
    ]


def rings(datasets: Sequence[DatasetPlan]) -> list[Edge]:
    """Give the gates whose row may hang on the row that requires it; self-references are trees."""
    return [
        edge
        for edge in sorted(gates(datasets), key=str)
        if edge.table in hangs_on(datasets, edge.to, edge)
    ]
