"""App configuration of `stories`."""

from django.apps import AppConfig


class StoriesConfig(AppConfig):
    """The app `stories`."""

    name = "tests.support.site.stories"
    label = "stories"
