"""The database that a command works on."""

import psycopg
from django.conf import settings as django_settings

from replicator.postgres import connect, connection_parameters
from replicator.settings import ReplicatorSettings


def open_database(settings: ReplicatorSettings, command: str) -> psycopg.Connection:
    """Open a session on the database that is captured or written, past any pooler.

    Args:
        settings: name it.
        command: for `application_name`.

    Raises:
        ConfigurationError: the settings name none.
        DatabaseUnavailable: it is away.
    """
    entry = settings.entry_of(django_settings.DATABASES)
    return connect(connection_parameters(entry, settings.direct, application=command))
