"""A subscription that nobody declares any more rests: it holds no row against another one."""

from tests.integration.conftest import StartTarget
from tests.integration.test_apply_stream import TAGS, tag
from tests.support.target import Target, change

RECEIPTS = 'SELECT id, subscription_id FROM replicator."public.pages_tag" ORDER BY 1, 2'


def rename_dataset(target: Target) -> None:
    """Have the rows be those of a dataset that had another name."""
    target.stop()
    target.execute("UPDATE replicator_subscription SET dataset = 'old-name'")
    target.start()
    target.until(lambda: len(target.rows("SELECT 1 FROM replicator_subscription")) == 2, "two")


def test_a_new_name_takes_the_rows_over_and_deletes_them(start: StartTarget) -> None:
    target, published = start("pages")
    target.reach(published.transaction(tag(1, "a"), tag(2, "b")))
    rename_dataset(target)
    target.reach(published.transaction(tag(1, "a"), tag(2, "b")))
    assert not target.stopped
    assert [row[0] for row in target.rows(RECEIPTS)] == [1, 1, 2, 2]
    target.reach(published.transaction(change("d", "pages_tag", 1)))
    assert target.rows(TAGS) == [(2, "b")]
    assert [row[0] for row in target.rows(RECEIPTS)] == [2, 2]
