"""Finds models that a dataset leaves out though it takes others that inherit from the same one.

A new type of page is easily forgotten where each type has a rule of its own. Reads model meta
only; needs `django.setup()` and no database.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from django.db.models import ForeignKey, Model

from replicator.columns import column_name
from replicator.compiler import find_model
from replicator.declare import declared_opt_ins
from replicator.errors import WrongDeclaration
from replicator.generic import generic_relations
from replicator.plan import ChildrenRule, DatasetPlan, Edge, TableName

Type = type[Model]


class LeftOut(NamedTuple):
    """A model without a rule such as those that inherit from the same one have.

    Attributes:
        taken: what the dataset takes.
        missing: what it does not.
        helper: arguments of `children_for_derived_models`, which takes all of it.
    """

    taken: str
    missing: str
    helper: str


def left_out(plan: DatasetPlan) -> list[LeftOut]:
    """Name what a dataset leaves out of the models that inherit from one, and hang on such."""
    edges = [edge for rule in plan.rules if isinstance(rule, ChildrenRule) for edge in rule.edges]
    models = {release.table: find_model(release.label) for release in plan.releases}
    others = [model for model in _opted_in(plan.stream) if model not in models.values()]
    return [
        *_halves(models, edges, others),
        *_by_foreign_keys(models, edges, others),
        *_by_generic_relations(models, edges),
    ]


def _opted_in(stream: str) -> list[Type]:
    found: list[Type] = []
    for declaration in declared_opt_ins():
        with suppress(WrongDeclaration):
            if declaration.stream == stream:
                found.append(find_model(declaration.label))
    return sorted(found, key=_label)


def _label(model: Type) -> str:
    return model._meta.label


def _named(base: Type) -> str:
    """Write a model as an argument; no label finds an abstract one."""
    return base.__name__ if base._meta.abstract else f'"{_label(base)}"'


def _halves(
    models: dict[TableName, Type], edges: list[Edge], others: list[Type]
) -> Iterator[LeftOut]:
    """Find models with a table of the base's beside their own: its rows come without the rest."""
    taken = {
        models[edge.to]: models[edge.table]
        for edge in edges
        if models[edge.to] in models[edge.table]._meta.get_parent_list() and not edge.generic
    }
    for base, example in taken.items():
        for model in others:
            if base in model._meta.get_parent_list():
                yield LeftOut(_label(example), _label(model), _named(base))


def _by_foreign_keys(
    models: dict[TableName, Type], edges: list[Edge], others: list[Type]
) -> Iterator[LeftOut]:
    """Find models that have the foreign key of an abstract model by which several are taken."""
    taken: dict[tuple[Type, str], list[Type]] = defaultdict(list)
    for edge in edges:
        model = models[edge.table]
        for base in _abstract_bases(model):
            for field in base._meta.local_fields:
                if isinstance(field, ForeignKey) and (column_name(field),) == edge.columns:
                    taken[base, field.name].append(model)
    for (base, name), examples in taken.items():
        # One alone may have been chosen.
        for model in others if len(set(examples)) > 1 else ():
            if issubclass(model, base):
                of = f'{_named(base)}, of="{name}"'
                yield LeftOut(", ".join(map(_label, examples)), _label(model), of)


def _abstract_bases(model: Type) -> list[Type]:
    bases = (base for base in model.__mro__ if issubclass(base, Model) and base is not Model)
    return [base for base in bases if base._meta.abstract]


def _by_generic_relations(models: dict[TableName, Type], edges: list[Edge]) -> Iterator[LeftOut]:
    """Find models of the dataset whose generic relation, a base's, is not followed as others'."""
    followed = {
        (models[edge.to], name)
        for edge in edges
        if edge.generic
        for name, key in generic_relations(models[edge.to]).items()
        if key.model is models[edge.table]
    }
    for model in sorted(models.values(), key=_label):
        for other, name in sorted(followed, key=str):
            if (model, name) in followed or name not in generic_relations(model):
                continue
            if base := _common_base(model, other):
                of = f'{_named(base)}, of="{name}"'
                yield LeftOut(f"{_label(other)}.{name}", f"{_label(model)}.{name}", of)
                break


def _common_base(one: Type, other: Type) -> Type | None:
    """Give the model from which two inherit, the last one if there are several."""
    shared = (m for m in one.__mro__ if issubclass(other, m) and issubclass(m, Model))
    found = next(shared, Model)
    return None if found is Model else found
