"""The database that is captured, or written to."""

import psycopg
from django.conf import settings as django_settings

from replicator.postgres import connect, connection_parameters
from replicator.settings import ReplicatorSettings


def open_database(settings: ReplicatorSettings, application: str) -> psycopg.Connection:
    """Open a session on the database that is captured or written, past any pooler.

    Args:
        settings: name it.
        application: as it shows in pg_stat_activity.

    Raises:
        ConfigurationError: the settings name none.
        DatabaseUnavailable: it is away.
    """
    entry = settings.entry_of(django_settings.DATABASES)
    return connect(connection_parameters(entry, settings.direct, application=application))
