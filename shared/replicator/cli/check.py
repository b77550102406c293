"""`replicator check`: the static checks, strictly, and probes of database and log.

    replicator_capture.preflight:probe(settings, connection, log) -> list[CheckMessage]
    replicator_apply.preflight:probe(settings, connection)        -> list[CheckMessage]

    replicator_capture.preflight:unused(settings, connection)     -> list[CheckMessage]

A side is probed if the settings say that this environment is one: TARGETS or STREAMS make it a
source, SUBSCRIPTIONS a target; without TARGETS it may be one by what commands subscribed to.

W103 this environment publishes to nobody
"""

from importlib import import_module

from django.core.checks import ERROR, WARNING, CheckMessage
from django.core.checks import Warning as Advice
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
        source = import_module("replicator_capture.preflight")
        target = import_module("replicator_apply.preflight")
        if settings.publishes:
            log = open_log(settings.log, settings.log_options)
            messages += source.probe(settings, connection, log)
        else:
            messages += source.unused(settings, connection)
        if settings.subscriptions or not settings.targets:
            messages += target.probe(settings, connection)
        if not settings.targets and (
            settings.publishes or not target.subscribes(settings, connection)
        ):
            messages.append(_publishes_to_nobody(settings))
    return messages


def _publishes_to_nobody(settings: ReplicatorSettings) -> CheckMessage:
    text = f"This environment, {settings.environment!r}, publishes to nobody: TARGETS is empty."
    hint = (
        "If it is a source, say in TARGETS who may ask for what; if it is a target, in "
        "SUBSCRIPTIONS what it is to have, or run `replicator subscribe`."
    )
    return Advice(text, hint, id="replicator.W103")


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
