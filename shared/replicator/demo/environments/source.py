"""The environment `prod`: it publishes."""

from replicator.demo.environments.base import (
    DATASET,
    INSTALLED_APPS,
    SOURCE_ENVIRONMENT,
    TARGET_ENVIRONMENT,
    database,
    replicator,
)

__all__ = ["DATABASES", "INSTALLED_APPS", "REPLICATOR", "USE_TZ"]

USE_TZ = True
DATABASES = {"default": database("REPLICATOR_DEMO_SOURCE")}
REPLICATOR = replicator(SOURCE_ENVIRONMENT, TARGETS={TARGET_ENVIRONMENT: [DATASET]})
