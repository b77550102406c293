"""Plans and statements of a target: names of any kind, unions of rules, what pulls what."""

import dataclasses
from functools import cached_property

import msgspec
import psycopg.sql
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from replicator.errors import ConfigurationError, Unfit, Unwritable
from replicator.plan import (
    ChildrenRule,
    Compare,
    DatasetPlan,
    Edge,
    ForeignKey,
    OnLeave,
    Or,
    ReferencedRule,
    Release,
    RowsRule,
    Rule,
    TableName,
)
from replicator_apply.catalog import Column, Constraint, TableShape
from replicator_apply.make_plan import make_plan
from replicator_apply.plan import (
    MAX_IDENTIFIER,
    Settled,
    SubscribedDataset,
    Support,
    Table,
    TargetPlan,
    reading_columns,
    receipts_name,
)
from replicator_apply.table_sql import TableSql
from replicator_apply.write import passing_value

PARENT = TableName("public", "parent")
CHILD = TableName("public", "child")
RED = Compare("colour", "exact", ("red",), "text")
BLUE = Compare("colour", "exact", ("blue",), "text")


def shape(
    name: TableName,
    columns: dict[str, str],
    *,
    key: tuple[str, ...] = ("id",),
    unique: tuple[tuple[str, ...], ...] = (),
    outgoing: tuple[Constraint, ...] = (),
    incoming: tuple[Constraint, ...] = (),
) -> TableShape:
    described = {
        column: Column(column, kind, not_null=True, generated=False, sequence="")
        for column, kind in columns.items()
    }
    return TableShape(name, 1, described, key, unique, outgoing, incoming)


def points(table: TableName, column: str, to: TableName) -> Constraint:
    return Constraint("k", table, (column,), to, ("id",), "a", deferrable=True)


def release(name: TableName, *columns: str, key: tuple[str, ...] = ("id",)) -> Release:
    return Release(f"app.{name.name}", name, key, columns)


PARENTS = release(PARENT, "id", "colour")
CHILDREN = release(CHILD, "id", "parent_id", "colour")
KEY = points(CHILD, "parent_id", PARENT)
SHAPES = {
    PARENT: shape(PARENT, {"id": "bigint", "colour": "text"}, incoming=(KEY,)),
    CHILD: shape(
        CHILD,
        {"id": "bigint", "parent_id": "bigint", "colour": "text", "local": "text"},
        unique=(("colour", "local"),),
        outgoing=(KEY,),
    ),
}


def dataset(*rules: Rule, name: str = "things") -> DatasetPlan:
    found = [r for r in (PARENTS, CHILDREN) if r.label in {rule.label for rule in rules}]
    return DatasetPlan(name, "main", rules, tuple(found), name.ljust(16, "0"))


def plan_of(*datasets: DatasetPlan, on_clash: tuple[str, ...] = ()) -> TargetPlan:
    clashes = on_clash or ("refuse",) * len(datasets)
    subscribed = [
        SubscribedDataset(number, each, 3, clash)
        for number, (each, clash) in enumerate(zip(datasets, clashes, strict=True), start=1)
    ]
    return make_plan(subscribed, SHAPES, {PARENT: {}, CHILD: {}})


def filters(plan: TargetPlan, table: TableName) -> list[object]:
    return [m.filter for m in plan.tables[table].memberships]


def test_rules_on_one_table_are_a_union() -> None:
    one = plan_of(dataset(RowsRule("app.parent", RED)))
    assert filters(one, PARENT) == [RED]
    both = plan_of(dataset(RowsRule("app.parent", RED), RowsRule("app.parent", BLUE)))
    assert filters(both, PARENT) == [Or((RED, BLUE))]
    assert not both.tables[PARENT].direct
    anyway = plan_of(dataset(RowsRule("app.parent", RED), RowsRule("app.parent")))
    assert filters(anyway, PARENT) == [None]
    assert anyway.tables[PARENT].direct


def test_each_subscription_has_a_membership_of_its_own() -> None:
    plan = plan_of(
        dataset(RowsRule("app.parent", RED)), dataset(RowsRule("app.parent"), name="all")
    )
    memberships = plan.tables[PARENT].memberships
    assert [(m.subscription, m.generation, m.filter) for m in memberships] == [
        (1, 3, RED),
        (2, 3, None),
    ]
    assert not plan.tables[PARENT].direct
    assert plan.subscription(2).dataset.name == "all"
    with pytest.raises(KeyError):
        plan.subscription(3)


def test_a_foreign_key_pulls_where_a_holder_has_the_whole_table() -> None:
    children, parents = RowsRule("app.child"), RowsRule("app.parent")
    assert pulled(plan_of(dataset(parents, children))) == {1}
    assert pulled(plan_of(dataset(children))) == set()
    some = dataset(RowsRule("app.parent", RED), children)
    assert pulled(plan_of(some)) == set()
    mixed = plan_of(dataset(parents, children), dataset(children, name="alone"))
    # For the other one the child waits, unless the first has brought the parent.
    assert pulled(mixed) == {1}


def pulled(plan: TargetPlan) -> set[int]:
    (need,) = plan.tables[CHILD].needs
    assert need.key == KEY
    assert not need.null
    return set(need.pulled)


EDGE = Edge(CHILD, ("parent_id",), PARENT, ("id",))


def test_a_child_of_some_rows_hangs_on_them() -> None:
    rules = (RowsRule("app.parent", RED), ChildrenRule("app.child", (EDGE,)))
    plan = plan_of(dataset(*rules))
    assert not plan.tables[PARENT].closed
    assert plan.tables[CHILD].closed
    (membership,) = plan.tables[CHILD].memberships
    assert membership.filter == Or(())
    assert membership.children == rules[1:]
    assert not plan.tables[CHILD].direct
    assert not plan.tables[PARENT].direct


def test_every_child_of_a_whole_table_belongs() -> None:
    rules = (RowsRule("app.parent"), ChildrenRule("app.child", (EDGE,)))
    never_null = msgspec.structs.replace(
        CHILDREN, foreign_keys=(ForeignKey(("parent_id",), PARENT, ("id",), nullable=False),)
    )
    plan = plan_of(msgspec.structs.replace(dataset(*rules), releases=(PARENTS, never_null)))
    assert filters(plan, CHILD) == [None]
    assert plan.tables[CHILD].direct
    assert not plan_of(dataset(*rules)).tables[CHILD].direct


def test_what_is_pulled_in_or_written_null_needs_a_look_at_the_rules() -> None:
    rules = (RowsRule("app.child", RED), ReferencedRule("app.parent", EDGE))
    plan = plan_of(dataset(*rules))
    assert plan.tables[CHILD].pulling == ((1, rules[1]),)
    assert plan.tables[PARENT].closed
    free = msgspec.structs.replace(dataset(RowsRule("app.child")), nulls=(EDGE,))
    (need,) = plan_of(free).tables[CHILD].needs
    assert need.null
    assert not plan_of(free).tables[CHILD].direct


def test_local_rows_are_adopted_only_if_every_holder_says_so() -> None:
    two = (dataset(RowsRule("app.parent")), dataset(RowsRule("app.parent"), name="again"))
    assert plan_of(*two, on_clash=("adopt", "adopt")).tables[PARENT].adopts
    assert not plan_of(*two, on_clash=("adopt", "refuse")).tables[PARENT].adopts


SOFT = OnLeave(CHILD, "soft", "local")


def test_what_one_dataset_says_of_rows_that_leave_holds_for_all() -> None:
    silent = dataset(RowsRule("app.child"), name="silent")
    soft = msgspec.structs.replace(dataset(RowsRule("app.child"), name="soft"), on_leave=(SOFT,))
    keep = msgspec.structs.replace(soft, name="keep", on_leave=(OnLeave(CHILD, "keep"),))
    delete = msgspec.structs.replace(soft, name="delete", on_leave=(OnLeave(CHILD, "delete"),))
    assert plan_of(silent).tables[CHILD].stay is None
    assert plan_of(delete).tables[CHILD].stay is None
    assert plan_of(silent, soft).tables[CHILD].stay == SOFT
    assert plan_of(silent, soft).tables[CHILD].mark == SOFT
    assert plan_of(keep).tables[CHILD].mark is None
    with pytest.raises(ConfigurationError, match=r"app\.child that leave: soft local, and keep"):
        plan_of(soft, keep)
    with pytest.raises(ConfigurationError, match="keep, and delete"):
        plan_of(keep, delete)


def test_a_table_must_have_the_column_that_marks() -> None:
    lacking = msgspec.structs.replace(SOFT, column="elsewhere")
    soft = msgspec.structs.replace(dataset(RowsRule("app.child")), on_leave=(lacking,))
    with pytest.raises(Unfit, match="elsewhere"):
        plan_of(soft)


NOT_FOR_ALL = ("mark_left", "call_for_written", "call_for_changed", "call_for_gone")


def statements(plan: TargetPlan, name: TableName) -> dict[str, object]:
    """Give the statements of a table, those without arguments and the ones that may differ."""
    texts = {table.name: TableSql(table, "prod", "main") for table in plan.tables.values()}
    text, table = texts[name], plan.tables[name]
    names = [each for each in dir(TableSql) if each not in NOT_FOR_ALL]
    found = {
        n: getattr(text, n) for n in names if isinstance(getattr(TableSql, n), cached_property)
    }
    for need in table.needs:
        found["null_held"] = text.null_held(need, texts)
        found["restore"] = text.restore(need, texts)
        found["null_staged"] = text.null_staged(need, texts)
    for key in table.shape.incoming:
        found["keep_for_ours"] = text.keep_for_ours(key, texts[key.table])
    found["evict_unsure"] = text.evict_unsure(sql.SQL("TRUE"))
    found["update"] = text.update(table.columns, 0)
    return {n: each for n, each in found.items() if isinstance(each, str | list | None)}


def differing(plan: TargetPlan, name: TableName) -> set[str]:
    plain = statements(plan_of(dataset(RowsRule("app.parent"), RowsRule("app.child"))), name)
    return {n for n, text in statements(plan, name).items() if text != plain[n]}


def test_policies_and_functions_change_no_statement_of_other_tables() -> None:
    rules = dataset(RowsRule("app.parent"), RowsRule("app.child"))
    said = msgspec.structs.replace(rules, on_leave=(SOFT,))
    soft = plan_of(said)
    # A row that points at one of it may be one that stays.
    assert differing(soft, PARENT) == {"keep_for_ours"}
    changed = {
        "conclude",
        "evict_unsure",
        "finish_stage",
        "null_held",
        "update",
        "update_steady",
    }
    assert differing(soft, CHILD) == changed
    hooked = make_plan(
        [SubscribedDataset(1, rules, 3)], SHAPES, {PARENT: {}, CHILD: {}}, hooks={CHILD: ["a.told"]}
    )
    assert differing(hooked, PARENT) == set()
    # Every change of it takes the way through the rules.
    assert differing(hooked, CHILD) == {"null_held", "restore", "update_steady"}


def test_the_fingerprint_changes_with_what_is_subscribed() -> None:
    one, two = dataset(RowsRule("app.parent")), dataset(RowsRule("app.parent"), name="other")
    assert len({plan_of(*p).fingerprint for p in ((one,), (two,), (one, two))}) == 3
    assert plan_of(one).fingerprint == plan_of(one).fingerprint


def test_the_rules_look_at_filters_keys_references_and_unique_columns() -> None:
    plan = plan_of(dataset(RowsRule("app.parent"), RowsRule("app.child")))
    assert reading_columns(plan.tables[PARENT]) == ("id",)
    assert reading_columns(plan.tables[CHILD]) == ("id", "parent_id", "colour")
    red = plan_of(dataset(RowsRule("app.parent", RED)))
    assert reading_columns(red.tables[PARENT]) == ("id", "colour")


def test_a_table_that_lacks_a_column_or_has_another_key_is_refused() -> None:
    rule = dataset(RowsRule("app.parent"))
    subscribed = [SubscribedDataset(1, rule, 0)]
    lacking = {PARENT: shape(PARENT, {"id": "bigint"})}
    with pytest.raises(Unfit, match="colour") as caught:
        make_plan(subscribed, lacking, {PARENT: {}})
    assert "migrate" in caught.value.remedy
    other = {PARENT: shape(PARENT, {"id": "bigint", "colour": "text"}, key=("colour",))}
    with pytest.raises(Unfit, match="primary key"):
        make_plan(subscribed, other, {PARENT: {}})


names = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=80
)


@given(names, names)
def test_receipts_have_a_name_that_postgres_takes(schema: str, name: str) -> None:
    table = TableName(schema, name)
    made = receipts_name(table)
    assert 0 < len(made.encode()) <= MAX_IDENTIFIER
    assert len(str(table).encode()) > MAX_IDENTIFIER or made == str(table)


def test_long_names_of_receipts_differ_though_they_begin_alike() -> None:
    long = "a" * 70
    assert receipts_name(TableName("public", long)) != receipts_name(
        TableName("public", long + "b")
    )


def odd_table(name: str, column: str) -> Table:
    table = TableName("public", name)
    plain = Release("app.odd", table, ("id",), ("id", column))
    plan = make_plan(
        [SubscribedDataset(1, DatasetPlan("d", "main", (RowsRule("app.odd"),), (plain,), "f"), 1)],
        {table: shape(table, {"id": "bigint", column: "text"}, unique=((column,),))},
        {table: {}},
    )
    return plan.tables[table]


@pytest.mark.parametrize("name", ['say "hi"', "two words", "select", "Übung", "a.b", "semi;colon"])
def test_names_of_any_kind_are_quoted(name: str) -> None:
    table = odd_table(name, name)
    quoted = psycopg.sql.Identifier(name).as_string()
    assert table.identifier.as_string() == f'"public".{quoted}'
    assert table.receipts.as_string().startswith('"replicator"."public.')
    assert table.prefix.decode().startswith('["public.')


def passing(kind: str, *, not_null: bool = True, nulls_equal: bool = False) -> str:
    table = odd_table("t", "c")
    table.shape.columns["c"] = Column("c", kind, not_null=not_null, generated=False, sequence="")
    if nulls_equal:
        same = dataclasses.replace(table.shape, nulls_equal=frozenset({("c",)}))
        table = dataclasses.replace(table, shape=same)
    name, value = passing_value(table, ("c",))
    assert name == "c"
    return value.as_string()


def test_a_passing_value_fits_its_column() -> None:
    assert passing("text", not_null=False) == "NULL"
    assert passing("text", not_null=False, nulls_equal=True).endswith("::text")
    assert passing("uuid") == "(gen_random_uuid())::uuid"
    assert passing("character varying(20)").endswith("::character varying(20)")


@pytest.mark.parametrize("kind", ["kinds_mood", "character varying(5)", "boolean"])
def test_where_no_passing_value_is_known_the_remedy_is_told(kind: str) -> None:
    with pytest.raises(Unwritable, match="unique") as caught:
        passing(kind)
    assert "deferrable" in caught.value.remedy


def test_what_of_a_child_needs_no_verdict() -> None:
    rules = (RowsRule("app.parent", RED), ChildrenRule("app.child", (EDGE,)))
    plan = plan_of(dataset(*rules))
    child, parent = plan.tables[CHILD].settled, plan.tables[PARENT].settled
    assert child.supports == child.holders == (Support(1, EDGE, holds=True),)
    assert child.alone
    assert child.steady
    assert child.leaves
    assert child.tying == ("parent_id",)
    # Whether a new parent passes is seen by its filter; children go with one that is deleted.
    assert parent.supports is None
    assert parent.steady
    assert not parent.leaves


def test_a_filter_on_children_or_two_ways_to_belong_need_a_verdict() -> None:
    roots = RowsRule("app.parent", RED)
    some = plan_of(dataset(roots, ChildrenRule("app.child", (EDGE,), BLUE))).tables[CHILD].settled
    assert some.supports is None
    assert not some.nobodys
    too = RowsRule("app.child", BLUE)
    either = plan_of(dataset(roots, ChildrenRule("app.child", (EDGE,)), too)).tables[CHILD].settled
    assert either.supports == (Support(1, EDGE, holds=True),)
    assert either.nobodys
    assert not either.alone


def test_what_pulls_others_in_must_find_them_and_is_not_deleted_lightly() -> None:
    rules = (RowsRule("app.child", RED), ReferencedRule("app.parent", EDGE))
    plan = plan_of(dataset(*rules))
    assert not plan.tables[CHILD].settled.leaves
    assert plan.tables[PARENT].settled.supports is None
    assert not plan.tables[PARENT].settled.nobodys
    free = msgspec.structs.replace(dataset(RowsRule("app.child", RED)), nulls=(EDGE,))
    assert plan_of(free).tables[CHILD].settled == Settled()
