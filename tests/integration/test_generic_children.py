"""Rows that hang on others by generic foreign keys follow them, whatever their keys look like.

Both daemons run, on databases in which content types have different keys.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db.models import Q

from replicator import Children, Dataset, Referenced, Rows, opt_in
from replicator.datasets import compile_dataset
from replicator.declare import declared_datasets, no_declarations
from replicator_apply.why_look import look
from replicator_capture.members import count
from tests.conftest import SampleFactory
from tests.integration.test_natural_keys import begin, differences, source
from tests.support.oracle.system import System, knobs
from tests.support.wait import until

NOTES = "SELECT id, object_id FROM public.shop_note ORDER BY 1"
KIND = "(SELECT id FROM public.django_content_type WHERE app_label || '.' || model = '{}')"
UUID = "00000000-0000-4000-8000-00000000000{}"
SUPPLIER = "INSERT INTO public.shop_supplier (id, name) VALUES ('{0}', '{1}')"
ORDER = "INSERT INTO public.shop_order (id, number) VALUES ({}, '{}')"


def note(number: int, kind: str, key: object) -> str:
    return (
        "INSERT INTO public.shop_note (id, content_type_id, object_id, text) "
        f"VALUES ({number}, {KIND.format(kind)}, '{key}', '')"
    )


@pytest.fixture
def system(sample_database: SampleFactory, tmp_path: Path) -> Iterator[System]:
    """Both sides, not begun: orders and suppliers whose names begin with an a, and their notes."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(no_declarations())
        stack.enter_context(knobs({}))
        for label in ("shop.Order", "shop.Supplier", "shop.Note"):
            opt_in(label)
        opt_in("auth.User", only=["id", "username", "email"])
        Dataset(
            "noted",
            Rows("shop.Order", where=Q(number__startswith="a")),
            Rows("shop.Supplier", where=Q(name__startswith="a")),
            Referenced("auth.User"),
            Children("shop.Note", of="target"),
        )
        plans = {"noted": compile_dataset(declared_datasets()["noted"])}
        pair = sample_database("source"), sample_database("target")
        yield stack.enter_context(System(*pair, f"sqlite:///{tmp_path}/log.sqlite3", plans))


def until_notes(system: System, *numbers: int) -> None:
    def found() -> list[int]:
        return [number for number, _ in system.at_target.execute(NOTES).fetchall()]

    until(lambda: found() == list(numbers), lambda: str(found()), check=system.check)


def test_they_enter_and_leave_with_what_they_point_at(system: System) -> None:
    source(
        system,
        ORDER.format(1, "a1"),
        ORDER.format(2, "b2"),
        SUPPLIER.format(UUID.format(1), "a"),
        note(1, "shop.order", 1),
        note(2, "shop.order", 2),
        note(3, "shop.supplier", UUID.format(1)),
        note(4, "shop.note", 3),
        note(5, "shop.note", 4),
        note(6, "pages.page", 1),
        note(7, "shop.order", "01"),
        "INSERT INTO public.shop_note (id, object_id, text) VALUES (8, '1', '')",
    )
    begin(system)
    until_notes(system, 1, 3, 4, 5)
    source(system, "UPDATE public.shop_order SET number = 'a2' WHERE id = 2")
    until_notes(system, 1, 2, 3, 4, 5)
    source(system, "UPDATE public.shop_supplier SET name = 'b'")
    until_notes(system, 1, 2)
    source(system, f"UPDATE public.shop_note SET content_type_id = {KIND.format('shop.order')}")
    until_notes(system, 1, 2, 6, 8)
    source(system, "DELETE FROM public.shop_order WHERE id = 1")
    until_notes(system, 2)
    assert differences(system) == [(0, 0, 0)]
    (counted,) = count(system.at_source, system.plans["noted"])
    assert counted.rows["shop.Note"] == 1


@pytest.mark.parametrize("key", [10**18, 2**63 - 1, -(2**63)])
def test_the_greatest_keys_written_as_text_are_followed(system: System, key: int) -> None:
    source(system, ORDER.format(key, "a1"), note(1, "shop.order", key))
    source(system, note(2, "shop.order", 2**63), note(3, "shop.order", "9" * 19))
    begin(system)
    until_notes(system, 1)
    source(system, note(4, "shop.order", key))
    until_notes(system, 1, 4)


def test_those_that_are_older_than_what_they_point_at_come_along(system: System) -> None:
    source(system, note(1, "shop.order", 7), note(2, "shop.supplier", UUID.format(7)))
    begin(system)
    source(system, ORDER.format(1, "a1"), note(3, "shop.order", 1))
    until_notes(system, 3)
    source(system, ORDER.format(7, "a7"))
    until_notes(system, 1, 3)
    source(system, SUPPLIER.format(UUID.format(7), "a7"))
    until_notes(system, 1, 2, 3)
    until(
        lambda: (
            system.at_target.execute("SELECT count(*) FROM public.replicator_wantedrow").fetchone()
            == (0,)
        ),
        lambda: "rows are still wanted",
    )


def test_those_of_a_row_that_was_held_and_is_created_come_along(system: System) -> None:
    """Its deletion was missed, in a gap of the stream, and what came to point at its key since."""
    source(system, ORDER.format(1, "a1"), note(1, "shop.order", 1), note(2, "shop.order", 7))
    begin(system)
    until_notes(system, 1)
    for statement in (
        ORDER.format(7, "a7"),
        'INSERT INTO replicator."public.shop_order" (subscription_id, id, generation) '
        "SELECT id, 7, generation FROM public.replicator_subscription",
    ):
        system.at_target.execute(statement)
    source(system, ORDER.format(7, "a7"))
    until_notes(system, 1, 2)


def test_why_names_what_holds_them(system: System) -> None:
    source(system, SUPPLIER.format(UUID.format(1), "a"), note(1, "shop.supplier", UUID.format(1)))
    begin(system)
    until_notes(system, 1)
    release = system.plans["noted"].release("shop.Note")
    found = look(system.at_target, release, ["1"])
    (claim,) = found.claims
    held = [judged for judged in claim.rules if judged.holds]
    assert [holder.by for judged in held for holder in judged.holders] == [
        "shop_note.object_id (shop.supplier)"
    ]
