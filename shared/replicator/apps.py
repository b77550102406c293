"""The Django app: finds the projects' declarations and offers them to the system checks."""

from collections.abc import Sequence

from django.apps import AppConfig
from django.core.checks import CheckMessage, register
from django.utils.module_loading import autodiscover_modules


class ReplicatorConfig(AppConfig):
    """App `replicator`: imports `replication.py` of every installed app, as the admin does."""

    name = "replicator"
    label = "replicator"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the checks and collect the declarations.

        Raises:
            ConfigurationError: two declarations contradict each other, or one has a value of a
                wrong type.
        """
        register(static_checks, "replicator")
        autodiscover_modules("replication")


def static_checks(
    app_configs: Sequence[AppConfig] | None,  # noqa: ARG001 (Django's signature)
    **_options: object,
) -> list[CheckMessage]:
    """Run the checks that need neither database nor log."""
    # Loaded when checks run: a web process that runs none needs none of it.
    from replicator.checks import static_messages  # noqa: PLC0415

    return static_messages()
