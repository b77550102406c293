"""App configuration of `pages`."""

from django.apps import AppConfig


class PagesConfig(AppConfig):
    """The app `pages`."""

    name = "tests.support.sample.pages"
    label = "pages"
