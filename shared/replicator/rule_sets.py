"""Helpers of declarations: many rules by one name, worked out when the dataset is compiled.

They are called in a `replication.py`, when those of other apps may not have been read yet. So they
give a `RuleSet`, which asks for the opted-in models only later, and in an order of its own: neither
the order of apps nor that of opt-ins changes a dataset. Needs no database.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypedDict

from django.apps import apps
from django.db.models import ForeignKey, Model, Q

from replicator.closure import Link, Reach
from replicator.columns import column_name
from replicator.compiler import BY_NATURAL_KEY, OWN_APP, compile_release, find_model
from replicator.declare import (
    Children,
    ModelRef,
    Names,
    Referenced,
    Rows,
    Rule,
    RuleSet,
    app_label_of,
    declared_opt_ins,
    labels_of,
    names_of,
)
from replicator.errors import WrongDeclaration
from replicator.generic import generic_edge, generic_relations
from replicator.plan import Release

STOP = BY_NATURAL_KEY | {
    "auth.group",
    "sessions.session",
    "admin.logentry",
    "migrations.migration",
}
"""Models that `closure_of` never enters by itself: what they lead to has nothing to do with it."""


def rows_for_app(app_label: str) -> RuleSet:
    """Give `Rows` of every opted-in model of an app, link tables among them.

    Args:
        app_label: of an installed app, such as "polls".

    Foreign keys that leave the app need a decision beside it, for example by `Referenced`.

    Raises:
        ConfigurationError: the label is no text.
    """
    return AppRows(app_label_of(app_label))


def rows_for_derived_models(model: ModelRef) -> RuleSet:
    """Give `Rows` of every opted-in model that inherits from a model, at any depth.

    Args:
        model: the class of an abstract model, or class or label of one with a table. It is not
            among them itself, but rows of it come along of which rows of the others are the rest.

    Raises:
        ConfigurationError: it is no model.
    """
    labels_of([model])
    return DerivedRows(model)


def children_for_derived_models(model: ModelRef, of: Names = ()) -> RuleSet:
    """Give `Children` for every opted-in model that inherits from a model, at any depth.

    Args:
        model: the class of an abstract model, or class or label of one with a table.
        of: what all of them have of it. Nothing: the link to the row of which theirs is the rest
            (multi-table inheritance). Foreign keys: they are children by these, as in `Children`.
            One generic relation: what points by it at their rows, and at the model's own, are
            children of these.

    Raises:
        ConfigurationError: it is no model, or `of` something else than names.
    """
    (label,) = labels_of([model])
    return DerivedChildren(model, names_of(of, label))


def closure_of(
    model: ModelRef, where: Q | None = None, *, stop: ModelRef | Iterable[ModelRef] = ()
) -> RuleSet:
    """Give rules for everything that can be reached from a model's rows.

    * `Rows(model, where)`;
    * `Children` of it, of these, and so on: all models that point at one which was reached so, by
      a foreign key or by a generic one to which a generic relation of the other model leads back.
      If foreign keys that are never NULL lead there, rows belong when all of those parents do, as
      a many-to-many table's;
    * `Referenced` for all that these point at, and that those point at. What points at a row that
      came in this way is not taken: a user who wrote a question brings no other question.

    Only opted-in models of the root's stream take part. Content types, permissions, groups,
    sessions, the admin's log, migrations and Replicator's own tables do not, even if opted in;
    neither do models in `stop`, nor automatic link tables to a model that does not. A foreign key
    to such a model gets the policy null if it may be NULL, else required.

    Limits: generic foreign keys are not followed up. A foreign key that may be NULL and leads from
    a model reached earlier to one reached later (a team's captain, where members are reached by
    their team) is not followed either; it gets the policy null, as does one to the same model (a
    page's parent). A model is not pulled in if its rows may have to wait for some outside. Where
    that cannot be, because such a model has subclasses or stands on a ring of foreign keys, `check`
    names what needs rules by hand.

    Args:
        model: class or label of the root.
        where: conditions on its own, released columns.
        stop: further models that are not entered.

    Raises:
        ConfigurationError: an argument is of a wrong type.
    """
    return Closure(Rows(model, where), labels_of(stop))


@dataclass(frozen=True, slots=True)
class AppRows(RuleSet):
    """The rule set of `rows_for_app`."""

    app_label: str

    def rules(self) -> tuple[Rule, ...]:
        """Give the rules.

        Raises:
            WrongDeclaration: there is no such app, or none of its models is opted in.
        """
        if self.app_label not in {config.label for config in apps.get_app_configs()}:
            raise WrongDeclaration(
                f"rows_for_app: there is no app {self.app_label!r}",
                check_id="replicator.E010",
                remedy="Give the label of an installed app: the last part of its name.",
            )
        found = [m for m in _opted_in() if m._meta.app_label == self.app_label]
        if not found:
            raise _nothing(f"rows_for_app({self.app_label!r}): no model of the app")
        return tuple(Rows(model) for model in found)


@dataclass(frozen=True, slots=True)
class DerivedRows(RuleSet):
    """The rule set of `rows_for_derived_models`."""

    model: ModelRef

    def rules(self) -> tuple[Rule, ...]:
        """Give the rules.

        Raises:
            WrongDeclaration: there is no such model, or none that inherits from it is opted in.
        """
        _, found = _derived("rows_for_derived_models", self.model)
        return tuple(Rows(model) for model in found)


@dataclass(frozen=True, slots=True)
class DerivedChildren(RuleSet):
    """The rule set of `children_for_derived_models`."""

    model: ModelRef
    of: tuple[str, ...]

    def rules(self) -> tuple[Rule, ...]:
        """Give the rules.

        Raises:
            WrongDeclaration: there is no such model, none that inherits from it is opted in, or
                one has no table of the base's beside its own, where no foreign key is named.
        """
        base, found = _derived("children_for_derived_models", self.model)
        if not self.of:
            return tuple(Children(model, of=_link_to(model, base)) for model in found)
        name = self.of[0]
        if not any(name in generic_relations(model) for model in found):
            return tuple(Children(model, of=self.of) for model in found)
        own = [model for model in _opted_in() if model is base]
        ways = ((model, generic_relations(model).get(name)) for model in (*own, *found))
        return tuple(
            Children(key.model, of=f"{model._meta.label}.{name}") for model, key in ways if key
        )


@dataclass(frozen=True, slots=True)
class Closure(RuleSet):
    """The rule set of `closure_of`."""

    root: Rows
    stop: tuple[str, ...]

    def rules(self) -> tuple[Rule, ...]:
        """Give the rules.

        Raises:
            WrongDeclaration: there is no such model.
        """
        root = find_model(self.root.label)._meta.label
        releases = {r.label: r for r in _releases()}
        if root not in releases:
            return (self.root,)  # Compiled, it tells what is wrong.
        links = [link for release in releases.values() for link in _links(release)]
        links += _links_back(releases)
        where = self.root.where or None
        reach = Reach(root, links, self._open_to(root, releases, links), whole=where is None)
        return tuple(_rules_of(reach, where))

    def _open_to(
        self, root: str, releases: dict[str, Release], links: list[Link]
    ) -> frozenset[str]:
        stop = STOP | {find_model(label)._meta.label_lower for label in self.stop}
        opened = {
            label
            for label, release in releases.items()
            if release.stream == releases[root].stream
            and label.lower() not in stop
            and not label.startswith(f"{OWN_APP}.")
        } | {root}
        cut = {k.model for k in links if k.to not in opened and _is_automatic(k.model)}
        return frozenset(opened - cut | {root})


def _is_automatic(label: str) -> bool:
    return bool(find_model(label)._meta.auto_created)


def _opted_in() -> list[type[Model]]:
    """List the models that are opted in, by label; what names none is another finding."""
    found: dict[str, type[Model]] = {}
    for declaration in declared_opt_ins():
        with suppress(WrongDeclaration):
            model = find_model(declaration.label)
            found[model._meta.label] = model
    return [found[label] for label in sorted(found)]


def _derived(helper: str, model: ModelRef) -> tuple[type[Model], list[type[Model]]]:
    """Give a model, and those opted in that inherit from it."""
    base = find_model(model) if isinstance(model, str) else model
    found = [m for m in _opted_in() if issubclass(m, base) and m is not base]
    if not found:
        raise _nothing(f"{helper}({base._meta.label}): no model that inherits from it")
    return base, found


def _link_to(model: type[Model], base: type[Model]) -> str:
    link = None if base._meta.abstract else model._meta.get_ancestor_link(base)
    if link is None:
        raise WrongDeclaration(
            f"children_for_derived_models({base._meta.label}): {model._meta.label} is not the rest "
            "of a row of it",
            check_id="replicator.E036",
            remedy='Name the foreign key that leads to the parent: of="parent".',
        )
    return link.name


def _nothing(what: str) -> WrongDeclaration:
    return WrongDeclaration(
        f"{what} is opted in",
        check_id="replicator.E030",
        remedy="Add opt_in(…) for those whose rows may leave, or remove the helper.",
    )


def _releases() -> Iterator[Release]:
    for declaration in declared_opt_ins():
        with suppress(WrongDeclaration):
            yield compile_release(declaration)


def _links(release: Release) -> Iterator[Link]:
    """Give the released foreign keys of a model but those to tables that fill themselves."""
    model = find_model(release.label)
    parents = [link for link in model._meta.parents.values() if link is not None]
    for field in model._meta.local_concrete_fields:
        if isinstance(field, ForeignKey) and column_name(field) in release.columns:
            to = field.target_field.model._meta
            if to.label_lower not in BY_NATURAL_KEY:
                yield Link(
                    release.label,
                    field.name,
                    to.label,
                    field.null,
                    getattr(field, "db_constraint", True),
                    field in parents,
                )


def _links_back(releases: dict[str, Release]) -> Iterator[Link]:
    """Give the released generic foreign keys to which generic relations lead back."""
    for label, parent in releases.items():
        for name, key in generic_relations(find_model(label)).items():
            child = key.model._meta.label
            with suppress(WrongDeclaration):  # Its columns are not released.
                if child in releases and generic_edge(releases[child], key, parent) is not None:
                    yield Link(
                        child, f"{label}.{name}", label, nullable=True, guarded=False, generic=True
                    )


class _Policies(TypedDict):
    null: list[str]
    required: list[str]


def _rules_of(reach: Reach, where: Q | None) -> Iterator[Rule]:
    """Write what was found as rules; a model's policies stand at its first one."""
    named = set[str]()

    def policies(label: str) -> _Policies:
        null, required = reach.outside(label) if label not in named else ([], [])
        named.add(label)
        return {"null": null, "required": required}

    yield Rows(reach.root, where, **policies(reach.root))
    for label in (*reach.down, *reach.up):
        if label == reach.root and reach.whole:
            continue  # All of its rows belong anyway.
        for way in reach.under(label):
            yield Children(label, of=[link.field for link in way], **policies(label))
    pulled = sorted(reach.pulled)
    for label in sorted({link.to for link in pulled}):
        via = [f"{link.model}.{link.field}" for link in pulled if link.to == label]
        yield Referenced(label, via=via, **policies(label))
