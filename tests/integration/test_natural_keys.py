"""Content types and permissions have other keys in each environment: references travel by name.

Both daemons run, on databases whose keys differ.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db.models import Q

from replicator import Dataset, Rows, opt_in
from replicator.datasets import compile_dataset
from replicator.declare import declared_datasets, no_declarations
from replicator_apply.runs import begin_verification, look_at_verification
from tests.conftest import SampleFactory
from tests.support.oracle.system import System, knobs
from tests.support.wait import until

REMARKS = """
SELECT r.id, c.app_label, c.model, r.object_id FROM public.pages_remark r
LEFT JOIN public.django_content_type c ON c.id = r.content_type_id ORDER BY 1
"""
GRANTED = """
SELECT g.name, c.app_label, c.model, p.codename FROM public.auth_group_permissions l
JOIN public.auth_group g ON g.id = l.group_id
JOIN public.auth_permission p ON p.id = l.permission_id
JOIN public.django_content_type c ON c.id = p.content_type_id ORDER BY 1, 2, 3, 4
"""
KIND = "(SELECT id FROM public.django_content_type WHERE app_label = '{}' AND model = '{}')"
REMARK = (
    "INSERT INTO public.pages_remark (id, content_type_id, object_id, text) VALUES ({}, {}, 1, '')"
)
TURN = "UPDATE public.pages_remark SET content_type_id = {} WHERE id = {}"
DIFFER = "SELECT max(id) FROM public.django_content_type"


@pytest.fixture
def system(sample_database: SampleFactory, tmp_path: Path) -> Iterator[System]:
    """Both sides, not begun."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(no_declarations())
        stack.enter_context(knobs({}))
        for label in ("pages.Remark", "auth.Group", "auth.Group_permissions"):
            opt_in(label)
        Dataset("remarks", Rows("pages.Remark", where=Q(pk__lt=1_000)))
        Dataset("groups", Rows("auth.Group"), Rows("auth.Group_permissions"))
        plans = {name: compile_dataset(declared_datasets()[name]) for name in ("remarks", "groups")}
        pair = sample_database("source"), sample_database("target")
        made = stack.enter_context(System(*pair, f"sqlite:///{tmp_path}/log.sqlite3", plans))
        assert (
            made.at_source.execute(DIFFER).fetchone() != made.at_target.execute(DIFFER).fetchone()
        )
        yield made


def begin(system: System) -> None:
    system.start("capture")
    system.start("apply")


def until_equal(system: System, question: str, rows: int) -> None:
    def texts() -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
        return (
            system.at_source.execute(question.encode()).fetchall(),
            system.at_target.execute(question.encode()).fetchall(),
        )

    def equal() -> bool:
        source, target = texts()
        return source == target and len(source) == rows

    until(equal, lambda: str(texts()), check=system.check)


def differences(system: System) -> list[tuple[int, int, int]]:
    found = []
    for number in system.subscriptions():
        run = begin_verification(system.at_target, number)
        until(
            lambda run=run: look_at_verification(system.at_target, run).ended,  # type: ignore[misc]
            lambda: "verify does not finish",
            check=system.check,
        )
        last = look_at_verification(system.at_target, run)
        found.append((last.missing, last.extra, last.different))
    return found


def source(system: System, *statements: str) -> None:
    with system.at_source.transaction():
        for statement in statements:
            system.at_source.execute(statement.encode())


def test_a_backfill_and_the_stream_translate_content_types(system: System) -> None:
    source(
        system,
        REMARK.format(1, KIND.format("pages", "page")),
        REMARK.format(2, KIND.format("polls", "question")),
    )
    begin(system)
    until_equal(system, REMARKS, 2)
    source(
        system,
        REMARK.format(3, KIND.format("auth", "user")),
        TURN.format(KIND.format("pages", "tag"), 1),
    )
    until_equal(system, REMARKS, 3)
    assert differences(system) == [(0, 0, 0), (0, 0, 0)]
    other = KIND.format("shop", "order")
    system.at_target.execute(TURN.format(other, 2).encode())
    assert sorted(differences(system)) == [(0, 0, 0), (0, 0, 1)]


def test_a_content_type_that_is_new_on_both_sides_is_made(system: System) -> None:
    begin(system)
    new = "INSERT INTO public.django_content_type (app_label, model) VALUES ('late', '{}')"
    source(system, new.format("one"), REMARK.format(1, KIND.format("late", "one")))
    until_equal(system, REMARKS, 1)
    source(system, new.format("two"))
    source(system, REMARK.format(2, KIND.format("late", "two")))
    until_equal(system, REMARKS, 2)


def test_a_row_of_which_the_content_type_has_gone_is_left_out(system: System) -> None:
    source(
        system,
        "INSERT INTO public.django_content_type (app_label, model) VALUES ('late', 'gone')",
        "INSERT INTO public.django_content_type (app_label, model) VALUES ('late', 'stays')",
        REMARK.format(1, KIND.format("late", "stays")),
    )
    begin(system)
    until_equal(system, REMARKS, 1)
    system._running["capture"].end()
    source(
        system,
        REMARK.format(2, KIND.format("late", "gone")),
        TURN.format(KIND.format("late", "gone"), 1),
    )
    source(
        system,
        "DELETE FROM public.pages_remark",
        "DELETE FROM public.django_content_type WHERE model = 'gone'",
        REMARK.format(3, KIND.format("late", "stays")),
    )
    system._running["capture"] = system._begin("capture")
    until_equal(system, REMARKS, 1)
    until(
        lambda: (
            system.at_target.execute("SELECT count(*) FROM public.replicator_wantedrow").fetchone()
            == (0,)
        ),
        lambda: "rows are still wanted",
    )


def test_permissions_travel_by_codename(system: System) -> None:
    permission = "(SELECT id FROM public.auth_permission WHERE codename = '{}')"
    grant = (
        "INSERT INTO public.auth_group_permissions (group_id, permission_id) "
        "VALUES ((SELECT id FROM public.auth_group WHERE name = 'editors'), {})"
    )
    source(
        system,
        "INSERT INTO public.auth_group (name) VALUES ('editors')",
        grant.format(permission.format("change_page")),
    )
    begin(system)
    until_equal(system, GRANTED, 1)
    source(
        system,
        "INSERT INTO public.auth_permission (name, content_type_id, codename) "
        f"VALUES ('Can do', {KIND.format('pages', 'page')}, 'can.do')",
        grant.format(permission.format("can.do")),
        grant.format(permission.format("delete_tag")),
    )
    until_equal(system, GRANTED, 3)
    source(system, "DELETE FROM public.auth_group_permissions WHERE id < 3")
    until_equal(system, GRANTED, 1)
    assert differences(system) == [(0, 0, 0), (0, 0, 0)]


def test_a_reference_that_dangles_on_the_source_dangles_on_the_target(system: System) -> None:
    drop = """
    DO $$ DECLARE found text; BEGIN
      SELECT conname INTO found FROM pg_constraint
      WHERE conrelid = 'public.pages_remark'::regclass AND contype = 'f';
      EXECUTE 'ALTER TABLE public.pages_remark DROP CONSTRAINT ' || quote_ident(found);
    END $$
    """
    for connection in (system.at_source, system.at_target):
        connection.execute(drop)
    source(system, REMARK.format(1, 7))
    begin(system)
    until_equal(system, REMARKS, 1)
    kinds = system.at_target.execute("SELECT content_type_id FROM public.pages_remark").fetchall()
    assert kinds == [(-7,)]
    assert differences(system) == [(0, 0, 0), (0, 0, 0)]
