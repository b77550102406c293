"""The story-teller's settings: both databases at once, which no environment of a user has."""

from replicator.demo.environments.base import database
from replicator.demo.environments.source import DATABASES, INSTALLED_APPS, REPLICATOR, USE_TZ

__all__ = ["DATABASES", "INSTALLED_APPS", "REPLICATOR", "USE_TZ"]

DATABASES["target"] = database("REPLICATOR_DEMO_TARGET")
