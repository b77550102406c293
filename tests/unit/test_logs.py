"""Logs: both forms, the event, further fields, and no values of rows."""

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime

import pytest

from replicator.errors import Hole
from replicator.logs import configure_logs, describe_error

logger = logging.getLogger("replicator_capture.wal")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    names = ("replicator", "replicator_capture", "replicator_apply")
    before = {name: logging.getLogger(name).level for name in names}
    yield io.StringIO()
    root = logging.getLogger()
    for handler in [h for h in root.handlers if h.get_name() == "replicator"]:
        root.removeHandler(handler)
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def test_json_lines(stream: io.StringIO) -> None:
    configure_logs("json", stream=stream)
    logger.info("Slot %s lost", "s1", extra={"event": "slot_lost", "retained": 12})
    logger.warning("Second")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert datetime.fromisoformat(first.pop("time")).utcoffset() is not None
    assert first == {
        "level": "info",
        "logger": "replicator_capture.wal",
        "event": "slot_lost",
        "message": "Slot s1 lost",
        "retained": 12,
    }
    assert second["event"] is None


def test_text(stream: io.StringIO) -> None:
    configure_logs("text", stream=stream)
    logger.info("Slot %s lost", "s1", extra={"event": "slot_lost"})
    line = stream.getvalue().rstrip("\n")
    assert line.endswith("INFO    replicator_capture.wal [slot_lost] Slot s1 lost")


def test_a_newline_stays_inside_a_json_line(stream: io.StringIO) -> None:
    configure_logs("json", stream=stream)
    logger.info("two\nlines")
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_error_shows_its_place_and_no_value(form, stream: io.StringIO) -> None:
    configure_logs(form, stream=stream)
    cause = ValueError("Key (email)=(someone@example.org) exists")

    def stop() -> None:
        raise Hole("Records are missing.") from cause

    try:
        stop()
    except Hole:
        logger.exception("It stopped")
    text = stream.getvalue()
    assert "someone@example.org" not in text
    assert "replicator.errors.Hole: Records are missing." in text
    assert "builtins.ValueError" in text
    assert "test_logs.py" in text


def test_levels(stream: io.StringIO) -> None:
    configure_logs("text", "WARNING", stream=stream)
    logger.info("quiet")
    logging.getLogger("somebody.else").info("quiet")
    logger.warning("loud")
    logging.getLogger("somebody.else").warning("loud")
    assert [line[-4:] for line in stream.getvalue().splitlines()] == ["loud", "loud"]


def test_configuring_again_replaces(stream: io.StringIO) -> None:
    configure_logs("json", stream=io.StringIO())
    configure_logs("text", stream=stream)
    logger.info("once")
    assert stream.getvalue().count("once") == 1


def test_a_suppressed_context_is_not_shown() -> None:
    def fail() -> None:
        try:
            {}["secret"]
        except KeyError:
            raise RuntimeError("other") from None

    with pytest.raises(RuntimeError) as caught:
        fail()
    assert "KeyError" not in describe_error(caught.value)
