"""A comparison of what was never backfilled begins no backfill."""

import pytest

from replicator.errors import Refused
from replicator_apply.command import _nothing_begun
from replicator_apply.follow import worker_for
from tests.integration.conftest import StartTarget

RUNS = "SELECT state FROM replicator_backfillrun"


def test_backfills_are_held_back_meanwhile_and_begin_later(start: StartTarget) -> None:
    target, _ = start("pages", ready=False)
    with _nothing_begun(target.connection, target.settings, target.place):
        assert target.rows(RUNS) == [("paused",)]
    assert target.rows(RUNS) == []
    target.begin()
    target.until(lambda: target.rows(RUNS) == [("running",)], "it begins now")


def test_a_backfill_that_has_begun_goes_on(start: StartTarget) -> None:
    target, _ = start("pages", ready=False)
    target.begin()
    target.until(lambda: target.rows(RUNS) == [("running",)], "it begins")
    with _nothing_begun(target.connection, target.settings, target.place):
        assert target.rows(RUNS) == [("running",)]
    assert target.rows(RUNS) == [("running",)]


def test_a_worker_that_does_not_know_the_dataset_compares_nothing(start: StartTarget) -> None:
    target, _ = start("pages")
    with (
        pytest.raises(Refused, match="does not know this dataset"),
        worker_for(target.settings, target.connection, target.place, rehearses=True),
    ):
        pass
