"""From declared datasets and Django's models to the plain values of `replicator.plan`.

Reads model meta only; needs `django.setup()` and no database. Every function raises
`WrongDeclaration` with the id of the system check that reports the same mistake.
"""

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any, cast

from django.db.models import BooleanField, DateTimeField, Field, Model
from django.db.models import ForeignKey as DjangoForeignKey

from replicator.columns import column_name
from replicator.compiler import compile_release, find_model, table_of
from replicator.declare import (
    AnyDataset,
    Children,
    Dataset,
    OptIn,
    Referenced,
    Rows,
    declared_datasets,
    declared_opt_ins,
    names_of,
    rules_in_full,
)
from replicator.declare import Rule as Declared
from replicator.errors import WrongDeclaration
from replicator.generic import generic_edge, generic_keys, generic_relations
from replicator.plan import (
    ChildrenRule,
    DatasetPlan,
    Edge,
    Filter,
    OnLeave,
    ReferencedRule,
    Release,
    RowsRule,
    Rule,
    fingerprint,
    full_name,
)
from replicator.relations import led_along
from replicator.row_selection import compile_filter, compile_selection
from replicator.selectors import Latest, Sample
from replicator.signature import rules_for, takes_none
from replicator.where import compile_where


def find_dataset(name: str, arguments: str = "") -> DatasetPlan:
    """Compile the dataset of that name, for these arguments.

    Args:
        name: without arguments.
        arguments: what follows the colon in `polls:3,4`; "" if nothing does.

    Raises:
        WrongDeclaration: there is none, it does not take the arguments, or it cannot be compiled.
    """
    dataset = declared_datasets().get(name)
    if dataset is None:
        known = ", ".join(sorted(declared_datasets())) or "none"
        raise WrongDeclaration(
            f"There is no dataset {name!r}",
            check_id="replicator.E033",
            remedy=f"Declare it in a replication.py, or name one of those declared: {known}.",
        )
    return compile_dataset(dataset, arguments)


def compile_dataset(dataset: AnyDataset, arguments: str = "") -> DatasetPlan:
    """Compile a dataset's rules for some arguments, and the releases they stand on.

    Raises:
        WrongDeclaration: the arguments do not fit, a rule names a model that is not opted in or an
            edge that is not there, its filter is refused, or the rules' tables travel in several
            streams.
    """
    if not isinstance(dataset, Dataset):
        return _Compilation(dataset.name, arguments, rules_for(dataset, arguments)).plan()
    if arguments:
        raise takes_none(dataset)
    return _Compilation(dataset.name, "", rules_in_full(dataset.rules)).plan()


class _Compilation:
    """Compiles one dataset for some arguments.

    `_releases` grows while rules are compiled: a rule on a model brings the models that it inherits
    from (https://docs.djangoproject.com/en/5.2/topics/db/models/#multi-table-inheritance).
    """

    def __init__(self, name: str, arguments: str, rules: tuple[Declared, ...]) -> None:
        self._name, self._arguments, self._rules = name, arguments, rules
        self._full_name = full_name(name, arguments)
        self._opt_ins = {d.label.lower(): d for d in declared_opt_ins()}
        self._releases: dict[str, Release] = {}

    def plan(self) -> DatasetPlan:
        declared = self._rules
        for rule in declared:
            self._release(rule.label)
        links = list(self._parent_links())
        rules: list[Rule] = []
        for rule in declared:
            if isinstance(rule, Children):
                rules += self._children(rule)
            elif isinstance(rule, Referenced):
                rules += self._referenced(rule)
            else:
                rules.append(self._rows(rule))
        for label, edge in links:
            pulling = ReferencedRule(self._label_of(edge), edge)
            if pulling not in rules and not _always_under(rules, label, edge):
                rules.append(pulling)
        # Pages are named by the rule's number.
        rules.sort(key=lambda rule: not isinstance(rule, RowsRule))
        if not isinstance(rules[0], RowsRule):
            raise WrongDeclaration(
                f"Dataset {self._full_name!r} has no Rows rule: nothing belongs to begin with",
                check_id="replicator.E036",
                remedy="Add Rows(model), with the rows that the others hang on.",
            )
        releases = tuple(self._releases.values())
        nulls = self._edges(declared, "null")
        required = self._edges(declared, "required")
        self._refuse_contradictions(nulls, required, releases)
        return DatasetPlan(
            self._name,
            _one_stream(self._full_name, releases),
            tuple(rules),
            releases,
            fingerprint(tuple(rules), releases, nulls, required),
            nulls,
            required,
            self._arguments,
            self._on_leave(declared),
            _every(declared),
        )

    # Models --------------------------------------------------------------------------------------

    def _release(self, label: str) -> Release:
        declaration: OptIn | None = self._opt_ins.get(label.lower())
        if declaration is None:
            raise WrongDeclaration(
                f"Dataset {self._full_name!r} has a rule on {label}, which is not opted in",
                check_id="replicator.E030",
                remedy=f'Add opt_in("{label}"), or remove the rule.',
            )
        known = find_model(label)._meta.label
        if known not in self._releases:
            self._releases[known] = compile_release(declaration)
        return self._releases[known]

    def _label(self, rule: Declared) -> str:
        return self._release(rule.label).label

    def _label_of(self, edge: Edge) -> str:
        return next(r.label for r in self._releases.values() if r.table == edge.to)

    def _rows(self, rule: Declared) -> RowsRule:
        model, release = find_model(rule.label), self._release(rule.label)
        if not isinstance(rule, Rows):
            return RowsRule(release.label, compile_where(model, rule.where, release))
        return RowsRule(
            release.label,
            compile_filter(model, rule, release),
            compile_selection(model, rule, release),
        )

    def _filter(self, rule: Declared) -> Filter | None:
        return compile_where(find_model(rule.label), rule.where, self._release(rule.label))

    def _parent_links(self) -> Iterator[tuple[str, Edge]]:
        """Add the models of which a row of an inheriting one is the rest; give their links."""
        todo = list(self._releases)
        while todo:
            release = self._releases[todo.pop()]
            for parent, link in find_model(release.label)._meta.parents.items():
                if link is None or column_name(link) not in release.columns:
                    continue
                if parent._meta.label not in self._releases:
                    self._release(parent._meta.label)
                    todo.append(parent._meta.label)
                yield release.label, self._edge(release, link)

    # Rows that leave -----------------------------------------------------------------------------

    def _on_leave(self, declared: Iterable[Declared]) -> tuple[OnLeave, ...]:
        said: dict[str, OnLeave] = {}
        for rule in declared:
            if rule.on_leave is None and rule.soft is None:
                continue
            release = self._release(rule.label)
            policy = _policy(rule, release)
            if said.setdefault(release.label, policy) != policy:
                raise WrongDeclaration(
                    f"Dataset {self._full_name!r}: rules on {release.label} say different things "
                    f"of rows that leave: {said[release.label]}, and {policy}",
                    check_id="replicator.E044",
                    remedy="Say it once; a rule that says nothing follows the others.",
                )
        return tuple(said.values())

    # Edges ---------------------------------------------------------------------------------------

    def _children(self, rule: Children) -> list[ChildrenRule]:
        """Compile to one rule for each model that a generic foreign key may lead to."""
        names = names_of(rule.of)
        if not names:
            raise WrongDeclaration(
                f"Children({rule.label}) does not say of what",
                check_id="replicator.E036",
                remedy='Name the foreign key that leads to the parent: of="parent".',
            )
        release, condition = self._release(rule.label), self._filter(rule)
        ways = [self._ways(release, name) for name in names]
        known = {each.table for each in self._releases.values()}
        if strangers := [edge for way in ways for edge in way if edge.to not in known]:
            raise WrongDeclaration(
                f"Children({rule.label}): no rule of dataset {self._full_name!r} is on "
                f"{strangers[0].to}, where {strangers[0].columns[0]} leads",
                check_id="replicator.E036",
                remedy="Add a rule on the parent's model.",
            )
        return [ChildrenRule(release.label, edges, condition) for edges in product(*ways)]

    def _ways(self, release: Release, name: str) -> list[Edge]:
        """Give the edges that a name of a parent stands for; there is one but for a generic one."""
        if "." in name:
            return [self._back_along(release, name)]
        key = generic_keys(find_model(release.label)).get(name)
        if key is None:
            return [self._named_edge(release, name, "of")]
        edges = [generic_edge(release, key, parent) for parent in self._releases.values()]
        if found := [edge for edge in edges if edge is not None]:
            return found
        raise WrongDeclaration(
            f"Children({release.label}): no model of dataset {self._full_name!r} has keys that "
            f"{name} can hold",
            check_id="replicator.E036",
            remedy="Add a rule on a model that it leads to.",
        )

    def _back_along(self, release: Release, path: str) -> Edge:
        """Resolve a generic relation, `app_label.Model.relation`."""
        label, _, name = path.rpartition(".")
        model, child = find_model(label), find_model(release.label)
        there = {n: key for n, key in generic_relations(model).items() if key.model is child}
        key = there.get(name)
        if key is None:
            known = [f"{model._meta.label}.{each}" for each in there]
            raise WrongDeclaration(
                f"Children({release.label}): {path} is no generic relation that leads to it",
                check_id="replicator.E036",
                remedy=f"Those of {model._meta.label} that do: {', '.join(known) or 'none'}. Or "
                f"name a foreign key of {release.label}, generic or not, by its name alone.",
            )
        parent = self._releases.get(model._meta.label)
        if parent is None:
            raise WrongDeclaration(
                f"Children({release.label}): no rule of dataset {self._full_name!r} is on {label}",
                check_id="replicator.E036",
                remedy="Add a rule on the parent's model.",
            )
        edge = generic_edge(release, key, parent)
        if edge is None:
            raise WrongDeclaration(
                f"Children({release.label}): its column for the key cannot hold keys of {label}",
                check_id="replicator.E036",
                remedy="It takes keys of its own type, or integers, UUIDs and texts as text.",
            )
        return edge

    def _referenced(self, rule: Referenced) -> list[Rule]:
        target = self._release(rule.label)
        found = self._via(rule) if rule.via is not None else list(self._pointing_at(target))
        if strangers := [edge for edge in found if edge.to != target.table]:
            raise WrongDeclaration(
                f"Referenced({rule.label}): {strangers[0]} leads to {strangers[0].to}",
                check_id="replicator.E036",
                remedy=f"Name foreign keys that point at {rule.label}.",
            )
        if not found:
            raise WrongDeclaration(
                f"Referenced({rule.label}): no released foreign key of dataset "
                f"{self._full_name!r} points at it",
                check_id="replicator.E036",
                remedy="Release the foreign key, or write Rows instead.",
            )
        condition = self._filter(rule)
        return [ReferencedRule(target.label, edge, condition) for edge in found]

    def _pointing_at(self, target: Release) -> Iterator[Edge]:
        for release in self._releases.values():
            for key in release.foreign_keys:
                if key.to == target.table:
                    yield key.edge_from(release.table)

    def _via(self, rule: Referenced) -> list[Edge]:
        edges = []
        for path in names_of(rule.via or ()):
            label, _, name = path.rpartition(".")
            release = self._releases.get(find_model(label)._meta.label) if "." in label else None
            if release is None:
                raise WrongDeclaration(
                    f"Referenced({rule.label}): via names {path!r}, and no rule is on {label!r}",
                    check_id="replicator.E036",
                    remedy="Write app_label.Model.field, of a model that the dataset has.",
                )
            edges.append(self._named_edge(release, name, "via"))
        return edges

    def _edges(self, declared: Iterable[Declared], policy: str) -> tuple[Edge, ...]:
        found: dict[Edge, None] = {}
        for rule in declared:
            release = self._release(rule.label)
            for name in names_of(getattr(rule, policy)):
                found[self._named_edge(release, name, policy)] = None
        return tuple(sorted(found, key=str))

    def _named_edge(self, release: Release, name: str, argument: str) -> Edge:
        """Resolve the name of a foreign key: field, attribute or column."""
        model = find_model(release.label)
        keys = [f for f in model._meta.local_concrete_fields if isinstance(f, DjangoForeignKey)]
        for field in keys:
            if name in (field.name, field.attname, field.column):
                if column_name(field) not in release.columns:
                    raise WrongDeclaration(
                        f"{release.label}: {argument} names {name}, which is not released",
                        check_id="replicator.E036",
                        remedy="Release the column in opt_in.",
                    )
                return self._edge(release, field)
        raise WrongDeclaration(
            f"{release.label} has no foreign key {name!r} ({argument})",
            check_id="replicator.E036",
            remedy=_name_of_edge_remedy(model, keys, name),
        )

    def _edge(self, release: Release, field: "Field[Any, Any]") -> Edge:
        target = cast("DjangoForeignKey[Model, Model]", field).target_field
        columns, to_columns = (column_name(field),), (column_name(target),)
        return Edge(release.table, columns, table_of(target.model), to_columns)

    def _refuse_contradictions(
        self, nulls: tuple[Edge, ...], required: tuple[Edge, ...], releases: tuple[Release, ...]
    ) -> None:
        nullable = {
            (release.table, key.columns)
            for release in releases
            for key in release.foreign_keys
            if key.nullable
        }
        for edge in nulls:
            if edge in required:
                problem, remedy = f"{edge} is both null and required", "Keep one of them."
            elif (edge.table, edge.columns) not in nullable:
                problem = f"null names {edge}, which may not be NULL"
                remedy = "Write required, or pull the other row in by Referenced."
            else:
                continue
            raise WrongDeclaration(
                f"Dataset {self._full_name!r}: {problem}",
                check_id="replicator.E037",
                remedy=remedy,
            )


def _policy(rule: Declared, release: Release) -> OnLeave:
    if rule.soft is None:
        return OnLeave(release.table, rule.on_leave or "delete")
    fields = find_model(release.label)._meta.local_concrete_fields
    field = next((f for f in fields if rule.soft in (f.name, column_name(f))), None)
    if field is None:
        known = ", ".join(f.name for f in fields if column_name(f) in release.excluded)
        problem = f"soft names {rule.soft!r}, which the model's own table does not have"
        remedy = f"Columns that do not travel: {known or 'none'}."
    elif column_name(field) not in release.excluded:
        problem = f"soft names {rule.soft!r}, which travels, or is not to be written"
        remedy = f'Keep it in each environment: opt_in(…, exclude=["{rule.soft}"]).'
    elif isinstance(field, BooleanField) or (isinstance(field, DateTimeField) and field.null):
        flag = isinstance(field, BooleanField)
        return OnLeave(release.table, "soft", column_name(field), flag)
    else:
        problem = f"soft names {rule.soft!r}, which can mark no row"
        remedy = "Name a DateTimeField(null=True) or a BooleanField."
    raise WrongDeclaration(
        f"{type(rule).__name__}({release.label}): {problem}",
        check_id="replicator.E045",
        remedy=remedy,
    )


def _every(declared: Iterable[Declared]) -> float | None:
    """Give the seconds after which rows are chosen anew: all of them as often as one asks for."""
    selects = [rule.select for rule in declared if isinstance(rule, Rows)]
    found = [s.every.total_seconds() for s in selects if isinstance(s, Latest | Sample)]
    return min(found, default=None)


def _always_under(rules: Iterable[Rule], label: str, edge: Edge) -> bool:
    """Whether every row of a model belongs only where the row at the end of an edge does."""
    own = [rule for rule in rules if rule.label == label]
    return bool(own) and led_along(own, edge)


def _name_of_edge_remedy(
    model: type[Model], keys: "list[DjangoForeignKey[Model, Model]]", name: str
) -> str:
    for parent in model._meta.get_parent_list():
        if any(isinstance(f, Field) and f.name == name for f in parent._meta.local_fields):
            return f"{name} is a column of {parent._meta.label}: write the rule on that model."
    known = ", ".join([*(field.name for field in keys), *generic_keys(model)]) or "none"
    return f"Its own foreign keys are: {known}."


def _one_stream(name: str, found: tuple[Release, ...]) -> str:
    streams = sorted({release.stream for release in found})
    if len(streams) > 1:
        raise WrongDeclaration(
            f"Dataset {name!r} has tables in several streams: {', '.join(streams)}",
            check_id="replicator.E032",
            remedy="Opt its models in to one stream, or make one dataset per stream.",
        )
    return streams[0]
