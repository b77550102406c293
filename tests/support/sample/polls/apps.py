"""App configuration of `polls`."""

from django.apps import AppConfig


class PollsConfig(AppConfig):
    """The app `polls`."""

    name = "tests.support.sample.polls"
    label = "polls"
