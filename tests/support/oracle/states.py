"""What stands on either side at one moment, as text: rows, memberships, receipts, wanted rows."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

import psycopg
from django.core.exceptions import EmptyResultSet
from django.db import connections
from django.db.models import Model, Q

from replicator import Children, Referenced
from replicator import Rows as DeclaredRows
from replicator.compiler import find_model
from replicator.declare import Rule as DeclaredRule
from replicator.plan import ChildrenRule, DatasetPlan, Edge, Release, RowsRule, Rule
from replicator.relations import on_leave
from replicator_apply.plan import KEPT, LEFT
from tests.support.oracle.fixpoint import Facts, Meaning, Member, Row
from tests.support.oracle.selecting import selected
from tests.support.oracle.system import FULL_NAME, declared_rules, key_text, row_text

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


class SourceReader:
    """Reads the source; nobody writes to it meanwhile.

    Which rows pass a rule's condition is told by the ORM's own statements. They are made once, and
    all of them are sent as one.

    Args:
        connection: to it, of this reader alone.
        releases: of all tables, by name.
        meaning: the datasets.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        releases: Mapping[str, Release],
        meaning: Meaning,
    ) -> None:
        self._connection, self._releases, self._meaning = connection, releases, meaning
        # The ORM names tables without a schema.
        connection.execute("SET search_path = public")
        tables = {release.table for release in releases.values()}
        self._edges = {
            table.name: [edge for edge in meaning.followed if edge.table == table]
            for table in tables
        }
        self._points = " UNION ALL ".join(map(self._ends, releases.values()))
        self._rules = [
            (name, number, rule, told)
            for name, plan in meaning.plans.items()
            for number, (rule, told) in enumerate(zip(plan.rules, _told(plan), strict=True))
        ]
        parts = [self._passing(*each) for each in self._rules if not _chooses(each[3])]
        self._passes = " UNION ALL ".join(filter(None, parts))

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def read(self) -> SourceState:
        """Read it whole."""
        rows = read_rows(self._connection, self._releases.values(), self._meaning)
        return SourceState(rows, {}, self._facts(), self._meaning)

    def _facts(self) -> Facts:
        facts = Facts(passes={(name, number): set() for name, number, *_ in self._rules})
        for table, key, ends in self._connection.execute(self._points):  # type: ignore[call-overload]
            facts.points[table, key] = {
                edge: (edge.to.name, key_of([value]))
                for edge, value in zip(self._edges[table], ends, strict=True)
                if value is not None
            }
        for name, number, table, key in self._connection.execute(self._passes):  # type: ignore[call-overload]
            facts.passes[name, number].add((table, key))
        for name, number, rule, told in self._rules:
            if _chooses(told):
                model, table = find_model(rule.label), self._meaning.plans[name].table_of(rule).name
                rows = list(model._base_manager.using("source").filter(told.where or Q()))
                facts.passes[name, number] = _chosen(table, told, rows)
                if isinstance(rule, RowsRule) and rule.selection is not None:
                    every = replace(told, select=None)
                    facts.eligible[name, number] = _chosen(table, every, rows)
        return facts

    def _ends(self, release: Release) -> str:
        table = release.table.name
        ends = ", ".join(map(_end, self._edges[table]))
        return (
            f"SELECT '{table}', {key_text(release, 't')}, ARRAY[{ends}]::text[] "
            f'FROM public."{table}" t'
        )

    def _passing(self, name: str, number: int, rule: Rule, told: DeclaredRule | None) -> str:
        """Give the statement for the rows that pass a rule's condition; "" if none ever does."""
        model = find_model(rule.label)
        rows = model._base_manager.using("source").order_by().values_list(*key_names(model))
        if told is not None and told.where is not None:
            rows = rows.filter(told.where)
        try:
            statement, values = rows.query.get_compiler("source").as_sql()
        except EmptyResultSet:
            return ""
        columns = [f"k{n}" for n in range(len(key_names(model)))]
        table = self._meaning.plans[name].table_of(rule).name
        return (
            f"SELECT '{name}', {number}, '{table}', "
            f"jsonb_build_array({', '.join(f'{column}::text' for column in columns)})::text "
            f"FROM ({connections['source'].ops.compose_sql(statement, values)}) "  # type: ignore[attr-defined]
            f"AS passing ({', '.join(columns)})"
        )


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


def _told(plan: DatasetPlan) -> list[DeclaredRule | None]:
    """Give the declared rule of each compiled one; rules of a kind keep their order."""
    declared = declared_rules(plan)
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


def _chooses(told: DeclaredRule | None) -> TypeGuard[DeclaredRows]:
    return isinstance(told, DeclaredRows) and (told.keys is not None or told.select is not None)


def _chosen(table: str, told: DeclaredRows, rows: Sequence[Model]) -> set[Row]:
    """Give those of some rows that have a rule's keys and are selected."""
    return {
        (table, key_of([getattr(row, name) for name in key_names(type(row))]))
        for row in selected(told, rows)
    }


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
            f"SELECT {FULL_NAME}, 'subscription', id::text, "
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

    def snapshot(self) -> str:
        """Tell which transactions are seen; that costs little."""
        found = self.connection.execute("SELECT pg_current_snapshot()::text").fetchall()
        return str(found[0][0])

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
