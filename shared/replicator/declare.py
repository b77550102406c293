"""The declarations that a project writes in its `replication.py` files, and their registry.

A declaration is only noted here: labels are resolved and filters compiled by
`replicator.compiler`, so that a mistake is a system check's finding and never keeps a web
process from starting. Only contradictions between declarations, and values of a wrong type, raise
at once; the error names file and line.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias, TypeVar, overload

from django.db.models import Model, Q

from replicator.applied import Applied
from replicator.place import place, wrong
from replicator.selectors import Selector

ModelRef: TypeAlias = type[Model] | str
"""A model class, or its label `app_label.ModelName`."""

Names: TypeAlias = str | Iterable[str]
"""One name, or several."""

_DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class OptIn:
    """A model whose rows may leave the environment, as declared.

    Attributes:
        label: the model as it was named.
        only: fields or columns that may leave; None: all but `exclude`.
        exclude: fields or columns that stay.
        stream: stream that carries the rows.
    """

    label: str
    only: tuple[str, ...] | None
    exclude: tuple[str, ...]
    stream: str


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """What all rules have: a model, and what becomes of rows and foreign keys that leave.

    Attributes:
        model: the model or its label.
        where: conditions on the model's own, released columns.
        null: foreign keys in which NULL is written while the row pointed at is not here.
        required: foreign keys whose row waits until the row pointed at is here.
        on_leave: what becomes in a target of a row that leaves: `delete` it, or `keep` it as a row
            of the target's own; None: what other rules on the model say, else delete.
        soft: keep it, and mark it in this field of the target alone: one for a date and time gets
            the time, one for a truth value true; a row that comes back is not marked any more.

    Raises:
        ConfigurationError: one of them is something else.
    """

    model: ModelRef
    where: Q | None = None
    _: KW_ONLY
    null: Names = ()
    required: Names = ()
    on_leave: Literal["delete", "keep"] | None = None
    soft: str | None = None

    def __post_init__(self) -> None:
        where: object = self.where
        label = _label(self.model)
        _refuse_policy(f"{type(self).__name__}({label})", self.on_leave, self.soft)
        if where is not None and not isinstance(where, Q):
            raise wrong(
                f"{type(self).__name__}({label}) has a {type(where).__name__} as its where",
                "Give a Q of django.db.models, such as where=Q(published=True).",
            )

    @property
    def label(self) -> str:
        """The model's label as it was named."""
        return _label(self.model)


@dataclass(frozen=True, slots=True, eq=False)
class Rows(Rule):
    """Rule: the rows of one opted-in model that pass `where`; all of them without it.

    Args:
        model: the model or its label.
        where: conditions on the model's own, released columns.
        keys: only the rows under these primary keys; a key of several columns is a tuple.
        select: only a part of the rows that pass: `sample(…)` or `latest(…)`.
        null, required: policies of foreign keys, by name; see `Rule`.
        on_leave, soft: what becomes of a row that leaves; see `Rule`.

    Raises:
        ConfigurationError: one of them is something else.
    """

    _: KW_ONLY
    keys: Iterable[object] | None = None
    select: Selector | None = None

    def __post_init__(self) -> None:
        # Not super(): a dataclass with slots is another class than the one defined here.
        Rule.__post_init__(self)
        keys, select, label = self.keys, self.select, _label(self.model)
        if isinstance(keys, str | bytes) or not isinstance(keys, Iterable | None):
            raise wrong(
                f"Rows({label}) has a {type(keys).__name__} as its keys",
                "Give a list of primary keys, such as keys=[1, 2, 3].",
            )
        if not isinstance(select, Selector | None):
            raise wrong(
                f"Rows({label}) has a {type(select).__name__} as its select",
                'Give sample(1000), sample(percent=5) or latest(100, by="pub_date").',
            )
        # Once for all: an iterator would be empty the next time.
        object.__setattr__(self, "keys", None if keys is None else tuple(keys))


@dataclass(frozen=True, slots=True, eq=False)
class Children(Rule):
    """Rule: the rows whose parents belong, and that pass `where`.

    Args:
        model: the model or its label.
        of: the foreign key that leads to the parent; a foreign key to the model itself takes whole
            subtrees. Several: rows belong when all of these parents do, as a many-to-many table's.
            A generic foreign key leads to any model of the dataset; a generic relation,
            `app_label.Model.relation`, to its own.
        where, null, required, on_leave, soft: as in `Rows`.
    """

    of: Names = ()


@dataclass(frozen=True, slots=True, eq=False)
class Referenced(Rule):
    """Rule: the rows that rows which belong point at, and that pass `where`.

    Args:
        model: the model or its label.
        via: the foreign keys that count, `app_label.Model.field`; None: all of the dataset's that
            point at the model.
        where, null, required, on_leave, soft: as in `Rows`.
    """

    via: Names | None = None


class RuleSet(ABC):
    """Rules that are worked out only when their dataset is compiled: what a helper gives."""

    __slots__ = ()

    @abstractmethod
    def rules(self) -> tuple[Rule, ...]:
        """Give the rules, in an order that hangs on nothing but the opted-in models.

        Raises:
            WrongDeclaration: there are none, or the helper names what does not exist.
        """


class Dataset:
    """A named list of rules: what a target may subscribe to. Creating it registers it.

    Args:
        name: letters, digits, `-` and `_`.
        rules: at least one; several on one model mean their union. A `RuleSet` stands for many.

    Attributes:
        place: file and line of the declaration.

    Raises:
        ConfigurationError: the name is taken or malformed, there is no rule, or one is none.
    """

    __slots__ = ("name", "place", "rules")

    def __init__(self, name: str, *rules: Rule | RuleSet) -> None:
        _refuse_name(name)
        _refuse_rules(name, rules)
        self.name = name
        self.rules = rules
        self.place = place()
        _registry.datasets[name] = self

    def __repr__(self) -> str:
        return f"<Dataset {self.name}: {len(self.rules)} rules>"


def rules_in_full(rules: Iterable[Rule | RuleSet]) -> tuple[Rule, ...]:
    """Give rules, with those of rule sets in their place.

    Raises:
        WrongDeclaration: a rule set names what does not exist.
    """
    parts = (rule.rules() if isinstance(rule, RuleSet) else (rule,) for rule in rules)
    return tuple(rule for part in parts for rule in part)


@dataclass(frozen=True, slots=True, eq=False)
class DatasetFunction:
    """A dataset whose rules depend on the arguments of a subscription.

    Attributes:
        name: the dataset's name.
        function: gives the rules for arguments; its parameters say what these may be.
        place: file and line of the declaration.
    """

    name: str
    function: Callable[..., Iterable[Rule | RuleSet]]
    place: str = ""


AnyDataset: TypeAlias = Dataset | DatasetFunction
_Function = TypeVar("_Function", bound=Callable[..., Iterable[Rule | RuleSet]])


def dataset(name: str) -> Callable[[_Function], _Function]:
    """Register a function as a dataset with arguments: `polls:3,4` calls it with 3 and 4.

    The function gives the rules. It is called on both sides, with the same arguments, and must give
    the same rules on both: it may look at its arguments, and at no database.

    Args:
        name: letters, digits, `-` and `_`.

    Raises:
        ConfigurationError: the name is taken or malformed.
    """
    # At once as well: `@dataset` without a name would register nothing.
    _refuse_name(name)

    def register(function: _Function) -> _Function:
        _refuse_name(name)
        _registry.datasets[name] = DatasetFunction(name, function, place())
        return function

    return register


@dataclass(frozen=True, slots=True, eq=False)
class Hook:
    """A function that is called after rows of a model were applied here.

    Attributes:
        label: the model as it was named.
        function: takes an `Applied`; what it returns counts for nothing.
        place: file and line of the declaration.
    """

    label: str
    function: Callable[[Applied], object]
    place: str = ""

    @property
    def name(self) -> str:
        """What names the function in the target's state: `module.name`."""
        return f"{self.function.__module__}.{self.function.__qualname__}"


_Hooked = TypeVar("_Hooked", bound=Callable[[Applied], object])


@overload
def on_applied(model: ModelRef, function: _Hooked) -> _Hooked: ...
@overload
def on_applied(model: ModelRef) -> Callable[[_Hooked], _Hooked]: ...
def on_applied(
    model: ModelRef, function: _Hooked | None = None
) -> _Hooked | Callable[[_Hooked], _Hooked]:
    """Have a function called after rows of a model were applied here; also as a decorator.

    For caches and search indexes: the target's signals do not fire. The apply daemon calls it with
    an `Applied`, after the commit and beside the stream, in the order of the commits, at least
    once: what is to be told is stored in the transaction that writes the rows. One that raises is
    called again later.

    Args:
        model: the model or its label.
        function: of a module, or a method of a class there; None: decorate it.

    Raises:
        ConfigurationError: it is no function, or one of its name is there already.
    """
    label = _label(model)

    def register(hooked: _Hooked) -> _Hooked:
        _note_hook(label, hooked)
        return hooked

    return register if function is None else register(function)


def opt_in(
    model: ModelRef,
    *,
    only: Iterable[str] | None = None,
    exclude: Iterable[str] | None = None,
    stream: str = "main",
) -> None:
    """Allow the rows of a model to leave this environment.

    Args:
        model: the model or its label; an automatic many-to-many table by its `through`.
        only: names of the fields that may leave (the primary key always does).
        exclude: names of the fields that stay.
        stream: the stream that carries the rows.

    Raises:
        ConfigurationError: the model is already opted in or out, both lists are given, or a value
            is of a wrong type.
    """
    label = _label(model)
    if only is not None and exclude is not None:
        raise wrong(f"opt_in({label}) has both only and exclude", "Keep one of them.")
    if not isinstance(stream, str):
        raise wrong(f"opt_in({label}) has a stream that is no text", "Give the stream's name.")
    _note_decision(label)
    _registry.opt_ins[label.lower()] = OptIn(
        label,
        None if only is None else names_of(only, label),
        names_of(exclude or (), label),
        stream,
    )


def opt_out(*models: ModelRef) -> None:
    """State that the rows of these models stay in their environment.

    Raises:
        ConfigurationError: one of them is already opted in or out, or is no model.
    """
    for label in map(_label, models):
        _note_decision(label)
        _registry.opt_outs[label.lower()] = label


def declared_opt_ins() -> tuple[OptIn, ...]:
    """Give every opt-in, in the order of declaration."""
    return tuple(_registry.opt_ins.values())


def declared_hooks() -> tuple[Hook, ...]:
    """Give every function to be called after apply, in the order of declaration."""
    return tuple(_registry.hooks.values())


def declared_opt_outs() -> tuple[str, ...]:
    """Give the labels of every model opted out, as they were named."""
    return tuple(_registry.opt_outs.values())


def place_of(label: str) -> str:
    """Say in which file and line a model was opted in or out; empty if it was not."""
    return _registry.places.get(label.lower(), "")


def declared_datasets() -> Mapping[str, AnyDataset]:
    """Give every dataset by its name, in the order of declaration."""
    return MappingProxyType(_registry.datasets)


@contextmanager
def no_declarations() -> Iterator[None]:
    """Begin with an empty registry and restore the present one at the end; for tests."""
    global _registry  # noqa: PLW0603 (the registry is the one state of this module)
    kept, _registry = _registry, _Registry()
    try:
        yield
    finally:
        _registry = kept


@dataclass(slots=True)
class _Registry:
    """Everything declared; models, and the places that decide on them, by label in lower case.

    `hooks`: by that and the function's name.
    """

    opt_ins: dict[str, OptIn] = field(default_factory=dict)
    opt_outs: dict[str, str] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    datasets: dict[str, AnyDataset] = field(default_factory=dict)
    hooks: dict[tuple[str, str], Hook] = field(default_factory=dict)


_registry = _Registry()


def _label(model: object) -> str:
    if isinstance(model, str):
        return model
    if isinstance(model, type) and issubclass(model, Model):
        return model._meta.label
    what = model.__name__ if isinstance(model, type) else f"a {type(model).__name__}"
    raise wrong(
        f"A declaration has {what} in place of a model",
        "Give the model's class, or its label app_label.ModelName.",
    )


def names_of(names: object, label: str = "") -> tuple[str, ...]:
    """Give one name or several as several.

    Raises:
        ConfigurationError: they are something else than texts.
    """
    # A single string would pass as an iterable of letters.
    given = (names,) if isinstance(names, str) else names
    found = tuple(given) if isinstance(given, Iterable) else (given,)
    if not all(isinstance(name, str) for name in found):
        raise wrong(
            f"The declaration of {label} has something else than names of fields",
            'Give a list of texts, such as only=["id", "title"].',
        )
    return found


def labels_of(models: ModelRef | Iterable[ModelRef]) -> tuple[str, ...]:
    """Give the labels of one model or several, as they were named.

    Raises:
        ConfigurationError: one of them is no model.
    """
    given: object = models
    if isinstance(given, str | type) or not isinstance(given, Iterable):
        return (_label(given),)
    return tuple(map(_label, given))


def app_label_of(label: object) -> str:
    """Give the label of an app. Raises ConfigurationError if it is no text."""
    if not isinstance(label, str):
        raise wrong("rows_for_app is given something else than a label", 'Write "polls".')
    return label


def _refuse_policy(rule: str, on_leave: object, soft: object) -> None:
    if on_leave not in (None, "delete", "keep"):
        raise wrong(
            f"{rule} has {on_leave!r} as its on_leave",
            'Write on_leave="delete" or on_leave="keep", or name a field: soft="deleted_at".',
        )
    if soft is not None and not (isinstance(soft, str) and soft):
        raise wrong(f"{rule} has a soft that is no name", 'Name a field: soft="deleted_at".')
    if soft is not None and on_leave is not None:
        raise wrong(
            f"{rule} has both on_leave and soft",
            "Keep one of them: soft alone keeps the row, and marks it.",
        )


def _refuse_rules(name: str, rules: tuple[object, ...]) -> None:
    if not rules:
        raise wrong(f"Dataset {name!r} has no rule", "Give it at least one Rows(model).")
    if not all(isinstance(rule, Rule | RuleSet) for rule in rules):
        raise wrong(
            f"Dataset {name!r} has a rule that is none",
            "Write Rows(model), Rows(model, where=Q(…)), Children(…) or Referenced(…) for each.",
        )


def _refuse_name(name: object) -> None:
    if not isinstance(name, str) or not _DATASET_NAME.fullmatch(name):
        raise wrong(
            f"Dataset name {name!r} is malformed",
            "Use letters, digits, '-' and '_', beginning with a letter or digit.",
        )
    if name in _registry.datasets:
        before = _registry.datasets[name].place
        raise wrong(f"Dataset {name!r} is declared already, at {before}", "Rename one of the two.")


def _note_hook(label: str, function: object) -> None:
    if not callable(function) or not hasattr(function, "__qualname__"):
        raise wrong(
            f"on_applied({label}) has a {type(function).__name__} in place of a function",
            "Give a function of a module: its name stands in the target's state.",
        )
    hook = Hook(label, function, place())
    known = _registry.hooks.setdefault((label.lower(), hook.name), hook)
    if known is not hook:
        raise wrong(
            f"on_applied({label}) has a function {hook.name} already, at {known.place}",
            "Register it once, or rename one of the two.",
        )


def _note_decision(label: str) -> None:
    for verb, decided in (("in", _registry.opt_ins), ("out", _registry.opt_outs)):
        if label.lower() in decided:
            raise wrong(
                f"{label} is opted {verb} already, at {place_of(label)}",
                "Keep exactly one opt_in or opt_out per model.",
            )
    _registry.places[label.lower()] = place()
