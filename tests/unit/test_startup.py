"""Each row of the start-up table."""

from dataclasses import replace

import pytest

from replicator.envelope import EpochStart
from replicator.errors import Refused
from replicator.positions import EpochId, Lsn
from replicator_capture.beat import Beat
from replicator_capture.slot import Slot
from replicator_capture.startup import (
    AppendEpoch,
    BeginEpoch,
    Database,
    Facts,
    Go,
    LogTail,
    Refuse,
    Standby,
    decide,
    foresee,
)

EPOCH = EpochId("0000aaaa")
OTHER = EpochId("0000bbbb")
BEAT = Beat(EPOCH, 7, "12345678")
SLOT = Slot(
    name=f"replicator_main__{EPOCH}",
    plugin="pgoutput",
    active=False,
    active_pid=None,
    wal_status="reserved",
    confirmed=Lsn(1000),
    restart=Lsn(900),
    retained=100,
    safe_wal_size=None,
    synced=False,
    invalidation="",
)
START = EpochStart(EPOCH, "", Lsn(500), "1234", 1, "first")
FACTS = Facts(
    slots=(SLOT,),
    log=LogTail(empty=False, epoch=START, to=Lsn(1000), beat=BEAT),
    database=Database("1234", 1, False, "logical", Lsn(2000), BEAT),
    has_publication=True,
    problems=(),
    new_epoch=False,
)
EMPTY_LOG = LogTail(empty=True, epoch=None, to=None, beat=None)


def with_slot(**changes: object) -> Facts:
    return replace(FACTS, slots=(SLOT._replace(**changes),))


def with_database(**changes: object) -> Facts:
    return replace(FACTS, database=replace(FACTS.database, **changes))


def with_log(**changes: object) -> Facts:
    return replace(FACTS, log=replace(FACTS.log, **changes))


def test_goes_on_when_everything_belongs_together() -> None:
    assert decide(FACTS) == Go(SLOT)


def test_first_epoch() -> None:
    facts = replace(FACTS, slots=(), log=EMPTY_LOG, has_publication=False)
    assert decide(facts) == BeginEpoch("", ())


def test_waits_as_standby() -> None:
    active = SLOT._replace(active=True, active_pid=42)
    assert decide(replace(FACTS, slots=(active,))) == Standby(active)


def test_new_epoch_replaces_every_slot() -> None:
    second = SLOT._replace(name=f"replicator_main__{OTHER}")
    facts = replace(FACTS, slots=(SLOT, second), new_epoch=True)
    assert decide(facts) == BeginEpoch(EPOCH, (SLOT.name, second.name))


def test_new_epoch_without_slot_names_the_epoch_before() -> None:
    assert decide(replace(FACTS, slots=(), new_epoch=True)) == BeginEpoch(EPOCH, ())


def test_epoch_record_is_appended_after_a_crash_between_slot_and_record() -> None:
    new = SLOT._replace(name=f"replicator_main__{OTHER}", confirmed=Lsn(1500))
    decision = decide(replace(FACTS, slots=(new,)))
    assert isinstance(decision, AppendEpoch)
    assert (decision.previous, decision.start) == (EPOCH, 1500)


def test_first_epoch_record_is_appended_after_a_crash() -> None:
    facts = replace(FACTS, log=EMPTY_LOG, database=replace(FACTS.database, beat=None))
    decision = decide(facts)
    assert isinstance(decision, AppendEpoch)
    assert (decision.previous, decision.start) == ("", 1000)


def test_a_synchronised_slot_goes_on_after_a_failover() -> None:
    facts = replace(with_slot(synced=True), database=replace(FACTS.database, timeline=2))
    decision = decide(facts)
    assert isinstance(decision, AppendEpoch)
    assert decision.previous == EPOCH


def test_a_confirmed_epoch_without_events_goes_on() -> None:
    assert decide(replace(with_slot(confirmed=Lsn(500)), log=replace(FACTS.log, to=None))) == Go(
        SLOT._replace(confirmed=Lsn(500))
    )


def test_a_beat_that_was_not_published_is_no_obstacle() -> None:
    assert decide(with_database(beat=Beat(EPOCH, 8, "87654321"))) == Go(SLOT)


REFUSALS = {
    "standby server": (with_database(in_recovery=True), "hot standby"),
    "wal_level": (with_database(wal_level="replica"), "wal_level"),
    "two slots": (
        replace(FACTS, slots=(SLOT, SLOT._replace(name=f"replicator_main__{OTHER}"))),
        "several slots",
    ),
    "slot gone": (replace(FACTS, slots=()), "no slot"),
    "lost": (with_slot(wal_status="lost"), "given up"),
    "invalidated": (with_slot(invalidation="rows_removed"), "rows_removed"),
    "other plugin": (with_slot(plugin="wal2json"), "plugin"),
    "publication gone": (replace(FACTS, has_publication=False), "publication"),
    "identity": (replace(FACTS, problems=("No identity.",)), "No identity"),
    "first epoch with a bad table": (
        replace(FACTS, slots=(), log=EMPTY_LOG, problems=("No identity.",)),
        "No identity",
    ),
    "new epoch with a bad table": (
        replace(FACTS, problems=("No identity.",), new_epoch=True),
        "No identity",
    ),
    "new epoch under a running capture": (
        replace(with_slot(active=True, active_pid=42), new_epoch=True),
        "process 42",
    ),
    "log emptied": (replace(FACTS, log=EMPTY_LOG), "emptied"),
    "log has only another epoch": (
        with_log(epoch=EpochStart(OTHER, "", Lsn(1), "1234", 1, "")),
        "does not know it",
    ),
    "slot older than the log": (
        replace(
            with_log(epoch=EpochStart(OTHER, "", Lsn(1500), "1234", 1, ""), to=Lsn(1900)),
            database=replace(FACTS.database, beat=Beat(OTHER, 8, "00000000")),
        ),
        "older than the log's last epoch",
    ),
    "epoch record expired": (
        replace(with_log(epoch=None), database=replace(FACTS.database, beat=None)),
        "beginning",
    ),
    "other system": (with_database(system_id="999"), "system"),
    "other timeline": (with_database(timeline=2), "fail-over"),
    "log lost its tail": (with_slot(confirmed=Lsn(1001)), "lost records"),
    "log lost all after the epoch record": (with_log(to=None), "lost records"),
    "restored volume": (with_database(beat=Beat(EPOCH, 6, "aaaaaaaa")), "restored"),
    "restored before the first beat": (with_database(beat=None), "restored"),
    "two that were one": (with_database(beat=Beat(EPOCH, 7, "aaaaaaaa")), "restored"),
    "WAL ends before the log does": (with_database(wal_end=Lsn(999)), "restored"),
}


@pytest.mark.parametrize(("facts", "words"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refuses(facts: Facts, words: str) -> None:
    decision = decide(facts)
    assert isinstance(decision, Refuse), decision
    assert words in decision.message
    error = decision.error()
    assert isinstance(error, Refused)
    assert error.remedy


@pytest.mark.parametrize(
    "name",
    ["log emptied", "epoch record expired", "log lost its tail", "log has only another epoch"],
)
def test_a_log_that_lost_records_is_mended_on_both_sides(name: str) -> None:
    decision = decide(REFUSALS[name][0])
    assert isinstance(decision, Refuse)
    assert "replicator capture --new-epoch" in decision.remedy
    assert "replicator rebase" in decision.remedy
    assert "ENVIRONMENT" in decision.remedy


def test_a_start_beside_a_running_capture_is_foreseen() -> None:
    running = with_slot(active=True, active_pid=42)
    assert foresee(running) is None
    refusal = foresee(replace(running, log=EMPTY_LOG))
    assert refusal is not None
    assert "does not know it" in refusal.message


def test_what_is_no_refusal_is_nothing_to_tell() -> None:
    assert foresee(replace(FACTS, slots=(), log=EMPTY_LOG)) is None
