"""Logs of commands and daemons: text for people, JSON lines for collectors.

Both go to standard error and show time, level, logger, event (`extra={"event": …}`) and message;
JSON lines have every other field of `extra` too. No row's value or key is ever written: messages
hold none by the house rules, and errors whose texts may quote rows (Postgres' DETAIL lines do)
are shown by class and place only.
"""

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal, TextIO

from replicator.errors import ReplicatorError

Format = Literal["text", "json"]

_WITHOUT_VALUES = (ReplicatorError, ImportError, AttributeError, NameError)
"""Errors whose texts name code and settings only."""

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def configure_logs(
    form: Format = "text", level: str = "INFO", stream: TextIO | None = None
) -> None:
    """Send the logs of this process to standard error, in the given form.

    Replaces what an earlier call set up. Replicator's own loggers show `level` and above, all
    others what the project's LOGGING says (warnings and above if it says nothing).
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.set_name("replicator")
    root = logging.getLogger()
    for old in [h for h in root.handlers if h.get_name() == "replicator"]:
        root.removeHandler(old)
    root.addHandler(handler)
    for name in ("replicator", "replicator_capture", "replicator_apply"):
        logging.getLogger(name).setLevel(level)


class TextFormatter(logging.Formatter):
    """One line per record, then the place of an error."""

    def format(self, record: logging.LogRecord) -> str:
        """Write `time LEVEL logger [event] message`."""
        event = getattr(record, "event", None)
        line = (
            f"{_time(record)} {record.levelname:<7} {record.name}"
            f"{f' [{event}]' if event else ''} {record.getMessage()}"
        )
        error = _error_of(record)
        return line if error is None else f"{line}\n{describe_error(error)}"


class JsonFormatter(logging.Formatter):
    """One JSON object per line (https://jsonlines.org)."""

    def format(self, record: logging.LogRecord) -> str:
        """Write time (ISO 8601, UTC), level, logger, event, message, extra fields, error."""
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": getattr(record, "event", None),
            "message": record.getMessage(),
        }
        line |= {k: v for k, v in record.__dict__.items() if k not in _STANDARD and k not in line}
        error = _error_of(record)
        if error is not None:
            line |= {"error": type(error).__qualname__, "traceback": describe_error(error)}
        return json.dumps(line, default=str, ensure_ascii=False)


def describe_error(error: BaseException) -> str:
    """Say which error it is and where it comes from, without texts that may quote a row."""
    return "\n".join(_describe(error))


def _describe(error: BaseException) -> Iterator[str]:
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        yield from _describe(cause)
    for frame in traceback.extract_tb(error.__traceback__):
        yield f"  {frame.filename}:{frame.lineno} {frame.name}"
    text = f": {error}" if isinstance(error, _WITHOUT_VALUES) else ""
    yield f"{type(error).__module__}.{type(error).__qualname__}{text}"


def _error_of(record: logging.LogRecord) -> BaseException | None:
    return record.exc_info[1] if record.exc_info else None


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
