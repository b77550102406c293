"""`replicator check`: the static checks, strictly, and probes of database and log.

    replicator_capture.preflight:probe(settings, connection, log) -> list[CheckMessage]
    replicator_apply.preflight:probe(settings, connection)        -> list[CheckMessage]

A side is probed if the settings say that this environment is one: TARGETS make it a source,
SUBSCRIPTIONS a target; without TARGETS it may be one by what commands subscribed to.
"""

from importlib import import_module

from django.core.checks import ERROR, WARNING, CheckMessage
from rich.console import Console
from rich.text import Text

from replicator.checks import static_messages
from replicator.cli.arguments import Arguments
from replicator.database import open_database
from replicator.log.port import open_log
from replicator.settings import ReplicatorSettings, load_settings


def run(_arguments: Arguments) -> int:
    """Check, and write every finding with its hint; 1 if there is an error among them.

    What needs no service is written first: a probe may find it away.

    Raises:
        ConfigurationError: the database is not Postgres.
        DatabaseUnavailable, LogUnavailable: what it probes is away.
    """
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    declared = static_messages(strict=True)
    show(declared, console)
    if _has_error(declared):
        console.print("Database and log were not probed: correct these errors first.")
        return 1
    probed = probes(load_settings())
    show(probed, console)
    if not declared and not probed:
        console.print(Text("✔ nothing in the way", "bold green"))
    return 1 if _has_error(probed) else 0


def probes(settings: ReplicatorSettings) -> list[CheckMessage]:
    """Look at database and log."""
    messages: list[CheckMessage] = []
    with open_database(settings, "replicator check") as connection:
        if settings.targets:
            log = open_log(settings.log, settings.log_options)
            source = import_module("replicator_capture.preflight")
            messages += source.probe(settings, connection, log)
        if settings.subscriptions or not settings.targets:
            messages += import_module("replicator_apply.preflight").probe(settings, connection)
    return messages


def show(messages: list[CheckMessage], console: Console) -> None:
    """Write the findings, the gravest first."""
    for message in sorted(messages, key=lambda each: -each.level):
        mark, style = _looks(message.level)
        place = f" ({message.obj})" if message.obj is not None else ""
        console.print(Text(f"{mark} {message.id}{place}: {message.msg}", style))
        if message.hint:
            console.print(Text(f"  → {message.hint}"))


def _has_error(messages: list[CheckMessage]) -> bool:
    return any(message.level >= ERROR for message in messages)


def _looks(level: int) -> tuple[str, str]:
    if level >= ERROR:
        return "✘", "bold red"
    return ("!", "yellow") if level >= WARNING else ("·", "")
