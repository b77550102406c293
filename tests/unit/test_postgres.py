"""Django's DATABASES as libpq's parameters, with the settings that decide how values look."""

import psycopg
import pytest

from replicator.errors import ConfigurationError, DatabaseUnavailable, Unfit
from replicator.postgres import SESSION_SETTINGS, connect, connection_parameters, driver_errors
from tests.support.ports import free_port

_DATABASE = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": "app",
    "USER": "me",
    "PASSWORD": "secret",
    "HOST": "pooler",
    "PORT": 6432,
    "CONN_MAX_AGE": 60,
    "OPTIONS": {
        "sslmode": "require",
        "pool": True,
        "prepare_threshold": None,
        "options": "-c work_mem=1MB",
    },
}


PATIENCE = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}


def test_an_entry_of_databases() -> None:
    parameters = connection_parameters(_DATABASE, application="replicator capture")
    options = parameters.pop("options")
    assert parameters == {
        "dbname": "app",
        "user": "me",
        "password": "secret",
        "host": "pooler",
        "port": "6432",
        "sslmode": "require",
        "application_name": "replicator capture",
        **PATIENCE,
    }
    assert options.startswith("-c work_mem=1MB -c ")
    for name, value in SESSION_SETTINGS.items():
        assert f"-c {name}={value}" in options


def test_direct_goes_around_the_pooler() -> None:
    direct = {"HOST": "db", "port": 5432, "OPTIONS": {"sslmode": "verify-full"}}
    parameters = connection_parameters(_DATABASE, direct, application="x")
    assert (parameters["host"], parameters["port"]) == ("db", "5432")
    assert (parameters["sslmode"], parameters["dbname"]) == ("verify-full", "app")


def test_what_is_empty_is_left_to_libpq() -> None:
    empty = {"NAME": "app", "USER": "", "HOST": "", "PORT": "", "PASSWORD": None}
    parameters = connection_parameters(empty, application="x")
    assert parameters.keys() == {"dbname", "options", "application_name", *PATIENCE}


def test_how_long_a_silent_host_is_waited_for_can_be_set() -> None:
    entry = {"NAME": "app", "OPTIONS": {"keepalives_idle": 60}}
    assert connection_parameters(entry, application="x")["keepalives_idle"] == "60"


def test_a_service_names_the_database() -> None:
    entry = {"NAME": "", "OPTIONS": {"service": "prod"}}
    assert connection_parameters(entry, application="x")["service"] == "prod"


def test_no_database_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="NAME"):
        connection_parameters({"HOST": "db"}, application="x")


@pytest.mark.parametrize("name", ["prt", "PROT", "Port"])
def test_an_unknown_option_of_direct_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"DIRECT names unknown options: {name}"):
        connection_parameters(_DATABASE, {name: 1}, application="x")


def test_an_unknown_option_of_the_database_is_named() -> None:
    for database, direct in (
        ({"NAME": "app", "OPTIONS": {"sslmod": "require"}}, {}),
        (_DATABASE, {"OPTIONS": {"sslmod": "require"}}),
    ):
        with pytest.raises(ConfigurationError, match=r"OPTIONS .*: sslmod\."):
            connection_parameters(database, direct, application="x")


def test_direct_may_be_a_whole_entry_of_databases() -> None:
    entry = {**_DATABASE, "PORT": 5432, "CONN_HEALTH_CHECKS": True, "TEST": {}}
    assert connection_parameters(_DATABASE, entry, application="x")["port"] == "5432"


def test_a_database_that_is_away() -> None:
    entry = {"NAME": "app", "HOST": "127.0.0.1", "PORT": free_port(), "PASSWORD": "secret"}
    with pytest.raises(DatabaseUnavailable) as caught:
        connect(connection_parameters(entry, application="x"))
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)
    assert "secret" not in str(caught.value)
    assert str(caught.value).endswith("refused.")


@pytest.mark.parametrize("kind", ["UndefinedTable", "UndefinedColumn"])
def test_what_is_not_migrated(kind: str) -> None:
    told = f"lacks a table or column: {kind}"
    with pytest.raises(Unfit, match=told) as caught, driver_errors("reading"):
        raise getattr(psycopg.errors, kind)("SELECT secret")
    assert "migrate" in caught.value.remedy


def test_wrong_sql_is_not_a_database_that_is_away() -> None:
    with pytest.raises(psycopg.ProgrammingError), driver_errors("reading"):
        raise psycopg.ProgrammingError("syntax error")
