"""Static system checks: what `manage.py check` finds without database or log.

    E001 settings.REPLICATOR is missing or wrong      E002 DATABASE is no alias of DATABASES
    E010 no such model                                E011 a model that cannot be opted in
    E012 no such column                               E013 the primary key is excluded
    E015 two opted-in models share a table
    E020 a model is neither opted in nor out (W020 where coverage is only advised)
    E030 a dataset has a rule on a model that is not opted in
    E031 a filter is refused                          E032 a dataset spans several streams
    E033 no such dataset                              E034 a dataset takes no arguments
    E035 a subscription names another stream than its dataset's
    E036 a rule names an edge that is not there       E037 policies of a foreign key contradict
    E038 a foreign key leaves its dataset and has no policy
    E039 rows that are pulled in, or wait for others, could never come
    E040 a dataset's function has a parameter that no subscription can give
    E041 a subscription's arguments do not fit       E042 a dataset's function fails
    E043 a function waits for rows of a model that is not opted in
    E044 it is said in several ways what becomes of rows that leave
    E045 a column cannot mark rows that leave
    E046 a rule's keys do not fit                    E047 a rule cannot select by a column or key
    W002 DATABASE is not Postgres                     W003 nothing publishes a stream
    W004 an opted-in model is not managed
    W006 an excluded column leaves rows that a target cannot insert
    W007 NULL in a foreign key may clash in a unique constraint that takes NULLs for equal
    W008 rows that left may not stay, because other rows have their unique values
    W009 a dataset takes some models that inherit from one, or what hangs on some, and not others

`replicator check` runs these strictly and adds probes of database and log.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from django.apps import apps
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as Advice
from django.db import connections
from django.db.models import Model, UniqueConstraint

from replicator.compiler import (
    BY_NATURAL_KEY,
    OWN_APP,
    compile_release,
    find_model,
    unfilled,
)
from replicator.datasets import compile_dataset, find_dataset
from replicator.declare import (
    AnyDataset,
    Dataset,
    declared_datasets,
    declared_hooks,
    declared_opt_ins,
    declared_opt_outs,
    place_of,
    rules_in_full,
)
from replicator.errors import ConfigurationError, WrongDeclaration
from replicator.inheritance import left_out
from replicator.plan import DatasetPlan, Edge, Release, split_name
from replicator.relations import nulls, on_leave, rings, stuck, undecided
from replicator.settings import ANY_DATASET, ReplicatorSettings, Subscription, load_settings
from replicator.signature import needs_arguments, signature_of

_STAYS = BY_NATURAL_KEY | {"sessions.session", "admin.logentry"}
"""Models of Django itself that stay in their environment without an opt_out."""


def static_messages(*, strict: bool = False) -> list[CheckMessage]:
    """Give every finding.

    Args:
        strict: a model that is neither opted in nor out is an error, not a warning.
    """
    plans: list[DatasetPlan] = []
    messages = [*_opt_ins(), *_opt_outs(), *_coverage(strict), *_datasets(plans), *_hooks()]
    for plan in plans:
        messages += _foreign_keys(plan)
    try:
        settings = load_settings()
    except ConfigurationError as error:
        return [Error(str(error), hint=error.remedy, id="replicator.E001"), *messages]
    return [
        *_database(settings),
        *messages,
        *_streams(settings),
        *_wishes(settings),
        *_plans_of_targets(settings),
    ]


def _database(settings: ReplicatorSettings) -> Iterator[CheckMessage]:
    if settings.database not in connections:
        yield Error(
            f"REPLICATOR['DATABASE'] is {settings.database!r}, which is not in DATABASES",
            hint=f"Name one of: {', '.join(connections)}.",
            id="replicator.E002",
        )
    elif connections[settings.database].vendor != "postgresql":
        yield Advice(
            f"The database {settings.database!r} is not Postgres; nothing can be replicated",
            hint="Run the daemons with settings whose database is Postgres 15 or newer.",
            id="replicator.W002",
        )


def _opt_ins() -> Iterator[CheckMessage]:
    by_table = defaultdict(list)
    for declaration in declared_opt_ins():
        try:
            release = compile_release(declaration)
        except WrongDeclaration as error:
            yield _error(error, place_of(declaration.label))
            continue
        by_table[release.table].append(release.label)
        yield from _advice(release)
    for table, labels in by_table.items():
        if len(labels) > 1:
            yield Error(
                f"{' and '.join(labels)} are opted in and share the table {table}",
                hint="Opt one of them in, and the others out.",
                id="replicator.E015",
            )


def _advice(release: Release) -> Iterator[CheckMessage]:
    if not find_model(release.label)._meta.managed:
        yield Advice(
            f"{release.label} is opted in, and its table is not made by Django",
            hint="It must be a table with a primary key; a view has no row events.",
            id="replicator.W004",
        )
    if columns := unfilled(release):
        yield Advice(
            f"{release.label} keeps columns back that are NOT NULL and have no default: "
            f"{', '.join(columns)}",
            hint="A target cannot insert such a row: release them, make them nullable, or give "
            "the field a default or a db_default.",
            id="replicator.W006",
        )


def _opt_outs() -> Iterator[CheckMessage]:
    for label in declared_opt_outs():
        try:
            find_model(label)
        except WrongDeclaration as error:
            yield _error(error, place_of(label))


def _hooks() -> Iterator[CheckMessage]:
    opted_in = {declaration.label.lower() for declaration in declared_opt_ins()}
    for hook in declared_hooks():
        try:
            label = find_model(hook.label)._meta.label
        except WrongDeclaration as error:
            yield _error(error, hook.place, "on_applied: ")
            continue
        if label.lower() not in opted_in:
            yield Error(
                f"on_applied({label}): the model is not opted in, so {hook.name} is never called",
                hint=f'Add opt_in("{label}"), or name the model whose table has the rows.',
                obj=hook.place,
                id="replicator.E043",
            )


def _coverage(strict: bool) -> Iterator[CheckMessage]:
    decided = {declaration.label.lower() for declaration in declared_opt_ins()}
    decided |= {label.lower() for label in declared_opt_outs()}
    kind, check_id = (Error, "replicator.E020") if strict else (Advice, "replicator.W020")
    for model in apps.get_models(include_auto_created=True):
        if model._meta.label_lower not in decided and _must_be_decided(model):
            label = model._meta.label
            yield kind(
                f"{label} is neither opted in nor out; its rows stay in this environment",
                hint=f'Write opt_in("{label}") or opt_out("{label}") in a replication.py.',
                id=check_id,
            )


def _must_be_decided(model: type[Model]) -> bool:
    meta = model._meta
    if meta.proxy or meta.swapped or _stays(model):
        return False
    if not meta.auto_created:
        return True
    # A link table to a table that stays can only stay, too.
    ends = (field.related_model for field in meta.local_concrete_fields if field.is_relation)
    return not any(isinstance(end, type) and _stays(end) for end in ends)


def _stays(model: type[Model]) -> bool:
    return model._meta.app_label == OWN_APP or model._meta.label_lower in _STAYS


def _datasets(plans: list[DatasetPlan]) -> Iterator[CheckMessage]:
    """Compile every dataset that needs no arguments; those that can be are added to `plans`."""
    broken = set(_uncompilable())
    for dataset in declared_datasets().values():
        try:
            # The opt-in's own finding says it; once is enough.
            if isinstance(dataset, Dataset) and any(
                rule.label.lower() in broken for rule in rules_in_full(dataset.rules)
            ):
                continue
            if not _needs_arguments(dataset):
                plans.append(compile_dataset(dataset))
        except WrongDeclaration as error:
            named = str(error).startswith(f"Dataset {dataset.name!r}")
            yield _error(error, dataset.place, "" if named else f"Dataset {dataset.name!r}: ")


def _needs_arguments(dataset: AnyDataset) -> bool:
    return not isinstance(dataset, Dataset) and needs_arguments(signature_of(dataset))


def _uncompilable() -> Iterator[str]:
    for declaration in declared_opt_ins():
        try:
            compile_release(declaration)
        except WrongDeclaration:
            yield declaration.label.lower()


def _foreign_keys(plan: DatasetPlan) -> Iterator[CheckMessage]:
    for edge in undecided(plan):
        field = _field_of(plan, edge)
        yield Error(
            f"Dataset {plan.full_name!r}: {edge} refers to rows of {edge.to} that it may lack",
            hint="Choose what becomes of a row whose other end is not in the dataset: pull that in "
            f'(Referenced), write NULL (null=["{field}"]), or let the row wait '
            f'(required=["{field}"]).',
            id="replicator.E038",
        )
    for pulling, required in stuck(plan):
        yield Error(
            f"Dataset {plan.full_name!r}: rows pulled in by {pulling} wait for those of {required}",
            hint="Pull that in as well (Referenced), or write NULL there.",
            id="replicator.E039",
        )
    yield from _ring_errors(f"Dataset {plan.full_name!r}", [plan])
    yield from _equal_nulls(plan)
    yield from _unique_values_that_stay(plan)
    yield from _left_out(plan)


def _field_of(plan: DatasetPlan, edge: Edge) -> str:
    """Name the field of a foreign key, as declarations write it."""
    labels = [release.label for release in plan.releases if release.table == edge.table]
    fields = find_model(labels[0])._meta.concrete_fields if labels else ()
    return next((f.name for f in fields if f.column == edge.columns[0]), edge.columns[0])


def _ring_errors(where: str, plans: Sequence[DatasetPlan]) -> Iterator[CheckMessage]:
    for edge in rings(plans):
        yield Error(
            f"{where}: rows wait for those of {edge}, which may hang on the rows that wait",
            hint="Pull the row referred to in (Referenced), or write NULL there.",
            id="replicator.E039",
        )


def _equal_nulls(plan: DatasetPlan) -> Iterator[CheckMessage]:
    for edge in plan.nulls:
        label = next(r.label for r in plan.releases if r.table == edge.table)
        for constraint in find_model(label)._meta.constraints:
            if (
                not isinstance(constraint, UniqueConstraint)
                or constraint.nulls_distinct is not False
            ):
                continue
            if set(constraint.fields) & _fields_of(label, edge):
                yield Advice(
                    f"Dataset {plan.full_name!r}: {edge} is written NULL, and {constraint.name} "
                    "takes NULLs for equal: two such rows may clash, and apply stops",
                    hint="Use required in place of null, or let NULLs be distinct.",
                    id="replicator.W007",
                )


def _unique_values_that_stay(plan: DatasetPlan) -> Iterator[CheckMessage]:
    kept = {policy.table: policy for policy in plan.on_leave if policy.action != "delete"}
    for release in plan.releases:
        for columns in release.unique if release.table in kept else ():
            yield Advice(
                f"Dataset {plan.full_name!r}: rows of {release.label} that left stay only until "
                f"another row has their value of {', '.join(columns)}, which is unique",
                hint="Narrow the constraint to rows that are not marked: soft, and "
                "UniqueConstraint(condition=…). Or take it for what you want.",
                id="replicator.W008",
            )


def _left_out(plan: DatasetPlan) -> Iterator[CheckMessage]:
    for each in left_out(plan):
        yield Advice(
            f"Dataset {plan.full_name!r} takes {each.taken}, and not {each.missing}",
            hint=f"Take all of them: children_for_derived_models({each.helper}). Or take it for "
            "what you want.",
            id="replicator.W009",
        )


def _fields_of(label: str, edge: Edge) -> set[str]:
    fields = find_model(label)._meta.local_concrete_fields
    return {field.name for field in fields if field.column in edge.columns}


def _streams(settings: ReplicatorSettings) -> Iterator[CheckMessage]:
    known = {*settings.streams, *(wish.stream for wish in settings.subscriptions)}
    for stream in sorted({declaration.stream for declaration in declared_opt_ins()} - known):
        yield Advice(
            f"Models are opted in to the stream {stream!r}, which is neither published nor "
            "subscribed to here",
            hint=f"Add {stream!r} to REPLICATOR['STREAMS'] of the environment that publishes it.",
            id="replicator.W003",
        )


def _wishes(settings: ReplicatorSettings) -> Iterator[CheckMessage]:
    allowed = {name for names in settings.targets.values() for name in names} - {ANY_DATASET}
    for name in sorted(allowed - declared_datasets().keys()):
        bare, _ = split_name(name)
        if bare in declared_datasets():
            yield Error(
                f"TARGETS allows {name!r}, and a dataset is allowed with any arguments",
                hint=f"Write {bare!r}.",
                id="replicator.E033",
            )
        else:
            yield _unknown(f"TARGETS allows {name!r}", name)
    for wish in settings.subscriptions:
        if wish.name not in declared_datasets():
            yield _unknown(f"SUBSCRIPTIONS names {wish.dataset!r}", wish.name)
        else:
            yield from _fits(wish)


def _plans_of_targets(settings: ReplicatorSettings) -> Iterator[CheckMessage]:
    """Look at what is wanted of one stream together: that is what a target holds."""
    places = {(wish.source, wish.stream) for wish in settings.subscriptions}
    for source, stream in sorted(places):
        here = [w for w in settings.subscriptions if (w.source, w.stream) == (source, stream)]
        plans = []
        for name, arguments in sorted({(wish.name, wish.arguments) for wish in here}):
            with suppress(WrongDeclaration):
                plans.append(find_dataset(name, arguments))
        if len(plans) > 1 and not any(rings([plan]) for plan in plans):
            yield from _ring_errors(f"The subscriptions to {source}", plans)
        yield from _quarrels(f"The subscriptions to {source}", plans)


def _quarrels(where: str, plans: Sequence[DatasetPlan]) -> Iterator[CheckMessage]:
    """Find what several datasets say differently: of foreign keys, and of rows that leave.

    What one says holds for the rows of all. Rows of another, which waited for the other end, would
    come in with NULL as they happen to change.
    """
    waits = {edge for plan in plans for edge in plan.required}
    for edge in sorted(nulls(plans) & waits, key=str):
        yield Error(
            f"{where}: {edge} is null in one and required in another",
            hint="Say the same in all of these datasets.",
            id="replicator.E037",
        )
    for table, label in sorted({(r.table, r.label) for plan in plans for r in plan.releases}):
        if len(said := on_leave(plans, table)) > 1:
            yield Error(
                f"{where} say different things of rows of {label} that leave: "
                f"{', and '.join(map(str, said))}",
                hint="Say the same in all of these datasets, or in one of them only.",
                id="replicator.E044",
            )


def plan_messages(plan: DatasetPlan, others: Sequence[DatasetPlan]) -> Iterator[CheckMessage]:
    """Look at a dataset that is to join others in a target: alone, and with them."""
    yield from _foreign_keys(plan)
    where = f"Dataset {plan.full_name!r}"
    if not any(rings([each]) for each in [*others, plan]):
        yield from _ring_errors(f"{where} with the others here", [*others, plan])
    yield from _quarrels(f"{where} and the others here", [*others, plan])


def _unknown(where: str, name: str) -> CheckMessage:
    known = ", ".join(sorted(declared_datasets())) or "none"
    return Error(
        f"{where}, and there is no dataset {name!r}",
        hint=f"Declared are: {known}. Both sides run the same replication.py.",
        id="replicator.E033",
    )


def _fits(wish: Subscription) -> Iterable[CheckMessage]:
    try:
        plan = find_dataset(wish.name, wish.arguments)
    except WrongDeclaration as error:
        if error.check_id != "replicator.E040" and not _compiled_before(wish):
            place = declared_datasets()[wish.name].place
            yield _error(error, place, f"SUBSCRIPTIONS names {wish.dataset!r}: ")
        return
    if plan.stream != wish.stream:
        yield Error(
            f"SUBSCRIPTIONS wants {wish.dataset!r} from the stream {wish.stream!r}, and it travels "
            f"in {plan.stream!r}",
            hint=f'Add "stream": "{plan.stream}" to the subscription.',
            id="replicator.E035",
        )
    if not _compiled_before(wish):
        yield from _foreign_keys(plan)


def _compiled_before(wish: Subscription) -> bool:
    """Whether what can be found in a wish's rules was found with the datasets."""
    return not wish.arguments and not _needs_arguments(declared_datasets()[wish.name])


def _error(error: WrongDeclaration, place: str, prefix: str = "") -> CheckMessage:
    return Error(f"{prefix}{error}", hint=error.remedy, obj=place, id=error.check_id)
