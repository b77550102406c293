"""`replicator prepare`: what needs privileges, on either side.

    replicator_capture.prepare:prepare_source(settings, databases, *, sql_only) -> list[str]
    replicator_apply.prepare:prepare_target(settings, databases, *, sql_only) -> list[str]

They give the statements that were, or with `sql_only` would be, run.
"""

import sys
from importlib import import_module

from django.conf import settings as django_settings

from replicator.cli.arguments import Arguments
from replicator.settings import load_settings

_FUNCTIONS = {
    "source": ("replicator_capture.prepare", "prepare_source"),
    "target": ("replicator_apply.prepare", "prepare_target"),
}


def run(arguments: Arguments) -> int:
    """Prepare one side, and write what was done.

    Raises:
        Refused, Unfit: a table is missing, or a statement was refused; the remedy names what to do.
        DatabaseUnavailable, LogUnavailable: what it prepares is away.
    """
    module, function = _FUNCTIONS[arguments.side]
    prepare = getattr(import_module(module), function)
    statements: list[str] = prepare(
        load_settings(), django_settings.DATABASES, sql_only=arguments.sql
    )
    for statement in statements:
        sys.stdout.write(f"{statement}\n")
    if not statements and not arguments.sql:
        sys.stdout.write("Everything is there already.\n")
    return 0
