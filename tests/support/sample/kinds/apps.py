"""App configuration of `kinds`."""

from django.apps import AppConfig


class KindsConfig(AppConfig):
    """The app `kinds`."""

    name = "tests.support.sample.kinds"
    label = "kinds"
