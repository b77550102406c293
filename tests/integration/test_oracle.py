"""The one property that the product lives by, on random histories; see `tests.support.oracle`.

A history that breaks it is printed, as what was captured on stdout, and stored for the time being.

REPLICATOR_ORACLE_HISTORIES   how many are played
REPLICATOR_ORACLE_LIVES       how many are, in which subscriptions come and go
REPLICATOR_ORACLE_SEED        seed of the first
REPLICATOR_ORACLE_SCRIPT      plays one history that failed, as it was stored
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SampleFactory
from tests.support.kafka import KafkaBroker
from tests.support.oracle.history import History
from tests.support.oracle.invent import invent, invent_life
from tests.support.oracle.play import play
from tests.support.spread import HISTORY

HISTORIES = int(os.environ.get("REPLICATOR_ORACLE_HISTORIES", "68"))
LIVES = int(os.environ.get("REPLICATOR_ORACLE_LIVES", str(max(1, HISTORIES // 2))))
SEED = int(os.environ.get("REPLICATOR_ORACLE_SEED", "0"))
ON_KAFKA = max(1, HISTORIES // 30)
CORPUS = sorted((Path(__file__).parents[1] / "support/oracle/corpus").glob("*.json"))

Play = Callable[..., None]


@pytest.fixture
def run(
    sample_database: SampleFactory, tmp_path: Path, record_property: Callable[[str, object], None]
) -> Play:
    """Play a history on a log; if it breaks, store and print it, and say how to play it again."""

    def run_it(history: History, log: str = f"sqlite:///{tmp_path}/log.sqlite3") -> None:
        began = time.monotonic()
        try:
            counts = play(history, sample_database("source"), sample_database("target"), log)
        except BaseException as error:
            script = tmp_path / f"history-{history.seed}.json"
            history.dump(script)
            print(script.read_text())
            error.add_note(f"Replay: REPLICATOR_ORACLE_SCRIPT={script} pytest {__file__} -k script")
            raise
        finally:
            record_property(HISTORY, time.monotonic() - began)
        print(f"history {history.seed}: {time.monotonic() - began:.1f} s, {counts}")

    return run_it


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_history_that_once_failed(path: Path, run: Play) -> None:
    run(History.load(path))


@pytest.mark.skipif("REPLICATOR_ORACLE_SCRIPT" not in os.environ, reason="no script is given")
def test_script(run: Play) -> None:
    run(History.load(Path(os.environ["REPLICATOR_ORACLE_SCRIPT"])))


@pytest.mark.parametrize("seed", range(SEED, SEED + HISTORIES))
def test_random_history(seed: int, run: Play) -> None:
    run(invent(seed))


@pytest.mark.parametrize("seed", range(SEED, SEED + LIVES))
def test_random_history_of_subscriptions(seed: int, run: Play) -> None:
    run(invent_life(seed))


@pytest.mark.parametrize("seed", range(SEED + 10**6, SEED + 10**6 + ON_KAFKA))
def test_random_history_on_kafka(
    seed: int, run: Play, kafka: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = kafka.topic("oracle").replace(".", "-")
    monkeypatch.setattr("tests.support.oracle.system.SOURCE", name)
    run(invent(seed), kafka.url)
