"""The one property that the product lives by, on random histories; see `tests.support.oracle`."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import SampleFactory
from tests.support.kafka import KafkaBroker
from tests.support.oracle.history import History
from tests.support.oracle.invent import invent
from tests.support.oracle.play import play

HISTORIES = int(os.environ.get("REPLICATOR_ORACLE_HISTORIES", "12"))
SEED = int(os.environ.get("REPLICATOR_ORACLE_SEED", "0"))


def run(history: History, sample_database: SampleFactory, log: str, folder: Path) -> None:
    source, target = sample_database("source"), sample_database("target")
    began = time.monotonic()
    try:
        counts = play(history, source, target, log)
    except BaseException as error:
        script = folder / f"history-{history.seed}.json"
        history.dump(script)
        error.add_note(f"Replay: REPLICATOR_ORACLE_SCRIPT={script} pytest {__file__}")
        raise
    print(f"history {history.seed}: {time.monotonic() - began:.1f} s, {counts}")


@pytest.mark.parametrize("seed", range(SEED, SEED + HISTORIES))
def test_random_history(seed: int, sample_database: SampleFactory, tmp_path: Path) -> None:
    run(invent(seed), sample_database, f"sqlite:///{tmp_path}/log.sqlite3", tmp_path)


@pytest.mark.skipif("REPLICATOR_ORACLE_SCRIPT" not in os.environ, reason="no script is given")
def test_script(sample_database: SampleFactory, tmp_path: Path) -> None:
    history = History.load(Path(os.environ["REPLICATOR_ORACLE_SCRIPT"]))
    run(history, sample_database, f"sqlite:///{tmp_path}/log.sqlite3", tmp_path)
