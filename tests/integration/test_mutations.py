"""Each rule of the algorithm, left out: the oracle must notice; see its module `mutations`.

In a normal run some of them, by stored histories that catch them quickly; those that take longer
are in a folder `slow`, and played with `all`. With an environment variable by histories that are
drawn at random; one that none of 60 catches is a hole in the oracle, or a rule that is not needed.

REPLICATOR_ORACLE_MUTATIONS   `all`, or a part of their names: which are to be caught at random
REPLICATOR_ORACLE_SEED        where to begin to draw
REPLICATOR_ORACLE_ATTEMPTS    how many histories to draw for each
REPLICATOR_ORACLE_STORE       a folder for the histories that catch them, as far as they were played
"""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import psycopg
import pytest

from replicator.errors import ReplicatorError
from tests.conftest import SampleFactory
from tests.support.oracle.history import History
from tests.support.oracle.invent import invent
from tests.support.oracle.judge import Broken
from tests.support.oracle.mutations import MUTATIONS, Mutation
from tests.support.oracle.play import play
from tests.support.oracle.system import knobs

CHOSEN = os.environ.get("REPLICATOR_ORACLE_MUTATIONS", "")
SEED = int(os.environ.get("REPLICATOR_ORACLE_SEED", "0"))
STORE = os.environ.get("REPLICATOR_ORACLE_STORE", "")
ATTEMPTS = int(os.environ.get("REPLICATOR_ORACLE_ATTEMPTS", "60"))
QUIET_WITHIN = {"tests.support.oracle.play.QUIET_WITHIN": 30.0}
"""Seconds: what is not quiet by then is caught."""
CATCHING = Path(__file__).parents[1] / "support/oracle/catching"
STORED = sorted(CATCHING.glob("**/*.json" if CHOSEN == "all" else "*.json"))

chosen = [each for each in MUTATIONS if CHOSEN and (CHOSEN == "all" or CHOSEN in each.name)]
by_slug = {each.slug: each for each in MUTATIONS}


def caught(
    mutation: Mutation, history: History, sample_database: SampleFactory, folder: Path
) -> Exception | None:
    """Play a history with a rule left out; give what broke, if something did."""
    source, target = sample_database("source"), sample_database("target")
    folder.mkdir(exist_ok=True)
    log = f"sqlite:///{folder}/log-{history.seed}.sqlite3"
    try:
        with mutation.made(), knobs(QUIET_WITHIN):
            play(history, source, target, log)
    except psycopg.OperationalError:
        raise
    except (Broken, AssertionError, ReplicatorError, psycopg.Error) as error:
        return error
    return None


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.slug)
def test_the_product_has_what_is_changed(mutation: Mutation) -> None:
    with mutation.made():
        pass


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_history_catches(
    path: Path, sample_database: SampleFactory, tmp_path: Path
) -> None:
    # Where batches end hangs on how busy the machine is, and so may whether this one shows it.
    mutation, history = by_slug[path.stem], History.load(path)
    plays = (caught(mutation, history, sample_database, tmp_path / str(n)) for n in range(3))
    found = next((error for error in plays if error is not None), None)
    assert found is not None, mutation.name
    print(f"caught: {found}")


@pytest.mark.skipif(CHOSEN != "all", reason="their catches are played only")
@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_history_is_sound(
    path: Path, sample_database: SampleFactory, tmp_path: Path
) -> None:
    source, target = sample_database("source"), sample_database("target")
    play(History.load(path), source, target, f"sqlite:///{tmp_path}/log.sqlite3")


def drawn(mutation: Mutation) -> Iterator[History]:
    """Draw histories that may meet a mutation."""
    return islice(filter(mutation.concerns, map(invent, count(SEED))), ATTEMPTS)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mutation", chosen, ids=lambda mutation: mutation.slug)
def test_random_histories_catch(
    mutation: Mutation, sample_database: SampleFactory, tmp_path: Path
) -> None:
    began = time.monotonic()
    for number, history in enumerate(drawn(mutation), 1):
        found = caught(mutation, history, sample_database, tmp_path)
        if found is not None:
            seconds = time.monotonic() - began
            print(f"caught by history {history.seed}, {number} played in {seconds:.0f} s: {found}")
            _store(mutation, history, found)
            return
    pytest.fail(f"{ATTEMPTS} histories do not catch: {mutation.name}")


def _store(mutation: Mutation, history: History, found: Exception) -> None:
    """Store a history that caught a mutation, up to the step at which it did."""
    if not STORE:
        return
    step = re.search(r"Step (\d+) of", "\n".join(getattr(found, "__notes__", ())))
    steps = history.steps if step is None else history.steps[: int(step[1]) + 1]
    replace(history, steps=steps).dump(Path(STORE) / f"{mutation.slug}.json")
