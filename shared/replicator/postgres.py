"""Connections to Postgres: one set of session settings for every session that reads or writes rows.

Owns the settings that decide how a value looks as text, the translation of Django's DATABASES into
connection parameters, and the translation of the driver's errors. Blocks only in `connect`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import pq

from replicator.errors import ConfigurationError, DatabaseUnavailable, Unfit
from replicator.session import Session

Parameters = dict[str, str]
"""libpq's connection parameters, by keyword
(https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS)."""

SESSION_SETTINGS: Mapping[str, str] = {
    "DateStyle": "ISO,YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "client_encoding": "UTF8",
    "lc_monetary": "C",
    "array_nulls": "on",
    "xmloption": "content",
    "standard_conforming_strings": "on",
    "search_path": "",
}
"""Values travel as Postgres' text, and a setting of the database or role would change that text."""

_PATIENCE = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}
"""When a connection to a host that has gone is given up: within half a minute, not two hours."""

_KEYWORDS = {
    "NAME": "dbname",
    "USER": "user",
    "PASSWORD": "password",
    "HOST": "host",
    "PORT": "port",
}
_ONLY_DJANGO = frozenset({"assume_role", "isolation_level", "pool", "server_side_binding"})
# https://www.psycopg.org/psycopg3/docs/api/connections.html#psycopg.Connection.connect
_ONLY_PSYCOPG = frozenset({"context", "cursor_factory", "prepare_threshold", "row_factory"})
# https://docs.djangoproject.com/en/5.2/ref/settings/#databases
_NOT_FOR_LIBPQ = frozenset(
    {"ENGINE", "OPTIONS", "ATOMIC_REQUESTS", "AUTOCOMMIT", "CONN_MAX_AGE", "CONN_HEALTH_CHECKS"}
    | {"DISABLE_SERVER_SIDE_CURSORS", "TEST", "TIME_ZONE"}
)


def connection_parameters(
    database: Mapping[str, Any], direct: Mapping[str, Any] | None = None, *, application: str
) -> Parameters:
    """Translate an entry of DATABASES into connection parameters with the settings pinned.

    Args:
        database: `settings.DATABASES[alias]`.
        direct: `REPLICATOR["DIRECT"]`: what differs on the way around a pooler; keys of DATABASES
            (`HOST`, `PORT`, `OPTIONS`, …) or libpq's own keywords.
        application: `application_name`, as it shows in pg_stat_activity.

    Raises:
        ConfigurationError: the entry names no database, or an option is unknown.
    """
    _refuse_unknown("DIRECT", set(direct or {}) - _NOT_FOR_LIBPQ - _KEYWORDS.keys())
    _refuse_unknown("OPTIONS of DIRECT", _options(direct or {}))
    _refuse_unknown("OPTIONS of the entry of DATABASES", _options(database))
    parameters = _libpq(database) | _libpq(direct or {})
    if not parameters.keys() & {"dbname", "service"}:
        raise ConfigurationError(
            "The database to replicate has no NAME.",
            remedy="Set NAME in the entry of DATABASES that REPLICATOR['DATABASE'] names.",
        )
    pinned = " ".join(f"-c {name}={value}" for name, value in SESSION_SETTINGS.items())
    # The last of two -c for one setting wins.
    parameters["options"] = f"{parameters.get('options', '')} {pinned}".strip()
    return _PATIENCE | parameters | {"application_name": application}


def _refuse_unknown(where: str, names: Iterable[str]) -> None:
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    if unknown := sorted(set(names) - known):
        raise ConfigurationError(
            f"{where} names unknown options: {', '.join(unknown)}.",
            remedy="Use libpq's keywords, such as host, port and sslmode; in DIRECT also the keys "
            "of DATABASES.",
        )


def _options(entry: Mapping[str, Any]) -> dict[str, Any]:
    options = entry.get("OPTIONS") or {}
    ignored = _ONLY_DJANGO | _ONLY_PSYCOPG
    return {key: value for key, value in options.items() if key not in ignored}


def _libpq(entry: Mapping[str, Any]) -> Parameters:
    """Give the libpq keywords of (part of) an entry of DATABASES."""
    found = {_KEYWORDS[key]: value for key, value in entry.items() if key in _KEYWORDS}
    found |= _options(entry)
    found |= {key: value for key, value in entry.items() if key.islower()}
    return {key: str(value) for key, value in found.items() if value not in ("", None)}


def connect(parameters: Mapping[str, str]) -> psycopg.Connection:
    """Open a session in autocommit mode, which is given up when the network goes deaf.

    Raises:
        DatabaseUnavailable: no connection came about within the time allowed.
    """
    with driver_errors("connecting"):
        return Session.open(parameters)


@contextmanager
def driver_errors(doing: str) -> Iterator[None]:
    """Turn into ours what of the driver's errors an operator can mend; others go through.

    Args:
        doing: what was being done, for the message: "connecting", "reading the slot".

    Raises:
        DatabaseUnavailable: Postgres is away, went away, is out of resources, or a lock or time
            limit was met: worth another try.
        Unfit: the database is not migrated, or its tables were changed since they were looked at.
    """
    try:
        yield
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        reason = [*str(error).strip().splitlines(), type(error).__name__][0]
        raise DatabaseUnavailable(
            f"Postgres failed while {doing}: {reason.rstrip('.')}.",
            remedy="Check that the database accepts connections, and try again.",
        ) from error
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
        raise Unfit(_lacking(error), remedy="Run `manage.py migrate`.") from error


def is_passing(error: psycopg.Error) -> bool:
    """Whether the same statement may succeed a moment later, or on another connection.

    By SQLSTATE: the driver's classes put a row that an index cannot hold (54000) beside a lost
    connection. Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
    """
    state = error.sqlstate
    return state is None or state[:2] in {"08", "40"} or state == "55P03" or state[:4] == "57P0"


def _lacking(error: psycopg.Error) -> str:
    """Say what is missing; Postgres names tables and columns here, and no value."""
    told = error.diag.message_primary or type(error).__name__
    named = re.search('"([^"]+)"', told)
    if named and isinstance(error, psycopg.errors.UndefinedTable):
        return f"The database lacks the table {named[1]}."
    return f"The database lacks a table or column: {told}."
