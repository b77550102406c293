"""`manage.py replicator …`: the same commands and exit codes as `replicator …`."""

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from replicator.cli.arguments import Arguments
from replicator.cli.dispatch import configure_logs_as_set, run_command
from replicator.cli.parser import add_commands


class Command(BaseCommand):
    """Hands over to the shared command line."""

    help = (
        "Keeps chosen data of this project equal across its environments, continuously, deletions "
        "included."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the commands of `replicator` as subcommands."""
        add_commands(parser, standalone=False)

    def handle(self, *_: Any, **options: Any) -> None:
        """Run one of them; ends the process unless all is right."""
        code = run_command(Arguments(**options), prepare=configure_logs_as_set)
        if code:
            sys.exit(code)
