"""How a process becomes one environment of the sample project. Pure; its settings import this."""

import json
from collections.abc import Mapping
from typing import Any

from psycopg.conninfo import conninfo_to_dict

_NAMES = {"dbname": "NAME", "host": "HOST", "port": "PORT", "user": "USER", "password": "PASSWORD"}


def django_database(conninfo: str) -> dict[str, Any]:
    """Write a conninfo as an entry of Django's setting DATABASES."""
    parts = conninfo_to_dict(conninfo)
    entry: dict[str, Any] = {"ENGINE": "django.db.backends.postgresql", "OPTIONS": {}}
    for name, value in parts.items():
        if name in _NAMES:
            entry[_NAMES[name]] = str(value)
        else:
            entry["OPTIONS"][name] = value
    return entry


def environment(conninfo: str, replicator: Mapping[str, object]) -> dict[str, str]:
    """Give the environment variables that make a process one environment of the sample project.

    Args:
        conninfo: its database.
        replicator: its setting REPLICATOR.
    """
    return {
        "DJANGO_SETTINGS_MODULE": "tests.support.sample.settings",
        "SAMPLE_DATABASE": conninfo,
        "SAMPLE_REPLICATOR": json.dumps(replicator),
    }
