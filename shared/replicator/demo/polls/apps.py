"""The app's configuration."""

from django.apps import AppConfig


class PollsConfig(AppConfig):
    """App `polls` of the demo."""

    name = "replicator.demo.polls"
    label = "polls"
    default_auto_field = "django.db.models.BigAutoField"
