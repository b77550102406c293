"""Tables that joined the stream, as marks tell."""

import pytest

from replicator_apply.marks import joined_tables, with_tables


@pytest.mark.parametrize(
    ("before", "now", "joined"),
    [
        ({}, {"table:public.a": 1}, set()),
        ({"slot": "s"}, {"table:public.a": 1}, set()),
        ({"table:public.a": 1}, {"table:public.a": 1, "table:public.b": 7}, {"public.b"}),
        ({"table:public.a": 1}, {"table:public.a": 1}, set()),
        ({"table:public.a": 1}, {"table:public.a": 2, "slot": "s"}, {"public.a"}),
        ({"table:public.a": "1-x"}, {"table:public.a": "1-y", "tree:public.a": "z"}, {"public.a"}),
        ({"table:public.a": "1-x"}, {"table:public.a": "1-x", "tree:public.a": "z"}, set()),
        ({"table:public.a": 1}, {}, set()),
    ],
)
def test_a_new_token_means_that_the_table_joined(
    before: dict[str, object], now: dict[str, object], joined: set[str]
) -> None:
    assert joined_tables(before, now) == joined


def test_a_capture_that_starts_again_lets_no_table_join() -> None:
    """Its first mark names no table yet."""
    report: dict[str, object] = {"table:public.thing": 1, "wal_status": "reserved"}
    report = with_tables(report, {"wal_status": "extended"})
    assert report == {"table:public.thing": 1, "wal_status": "extended"}
    assert joined_tables(report, {"table:public.thing": 1}) == set()
    assert joined_tables(report, {"table:public.thing": 2}) == {"public.thing"}
