"""Commands on a database without the tables of the app `replicator`: they say what to do."""

from collections.abc import Callable
from pathlib import Path

import pytest

from replicator.log.port import open_log
from replicator.settings import stream_topic
from tests.conftest import StartProcess
from tests.support.sample.environments import environment

COMMANDS = {
    "status": "replicator_beat",
    "status --json": "replicator_beat",
    "capture": "replicator_beat",
    "apply": "replicator_",
    "verify --dataset some-tags": "replicator_",
    "backfill --dataset some-tags": "replicator_subscription",
    "rebase": "replicator_subscription",
    "confirm 1": "replicator_backfillrun",
    "reset-state --yes": "replicator_",
}


@pytest.fixture
def env(database: Callable[[], str], tmp_path: Path) -> dict[str, str]:
    log = f"sqlite:///{tmp_path}/log.sqlite3"
    open_log(log).create(stream_topic("prod", "main"))
    wish = {"source": "prod", "dataset": "some-tags"}
    mine = {"ENVIRONMENT": "here", "LOG": log, "TARGETS": {"there": ["*"]}, "SUBSCRIPTIONS": [wish]}
    return environment(database(), mine)


def test_each_command_names_the_table_and_the_remedy(
    env: dict[str, str], process: StartProcess
) -> None:
    running = {
        command: process("replicator", *command.split(), env=env, log=command)
        for command in COMMANDS
    }
    for command, started in running.items():
        assert started.wait(90) == 3, started.output()
        *_, what, remedy = started.output().splitlines()
        assert what.startswith("replicator: The database lacks the table"), started.output()
        assert COMMANDS[command] in what
        assert remedy == "  → Run `manage.py migrate`."
        assert "CRITICAL" not in started.output()
