"""What capture would refuse is found before it starts, and beside one that runs."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from replicator.log.port import open_log
from replicator.settings import ReplicatorSettings
from replicator_capture.keeper import Keeper
from replicator_capture.preflight import probe
from replicator_capture.status import collect
from tests.conftest import SampleFactory
from tests.support.capture_run import capture_settings, capture_task, capturing
from tests.support.processes import wait_until


class Source:
    """A source, looked at by `check`."""

    def __init__(self, conninfo: str, log_url: str) -> None:
        self.settings = capture_settings(log_url)
        self.task = capture_task(conninfo, self.settings)
        self.connection = psycopg.connect(conninfo, autocommit=True)

    def check(self, settings: ReplicatorSettings | None = None) -> list[str]:
        """Give what capture would refuse."""
        return self.found("E128", settings)

    def found(self, number: str, settings: ReplicatorSettings | None = None) -> list[str]:
        """Give the findings with that number."""
        used = settings or self.settings
        found = probe(used, self.connection, open_log(used.log))
        assert all(message.hint for message in found)
        return [message.msg for message in found if message.id == f"replicator.{number}"]

    @property
    def elsewhere(self) -> ReplicatorSettings:
        """The settings with a wrong ENVIRONMENT."""
        return self.settings.model_copy(update={"environment": "elsewhere"})


@pytest.fixture
def source(sample_database: SampleFactory, tmp_path: Path) -> Iterator[Source]:
    made = Source(sample_database("source"), f"sqlite:///{tmp_path}/log.sqlite3")
    with made.connection:
        yield made


def told(source: Source) -> list[tuple[str, str]]:
    """What `status` says is wrong with the stream."""
    (stream,) = collect(source.settings, source.connection, open_log(source.settings.log))
    return [(problem.what, problem.remedy) for problem in stream.problems]


def test_nothing_before_the_first_start_beside_a_capture_and_after_it(source: Source) -> None:
    assert source.check() == []
    with capturing(source.task):
        assert source.check() == []
        assert told(source) == []
    assert source.check() == []
    ((rests, start),) = told(source)
    assert (rests, start) == ("No capture streams from the slot.", "Run `replicator capture`.")


def test_another_environment(source: Source) -> None:
    with capturing(source.task):
        (beside,) = source.check(source.elsewhere)
    (after,) = source.check(source.elsewhere)
    assert beside == after
    assert "the log does not know it" in after


def test_a_publication_that_was_dropped(source: Source) -> None:
    with capturing(source.task):
        pass
    source.connection.execute("DROP PUBLICATION replicator_main")
    assert source.check() == ["The slot is there, but its publication has been dropped."]


def test_a_table_that_left_the_publication(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    # Beside a capture that is not about to mend it.
    monkeypatch.setattr(Keeper, "_check", lambda _: None)
    lacks = "The publication replicator_main lacks public.pages_tag."
    with capturing(source.task):
        source.connection.execute("ALTER PUBLICATION replicator_main DROP TABLE pages_tag")
        ((what, remedy),) = told(source)
        assert what == lacks
        assert "replicator prepare source" in remedy
        assert source.found("W129") == [lacks]
        by_hand = source.settings.model_copy(update={"auto_prepare": False})
        assert source.found("E129", by_hand) == [lacks]
        source.connection.execute("ALTER PUBLICATION replicator_main ADD TABLE pages_tag")
        assert told(source) == []
        assert source.found("W129") == []


def test_slots_that_were_dropped(source: Source) -> None:
    with capturing(source.task):
        pass
    slots = "pg_replication_slots WHERE database = current_database()"
    # The walsender may end a little later than capture.
    wait_until(
        lambda: not source.connection.execute(f"SELECT FROM {slots} AND active").fetchall(),  # type: ignore[arg-type]
        10,
        "the slot is free",
    )
    source.connection.execute(f"SELECT pg_drop_replication_slot(slot_name) FROM {slots}")  # type: ignore[arg-type]
    (refusal,) = source.check()
    assert "the database has no slot for it" in refusal
    ((what, remedy),) = told(source)
    assert what == refusal
    assert "replicator capture --new-epoch" in remedy
