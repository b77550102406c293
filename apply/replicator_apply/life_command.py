"""The commands by which subscriptions come and go; see `replicator.cli.commands`.

They write what is wanted into the subscription's row, and show what the stream's worker does.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from django.core.checks import ERROR

from replicator.checks import plan_messages
from replicator.cli.arguments import Arguments
from replicator.datasets import find_dataset
from replicator.errors import ConfigurationError, Refused, Stopped, WrongDeclaration
from replicator.log import open_log
from replicator.plan import DatasetPlan, split_name
from replicator.postgres import driver_errors
from replicator.settings import ReplicatorSettings, Subscription, load_settings, stream_topic
from replicator.words import of_rows
from replicator_apply.command import (
    NO_TARGET,
    chosen,
    follow_backfill,
    follow_verification,
    say,
    say_what_a_backfill_would_do,
    stored_id,
    typed,
)
from replicator_apply.connection import connect_target
from replicator_apply.follow import rehearsal_of, worker_for
from replicator_apply.life import (
    all_subscriptions,
    ask_to_end,
    holdings,
    leaving,
    on_trial,
    pause,
    resume,
    set_on_clash,
    subscribe,
)
from replicator_apply.lock import is_locked, try_lock
from replicator_apply.receipts import held_by
from replicator_apply.state import Place, StoredSubscription, known_subscriptions, stop_of
from replicator_apply.subscriptions import must_not_be_too_many
from replicator_apply.unsubscribe import Counts, Ended, Ending, end_all, foresee
from replicator_apply.worker import STOPPED_RETRY

Connection = psycopg.Connection[Any]

LOOK_EVERY = 0.2


# subscribe ---------------------------------------------------------------------------------------


def run_subscribe(arguments: Arguments) -> int:
    """Subscribe to a dataset, and show its backfill.

    Raises:
        ConfigurationError: there is no such dataset, or it does not go with the others; or there
            is no such source.
        Refused: the source refuses it, or the running apply does not know it; it is stored.
        Stopped: the stream stands.
        DatabaseUnavailable: the target is away.
    """
    settings = load_settings()
    dataset = find_dataset(*split_name(arguments.dataset))
    with connect_target(settings) as connection, driver_errors("subscribing"):
        every = all_subscriptions(settings, connection)
        source = arguments.source or _only_source(every, dataset)
        subscribed = _subscription(settings, source, dataset, arguments.on_clash or "refuse")
        place = Place(source, dataset.stream)
        known = [s for s in every if (s.source, s.dataset) == (source, subscribed.dataset)]
        if known:
            return _change_on_clash(connection, settings, known[0], arguments)
        _must_publish(settings, place, every)
        must_not_be_too_many(1 + sum((s.source, s.stream) == place for s in every), place)
        _must_go_together(dataset, every, place)
        if arguments.dry_run:
            return _rehearse(connection, settings, subscribed, dataset)
        run = subscribe(connection, place, dataset, subscribed.on_clash)
        if arguments.no_wait:
            say(f"Subscribed. Run {run} fills it; see `replicator status`.")
            return 0
        with worker_for(settings, connection, place) as must_work:
            return follow_backfill(connection, subscribed, run, must_work, new=True)


def _change_on_clash(
    connection: Connection,
    settings: ReplicatorSettings,
    known: Subscription,
    arguments: Arguments,
) -> int:
    """Let another `--on-clash` hold for a subscription that is there already.

    Raises:
        ConfigurationError: the settings declare it, and say so.
    """
    name, wish = f"{known.dataset} of {known.source}", arguments.on_clash
    already = f"{name} is subscribed to already"
    if wish is None or wish == known.on_clash:
        say(f"{already}. Nothing was changed.")
        return 1
    if known in settings.subscriptions:
        raise ConfigurationError(
            f"{already}, by the settings: a command cannot change its on_clash.",
            remedy=f"Set 'on_clash': '{wish}' in REPLICATOR['SUBSCRIPTIONS'], and restart apply.",
        )
    change = f"its on_clash from {known.on_clash} to {wish}"
    if arguments.dry_run:
        say(f"{already}. This would change {change}.")
        return 1
    set_on_clash(connection, Place(known.source, known.stream), known, wish)
    say(f"{already}. Changed {change}; apply goes by it from now on.")
    return 0


def _must_publish(
    settings: ReplicatorSettings, place: Place, every: Sequence[Subscription]
) -> None:
    """Refuse a source that nobody has heard of: its name may be a slip, and would wait for ever.

    Raises:
        ConfigurationError: nothing is subscribed to of it, and the log has nothing of it.
        LogUnavailable: the log is away.
    """
    sources = sorted({each.source for each in every})
    topic = stream_topic(*place)
    if place.source in sources or open_log(*settings.log_of_stream(*place)).state(topic).exists:
        return
    others = f" The sources of other subscriptions are: {', '.join(sources)}." if sources else ""
    raise ConfigurationError(
        f"The log has nothing of an environment {place.source!r}: there is no topic {topic}.",
        remedy=f"Correct --source, or start `replicator capture` there first.{others}",
    )


def _only_source(every: list[Subscription], dataset: DatasetPlan) -> str:
    """Give the source that all other subscriptions have. Raises ConfigurationError."""
    sources = sorted({each.source for each in every})
    if len(sources) == 1:
        return sources[0]
    raise ConfigurationError(
        f"It is not clear which environment publishes {dataset.full_name!r}.",
        remedy=f"Give --source, one of: {', '.join(sources)}."
        if sources
        else "Give --source, the ENVIRONMENT in the settings of the one that publishes; and run "
        "it in the target, if this is the source.",
    )


def _subscription(
    settings: ReplicatorSettings, source: str, dataset: DatasetPlan, on_clash: str
) -> Subscription:
    """Write the subscription as settings would. Raises ConfigurationError: it makes no sense."""
    if source == settings.environment:
        raise ConfigurationError(
            f"{source!r} is this environment, and an environment cannot subscribe to itself.",
            remedy="Run it in the target, or give --source, the environment that publishes.",
        )
    return Subscription.model_validate(
        {
            "source": source,
            "dataset": dataset.full_name,
            "stream": dataset.stream,
            "on_clash": on_clash,
        }
    )


def _must_go_together(dataset: DatasetPlan, every: list[Subscription], place: Place) -> None:
    """Refuse a dataset that checks would find wrong, alone or with the others of its stream."""
    others = []
    for each in every:
        if (each.source, each.stream) == place:
            try:
                others.append(find_dataset(each.name, each.arguments))
            except WrongDeclaration:
                continue  # `check` and apply say so; it cannot be in this one's way.
    for message in plan_messages(dataset, others):
        if message.level >= ERROR:
            raise ConfigurationError(f"{message.id}: {message.msg}.", remedy=message.hint or "")


def _rehearse(
    connection: Connection,
    settings: ReplicatorSettings,
    subscribed: Subscription,
    dataset: DatasetPlan,
) -> int:
    """Say what a backfill would do, beside a worker that applies or without one."""
    place = Place(subscribed.source, subscribed.stream)
    with (
        on_trial(connection, place, dataset, subscribed.on_clash) as number,
        rehearsal_of(settings, place, number) as must_work,
    ):
        last = follow_verification(connection, subscribed, number, must_work)
    say_what_a_backfill_would_do(last, subscribed)
    return 1 if last.differences else 0


# unsubscribe -------------------------------------------------------------------------------------


def run_unsubscribe(arguments: Arguments) -> int:
    """End a subscription, with or without its rows.

    Raises:
        ConfigurationError: there is none, the settings name it, or nobody confirms.
        Refused: a worker still has it among its settings.
        Stopped: Postgres refuses the end.
        DatabaseUnavailable: the target is away.
    """
    settings = load_settings()
    with connect_target(settings) as connection, driver_errors("unsubscribing"):
        known = _to_end(settings, connection, arguments)
        ending = Ending(known.id, arguments.keep_rows)
        foreseen = foresee(connection, settings, known.place, ending)
        _say_what_it_does(known, foreseen)
        if arguments.dry_run:
            say("Nothing was changed.")
            return 1 if foreseen.deleted or foreseen.local or foreseen.stay else 0
        if foreseen.deleted and not arguments.yes and not _confirmed(known, foreseen):
            say("Nothing was changed.")
            return 1
        ask_to_end(connection, known.id, keep_rows=arguments.keep_rows)
        try:
            _wait_for_end(connection, settings, known)
        except KeyboardInterrupt:
            say("It goes on without this command: the next look of an apply worker ends it.")
            return 1
    say(f"{known.name} of {known.place.source} is unsubscribed.")
    return 0


def _to_end(
    settings: ReplicatorSettings, connection: Connection, arguments: Arguments
) -> StoredSubscription:
    """Find the subscription that is to end, also one that rests."""
    name, source = arguments.dataset, arguments.source
    for each in settings.subscriptions:
        if each.dataset == name and source in {None, each.source}:
            raise ConfigurationError(
                f"The settings declare the subscription to {name} of {each.source}; a command "
                "cannot end it.",
                remedy="Remove it from REPLICATOR['SUBSCRIPTIONS'], restart apply, and run this "
                f"again; or let its rows stand as they are: `replicator pause {name}`.",
            )
    every = known_subscriptions(connection)
    if not every:
        raise ConfigurationError("This environment has no subscriptions.", remedy=NO_TARGET)
    found = [k for k in every if k.name == name and source in {None, k.place.source}]
    if len(found) != 1:
        known = ", ".join(sorted(f"{k.name} (from {k.place.source})" for k in every))
        raise ConfigurationError(
            f"There is {'more than one' if found else 'no'} subscription to {name!r} here.",
            remedy=f"There are: {known or 'none'}." + (" Give --source." if found else ""),
        )
    if found[0].declared and is_locked(connection, found[0].place):
        raise Refused(
            f"The apply worker that runs here has {name} among its settings, as it read them.",
            remedy="Restart `replicator apply`, and run this again.",
        )
    return found[0]


def _say_what_it_does(known: StoredSubscription, ended: Ended) -> None:
    say(
        f"Ending the subscription to {known.name} of {known.place.source} deletes "
        f"{of_rows(sum(ended.removed.values()))}{_listed(ended.removed)}."
    )
    if ended.kept:
        say(
            f"{sum(ended.kept.values()):,} rows stay because others that stand point at "
            f"them{_listed(ended.kept)}."
        )
    if ended.stay:
        say(
            f"{sum(ended.stay.values()):,} rows leave and stay here, as their rules say of rows "
            f"that leave{_listed(ended.stay)}."
        )
    if ended.local:
        say(f"{sum(ended.local.values()):,} rows become local ones{_listed(ended.local)}.")
    if ended.along:
        say(
            f"{sum(ended.along.values()):,} rows of other subscriptions go, too, because they "
            f"need one of them{_listed(ended.along)}."
        )
    if ended.shared:
        say(f"{ended.shared:,} rows stay because other subscriptions hold them.")


def _listed(counts: Counts) -> str:
    names = ", ".join(f"{table} {number:,}" for table, number in sorted(counts.items()))
    return f" ({names})" if names else ""


def _confirmed(known: StoredSubscription, foreseen: Ended) -> bool:
    """Ask a person. Raises ConfigurationError: there is none."""
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"It would delete {of_rows(foreseen.deleted)}, and nobody is here to confirm it.",
            remedy="Give --yes; or --keep-rows, or --dry-run.",
        )
    answer = typed(f"Type the dataset's name to delete {of_rows(foreseen.deleted)}: ")
    return answer == known.name


def _wait_for_end(
    connection: Connection, settings: ReplicatorSettings, known: StoredSubscription
) -> None:
    """Wait until the stream's worker has ended it; do it here if there is none.

    Raises:
        Refused: it was taken back meanwhile.
        Stopped: Postgres refuses it.
    """
    stands_since: float | None = None
    while (asked := leaving(connection, known.id)) is not None:
        if not asked:
            raise Refused(
                f"{known.name} was subscribed to again meanwhile, by settings or a command.",
                remedy="See `replicator status`.",
            )
        if try_lock(connection, known.place):
            try:
                end_all(connection, settings, known.place)
            finally:
                connection.execute("SELECT pg_advisory_unlock_all()")
            continue
        with connection.cursor() as cursor:
            stopped = stop_of(cursor, known.place)
        now = time.monotonic()
        stands_since = None if stopped is None else stands_since or now
        if stopped is not None and now - (stands_since or now) > 3 * STOPPED_RETRY:
            # A worker that stands for another reason tries again, and ends it first.
            raise Stopped(stopped.reason, remedy=stopped.remedy)
        time.sleep(LOOK_EVERY)


# pause and resume --------------------------------------------------------------------------------


@contextmanager
def _on_one(
    arguments: Arguments, doing: str
) -> Iterator[tuple[Connection, ReplicatorSettings, Subscription, int]]:
    """Find the subscription that a command names; it is stored if apply has not done so yet."""
    settings = load_settings()
    with connect_target(settings) as connection, driver_errors(doing):
        place, subscribed = chosen(settings, connection, arguments)
        yield connection, settings, subscribed, stored_id(connection, settings, place, subscribed)


def run_pause(arguments: Arguments) -> int:
    """Let the rows of a subscription stand as they are.

    Raises:
        ConfigurationError: there is no such subscription.
        DatabaseUnavailable: the target is away.
    """
    with _on_one(arguments, "pausing") as (connection, _, subscribed, number):
        if _is_paused(connection, number):
            say(f"{subscribed.dataset} is paused already.")
            return 1
        held, shared = holdings(connection, number)
        if arguments.dry_run:
            say(f"{held - shared:,} rows would stand as they are.{_shared(shared)}")
            return 0
        pause(connection, number)
    say(f"Paused: {held - shared:,} rows stand as they are.{_shared(shared)}")
    say(f"`replicator resume {subscribed.dataset}` brings them up to date.")
    return 0


def _shared(shared: int) -> str:
    if not shared:
        return ""
    return f" {shared:,} more follow the stream, as other subscriptions hold them, too."


def run_resume(arguments: Arguments) -> int:
    """Bring a paused subscription up to date, and show its backfill.

    Raises:
        ConfigurationError: there is no such subscription.
        Stopped: the stream stands.
        DatabaseUnavailable: the target is away.
    """
    with _on_one(arguments, "resuming") as (connection, settings, subscribed, number):
        place = Place(subscribed.source, subscribed.stream)
        if not _is_paused(connection, number):
            say(f"{subscribed.dataset} is not paused.")
            return 1
        if arguments.dry_run:
            held = sum(held_by(connection, number).values())
            say(
                f"A backfill would look at {of_rows(held)} that are here, and bring what is new. "
                "It was not begun."
            )
            return 0
        run = resume(connection, number)
        if run is None:
            say(f"{subscribed.dataset} was resumed meanwhile.")
            return 1
        if arguments.no_wait:
            say(f"Resumed. Run {run} brings it up to date; see `replicator status`.")
            return 0
        with worker_for(settings, connection, place) as must_work:
            return follow_backfill(connection, subscribed, run, must_work)


def _is_paused(connection: Connection, number: int) -> bool:
    return any(k.id == number and k.paused for k in known_subscriptions(connection))
