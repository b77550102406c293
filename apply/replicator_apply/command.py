"""The target's commands; `replicator.cli.commands` says how they are called."""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

import psycopg

from replicator.cli.arguments import Arguments
from replicator.compiler import compile_release, find_model
from replicator.daemon import run_daemon
from replicator.datasets import find_dataset
from replicator.declare import declared_opt_ins
from replicator.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    Refused,
    Stopped,
    Unfit,
)
from replicator.http import Health
from replicator.postgres import driver_errors
from replicator.settings import ReplicatorSettings, Subscription, load_settings
from replicator.stop import Stop, supervise
from replicator.words import of_rows
from replicator_apply.connection import connect_target
from replicator_apply.follow import Follower, worker_for
from replicator_apply.life import (
    all_subscriptions,
    commanded_places,
    known_here,
    subscriptions_here,
)
from replicator_apply.rebase import rebase, reset_state
from replicator_apply.receipts import held_by
from replicator_apply.reports import remedy_of
from replicator_apply.runs import (
    Backfill,
    Verification,
    begin_backfill,
    begin_verification,
    cancel_verification,
    confirm_run,
    find_subscription,
    forget_backfill,
    look_at_backfill,
    look_at_verification,
    pause_backfill,
)
from replicator_apply.state import Place, known_subscriptions, other_code, unfinished_runs
from replicator_apply.subscriptions import places, store_declared
from replicator_apply.why import text_of
from replicator_apply.why_look import look
from replicator_apply.worker import Worker

NO_TARGET = (
    "Run it in the target. If this is one, add REPLICATOR['SUBSCRIPTIONS'] = [{'source': …, "
    "'dataset': …}], or run `replicator subscribe` first."
)
"""What to do where a target's command runs in an environment that has no subscriptions."""
LOOK_EVERY = 2.0
"""Seconds between looks for streams that commands have subscribed to."""


def run_apply(_arguments: Arguments) -> int:
    """Apply every stream that this environment subscribed to, until a signal.

    Raises:
        ConfigurationError: there is nothing to apply.
        ReplicatorError: what ended the daemon.
    """
    settings = load_settings()
    return run_daemon("apply", lambda stop, health: apply_all(settings, stop, health), settings)


def apply_all(settings: ReplicatorSettings, stop: Stop, health: Health) -> None:
    """Apply each stream in a thread of its own, also those that commands subscribe to meanwhile.

    Raises:
        ConfigurationError: there is nothing to apply.
        ReplicatorError: what ended one of them; the others are stopped.
    """
    failures: list[Exception] = []
    threads: dict[Place, threading.Thread] = {}
    try:
        while not stop.is_set():
            for place in _places_now(settings, begun=bool(threads)):
                if place not in threads:
                    threads[place] = _thread(settings, place, stop, health, failures.append)
            stop.wait(LOOK_EVERY)
    finally:
        for thread in threads.values():
            thread.join()
    if failures:
        raise failures[0]


def _places_now(settings: ReplicatorSettings, *, begun: bool) -> list[Place]:
    """List the streams that settings or commands subscribe to.

    Args:
        settings: of this environment.
        begun: some are applied already; none is no mistake then.

    Raises:
        ConfigurationError: there is none.
        DatabaseUnavailable, Unfit: the settings name none, and the database does not tell.
    """
    declared = places(settings)
    try:
        with connect_target(settings) as connection, driver_errors("looking at subscriptions"):
            found = list(dict.fromkeys([*declared, *commanded_places(connection)]))
    except (DatabaseUnavailable, Unfit):
        if declared or begun:
            return declared  # Their workers say what is wrong.
        raise
    if not found and not begun:
        raise ConfigurationError(
            f"This environment, {settings.environment!r}, subscribes to nothing.",
            remedy=NO_TARGET,
        )
    return found


def _thread(
    settings: ReplicatorSettings,
    place: Place,
    stop: Stop,
    health: Health,
    failed: Callable[[Exception], None],
) -> threading.Thread:
    """Begin to apply one stream."""
    thread = threading.Thread(
        target=_guard,
        args=(settings, place, stop, health.part(place.source), failed),
        name=f"{place.source} {place.stream}",
    )
    thread.start()
    return thread


def _guard(
    settings: ReplicatorSettings,
    place: Place,
    stop: Stop,
    health: Health,
    failed: Callable[[Exception], None],
) -> None:
    """Apply one stream, again when a service was away; a failure stops the others."""
    try:
        supervise(Worker(settings, place, stop, health).run, stop)
    except Exception as error:  # noqa: BLE001 (a thread's top frame: raised again by `apply_all`)
        failed(error)
        stop.set()


def run_backfill(arguments: Arguments) -> int:
    """Backfill one dataset, and show the progress.

    Raises:
        ConfigurationError: this environment has no such subscription.
        Stopped: the stream stands.
        DatabaseUnavailable: the target is away.
    """
    if arguments.dry_run:
        return _verify(arguments, say_what_a_backfill_would_do)
    settings = load_settings()
    with connect_target(settings) as connection, driver_errors("backfilling"):
        place, subscribed = chosen(settings, connection, arguments)
        subscription = stored_id(connection, settings, place, subscribed)
        must_not_be_paused(connection, subscription)
        with worker_for(settings, connection, place) as must_work:
            run, resumed = begin_backfill(connection, subscription)
            if resumed:
                say(f"Going on with run {run}.")
            return follow_backfill(connection, subscribed, run, must_work)


def follow_backfill(
    connection: psycopg.Connection[Any],
    subscribed: Subscription,
    run: int,
    must_work: Callable[[], None],
    *,
    new: bool = False,
) -> int:
    """Show a backfill's progress, and tell its end; Ctrl-C pauses it. Gives the exit code.

    Args:
        connection: of the target.
        subscribed: what is filled.
        run: the backfill.
        must_work: raises if the worker can no longer carry it out.
        new: it is subscribed to just now: whoever did so need not wait for what is refused.

    Raises:
        Stopped: the stream stands.
        Refused: it is new, and the source refuses it, or apply does not know it.
    """
    place, what = Place(subscribed.source, subscribed.stream), f"Backfill of {subscribed.dataset}"
    follower = Follower[Backfill](connection, place, what, must_work)
    try:
        last = follower.follow(
            lambda: look_at_backfill(connection, run), lambda state: new and state.gated
        )
    except KeyboardInterrupt:
        pause_backfill(connection, run)
        say(f"Run {run} is paused; `replicator backfill {subscribed.dataset}` goes on with it.")
        return 1
    if new and last.gated:
        raise _waiting(last, subscribed)
    return _tell_end(connection, last, subscribed)


def _waiting(last: Backfill, subscribed: Subscription) -> Refused:
    name = subscribed.dataset
    stays = f"{name} is subscribed to, and waits"
    if last.unknown:
        return Refused(f"{stays}: {last.refused}.", remedy=other_code(name))
    return Refused(
        f"The source refuses {name}: {last.refused} {stays}.", remedy=remedy_of(last.refused)
    )


def _tell_end(connection: psycopg.Connection[Any], last: Backfill, subscribed: Subscription) -> int:
    if last.state == "finished":
        held = sum(held_by(connection, last.subscription).values())
        say(f"Complete: {of_rows(held)} held of {subscribed.dataset}.")
        return 0
    if last.state == "waiting":
        say(
            f"Run {last.id} would ask for {of_rows(last.suspects or 0)} that the source no longer "
            "shows, more than the fuse allows, and delete those that are gone.\n"
            f"Look at them: replicator verify {subscribed.dataset} --source "
            f"{subscribed.source}\nlists them as extra. Then: replicator confirm {last.id}"
        )
    else:
        say(f"Run {last.id} is {last.state}.")
    return 1


def run_verify(arguments: Arguments) -> int:
    """Compare one dataset with its source.

    Raises:
        ConfigurationError: this environment has no such subscription.
        Stopped: the stream stands, or the source refuses.
        DatabaseUnavailable: the target is away.
    """
    return _verify(arguments, _say_what_differs)


def _verify(arguments: Arguments, tell: Callable[[Verification, Subscription], None]) -> int:
    settings = load_settings()
    with connect_target(settings) as connection, driver_errors("comparing"), ExitStack() as stack:
        place, subscribed = chosen(settings, connection, arguments)
        held = stack.enter_context(_nothing_begun(connection, settings, place))
        subscription = stored_id(connection, settings, place, subscribed)
        must_not_be_paused(connection, subscription)
        new = subscription in held
        must_work = stack.enter_context(worker_for(settings, connection, place, rehearses=new))
        last = follow_verification(connection, subscribed, subscription, must_work)
    tell(last, subscribed)
    return 1 if last.differences or last.left_out else 0


def follow_verification(
    connection: psycopg.Connection[Any],
    subscribed: Subscription,
    subscription: int,
    must_work: Callable[[], None],
) -> Verification:
    """Compare a subscription with its source, and show the progress.

    Raises:
        Stopped: the stream stands, or the source refuses.
    """
    run = begin_verification(connection, subscription)
    place, what = Place(subscribed.source, subscribed.stream), f"Comparing {subscribed.dataset}"
    follower = Follower[Verification](connection, place, what, must_work)
    try:
        last = follower.follow(lambda: look_at_verification(connection, run))
    finally:
        cancel_verification(connection, run)
    if last.state != "finished":
        refused = [reason for kind, reason, *_ in last.findings if kind == "refused"]
        reason = refused[-1] if refused else "it was cancelled"
        remedy = remedy_of(refused[-1]) if refused else "See `replicator status`."
        raise Stopped(f"The comparison ended early: {reason}", remedy=remedy)
    return last


def _say_what_differs(last: Verification, subscribed: Subscription) -> None:
    local = f", {last.local:,} under the keys of local rows" if last.local else ""
    say(
        f"{of_rows(last.rows_checked)} compared: {last.missing:,} missing, {last.extra:,} extra, "
        f"{last.different:,} different{local}."
    )
    _say_left_out(last)
    _say_findings(last)
    if last.differences:
        every = find_dataset(subscribed.name, subscribed.arguments).every
        if every is not None:
            say(
                f"The source chooses rows of it every {timedelta(seconds=every)}: those chosen "
                "since show as missing, those chosen no more as extra."
            )
        say(f"`replicator backfill {subscribed.dataset}` repairs it.")


def _say_left_out(last: Verification) -> None:
    if last.left_out:
        say(
            f"{of_rows(last.left_out)} left out, and what hangs on them: they are being fetched; "
            "run it again."
        )


def say_what_a_backfill_would_do(last: Verification, subscribed: Subscription) -> None:
    """Tell what a comparison means for a backfill."""
    say(
        f"A backfill would insert {last.missing:,}, update {last.different:,} and delete "
        f"{last.extra:,} of {of_rows(last.rows_checked)}. It was not begun."
    )
    _say_left_out(last)
    if last.local and subscribed.on_clash == "adopt":
        say(f"It would adopt {last.local:,} local rows, with the source's values.")
    elif last.local:
        say(
            f"{last.local:,} local rows stand under keys of the dataset: it would stop there with "
            "a Clash, and keep what it wrote before.\nRemove or renumber them, or set on_clash to "
            "adopt."
        )
    _say_findings(last)


def _say_findings(last: Verification) -> None:
    for kind, table, key in last.findings:
        say(f"  {kind:<9} {table} {key}")
    if last.differences > len(last.findings):
        say(f"  … and {last.differences - len(last.findings):,} more")


def run_confirm(arguments: Arguments) -> int:
    """Let a backfill that waits for a person go on."""
    with connect_target(load_settings()) as connection, driver_errors("confirming"):
        if confirm_run(connection, arguments.run):
            say(f"Run {arguments.run} goes on.")
            return 0
    say(f"No run {arguments.run} is waiting; `replicator status` shows the runs.")
    return 1


def run_rebase(arguments: Arguments) -> int:
    """Go on behind a gap in the log.

    Raises:
        ConfigurationError: several sources, and none is named.
        Refused, LogUnavailable: as `rebase`.
    """
    settings = load_settings()
    with connect_target(settings) as connection, driver_errors("rebasing"):
        every = list(dict.fromkeys([*places(settings), *commanded_places(connection)]))
        if not every:
            raise ConfigurationError("This environment has no subscriptions.", remedy=NO_TARGET)
        candidates = [p for p in every if arguments.source in {None, p.source}]
        if len(candidates) != 1:
            raise ConfigurationError(
                "It is not clear which stream to rebase.",
                remedy=f"Give --source, one of: {', '.join(p.source for p in every)}.",
            )
        if not rebase(connection, settings, candidates[0]):
            say("There is no gap: the log has what comes next. Nothing was changed.")
            return 1
    say("Rebased. Every subscription is backfilled; see `replicator status`.")
    return 0


def run_reset_state(arguments: Arguments) -> int:
    """Forget the replication state of this database, after asking."""
    settings = load_settings()
    with connect_target(settings) as connection, driver_errors("resetting the state"):
        info = connection.info
        say(
            f"This removes positions, receipts and runs in database {info.dbname} on "
            f"{info.host}:{info.port} (environment {settings.environment}).\n"
            "Rows of your tables stay; replicated ones become local rows."
        )
        if not arguments.yes and typed("Type the database's name to go on: ") != info.dbname:
            say("Nothing was changed.")
            return 1
        reset_state(connection)
    say("The state is gone.")
    return 0


def run_why(arguments: Arguments) -> int:
    """Tell why a row is here, or is not; 0 if it is here because of a subscription.

    Raises:
        ConfigurationError: there is no such model, or the key is none of it; or this environment
            has no subscriptions.
        Unfit: a table is missing here.
        DatabaseUnavailable: the target is away.
    """
    settings = load_settings()
    label = find_model(arguments.model)._meta.label
    declared = {each.label.lower(): each for each in declared_opt_ins()}.get(label.lower())
    if declared is None:
        say(f"{label} is not opted in: all of its rows here are local.")
        return 1
    release = compile_release(declared)
    alone = len(release.key) == 1
    values = [arguments.key] if alone else arguments.key.split(",")
    with connect_target(settings) as connection:
        if not subscriptions_here(settings, connection) and not known_here(connection):
            raise ConfigurationError("This environment has no subscriptions.", remedy=NO_TARGET)
        found = look(connection, release, values)
    say(text_of(found).rstrip())
    return 0 if found.replicated else 1


def typed(question: str) -> str:
    """Ask a person; nothing, where there is none."""
    try:
        return input(question)
    except EOFError:
        say("")
        return ""


def chosen(
    settings: ReplicatorSettings, connection: psycopg.Connection[Any], arguments: Arguments
) -> tuple[Place, Subscription]:
    """Give the subscription that a command names, of settings or made by a command.

    Raises:
        ConfigurationError: there is none, or more than one.
    """
    every = all_subscriptions(settings, connection)
    found = choose(every, arguments.dataset, arguments.source)
    return Place(found.source, found.stream), found


def choose(every: Sequence[Subscription], dataset: str, source: str | None) -> Subscription:
    """Give the one of some subscriptions that is meant. Pure.

    Raises:
        ConfigurationError: there is none, or more than one.
    """
    if not every:
        raise ConfigurationError("This environment has no subscriptions.", remedy=NO_TARGET)
    found = [s for s in every if s.dataset == dataset and source in {None, s.source}]
    if len(found) == 1:
        return found[0]
    known = ", ".join(sorted(f"{s.dataset} (from {s.source})" for s in every))
    of = "" if source is None else f" from {source!r}"
    raise ConfigurationError(
        f"This environment subscribes to {'more than one' if found else 'no'} {dataset!r}{of}.",
        remedy=f"Its subscriptions are: {known or 'none'}." + (" Give --source." if found else ""),
    )


def must_not_be_paused(connection: psycopg.Connection[Any], subscription: int) -> None:
    """Refuse what a paused subscription cannot do. Raises Refused."""
    for known in known_subscriptions(connection):
        if known.id == subscription and known.paused:
            raise Refused(
                f"The subscription to {known.name} is paused: its rows stand as they are.",
                remedy=f"Run `replicator resume {known.name}`, which backfills it.",
            )


@contextmanager
def _nothing_begun(
    connection: psycopg.Connection[Any], settings: ReplicatorSettings, place: Place
) -> Iterator[frozenset[int]]:
    """Store what is declared, and hold back the backfills that this calls for; they begin later.

    Gives the subscriptions that are held back.
    """
    with connection.transaction(), connection.cursor() as cursor:
        before = {run.id for run in unfinished_runs(cursor, place)}
        store_declared(connection, settings, place)
        held = [run for run in unfinished_runs(cursor, place) if run.id not in before]
        for run in held:
            pause_backfill(connection, run.id)
    try:
        yield frozenset(run.subscription for run in held)
    finally:
        for run in held:
            forget_backfill(connection, run.id)


def stored_id(
    connection: psycopg.Connection[Any],
    settings: ReplicatorSettings,
    place: Place,
    subscribed: Subscription,
) -> int:
    """Give the id of a subscription; stores it if apply has not yet."""
    store_declared(connection, settings, place)
    found = find_subscription(connection, place, subscribed.name, subscribed.arguments)
    if found is None:
        raise LookupError(subscribed.dataset)
    return found


def say(text: str) -> None:
    """Write a line to standard output, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
