"""Tables that joined the stream, as marks tell."""

import pytest

from replicator_apply.marks import joined_tables


@pytest.mark.parametrize(
    ("before", "now", "joined"),
    [
        ({}, {"table:public.a": 1}, set()),
        ({"slot": "s"}, {"table:public.a": 1}, {"public.a"}),
        ({"table:public.a": 1}, {"table:public.a": 1}, set()),
        ({"table:public.a": 1}, {"table:public.a": 2, "slot": "s"}, {"public.a"}),
        ({"table:public.a": 1}, {}, set()),
    ],
)
def test_a_new_token_means_that_the_table_joined(
    before: dict[str, object], now: dict[str, object], joined: set[str]
) -> None:
    assert joined_tables(before, now) == joined
