"""Settings of one environment, told by BENCHMARK_DATABASE (conninfo) and BENCHMARK_REPLICATOR."""

import json
import os
from typing import Any

from tests.support.sample.environments import django_database

DATABASES = {"default": django_database(os.environ.get("BENCHMARK_DATABASE", "dbname=benchmark"))}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
REPLICATOR: dict[str, Any] = json.loads(os.environ.get("BENCHMARK_REPLICATOR", "null")) or {
    "ENVIRONMENT": "prod",
    "LOG": "sqlite:////dev/null",
}
INSTALLED_APPS = ["django.contrib.contenttypes", "replicator", "tests.benchmark.project"]
SECRET_KEY = "benchmark"
TIME_ZONE = "UTC"
USE_TZ = True
