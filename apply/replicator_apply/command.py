"""The target's commands; `replicator.cli.commands` says how they are called."""

import threading
from collections.abc import Callable

from replicator.cli.arguments import Arguments
from replicator.daemon import run_daemon
from replicator.errors import ConfigurationError, ReplicatorError
from replicator.http import Health
from replicator.settings import ReplicatorSettings, load_settings
from replicator.stop import Stop, supervise
from replicator_apply.state import Place
from replicator_apply.subscriptions import places
from replicator_apply.worker import Worker


def run_apply(_arguments: Arguments) -> int:
    """Apply every stream that this environment subscribed to, until a signal.

    Raises:
        ConfigurationError: there is nothing to apply.
        ReplicatorError: what ended the daemon.
    """
    settings = load_settings()
    if not places(settings):
        raise ConfigurationError(
            "This environment subscribes to nothing.",
            remedy="Add REPLICATOR['SUBSCRIPTIONS'] = [{'source': …, 'dataset': …}].",
        )
    return run_daemon("apply", lambda stop, health: apply_all(settings, stop, health), settings)


def apply_all(settings: ReplicatorSettings, stop: Stop, health: Health) -> None:
    """Apply each stream in a thread of its own; the only one in this thread.

    Raises:
        ReplicatorError: what ended one of them; the others are stopped.
    """
    all_places = places(settings)
    if len(all_places) == 1:
        Worker(settings, all_places[0], stop, health).run()
        return
    failures: list[ReplicatorError] = []
    threads = [
        threading.Thread(
            target=_guard, args=(settings, place, stop, health, failures.append), name=str(place)
        )
        for place in all_places
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _guard(
    settings: ReplicatorSettings,
    place: Place,
    stop: Stop,
    health: Health,
    failed: Callable[[ReplicatorError], None],
) -> None:
    """Apply one stream, again when a service was away; a failure stops the others."""
    try:
        supervise(lambda: Worker(settings, place, stop, health).run(), stop)
    except ReplicatorError as error:
        failed(error)
        stop.set()
