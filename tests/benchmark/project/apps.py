"""App configuration of `parcels`."""

from django.apps import AppConfig


class ParcelsConfig(AppConfig):
    """The app `parcels`."""

    name = "tests.benchmark.project"
    label = "parcels"
