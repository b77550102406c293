"""The capture daemon on a real Postgres and a real log."""

from pathlib import Path

import psycopg
import pytest

from replicator_capture.daemon import Task
from tests.conftest import SampleFactory
from tests.support.capture_run import (
    Tape,
    capture_settings,
    capture_task,
    capturing,
)


@pytest.fixture
def log_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/log.sqlite3"


@pytest.fixture
def source(sample_database: SampleFactory) -> str:
    return sample_database("source")


@pytest.fixture
def task(source: str, log_url: str) -> Task:
    return capture_task(source, capture_settings(log_url))


def insert_question(conninfo: str, text: str = "why?") -> int:
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(
            "INSERT INTO polls_question (question_text, body, published, pub_date)"
            " VALUES (%s, '', true, now()) RETURNING id",
            [text],
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_first_epoch_and_restart(task: Task, source: str, log_url: str) -> None:
    tape = Tape.of(log_url)
    with capturing(task):
        insert_question(source, "one")
        tape.wait_for(lambda r: r.after is not None and r.after["question_text"] == "one")
    with capturing(task):
        insert_question(source, "two")
        tape.wait_for(lambda r: r.after is not None and r.after["question_text"] == "two")
    assert [r.op for r in tape.records if r.op == "epoch"] == ["epoch"]
    assert tape.records[0].op == "epoch"
    assert len({r.at.run for r in tape.records if r.op == "c"}) == 2
    position = tape.records[0].at.to
    for record in tape.records[1:]:
        if record.at.to is not None:
            assert record.at.from_ is not None
            assert position is not None
            assert record.at.from_ <= position
            position = max(position, record.at.to)
