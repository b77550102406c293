"""Which changes of a partitioned table's partitions its token tells of."""

from collections.abc import Collection

import pytest

from replicator_capture.partitions import Part, Trees

NAME = "public.reading"
A, B, C = Part(1, 11, "5"), Part(2, 12, "5"), Part(3, 13, "6")


def full(_: Collection[int]) -> bool:
    return False


def empty(_: Collection[int]) -> bool:
    return True


def locked(_: Collection[int]) -> None:
    return None


def trees(*parts: Part) -> Trees:
    made = Trees({})
    made.update({NAME: frozenset(parts)}, full)
    return made


def again(before: Trees) -> Trees:
    """Give what the next run knows from the marks."""
    tokens = {NAME: before.token(NAME, 7)}
    return Trees({f"table:{NAME}": tokens[NAME], **before.told_of(tokens)})


@pytest.mark.parametrize(
    "parts",
    [
        {A},
        {A, B._replace(file=99)},
        {A, B._replace(attached="9")},
        {A, B, C},
        set(),
    ],
    ids=["dropped", "truncated", "attached again", "attached", "all dropped"],
)
@pytest.mark.parametrize("restarted", [False, True])
def test_another_token(parts: set[Part], *, restarted: bool) -> None:
    known = trees(A, B)
    before = known.token(NAME, 7)
    known = again(known) if restarted else known
    assert known.token(NAME, 7) == before
    known.update({NAME: frozenset(parts)}, full)
    assert known.token(NAME, 7) != before


def test_an_empty_partition_changes_nothing_then_and_later() -> None:
    known = trees(A, B)
    before = known.token(NAME, 7)
    known.update({NAME: frozenset({A, B, C})}, empty)
    assert known.token(NAME, 7) == before
    known = again(known)
    known.update({NAME: frozenset({A, B, C})}, full)
    assert known.token(NAME, 7) == before


def test_a_locked_partition_is_looked_at_later() -> None:
    known = trees(A)
    before = known.token(NAME, 7)
    known.update({NAME: frozenset({A, B})}, locked)
    assert known.token(NAME, 7) == before
    known.update({NAME: frozenset({A, B})}, full)
    assert known.token(NAME, 7) != before


def test_a_mark_with_an_older_token_tells_no_newer_tree() -> None:
    known = trees(A)
    older = {NAME: known.token(NAME, 7)}
    known.update({NAME: frozenset()}, full)
    assert known.told_of(older) == {}


def test_a_table_without_partitions_has_the_token_of_its_membership() -> None:
    assert Trees({}).token("public.poll", 7) == 7
    assert Trees({"table:public.poll": 7}).token("public.poll", 7) == 7
