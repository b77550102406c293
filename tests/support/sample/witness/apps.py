"""The app `witness`."""

from django.apps import AppConfig


class WitnessConfig(AppConfig):
    """Two tables that tell which transaction a reader sees, and whether it sees it whole."""

    name = "tests.support.sample.witness"
    label = "witness"
    default_auto_field = "django.db.models.BigAutoField"
