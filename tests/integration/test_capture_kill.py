"""A capture that is killed again and again while others write: the log has all, and no hole."""

import random
import time
from collections.abc import Iterable
from pathlib import Path

import psycopg

from replicator.envelope import Record
from tests.conftest import SampleFactory, StartProcess
from tests.integration.test_fetch import add_users, writing
from tests.support.capture_run import SOURCE, TARGET, Asker, Tape
from tests.support.replay import State, apply
from tests.support.sample.environments import environment

KILLS = 4


def replay_runs(records: Iterable[Record]) -> State:
    """Do what a target does with the records of several runs: skip repeats, refuse holes."""
    state: State = {}
    collected: dict[int, list[Record]] = {}
    position = -1
    for record in records:
        if record.op == "epoch":
            assert position == -1
            position = record.at.to or 0
            continue
        if record.at.ordinal == 0:
            collected[record.at.run] = []
        parts = collected[record.at.run]
        assert record.at.ordinal == len(parts)
        parts.append(record)
        if record.at.to is None or record.at.to <= position:
            continue
        assert record.at.from_ is not None
        assert record.at.from_ <= position, "a hole"
        position = record.at.to
        for part in parts:
            apply(state, part)
    return state


def test_a_killed_capture_leaves_no_hole(
    process: StartProcess, sample_database: SampleFactory, tmp_path: Path
) -> None:
    source, rng = sample_database("source"), random.Random(5)
    log_url = f"sqlite:///{tmp_path}/log.sqlite3"
    settings = {"ENVIRONMENT": SOURCE, "LOG": log_url, "TARGETS": {TARGET: ["*"]}}
    variables = environment(source, settings)
    tape = Tape.of(log_url)
    command = process("replicator", "capture", env=variables)
    tape.wait_for(lambda r: r.op == "m", timeout=60)
    add_users(source)
    asker = Asker(log_url)
    with writing(source, range(10, 12)):
        for _ in range(KILLS):
            seen = len(tape.wind())
            asker.keys(["polls"], {"public.polls_question": list(range(1, 60))})
            while len(tape.wind()) < seen + 50:
                time.sleep(0.02)
            time.sleep(rng.random())
            command.kill9()
            command = process("replicator", "capture", env=variables)
        seen = len(tape.wind())
        while len(tape.wind()) < seen + 50:
            time.sleep(0.02)
    with psycopg.connect(source) as connection:
        connection.execute("UPDATE auth_user SET email = 'the end' WHERE id = 1")
        questions = dict(
            connection.execute("SELECT id, question_text FROM polls_question").fetchall()
        )
    tape.wait_for(lambda r: bool(r.after) and r.after.get("email") == "the end")
    state = replay_runs(tape.wind())
    held = {key: row["question_text"] for key, row in state["polls_question"].items()}
    assert held == questions
    assert len({r.at.run for r in tape.records if r.op != "epoch"}) >= KILLS
