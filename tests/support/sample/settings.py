"""Settings of the sample project, one environment per process, told by environment variables.

SAMPLE_DATABASE     conninfo of the database; absent: parts of it in SAMPLE_DATABASE_NAME,
                    SAMPLE_DATABASE_HOST, SAMPLE_DATABASE_PORT, SAMPLE_DATABASE_USER and
                    SAMPLE_DATABASE_PASSWORD
SAMPLE_REPLICATOR   the setting REPLICATOR as JSON
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from tests.support.sample.environments import django_database

_PARTS = {
    "dbname": os.environ.get("SAMPLE_DATABASE_NAME", "sample"),
    "host": os.environ.get("SAMPLE_DATABASE_HOST", "127.0.0.1"),
    "port": os.environ.get("SAMPLE_DATABASE_PORT", "5432"),
    "user": os.environ.get("SAMPLE_DATABASE_USER", "postgres"),
    "password": os.environ.get("SAMPLE_DATABASE_PASSWORD", ""),
}
_CONNINFO = os.environ.get("SAMPLE_DATABASE") or " ".join(
    f"{name}={value}" for name, value in _PARTS.items() if value
)

DATABASES = {"default": django_database(_CONNINFO)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REPLICATOR: dict[str, Any] = json.loads(os.environ.get("SAMPLE_REPLICATOR", "null")) or {
    "ENVIRONMENT": "sample",
    "LOG": f"sqlite:///{Path(tempfile.gettempdir()) / 'replicator-sample-log.sqlite3'}",
}

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.postgres",
    "replicator",
    "tests.support.sample.polls",
    "tests.support.sample.pages",
    "tests.support.sample.shop",
    "tests.support.sample.kinds",
    "tests.support.sample.witness",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "tests.support.sample.urls"
SECRET_KEY = "sample"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"
