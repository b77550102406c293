"""Which further rows a fetch reads."""

import msgspec

from replicator.plan import (
    ChildrenRule,
    DatasetPlan,
    Edge,
    ForeignKey,
    IsNull,
    ReferencedRule,
    Release,
    RowsRule,
    TableName,
)
from replicator_capture.closure import Closure, Link, Lookup, links

POLL, CHOICE, USER, PAGE = (TableName("public", n) for n in ("poll", "choice", "user", "page"))


def release(table: TableName, *keys: tuple[str, TableName]) -> Release:
    foreign_keys = tuple(ForeignKey((c,), to, ("id",), nullable=True) for c, to in keys)
    columns = ("id", *(column for column, _ in keys))
    return Release(table.name, table, ("id",), columns, foreign_keys=foreign_keys)


def dataset(*releases: Release, filtered: tuple[str, ...] = ()) -> DatasetPlan:
    rules = tuple(
        RowsRule(r.label, IsNull("id") if r.label in filtered else None) for r in releases
    )
    return DatasetPlan("d", "main", rules, releases, "f")


def edge(table: TableName, column: str, to: TableName) -> Edge:
    return Edge(table, (column,), to, ("id",))


def test_links_lead_up_into_whole_tables() -> None:
    plan = dataset(
        release(CHOICE, ("poll_id", POLL), ("user_id", USER)), release(POLL), filtered=("choice",)
    )
    # The users are in no dataset.
    assert links([plan]) == (Link(CHOICE, ("poll_id",), POLL, ("id",)),)


def test_links_lead_down_where_rows_wait() -> None:
    plan = dataset(release(CHOICE, ("poll_id", POLL)), release(POLL), filtered=("poll",))
    assert links([plan]) == (Link(POLL, ("id",), CHOICE, ("poll_id",)),)
    free = msgspec.structs.replace(plan, nulls=(edge(CHOICE, "poll_id", POLL),))
    assert links([free]) == ()


def test_links_lead_down_to_children_and_up_to_what_is_referenced() -> None:
    releases = (release(POLL, ("user_id", USER)), release(CHOICE, ("poll_id", POLL)), release(USER))
    rules = (
        RowsRule("poll", IsNull("id")),
        ChildrenRule("choice", (edge(CHOICE, "poll_id", POLL),)),
        ReferencedRule("user", edge(POLL, "user_id", USER)),
    )
    plan = DatasetPlan("d", "main", rules, releases, "f")
    assert set(links([plan])) == {
        Link(POLL, ("id",), CHOICE, ("poll_id",)),
        Link(POLL, ("user_id",), USER, ("id",)),
    }


def test_a_missing_key_leads_down_only() -> None:
    closure = Closure(
        [Link(POLL, ("id",), CHOICE, ("poll_id",)), Link(POLL, ("user_id",), USER, ("id",))]
    )
    closure.note_missing(POLL, {"id": "7"})
    assert closure.lookups() == [Lookup(CHOICE, ("poll_id",), (("7",),))]


def test_links_of_several_datasets_are_one_set() -> None:
    plan = dataset(release(CHOICE, ("poll_id", POLL)), release(POLL))
    assert len(links([plan, plan])) == 1


def test_closure_climbs_a_tree_and_ends_on_a_ring() -> None:
    rows = {"1": "2", "2": "3", "3": "1", "4": None, "5": "9"}
    closure = Closure(links([dataset(release(PAGE, ("parent_id", PAGE)))]))
    assert closure.columns_of(PAGE) == ("parent_id",)
    found = []
    todo = [Lookup(PAGE, ("id",), (("1",), ("4",), ("5",)))]
    while todo:
        for lookup in todo:
            for (key,) in lookup.values:
                if key in rows and closure.note(PAGE, (key,), {"parent_id": rows[key]}):
                    found.append(key)
        todo = closure.lookups()
    assert sorted(found) == ["1", "2", "3", "4", "5"]


def test_a_row_read_twice_is_answered_once() -> None:
    closure = Closure([])
    assert closure.note(POLL, ("1",), {})
    assert not closure.note(POLL, ("1",), {})
    assert closure.lookups() == []
