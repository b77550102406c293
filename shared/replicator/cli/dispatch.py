"""From the command line to a command: settings, Django, logs, errors, exit code."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import cast

from replicator.cli.arguments import Arguments
from replicator.cli.commands import COMMANDS, Command
from replicator.cli.parser import parse
from replicator.errors import ConfigurationError, ReplicatorError, exit_code
from replicator.logs import configure_logs, describe_error

logger = logging.getLogger(__name__)

INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a command that Ctrl-C ended, as shells have it."""


def main(argv: list[str] | None = None) -> int:
    """Run the command that `argv` names; the exit code. Usage errors raise SystemExit(2)."""
    arguments = parse(argv)
    return run_command(arguments, prepare=lambda: _prepare(arguments))


def run_command(arguments: Arguments, prepare: Callable[[], None] = lambda: None) -> int:
    """Run a parsed command and turn what it raises into two lines and an exit code.

    Args:
        arguments: what was parsed.
        prepare: sets up what the command needs; its errors are shown in the same way.
    """
    try:
        prepare()
        return resolve(find_command(arguments.command))(arguments)
    except ReplicatorError as error:
        if arguments.traceback:
            raise
        _show(error)
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if arguments.traceback:
            raise
        logger.critical(
            "Unexpected: %s", describe_error(error), extra={"event": "unexpected_error"}
        )
        return 3


def find_command(name: str) -> Command:
    """Give the command of that name."""
    return next(command for command in COMMANDS if command.name == name)


def resolve(command: Command) -> Callable[[Arguments], int]:
    """Load the function of a command."""
    module, _, function = command.function.partition(":")
    return cast("Callable[[Arguments], int]", getattr(import_module(module), function))


def _show(error: ReplicatorError) -> None:
    lines = [f"replicator: {error}", *([f"  → {error.remedy}"] if error.remedy else [])]
    sys.stderr.write("\n".join(lines) + "\n")


def _prepare(arguments: Arguments) -> None:
    configure_logs()
    if find_command(arguments.command).needs_django:
        _set_up_django(arguments)
        configure_logs_as_set()


def configure_logs_as_set() -> None:
    """Write logs as the setting LOGGING of REPLICATOR says. Raises ConfigurationError."""
    from replicator.settings import load_settings  # noqa: PLC0415 (the demo does without)

    logging_settings = load_settings().logging
    configure_logs(logging_settings.format, logging_settings.level)


def _set_up_django(arguments: Arguments) -> None:
    """Import the project as django-admin does, from the current folder too.

    Raises:
        ConfigurationError: no settings are named, or they cannot be loaded.
    """
    sys.path[:0] = [*([arguments.pythonpath] if arguments.pythonpath else []), os.getcwd()]
    if arguments.settings:
        os.environ["DJANGO_SETTINGS_MODULE"] = arguments.settings
    name = os.environ.get("DJANGO_SETTINGS_MODULE")
    if not name:
        raise ConfigurationError(
            "No settings are named.",
            remedy="Pass --settings MODULE, or set DJANGO_SETTINGS_MODULE as for django-admin.",
        )
    import django  # noqa: PLC0415 (the demo and --help do without)
    from django.core.exceptions import ImproperlyConfigured  # noqa: PLC0415

    try:
        import_module(name)
        django.setup()
    except ImproperlyConfigured as error:
        raise ConfigurationError(f"Django cannot start with {name}: {error}") from error
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(
            f"There is no settings module {name}.",
            remedy="Run it in the project's folder, or pass --pythonpath FOLDER.",
        ) from error
