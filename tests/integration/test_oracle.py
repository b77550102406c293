"""The one property that the product lives by, on random histories; see `tests.support.oracle`.

REPLICATOR_ORACLE_HISTORIES   how many are played
REPLICATOR_ORACLE_LIVES       how many are, in which subscriptions come and go
REPLICATOR_ORACLE_SEED        seed of the first
REPLICATOR_ORACLE_SCRIPT      plays one history that failed, as it was stored
"""

import os
import time
from pathlib import Path

import pytest

from tests.conftest import SampleFactory
from tests.support.kafka import KafkaBroker
from tests.support.oracle.history import History
from tests.support.oracle.invent import invent, invent_life
from tests.support.oracle.play import play

HISTORIES = int(os.environ.get("REPLICATOR_ORACLE_HISTORIES", "15"))
LIVES = int(os.environ.get("REPLICATOR_ORACLE_LIVES", str(max(1, HISTORIES // 2))))
SEED = int(os.environ.get("REPLICATOR_ORACLE_SEED", "0"))
ON_KAFKA = max(1, HISTORIES // 10)
CORPUS = sorted((Path(__file__).parents[1] / "support/oracle/corpus").glob("*.json"))

played: list[float] = []
"""Seconds that each history took."""


def run(history: History, sample_database: SampleFactory, log: str, folder: Path) -> None:
    """Play a history; if it breaks, store it and say how to play it again."""
    source, target = sample_database("source"), sample_database("target")
    began = time.monotonic()
    try:
        counts = play(history, source, target, log)
    except BaseException as error:
        script = folder / f"history-{history.seed}.json"
        history.dump(script)
        error.add_note(f"Replay: REPLICATOR_ORACLE_SCRIPT={script} pytest {__file__} -k script")
        raise
    played.append(time.monotonic() - began)
    print(
        f"history {history.seed}: {played[-1]:.1f} s, {counts}; "
        f"{len(played)} histories in {sum(played):.0f} s"
    )


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_history_that_once_failed(
    path: Path, sample_database: SampleFactory, tmp_path: Path
) -> None:
    run(History.load(path), sample_database, f"sqlite:///{tmp_path}/log.sqlite3", tmp_path)


@pytest.mark.skipif("REPLICATOR_ORACLE_SCRIPT" not in os.environ, reason="no script is given")
def test_script(sample_database: SampleFactory, tmp_path: Path) -> None:
    history = History.load(Path(os.environ["REPLICATOR_ORACLE_SCRIPT"]))
    run(history, sample_database, f"sqlite:///{tmp_path}/log.sqlite3", tmp_path)


@pytest.mark.parametrize("seed", range(SEED, SEED + HISTORIES))
def test_random_history(seed: int, sample_database: SampleFactory, tmp_path: Path) -> None:
    run(invent(seed), sample_database, f"sqlite:///{tmp_path}/log.sqlite3", tmp_path)


@pytest.mark.parametrize("seed", range(SEED, SEED + LIVES))
def test_random_history_of_subscriptions(
    seed: int, sample_database: SampleFactory, tmp_path: Path
) -> None:
    run(invent_life(seed), sample_database, f"sqlite:///{tmp_path}/log.sqlite3", tmp_path)


@pytest.mark.parametrize("seed", range(SEED + 10**6, SEED + 10**6 + ON_KAFKA))
def test_random_history_on_kafka(
    seed: int,
    sample_database: SampleFactory,
    tmp_path: Path,
    kafka: KafkaBroker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = kafka.topic("oracle").replace(".", "-")
    monkeypatch.setattr("tests.support.oracle.system.SOURCE", name)
    run(invent(seed), sample_database, kafka.url, tmp_path)
