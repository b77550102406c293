"""What stands on either side at one moment, as text: rows, memberships, receipts, wanted rows."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from django.db.models import Model

from replicator import Children, Referenced
from replicator import Rows as DeclaredRows
from replicator.compiler import find_model
from replicator.declare import Rule as DeclaredRule
from replicator.declare import declared_datasets, rules_in_full
from replicator.plan import ChildrenRule, DatasetPlan, Edge, Release, RowsRule, Rule
from replicator.relations import on_leave
from replicator_apply.plan import KEPT, LEFT
from tests.support.oracle.fixpoint import Facts, Meaning, Member, Row
from tests.support.oracle.selecting import selected
from tests.support.oracle.system import key_text, row_text

Rows = dict[str, dict[str, str]]
"""By table and key, both as text."""


@dataclass
class SourceState:
    """The source after one of its transactions.

    Attributes:
        rows: all of the released tables.
        members: what belongs, by the datasets of the plan and the rows of paused ones, once asked.
        facts: what decides of that.
        meaning: the datasets.
    """

    rows: Rows
    members: dict[tuple[Set[str], Set[Row]], Set[Member]]
    facts: Facts
    meaning: Meaning


def source_state(
    connection: psycopg.Connection[Any],
    releases: Mapping[str, Release],
    meaning: Meaning,
) -> SourceState:
    """Read the source; nobody writes to it meanwhile."""
    facts = read_facts(connection, releases.values(), meaning)
    return SourceState(read_rows(connection, releases.values(), meaning), {}, facts, meaning)


def read_rows(
    connection: psycopg.Connection[Any], releases: Iterable[Release], meaning: Meaning
) -> Rows:
    """Read tables whole."""
    found: Rows = {release.table.name: {} for release in releases}
    parts = [
        f"SELECT '{release.table.name}', {key_text(release, 't')}, "
        f"{row_text(release, 't', meaning.apart(release.table))} "
        f'FROM public."{release.table.name}" t'
        for release in releases
    ]
    for table, key, row in connection.execute(" UNION ALL ".join(parts)):  # type: ignore[call-overload]
        found[table][key] = row
    return found


def read_facts(
    connection: psycopg.Connection[Any], releases: Iterable[Release], meaning: Meaning
) -> Facts:
    """Read who points at whom, and ask the ORM which rows pass which rule's condition."""
    facts = Facts()
    for release in releases:
        edges = [edge for edge in meaning.followed if edge.table == release.table]
        ends = "".join(f", {_end(edge)}" for edge in edges)
        statement = f'SELECT {key_text(release, "t")}{ends} FROM public."{release.table.name}" t'
        for key, *values in connection.execute(statement):  # type: ignore[call-overload]
            facts.points[release.table.name, key] = {
                edge: (edge.to.name, key_of([value]))
                for edge, value in zip(edges, values, strict=True)
                if value is not None
            }
    for name, plan in meaning.plans.items():
        for number, (rule, told) in enumerate(zip(plan.rules, _told(name, plan), strict=True)):
            facts.passes[name, number] = _passing(plan, rule, told)
            if isinstance(rule, RowsRule) and rule.selection is not None:
                assert isinstance(told, DeclaredRows)
                facts.eligible[name, number] = _passing(plan, rule, replace(told, select=None))
    return facts


def _end(edge: Edge) -> str:
    """Give the expression for the key of the row that `t` points at."""
    key = f't."{edge.columns[0]}"::text'
    if edge.generic is None:
        return key
    names = ", ".join(f"'{name}'" for name in edge.generic.names)
    return (
        "CASE WHEN (SELECT c.app_label || '.' || c.model FROM public.django_content_type c "
        f'WHERE c.id = t."{edge.generic.column}") IN ({names}) THEN {key} END'
    )


def _told(name: str, plan: DatasetPlan) -> list[DeclaredRule | None]:
    """Give the declared rule of each compiled one; rules of a kind keep their order."""
    declared = rules_in_full(declared_datasets()[name].rules)
    rows: list[DeclaredRule] = [r for r in declared if isinstance(r, DeclaredRows)]
    anything = {r.label: r for r in declared if isinstance(r, Children) and r.of == "target"}
    children = [r for r in declared if isinstance(r, Children) and r.label not in anything]
    referenced = {find_model(r.label)._meta.label: r for r in declared if isinstance(r, Referenced)}
    return [
        rows.pop(0)
        if isinstance(rule, RowsRule)
        else (anything[rule.label] if rule.label in anything else children.pop(0))
        if isinstance(rule, ChildrenRule)
        else referenced.get(rule.label)
        for rule in plan.rules
    ]


def _passing(plan: DatasetPlan, rule: Rule, told: DeclaredRule | None) -> set[Row]:
    model = find_model(rule.label)
    rows = model._base_manager.using("source").all()
    if told is not None and told.where is not None:
        rows = rows.filter(told.where)
    table = plan.table_of(rule).name
    if isinstance(told, DeclaredRows) and (told.keys is not None or told.select is not None):
        found = selected(told, list(rows))
        names = key_names(model)
        return {(table, key_of([getattr(row, name) for name in names])) for row in found}
    return {(table, key_of(values)) for values in rows.values_list(*key_names(model))}


def key_names(model: type[Model]) -> list[str]:
    """Name the fields of a model's primary key."""
    return [field.attname for field in model._meta.pk_fields]


def key_of(values: Iterable[object]) -> str:
    """Write a key as the state tables do."""
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"


@dataclass(frozen=True)
class Subscribed:
    """A subscription as it stands: its dataset, its generation, whether it is paused or ends."""

    dataset: str
    generation: int
    paused: bool
    leaving: bool


@dataclass(frozen=True)
class TargetState:
    """The target in one snapshot.

    Attributes:
        rows: all of the replicated tables.
        receipts: by table and key, the subscriptions; 0 for kept rows.
        wanted: by table, the keys.
        runs: unfinished backfills.
        heavy: those of them that make receipts suspect.
        chosen: by subscription and name of the rule, the keys that the source has chosen.
        position: `N`.
        stopped: why the stream stands.
        marked: by table, keys of rows that are marked as rows that left.
        generations: by table, key and subscription, those of the receipts.
        subscribed: the subscriptions, by number.
    """

    rows: Rows
    receipts: dict[str, dict[str, set[int]]]
    wanted: dict[str, set[str]]
    runs: int
    heavy: int
    chosen: dict[tuple[int, str], set[str]]
    position: int
    stopped: str
    marked: dict[str, set[str]]
    generations: dict[tuple[str, str, int], int]
    subscribed: dict[int, Subscribed]

    def is_current(self, table: str, key: str, loose: Set[str]) -> bool:
        """Whether a row must be as it is on the source.

        Args:
            table: its table.
            key: its key.
            loose: datasets whose subscriptions were once paused.
        """
        for number in self.held(table, key):
            one = self.subscribed.get(number)
            if one is None or one.dataset not in loose:
                return True
            if not one.paused and self.generations[table, key, number] >= one.generation:
                return True
        return False

    @property
    def frozen(self) -> frozenset[Row]:
        """The rows of paused subscriptions."""
        return frozenset(
            (table, key)
            for table, rows in self.receipts.items()
            for key, holders in rows.items()
            if any(n in self.subscribed and self.subscribed[n].paused for n in holders)
        )

    def held(self, table: str, key: str) -> set[int]:
        """Give the subscriptions that hold a row."""
        return self.receipts.get(table, {}).get(key, set()) - {KEPT, LEFT}

    def left(self, table: str, key: str) -> bool:
        """Whether a row left and stays by the policy of its rules."""
        return LEFT in self.receipts[table].get(key, set())

    def kept(self, table: str, key: str) -> bool:
        """Whether a row left and stays for local rows."""
        return KEPT in self.receipts[table].get(key, set())

    @property
    def marks(self) -> list[str]:
        """What the witnesses say."""
        return [
            row for name in ("witness_first", "witness_second") for row in self.rows[name].values()
        ]


@dataclass
class TargetReader:
    """Reads the target in one statement, so in one snapshot."""

    connection: psycopg.Connection[Any]
    releases: Mapping[str, Release]
    meaning: Meaning
    _statement: str = field(init=False)

    def __post_init__(self) -> None:
        parts = [
            "SELECT '', 'position', next_lsn::text, stopped_reason "
            "FROM public.replicator_streamposition",
            "SELECT '', 'runs', count(*)::text, count(*) FILTER (WHERE NOT light)::text "
            "FROM public.replicator_backfillrun WHERE state IN ('running', 'paused', 'waiting')",
            "SELECT rule, 'chosen', row_key, subscription_id::text "
            "FROM public.replicator_chosenrow",
            "SELECT table_name, 'wanted', row_key, '' FROM public.replicator_wantedrow",
            "SELECT dataset, 'subscription', id::text, "
            "concat_ws(' ', generation, paused, leaving <> '') "
            "FROM public.replicator_subscription",
        ]
        for release in self.releases.values():
            parts += self._parts(release)
        self._statement = " UNION ALL ".join(parts)

    def _parts(self, release: Release) -> list[str]:
        name = release.table.name
        marks = {
            f"SELECT '{name}', 'marked', {key_text(release, 't')}, '' FROM public.\"{name}\" t "
            f"WHERE coalesce(t.\"{policy.column}\"::text, 'false') <> 'false'"
            for policy in on_leave(self.meaning.plans.values(), release.table)
            if policy.column
        }
        return [
            *marks,
            f"SELECT '{name}', 'row', {key_text(release, 't')}, "
            f"{row_text(release, 't', self.meaning.apart(release.table))} "
            f'FROM public."{name}" t',
            f"SELECT '{name}', 'receipt', {key_text(release, 'r')}, "
            f"r.subscription_id || ' ' || r.generation "
            f'FROM replicator."public.{name}" r',
        ]

    def raw(self) -> list[tuple[str, str, str, str]]:
        """Read all lines."""
        return self.connection.execute(self._statement).fetchall()  # type: ignore[call-overload,no-any-return]

    def read(self) -> TargetState:
        """Read the target."""
        return self.parse(self.raw())

    def parse(self, lines: Iterable[tuple[str, str, str, str]]) -> TargetState:
        """Sort what `raw` gave."""
        rows: Rows = {name: {} for name in self.releases}
        receipts: dict[str, dict[str, set[int]]] = {name: {} for name in self.releases}
        wanted: dict[str, set[str]] = {name: set() for name in self.releases}
        marked: dict[str, set[str]] = {name: set() for name in self.releases}
        chosen: dict[tuple[int, str], set[str]] = {}
        generations: dict[tuple[str, str, int], int] = {}
        subscribed: dict[int, Subscribed] = {}
        runs, heavy, position, stopped = 0, 0, 0, ""
        for table, kind, key, value in lines:
            if kind == "row":
                rows[table][key] = value
            elif kind == "receipt":
                number, generation = map(int, value.split())
                receipts[table].setdefault(key, set()).add(number)
                generations[table, key, number] = generation
            elif kind == "subscription":
                newest, paused, leaving = value.split()
                subscribed[int(key)] = Subscribed(table, int(newest), paused == "t", leaving == "t")
            elif kind == "wanted":
                wanted[table.removeprefix("public.")].add(key)
            elif kind == "marked":
                marked[table].add(key)
            elif kind == "runs":
                runs, heavy = int(key), int(value)
            elif kind == "chosen":
                chosen.setdefault((int(value), table), set()).add(key)
            else:
                position, stopped = int(key), value
        return TargetState(
            rows,
            receipts,
            wanted,
            runs,
            heavy,
            chosen,
            position,
            stopped,
            marked,
            generations,
            subscribed,
        )
