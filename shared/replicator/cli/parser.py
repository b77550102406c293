"""The one argument parser of `replicator` and `manage.py replicator`. Pure."""

import argparse

from replicator.cli.arguments import Arguments
from replicator.cli.commands import COMMANDS, Command
from replicator.release import release

_USAGE_CODE = (2, "usage or configuration is wrong")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command `replicator`."""
    parser = argparse.ArgumentParser(
        prog="replicator",
        description="Keeps chosen data of a Django project equal across its environments, "
        "continuously, deletions included.",
        epilog="`replicator COMMAND --help` explains a command. `replicator demo` shows it all.",
    )
    parser.add_argument("--version", action="version", version=f"replicator {release()}")
    add_environment_options(parser, default=None)
    add_commands(parser, standalone=True)
    return parser


def add_environment_options(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Add the options that Django's own commands have, under the same names."""
    parser.add_argument(
        "--settings",
        default=default,
        metavar="MODULE",
        help="settings module, instead of DJANGO_SETTINGS_MODULE",
    )
    parser.add_argument(
        "--pythonpath", default=default, metavar="FOLDER", help="folder to import from, first"
    )
    parser.add_argument(
        "--traceback",
        action="store_true",
        default=default or False,
        help="show where an error comes from",
    )


def add_commands(parser: argparse.ArgumentParser, *, standalone: bool) -> None:
    """Add a subparser per command.

    Args:
        parser: `replicator`'s own, or the one that Django made for the management command.
        standalone: it is our own; under Django, all that its commands have is taken too.
    """
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        subparser = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=command.description,
            epilog=epilog(command),
            formatter_class=_TeachingFormatter,
        )
        command.configure(subparser)
        # They may stand before or after the command's name: what is not given here hides nothing.
        add_environment_options(subparser, default=argparse.SUPPRESS)
        if not standalone:
            _add_django_options(subparser)


def _add_django_options(parser: argparse.ArgumentParser) -> None:
    """Take the further options of Django's commands; nothing of ours looks at them."""
    hidden = argparse.SUPPRESS
    parser.add_argument(
        *("-v", "--verbosity"), type=int, choices=range(4), default=hidden, help=hidden
    )
    for flag in ("--no-color", "--force-color"):
        parser.add_argument(flag, action="store_true", default=hidden, help=hidden)


def parse(argv: list[str] | None) -> Arguments:
    """Read a command line; `--help`, `--version` and mistakes end the process (0 and 2)."""
    return build_parser().parse_args(argv, namespace=Arguments())


def epilog(command: Command) -> str:
    """Write examples and exit codes below a command's options."""
    examples = "".join(f"  {line}\n      {what}\n" for line, what in command.examples)
    codes = sorted([*command.codes, _USAGE_CODE])
    return f"examples:\n{examples}\nexit codes:\n" + "".join(
        f"  {n}  {what}\n" for n, what in codes
    )


class _TeachingFormatter(argparse.HelpFormatter):
    """Wraps the description, and keeps the lines of the epilog as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return text
        return super()._fill_text(text, width, indent)
