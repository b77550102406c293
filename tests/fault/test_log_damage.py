"""What may be wrong with the log and the slot: gaps, garbage, hostile records; all is noticed."""

import json
import sqlite3
import time
import urllib.request
from collections.abc import Callable

import psycopg
import pytest

from replicator.log import open_log
from replicator.settings import requests_topic, stream_topic
from tests.fault.conftest import Make
from tests.support.ports import free_port
from tests.support.traffic import Traffic
from tests.support.two_environments import BY_RULE, SOURCE, TARGET, WHOLE, TwoEnvironments

TOPIC = stream_topic(SOURCE, "main")
HOSTILE_KEY = b'["public.shop_team",1000000]'


def test_a_dropped_slot_is_refused_until_a_new_epoch(two_environments: Make) -> None:
    pair = two_environments(datasets=BY_RULE)
    pair.start()
    assert pair.capture.process is not None
    with Traffic(pair.source, 1) as traffic:
        traffic.at_least(20)
        _drop_slots(pair)
        assert pair.capture.process.wait(60) == 3, pair.capture.output()
        traffic.at_least(20)
        refused = pair.capture.start()
        assert refused.wait(60) == 3
        assert "--new-epoch" in refused.output()
        pair.capture.start("--new-epoch")
        traffic.at_least(20)
    pair.settle(restart=False)


def _drop_slots(pair: TwoEnvironments) -> None:
    """Drop the slot behind the daemon's back."""
    with psycopg.connect(pair.source, autocommit=True) as connection:
        while True:
            found = connection.execute(
                "SELECT slot_name, active_pid FROM pg_replication_slots"
                " WHERE database = current_database()"
            ).fetchall()
            if not found:
                return
            for name, pid in found:
                connection.execute("SELECT pg_terminate_backend(%s, 2000)", [pid])
                try:
                    connection.execute("SELECT pg_drop_replication_slot(%s)", [name])
                except psycopg.errors.ObjectInUse:
                    time.sleep(0.01)


def rows_of_topic(pair: TwoEnvironments, statement: str, *values: bytes) -> None:
    """Change the sqlite log's records behind everybody's back; `{}` is the topic's table."""
    with sqlite3.connect(pair.log.removeprefix("sqlite:///"), timeout=20) as connection:
        (number,) = connection.execute("SELECT id FROM topic WHERE name = ?", (TOPIC,)).fetchone()
        connection.execute(statement.format(f"topic_{number}"), values)
    connection.close()


@pytest.mark.parametrize(
    "which", ["id < (SELECT max(id) FROM {0})", "id IN (SELECT max(id) - 9 FROM {0})"]
)
def test_lost_records_are_a_hole_until_rebase(two_environments: Make, which: str) -> None:
    pair = two_environments(datasets=BY_RULE)
    pair.start()
    assert pair.apply.process is not None
    assert pair.apply.process.terminate() == 0
    before = pair.position()
    with Traffic(pair.source, 2) as traffic:
        traffic.at_least(60)
        _wait_for_log(pair, 100)
        rows_of_topic(pair, "DELETE FROM {0} WHERE " + which)
        pair.apply.start()
        pair.until(lambda: pair.stopped()[0] != "", "it stands", restart=False)
        assert "rebase" in pair.stopped()[1]
        stood = pair.position()
        traffic.at_least(10)
        time.sleep(1)
        assert pair.position() == stood >= before
        rebase(pair)
        traffic.at_least(10)
    pair.settle(restart=False)


def _length(pair: TwoEnvironments) -> int:
    state = open_log(pair.log).state(TOPIC)
    return state.end - state.begin


def _wait_for_log(pair: TwoEnvironments, more: int) -> None:
    end, until = _length(pair) + more, time.monotonic() + 20
    while _length(pair) < end:
        assert time.monotonic() < until
        time.sleep(0.05)


def rebase(pair: TwoEnvironments) -> None:
    """Run the command that goes on behind a gap; it must do so."""
    command = pair.run("rebase")
    assert command.wait(60) == 0, command.output()


def a_record(pair: TwoEnvironments) -> dict:
    """Make a creation of a team, whole and next in the stream, to be spoilt."""
    ((epoch, position),) = pair.on_target("SELECT epoch, next_lsn FROM replicator_streamposition")
    # Marks come meanwhile, and apply makes its temporary tables anew in the same cluster.
    position += 10**9
    return {
        "op": "c",
        "before": None,
        "after": {"id": 10**6, "name": "hostile/0", "captain_id": None},
        "source": {
            "version": "1",
            "connector": "replicator",
            "name": SOURCE,
            "db": "x",
            "schema": "public",
            "table": "shop_team",
            "txId": 1,
            "lsn": position,
            "ts_ms": 1,
            "snapshot": "false",
        },
        "at": {"v": 1, "epoch": epoch, "run": 9, "ordinal": 0, "from": 0, "to": position + 1},
    }


def _spoilt(**change: object) -> Callable[[dict], bytes]:
    def spoil(record: dict) -> bytes:
        for path, value in change.items():
            part = record
            *parents, last = path.split("__")
            for name in parents:
                part = part[name]
            part[last] = value
        return json.dumps(record).encode()

    return spoil


DAMAGED: dict[str, Callable[[dict], bytes]] = {
    "garbage": lambda _: b"\x00\xff garbage",
    "empty": lambda _: b"",
    "not-an-object": lambda _: b"[1, 2]",
    "truncated": lambda record: json.dumps(record).encode()[:-20],
    "future-version": _spoilt(at__v=2),
    "no-place": _spoilt(at=None),
    "ordinal-of-text": _spoilt(at__ordinal="0; DROP TABLE shop_team"),
    "unknown-column": _spoilt(after__evil="1"),
    "column-of-sql": lambda record: _spoilt(
        after={**record["after"], "id) SELECT 1; DROP TABLE shop_team; --": 1}
    )(record),
    "text-for-a-number": _spoilt(after__id="1; DROP TABLE shop_team"),
    "nul-in-text": _spoilt(after__name="a\x00b"),
    "half-a-surrogate": lambda r: json.dumps(r).replace("hostile", "\\ud800").encode(),
    "name-too-long": _spoilt(after__name="x" * 5000),
    "null-for-not-null": _spoilt(after__name=None),
    "position-beyond-64-bits": _spoilt(at__to=2**64 + 5),
    "ends-before-its-commit": _spoilt(at__to=1),
    "deeply-nested": lambda r: (
        json.dumps(r).encode()[:-1] + b',"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    ),
}


ROWS = ("unknown-column", "text-for-a-number", "nul-in-text", "name-too-long", "null-for-not-null")
NEEDS_REBASE = ("garbage", "future-version", "deeply-nested")


@pytest.mark.parametrize("datasets", [WHOLE, BY_RULE], ids=["whole", "by-rule"])
def test_damaged_records_stop_apply_and_are_never_skipped(
    two_environments: Make, datasets: tuple[str, ...]
) -> None:
    pair = two_environments(datasets=datasets)
    pair.start()
    for name, damage in DAMAGED.items():
        if datasets == BY_RULE and name not in ROWS:
            continue
        put(pair, damage(a_record(pair)))
        pair.until(lambda: pair.stopped()[0] != "", f"it stands at {name}", 60, restart=False)
        assert pair.stopped()[1], name
        assert "hostile" not in pair.stopped()[0]
        if name in NEEDS_REBASE and datasets == WHOLE:
            rebase(pair)
        else:
            mend(pair)
        pair.until(lambda: pair.stopped()[0] == "", f"it goes on after {name}", 60, restart=False)
    pair.settle(restart=False)


def put(pair: TwoEnvironments, value: bytes) -> None:
    """Append a record that nobody should have written."""
    writer = open_log(pair.log).writer(TOPIC)
    writer.append([(HOSTILE_KEY, value)], None)
    writer.close(1)


def mend(pair: TwoEnvironments) -> None:
    """Put something harmless in the place of the record that was put."""
    place = {"v": 1, "epoch": "", "run": 9, "ordinal": 0}
    value = json.dumps({**a_record(pair), "at": place}).encode()
    rows_of_topic(pair, "UPDATE {} SET value = ? WHERE key = ?", value, HOSTILE_KEY)


def test_garbage_in_the_requests_topic_is_ignored_and_counted(two_environments: Make) -> None:
    address = f"127.0.0.1:{free_port()}"
    pair = two_environments(capture_settings={"METRICS": {"capture": address}})
    pair.start()
    writer = open_log(pair.log).writer(requests_topic(SOURCE, "main", TARGET))
    garbage = [
        b"",
        b"\xff\x00",
        b"[]",
        b"{}",
        b'{"kind":"keys"}',
        b'{"v":99,"kind":"page","target":"stage","id":"1","plan":[],"dataset":"polls","rule":0}',
        b"[" * 200_000,
        b'{"kind":' + b"[" * 50_000,
        b"1" * 6000,
        b'{"kind":"report","at_ms":' + b"9" * 5000 + b"}",
    ]
    writer.append([(b"", value) for value in garbage], None)
    writer.close(1)

    def counted() -> float:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as page:
            lines = page.read().decode().splitlines()
        name = "replicator_capture_bad_requests_total{"
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    pair.until(lambda: counted() == len(garbage), "all are counted", 60, restart=False)
    pair.on_target("UPDATE replicator_wantedrow SET asked_at = NULL RETURNING 1")
    command = pair.run("backfill", "--dataset", "shop")
    assert command.wait(60) == 0, command.output()
    pair.settle(restart=False)
