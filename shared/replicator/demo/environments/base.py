"""What the demo's environments have in common."""

import os
from typing import Any
from urllib.parse import unquote, urlsplit

INSTALLED_APPS = ["replicator", "replicator.demo.polls"]
DATASET = "published-questions"

_run = os.environ.get("REPLICATOR_DEMO_RUN", "")
SOURCE_ENVIRONMENT = f"prod{_run}"
TARGET_ENVIRONMENT = f"stage{_run}"


def database(variable: str) -> dict[str, Any]:
    """Give an entry of DATABASES for the URL in an environment variable."""
    parts = urlsplit(os.environ[variable])
    return {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": parts.hostname or "",
        "PORT": parts.port or 5432,
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "NAME": parts.path.removeprefix("/"),
    }


def replicator(environment: str, **more: Any) -> dict[str, Any]:
    """Give the setting REPLICATOR of an environment."""
    addresses = {
        daemon: os.environ.get(f"REPLICATOR_DEMO_{daemon.upper()}_METRICS")
        for daemon in ("capture", "apply")
    }
    return {
        "ENVIRONMENT": environment,
        "LOG": os.environ["REPLICATOR_DEMO_LOG"],
        "METRICS": {daemon: address for daemon, address in addresses.items() if address},
        **more,
    }
