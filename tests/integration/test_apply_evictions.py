"""Old versions that stand on unique values: they leave, with what points at them, and are asked."""

from replicator.requests import KeysRequest
from tests.integration.conftest import StartTarget
from tests.support.target import change


def test_what_points_at_an_evicted_row_leaves_too(start: StartTarget) -> None:
    target, published = start("shop")
    target.reach(
        published.transaction(
            change("c", "shop_team", 1, name="a", captain_id=None),
            change("c", "shop_member", 1, name="m1", team_id=1),
            change("c", "shop_member", 2, name="m2", team_id=1),
        )
    )
    # The source gave the name away while nobody listened.
    published.transaction(
        change("c", "shop_team", 2, name="a", captain_id=None),
        change("c", "shop_member", 3, name="m3", team_id=2),
    )
    target.until(lambda: target.rows("SELECT id FROM shop_team") == [(2,)], "the new one is here")
    assert target.stopped == ""
    assert target.rows("SELECT id FROM shop_member") == [(3,)]
    assert target.rows('SELECT id FROM replicator."public.shop_member"') == [(3,)]
    asked = target.request(KeysRequest)
    assert {table: len(keys) for table, keys in asked.keys.items()} == {
        "public.shop_team": 1,
        "public.shop_member": 2,
    }
