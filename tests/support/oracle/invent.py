"""A seed → a history. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

from tests.support.oracle.history import History, Rule, Step
from tests.support.oracle.meddling import meddling
from tests.support.oracle.selecting import SHARE, with_selectors
from tests.support.oracle.tables import (
    BY_LABEL,
    BY_NAME,
    LOCAL,
    LOCAL_UUID,
    TableSpec,
    pick,
    quoted,
    referrers,
)

Rules = list[Rule]
Operation = Any

# Datasets ----------------------------------------------------------------------------------------


def _filter(label: str, chance: Random) -> str:
    atoms = BY_LABEL[label].filters
    first = chance.choice(atoms)
    other = f"({chance.choice(atoms)})"
    return chance.choice(
        [first, first, f"({first}) & {other}", f"({first}) | {other}", f"~({first}) & {other}"]
    )


def _some(label: str, chance: Random, also: str = "") -> Rules:
    """Give one to three filtered rules: a union."""
    return [
        (label, f"({_filter(label, chance)}) & {also}" if also else _filter(label, chance))
        for _ in range(chance.choice([1, 1, 2, 3]))
    ]


def _whole(*labels: str) -> Rules:
    return [(label, None) for label in labels]


def _maybe(rules: Rules, chance: Random) -> Rules:
    return rules if chance.random() < 0.5 else []


_USER, _QUESTION, _CHOICE, _VOTE = "auth.User", "polls.Question", "polls.Choice", "polls.Vote"
_PAGE, _TAG = "pages.Page", "pages.Tag"
_SUPPLIER, _PRODUCT = "shop.Supplier", "shop.Product"

SHAPES: tuple[Callable[[Random], Rules], ...] = (
    # Foreign keys point at whole tables only, or are NULL: other edges need rules of their own.
    lambda c: [*_whole(_USER), *_some(_QUESTION, c)],
    lambda c: _some(_QUESTION, c, "Q(author=None)"),
    lambda c: [*_whole(_USER, _QUESTION), *_some(_CHOICE, c)],
    lambda c: [*_whole(_USER, _QUESTION, _CHOICE), *_some(_VOTE, c)],
    lambda _: _whole(_USER, _QUESTION, _CHOICE, _VOTE),
    lambda c: _some(_TAG, c),
    lambda c: [*_whole(_PAGE), *_some("pages.Article", c)],
    lambda c: [
        *_whole(_PAGE, _TAG, "pages.Page_tags"),
        *_some("pages.Labelling", c),
        *_maybe(_whole("pages.Article"), c),
    ],
    lambda c: _some(_PAGE, c, "Q(parent=None)"),
    lambda c: _some("pages.Remark", c),
    lambda c: _some(_SUPPLIER, c),
    lambda c: [*_whole(_SUPPLIER), *_some(_PRODUCT, c, "Q(replaced_by=None)")],
    lambda c: [*_whole(_SUPPLIER, _PRODUCT), *_some("shop.Stock", c)],
    lambda c: [
        *_whole(_USER, _SUPPLIER, _PRODUCT, "shop.Watch", "shop.Order"),
        *_some("shop.OrderLine", c),
    ],
    lambda _: _whole("shop.Team", "shop.Member"),
    lambda c: _some("shop.Team", c, "Q(captain=None)"),
    lambda c: _some("kinds.Specimen", c),
    lambda c: [*_some("kinds.Reading", c), *_maybe(_whole("kinds.Specimen"), c)],
)


# Rules over relations: families, of which each has one policy for each foreign key. The datasets of
# a history are of one family.


def _children(label: str, of: str | Sequence[str], where: str | None = None, **more: Any) -> Rule:
    return [label, where, "Children", {"of": of, **more}]


def _referenced(label: str, where: str | None = None, **more: Any) -> Rule:
    return [label, where, "Referenced", more]


def _rows(label: str, where: str | None, **more: Any) -> Rule:
    return [label, where, "Rows", more]


def _now_and_then(label: str, chance: Random) -> str | None:
    return _filter(label, chance) if chance.random() < 0.3 else None


def _filtered(label: str, chance: Random, **more: Any) -> list[Rule]:
    return [_rows(label, where, **more) for _, where in _some(label, chance)]


def _poll_trees(chance: Random) -> Rules:
    """Questions with all that hangs on them; the authors come along."""
    rules: list[Rule] = [*_filtered(_QUESTION, chance)]
    rules.append(_children(_CHOICE, "question", _now_and_then(_CHOICE, chance)))
    if chance.random() < 0.7:
        rules.append(_children(_VOTE, "choice", _now_and_then(_VOTE, chance)))
    rules.append(_referenced(_USER))
    if chance.random() < 0.3:
        rules += _filtered(_CHOICE, chance, required=["question"])
    return rules


def _poll_trees_without_authors(chance: Random) -> Rules:
    """Questions whose author is left out, or comes if it is somewhere in the plan."""
    rules: list[Rule] = [*_filtered(_QUESTION, chance, null=["author"])]
    if chance.random() < 0.8:
        rules.append(_children(_CHOICE, "question", _now_and_then(_CHOICE, chance)))
    if chance.random() < 0.6:
        rules += [_rows(_USER, f"Q(pk__lt={chance.choice([4, 7, 10])})")]
    return rules


def _waiting_choices(chance: Random) -> Rules:
    """Choices that wait for their questions, which wait for their authors."""
    rules: list[Rule] = [*_filtered(_CHOICE, chance, required=["question"])]
    rules += _filtered(_QUESTION, chance, required=["author"])
    rules.append(_rows(_USER, f"Q(pk__lt={chance.choice([4, 7, 10])})"))
    if chance.random() < 0.5:
        rules.append(_children(_VOTE, "choice"))
    return rules


def _page_trees(chance: Random, *, pulls_tags: bool) -> Rules:
    """Subtrees of pages, whose roots are cut off from what is above them."""
    rules: list[Rule] = [*_filtered(_PAGE, chance, null=["parent"])]
    rules.append(_children(_PAGE, "parent", _now_and_then(_PAGE, chance)))
    if pulls_tags:
        rules += [_children("pages.Page_tags", "page"), _referenced(_TAG)]
    elif chance.random() < 0.5:
        rules += [*_filtered(_TAG, chance), _children("pages.Page_tags", ["page", "tag"])]
        rules.append(_children("pages.Labelling", ["page", "tag"]))
    if chance.random() < 0.4:
        rules.append(_children("pages.Article", "page_ptr"))
    return rules


def _articles(chance: Random) -> Rules:
    """Articles; the pages that they are the rest of come along, and those above them."""
    rules: list[Rule] = [*_filtered("pages.Article", chance)]
    above = ["pages.Page.parent"] if chance.random() < 0.5 else []
    if above:
        rules.append(_referenced(_PAGE, via=["pages.Article.page_ptr", *above]))
    else:
        rules.append(_rows(_PAGE, "Q(pk__lt=0)", null=["parent"]))
    return rules


def _teams(chance: Random) -> Rules:
    """Teams and members, which point at each other."""
    rules: list[Rule] = [*_filtered("shop.Team", chance)]
    if chance.random() < 0.7:
        rules.append(_children("shop.Member", "team", _now_and_then("shop.Member", chance)))
    rules += [_referenced("shop.Member", via=["shop.Team.captain"])]
    rules += [_referenced("shop.Team", via=["shop.Member.team"])]
    return rules


def _orders(chance: Random) -> Rules:
    """Orders with their lines, products, suppliers and customers."""
    rules: list[Rule] = [*_filtered("shop.Order", chance), _referenced(_USER)]
    rules.append(_children("shop.OrderLine", "order", _now_and_then("shop.OrderLine", chance)))
    rules += [_referenced(_PRODUCT), _referenced(_SUPPLIER)]
    if chance.random() < 0.5:
        rules.append(_children("shop.Stock", "product", _now_and_then("shop.Stock", chance)))
    if chance.random() < 0.3:
        rules.append(_children("shop.Watch", ["user", "product"]))
    return rules


def _remarked_pages(chance: Random) -> Rules:
    """Pages with the remarks on them, on articles, and on remarks."""
    rules: list[Rule] = [*_filtered(_PAGE, chance, null=["parent"])]
    if chance.random() < 0.5:
        rules.append(_children(_PAGE, "parent", _now_and_then(_PAGE, chance)))
    if chance.random() < 0.5:
        rules.append(_children("pages.Article", "page_ptr"))
    of = chance.choice(["target", "target", "pages.Page.remarks"])
    rules.append(_children("pages.Remark", of, _now_and_then("pages.Remark", chance)))
    if chance.random() < 0.3:
        rules += _filtered("pages.Remark", chance)
    return rules


def _noted_orders(chance: Random) -> Rules:
    """Orders, and suppliers, whose keys are UUIDs, with the notes on them; notes on notes."""
    rules: list[Rule] = [*_filtered("shop.Order", chance), *_filtered(_SUPPLIER, chance)]
    rules.append(_referenced(_USER))
    rules.append(_children("shop.Note", "target", _now_and_then("shop.Note", chance)))
    if chance.random() < 0.3:
        rules += _filtered("shop.Note", chance)
    return rules


FAMILIES: tuple[tuple[Callable[[Random], Rules], ...], ...] = (
    (_poll_trees,),
    (_poll_trees_without_authors,),
    (_waiting_choices,),
    (partial(_page_trees, pulls_tags=True),),
    (partial(_page_trees, pulls_tags=False),),
    (_articles,),
    (_teams,),
    (_orders,),
    (_remarked_pages,),
    (_noted_orders,),
)


def _related(chance: Random) -> dict[str, Rules]:
    """Draw one to three datasets of a family."""
    family = chance.choice(FAMILIES)
    return {f"d{n}": chance.choice(family)(chance) for n in range(chance.choice([1, 1, 2, 3]))}


def _with_policies(datasets: dict[str, Rules], chance: Random) -> dict[str, Rules]:
    """Say of some models what becomes of rows that leave; the same in every dataset."""
    labels = sorted({label for rules in datasets.values() for label, *_ in rules})
    said = {label: _policy(label, chance) for label in labels if chance.random() < 0.5}
    found: dict[str, Rules] = {}
    for name, rules in datasets.items():
        told = set[str]()
        found[name] = []
        for rule in rules:
            label, where, kind, options = (*rule, "Rows", {})[:4]
            # Once is enough: rules that say nothing follow.
            more = said.get(label, {}) if label not in told else {}
            told.add(label)
            found[name].append([label, where, kind, {**options, **more}] if more else rule)
    return found


def _policy(label: str, chance: Random) -> dict[str, str]:
    if label == _USER and chance.random() < 0.7:
        return {"soft": chance.choice(["last_login", "is_staff"])}
    return {"on_leave": chance.choice(["keep", "keep", "keep", "delete"])}


def _datasets(chance: Random) -> dict[str, Rules]:
    """Draw one to three datasets, some of them on the same tables."""
    number = chance.choice([1, 2, 2, 3])
    first = chance.randrange(len(SHAPES))
    # Neighbours are about the same tables.
    picked = [
        (first + chance.choice([0, 1, 2])) % len(SHAPES)
        if chance.random() < 0.5
        else chance.randrange(len(SHAPES))
        for _ in range(number)
    ]
    datasets = {}
    for n, shape in enumerate(picked):
        rules = SHAPES[shape](chance)
        chance.shuffle(rules)
        datasets[f"d{n}"] = rules
    return datasets


# Operations --------------------------------------------------------------------------------------


def _insert(spec: TableSpec, chance: Random) -> Operation:
    values = {name: draw(chance) for name, draw in spec.key.items()}
    values |= {name: draw(chance) for name, draw in spec.columns.items()}
    for link in spec.links:
        if link.column not in values:
            values[link.column] = _link_value(spec, link.column, chance)
    values |= spec.fixed
    return _insert_values(spec, values)


def _insert_values(spec: TableSpec, values: dict[str, str]) -> str:
    return f"INSERT INTO {spec.name} ({', '.join(values)}) VALUES ({', '.join(values.values())})"


def _link_value(spec: TableSpec, column: str, chance: Random) -> str:
    link = spec.link(column)
    assert link is not None
    if link.nullable and chance.random() < 0.4:
        return "NULL"
    to_key = next(iter(BY_NAME[link.to].key))
    return pick(link.to, to_key, chance)


def _assignments(spec: TableSpec, chance: Random) -> str:
    names = [*spec.columns, *(x.column for x in spec.links if x.column not in spec.key)]
    if not names:
        return ", ".join(f"{name} = {draw(chance)}" for name, draw in spec.key.items())
    some = chance.sample(names, min(len(names), chance.choice([1, 1, 2, 3])))
    return ", ".join(
        f"{name} = "
        + (spec.columns[name](chance) if name in spec.columns else _link_value(spec, name, chance))
        for name in some
    )


def _update(spec: TableSpec, chance: Random) -> Operation:
    return f"UPDATE {spec.name} SET {_assignments(spec, chance)} WHERE {spec.key_where(chance)}"


def _update_many(spec: TableSpec, chance: Random) -> Operation:
    salt, key = chance.randrange(10**6), next(iter(spec.key))
    return (
        f"UPDATE {spec.name} SET {_assignments(spec, chance)} "
        f"WHERE hashtext({key}::text || {salt}::text) % {chance.choice([1, 2, 3])} = 0"
    )


def _touch(spec: TableSpec, chance: Random) -> Operation:
    key = next(iter(spec.key))
    return f"UPDATE {spec.name} SET {key} = {key}"


def _delete(spec: TableSpec, chance: Random) -> Operation:
    """Delete a row, and what points at it as Django would, or that of a row in the way."""
    if referrers(spec.name) and chance.random() < 0.8:
        key = next(iter(spec.key))
        return ["cascade", spec.label, pick(spec.name, key, chance)]
    return f"DELETE FROM {spec.name} WHERE {spec.key_where(chance)}"


def _swap(spec: TableSpec, chance: Random) -> Operation:
    """Have a unique value go round among some rows."""
    if spec.unique is None:
        return _update(spec, chance)
    name, kind = spec.unique
    key, salt = next(iter(spec.key)), chance.randrange(10**6)
    passing = "-1" if kind == "integer" else "'passing'"
    return (
        f"DO $do$ DECLARE k {spec.name}.{key}%TYPE[]; v {kind}[]; i int; BEGIN "
        f"SELECT array_agg(x.{key}), array_agg(x.{name}) INTO k, v FROM (SELECT * FROM {spec.name} "
        f"ORDER BY md5({key}::text || '{salt}') LIMIT {chance.choice([2, 2, 3, 5])}) x; "
        "IF k IS NULL THEN RETURN; END IF; "
        "FOR i IN 1..array_length(k, 1) LOOP "
        f"UPDATE {spec.name} SET {name} = {passing}{'- i' if kind == 'integer' else ' || i'} "
        f"WHERE {key} = k[i]; END LOOP; "
        "FOR i IN 1..array_length(k, 1) LOOP "
        f"UPDATE {spec.name} SET {name} = v[1 + i % array_length(k, 1)] WHERE {key} = k[i]; "
        "END LOOP; END $do$"
    )


def _move(spec: TableSpec, chance: Random) -> Operation:
    """Give a row another primary key, and what points at it along with it.

    Now and then that of a row which is deleted for it.
    """
    if len(spec.key) > 1:
        return _update(spec, chance)
    key, draw = next(iter(spec.key.items()))
    link = spec.link(key)
    new = _link_value(spec, key, chance) if link else draw(chance)
    old = pick(spec.name, key, chance)
    follow = " ".join(
        f"UPDATE {other.name} SET {x.column} = n WHERE {x.column} = o;"
        for other, x in referrers(spec.name)
    )
    kind = f"{spec.name}.{key}%TYPE"
    before = (
        f"DELETE FROM {spec.name} WHERE {key} = n AND n <> o; " if chance.random() < 0.3 else ""
    )
    return (
        f"DO $do$ DECLARE o {kind} := {old}; n {kind} := {new}; BEGIN {before}"
        f"UPDATE {spec.name} SET {key} = n WHERE {key} = o; {follow} END $do$"
    )


def _again(spec: TableSpec, chance: Random) -> Operation:
    """Delete a row and create it again: under its key, or its values under another one.

    It may be another one by then: it passes filters that it did not.
    """
    key = next(iter(spec.key))
    if len(spec.key) > 1 or spec.label == "kinds.Specimen":
        return f"DELETE FROM {spec.name} WHERE {spec.key_where(chance)}"
    draw = spec.key[key]
    change = "" if chance.random() < 0.5 else f"r.{key} := {draw(chance)};"
    more = ""
    if chance.random() < 0.4:
        more = f"UPDATE {spec.name} SET {_assignments(spec, chance)} WHERE {key} = r.{key};"
    return (
        f"DO $do$ DECLARE r {spec.name}%ROWTYPE; BEGIN "
        f"SELECT * INTO r FROM {spec.name} WHERE {key} = {pick(spec.name, key, chance)}; "
        "IF NOT FOUND THEN RETURN; END IF; "
        f"DELETE FROM {spec.name} WHERE {key} = r.{key}; {change} "
        f"INSERT INTO {spec.name} VALUES (r.*); {more} END $do$"
    )


def _truncate(spec: TableSpec, chance: Random) -> Operation:
    return f"TRUNCATE {spec.name} CASCADE"


_WEIGHTS: tuple[tuple[Callable[[TableSpec, Random], Operation], float], ...] = (
    (_insert, 35),
    (_update, 25),
    (_update_many, 6),
    (_touch, 2),
    (_delete, 9),
    (_swap, 7),
    (_move, 6),
    (_again, 6),
    (_truncate, 0.7),
)


def _operation(specs: Sequence[TableSpec], chance: Random) -> Operation:
    makers = [maker for maker, _ in _WEIGHTS]
    weights = [weight for _, weight in _WEIGHTS]
    return chance.choices(makers, weights)[0](chance.choice(specs), chance)


def _operations(specs: Sequence[TableSpec], chance: Random) -> list[Operation]:
    size = chance.choice([1, 1, 2, 3, 5, 8, 15])
    return [_operation(specs, chance) for _ in range(size)]


def _filling(specs: Sequence[TableSpec], chance: Random) -> list[Operation]:
    """Fill the tables, those pointed at first."""
    return [_insert(spec, chance) for _ in range(2) for spec in specs for _ in range(5)]


# Local rows --------------------------------------------------------------------------------------


def _local_row(spec: TableSpec, n: int, chance: Random) -> str:
    """Write a row of the target's own; its links point at rows of ours, local ones, or nothing."""
    values = {name: _local_key(spec, name, n) for name in spec.key}
    values |= {name: draw(chance) for name, draw in spec.columns.items()}
    if spec.unique:
        values[spec.unique[0]] = str(n + 1000) if spec.unique[1] == "integer" else f"'local-{n}'"
    for link in spec.links:
        if link.column not in spec.key:
            values[link.column] = _link_value(spec, link.column, chance)
    return _insert_values(spec, values | spec.fixed)


def _local_key(spec: TableSpec, name: str, n: int) -> str:
    if name == "taken_on":
        return "'2026-02-02'"
    kind = spec.key[name](Random(0))
    return quoted(f"{LOCAL_UUID}-0000-4000-8000-{n:012d}") if "-" in kind else str(LOCAL + n)


def may_be_local(spec: TableSpec) -> bool:
    """Whether a local row of a table has a key of its own."""
    return all(spec.link(name) is None for name in spec.key)


def _local(specs: Sequence[TableSpec], chance: Random) -> list[str]:
    """A transaction of local traffic."""
    spec = chance.choice([s for s in specs if may_be_local(s)])
    n, dice = chance.randrange(6), chance.random()
    where = " AND ".join(f"{name} = {_local_key(spec, name, n)}" for name in spec.key)
    if dice < 0.6:
        return [_local_row(spec, n, chance)]
    if dice < 0.8 and set(spec.columns) - {spec.unique[0] if spec.unique else ""}:
        name = next(c for c in spec.columns if not spec.unique or c != spec.unique[0])
        return [f"UPDATE {spec.name} SET {name} = {spec.columns[name](chance)} WHERE {where}"]
    return [f"DELETE FROM {spec.name} WHERE {where}"]


# All of it ---------------------------------------------------------------------------------------

_INDEXES = {
    "polls_question": "CREATE UNIQUE INDEX oracle_top ON polls_question (priority) WHERE published",
    "shop_member": "CREATE UNIQUE INDEX oracle_name ON shop_member (lower(name), team_id)",
    "kinds_specimen": "ALTER TABLE kinds_specimen ADD CONSTRAINT oracle_apart "
    "EXCLUDE USING gist (span WITH &&) WHERE (NOT isempty(span))",
}
"""What rows exclude each other by, on both sides: no plain unique index."""
_TARGET_ONLY = {
    "pages_tag": ("ALTER TABLE pages_tag ADD COLUMN own integer NOT NULL DEFAULT 7",),
    "shop_supplier": (
        "ALTER TABLE shop_supplier ADD COLUMN own text NOT NULL DEFAULT 'x'",
        "CREATE TABLE oracle_note (id serial PRIMARY KEY, supplier_id uuid "
        "REFERENCES shop_supplier ON DELETE SET NULL)",
    ),
    "polls_choice": (
        "CREATE TABLE oracle_mark (id serial PRIMARY KEY, choice_id bigint "
        "REFERENCES polls_choice ON DELETE CASCADE)",
    ),
}
"""What only the target has: columns, and foreign keys that act."""

_ROOTS_MAY_SHARE_A_SLUG = (
    "ALTER TABLE pages_page DROP CONSTRAINT pages_page_place, "
    "ADD CONSTRAINT pages_page_place UNIQUE (parent_id, slug)"
)
"""Where NULL is written in place of a parent, two pages may become roots under the same slug."""


def _cuts_pages_off(history: History) -> bool:
    rules = [rule for rules in history.datasets.values() for rule in rules if len(rule) > 2]
    return any("parent" in rule[3].get("null", ()) for rule in rules)


_KNOBS: dict[str, Sequence[int | float]] = {
    "replicator_apply.batch.ROUND": (1, 2, 5, 20_000),
    "replicator_apply.assemble.SPOOL_AFTER": (1, 4, 20_000),
    "replicator_apply.consume.BATCH_ROWS": (1, 7, 10_000),
    "replicator_apply.backfill.PAGE": (1, 2, 3, 5, 1000),
    "replicator_apply.backfill.SWEEP": (1, 3, 1000),
    "replicator_apply.asking.KEYS": (1, 3, 1000),
}


_WITH_ARGUMENTS = 0.15
"""Of histories, those whose datasets are one function, with an argument each."""
_READING = "tests.support.oracle.system.READING"


def written(labels: Sequence[str]) -> list[TableSpec]:
    """List the tables that are written: those named, and all that they point at, first."""
    found: dict[str, TableSpec] = {}

    def add(spec: TableSpec, seen: frozenset[str]) -> None:
        for link in spec.links:
            if link.to not in seen:
                add(BY_NAME[link.to], seen | {link.to})
        found.setdefault(spec.name, spec)

    for label in labels:
        add(BY_LABEL[label], frozenset({BY_LABEL[label].name}))
    return list(found.values())


def invent(seed: int) -> History:
    """Draw a history; every other one has rules over relations."""
    chance = Random(seed)
    datasets = _related(chance) if seed % 2 else _datasets(chance)
    policies = Random(f"policies {seed}")
    says = policies.random() < 0.35
    if says:
        datasets = _with_policies(datasets, policies)
    history = History(
        seed,
        datasets,
        {name: chance.choice(values) for name, values in _KNOBS.items()},
        source=[],
        target=[],
    )
    # By chances of their own: what else is drawn is the same with and without them.
    history.knobs[_READING] = Random(f"reading {seed}").choice([0, 0, 0, 0.02, 0.1])
    selecting = Random(f"selectors {seed}")
    if selecting.random() < SHARE:
        history.datasets = with_selectors(history.datasets, selecting)
    if Random(f"arguments {seed}").random() < _WITH_ARGUMENTS:
        history.datasets = {f"some:{n}": rules for n, rules in enumerate(history.datasets.values())}
    specs = written(history.labels)
    history.source = [
        f"ALTER TABLE {spec.name} REPLICA IDENTITY FULL" for spec in specs if chance.random() < 0.1
    ]
    history.target = [
        statement
        for name, statements in _TARGET_ONLY.items()
        if name in {spec.name for spec in specs} and chance.random() < 0.3
        for statement in statements
    ]
    if _cuts_pages_off(history):
        history.source.append(_ROOTS_MAY_SHARE_A_SLUG)
        history.target.append(_ROOTS_MAY_SHARE_A_SLUG)
    for name, statement in _INDEXES.items():
        # A row that stays must find no other reason to go than those that the judge knows.
        if name in {spec.name for spec in specs} and chance.random() < 0.3 and not says:
            history.source.append(statement)
            history.target.append(statement)
    history.steps = _steps(history, specs, chance)
    meddler = Random(f"meddling {seed}")
    # What stays by a policy, and what was chosen, no backfill looks at.
    if meddler.random() < 0.3 and not says and "'select'" not in repr(history.datasets):
        history.steps.append(["meddle", meddling(history.datasets, meddler)])
    changing = Random(f"rules {seed}")
    if changing.random() < 0.5 and list(history.datasets) == ["d0"] and not says:
        _change_rules(history, changing)
    return history


def _change_rules(history: History, chance: Random) -> None:
    """Have other rules deployed somewhere among the steps, on fewer tables or drawn anew."""
    rules = _another(history, chance)
    if history.seed % 2 == 0 and chance.random() < 0.7:
        gone = _pointing_at(chance.choice(history.labels), history.labels)
        rules = [rule for rule in history.datasets["d0"] if rule[0] not in gone] or rules
    if not _cuts_pages_off(replace(history, datasets={"d0": rules})):
        history.steps.insert(chance.randrange(len(history.steps) + 1), ["rules", "d0", rules])


def _pointing_at(label: str, labels: Sequence[str]) -> set[str]:
    """Give a model and all that point at it, directly or not."""
    gone = {label}
    while more := {
        each
        for each in labels
        if each not in gone and any(BY_NAME[link.to].label in gone for link in BY_LABEL[each].links)
    }:
        gone |= more
    return gone


def invent_life(seed: int) -> History:
    """Draw a history in which subscriptions come and go, and are paused."""
    history = invent(seed)
    chance = Random(f"life {seed}")
    if len(history.datasets) == 1:
        name = "d1" if "d0" in history.datasets else "some:1"
        history.datasets[name] = _another(history, chance)
    history.begins = [name for name in history.datasets if chance.random() < 0.4]
    specs = written(history.labels)
    history.steps = _steps(history, specs, chance)
    for _ in range(chance.choice([3, 6, 10])):
        name = chance.choice(list(history.datasets))
        step: Step = chance.choices(
            [
                ["subscribe", name],
                ["unsubscribe", name, chance.random() < 0.4],
                ["pause_subscription", name],
                ["resume_subscription", name],
            ],
            [4, 3, 2, 2],
        )[0]
        history.steps.insert(chance.randrange(len(history.steps) + 1), step)
    for name in history.datasets:
        if name not in history.begins and chance.random() < 0.7:
            history.steps.insert(0, ["subscribe", name])
    return history


def _another(history: History, chance: Random) -> Rules:
    """Draw a second dataset, about the same tables."""
    while True:
        drawn = _related(chance) if history.seed % 2 else _datasets(chance)
        rules = next(iter(drawn.values()))
        labels = {label for label, *_ in rules}
        if labels & set(history.labels) and labels <= {s.label for s in written(history.labels)}:
            return rules


def _steps(history: History, specs: Sequence[TableSpec], chance: Random) -> list[Step]:
    steps: list[Step] = []
    locals_too = chance.random() < 0.5
    steps += [["tx", _filling(specs, chance)] for _ in range(chance.choice([0, 1, 3]))]
    if chance.random() < 0.5:
        steps.append(["quiet"])
    opened = False
    for _ in range(chance.choice([15, 30, 60])):
        step = _step(history, specs, chance, opened=opened, locals_too=locals_too)
        opened = {"open": True, "close": False}.get(step[0], opened)
        steps.append(step)
    return [*steps, ["close"]] if opened else steps


_STEPS: tuple[tuple[str, float], ...] = (
    ("tx", 72),
    ("turn", 6),
    ("backfill", 3),
    ("pause", 1),
    ("resume", 1),
    ("restart", 1),
    ("kill", 1),
    ("second", 1),
    ("wait", 6),
    ("quiet", 1),
    ("verify", 1.5),
    ("local", 7),
)


def _step(
    history: History, specs: Sequence[TableSpec], chance: Random, *, opened: bool, locals_too: bool
) -> Step:
    name = chance.choices([n for n, _ in _STEPS], [w for _, w in _STEPS])[0]
    if name == "turn":
        name = "close" if opened else "open"
    if name == "local" and not locals_too:
        name = "tx"
    arguments: dict[str, Callable[[], Any]] = {
        "tx": lambda: _operations(specs, chance),
        "open": lambda: _operations(specs, chance),
        "local": lambda: _local(specs, chance),
        "backfill": lambda: chance.choice(list(history.datasets)),
        "wait": lambda: chance.choice([0.01, 0.05, 0.2]),
        **dict.fromkeys(("restart", "kill", "second"), lambda: chance.choice(["capture", "apply"])),
    }
    return [name, arguments[name]()] if name in arguments else [name]
