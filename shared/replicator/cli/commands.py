"""The commands: what each is called, what it takes and which function does it.

Protocol. A command is a function named by a dotted path, loaded only when it is called, because
this package imports neither side:

    command       function                                    options
    capture       replicator_capture.command:run              --new-epoch --reason --stream
    apply         replicator_apply.command:run_apply
    backfill      replicator_apply.command:run_backfill       DATASET --source --dry-run
    verify        replicator_apply.command:run_verify         DATASET --source
    confirm       replicator_apply.command:run_confirm        RUN
    rebase        replicator_apply.command:run_rebase         --source
    reset-state   replicator_apply.command:run_reset_state    --yes
    subscribe     replicator_apply.life_command:run_subscribe    DATASET --source --on-clash
                                                              --no-wait --dry-run
    unsubscribe   replicator_apply.life_command:run_unsubscribe  DATASET --source --keep-rows
                                                              --yes --dry-run
    pause         replicator_apply.life_command:run_pause        DATASET --source --dry-run
    resume        replicator_apply.life_command:run_resume       DATASET --source --no-wait
                                                              --dry-run
    status        replicator.cli.status:run                   --json
    explain       replicator.cli.explain:run                  DATASET --mermaid --json
    why           replicator_apply.command:run_why            MODEL KEY
    check         replicator.cli.check:run
    prepare       replicator.cli.prepare:run                  source|target --sql
    demo          replicator.demo.command:run                 --keep --log

    DATASET is given as it is, or as `--dataset DATASET`.

    def run(arguments: replicator.cli.arguments.Arguments) -> int

It is called in the main thread with Django set up (`demo`: without) and logs configured. It
writes results to standard output, logs to standard error, and returns 0 (right) or 1 (a
finding: a difference, a failed check). What cannot go on is raised as a `ReplicatorError`, which
is printed as two lines (what, remedy) and ends with `errors.exit_code` (2 or 3). Daemons run
their loop in `replicator.daemon.run_daemon`, which handles signals; everywhere else Ctrl-C is a
KeyboardInterrupt, ends the command with 130 unless the command handles it, and must leave
everything resumable.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

Configure = Callable[[argparse.ArgumentParser], None]


class Command(NamedTuple):
    """One command.

    Attributes:
        name: as typed.
        function: `module:function`, see the module's docstring.
        summary: one line for the list of commands.
        description: a paragraph that teaches what it is for.
        examples: command lines, each with what it does.
        configure: adds its options to its parser.
        codes: what exit codes 0, 1 and 3 mean for it; 2 is the same for all.
        needs_django: False if it brings its own settings.
    """

    name: str
    function: str
    summary: str
    description: str
    examples: tuple[tuple[str, str], ...]
    configure: Configure
    codes: tuple[tuple[int, str], ...]
    needs_django: bool = True


def _nothing(parser: argparse.ArgumentParser) -> None:
    """Add no option: the command has none."""


def _capture(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stream", default="main", metavar="NAME", help="stream (default: main)")
    parser.add_argument(
        "--new-epoch",
        action="store_true",
        help="begin a new epoch: new slot, and every target backfills its subscriptions",
    )
    parser.add_argument(
        "--reason",
        default=None,
        metavar="TEXT",
        help="only with --new-epoch: why; targets show it (default: by command)",
    )


def _name(parser: argparse.ArgumentParser) -> None:
    """Take a dataset's name, with the option's name before it or without."""
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument(
        "dataset",
        nargs="?",
        default=argparse.SUPPRESS,
        metavar="NAME[:ARGUMENTS]",
        help="the dataset, for example published-polls or polls:3,4",
    )
    group.add_argument(
        "--dataset",
        default=argparse.SUPPRESS,
        metavar="NAME[:ARGUMENTS]",
        help="the same, as an option",
    )


def _dataset(parser: argparse.ArgumentParser) -> None:
    _name(parser)
    _source(parser)


def _source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source",
        default=None,
        metavar="ENVIRONMENT",
        help="source environment; needed only if there are several",
    )


def _backfill(parser: argparse.ArgumentParser) -> None:
    _dataset(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="only say how many rows would be inserted, updated and deleted",
    )


def _subscription(parser: argparse.ArgumentParser, would: str) -> None:
    _dataset(parser)
    parser.add_argument("--dry-run", action="store_true", help=f"only say {would}")


def _no_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-wait", action="store_true", help="leave the backfill to the apply worker, and end"
    )


def _subscribe(parser: argparse.ArgumentParser) -> None:
    _subscription(parser, "how many rows would be inserted, adopted, or are in the way")
    parser.add_argument(
        "--on-clash",
        choices=["refuse", "adopt"],
        default=None,
        help="what becomes of local rows under the dataset's keys (default: refuse); of a "
        "subscription that a command made before it changes that",
    )
    _no_wait(parser)


def _unsubscribe(parser: argparse.ArgumentParser) -> None:
    _subscription(parser, "how many rows would go, and how many stay")
    parser.add_argument(
        "--keep-rows", action="store_true", help="leave its rows behind, as local ones"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before rows are deleted")


def _pause(parser: argparse.ArgumentParser) -> None:
    _subscription(parser, "how many rows it concerns")


def _resume(parser: argparse.ArgumentParser) -> None:
    _subscription(parser, "how many rows it concerns")
    _no_wait(parser)


def _confirm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=int, metavar="RUN", help="number of the run, see status")


def _status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs: one JSON object")


def _explain(parser: argparse.ArgumentParser) -> None:
    _name(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--mermaid", action="store_true", help="draw it as a Mermaid flowchart")
    form.add_argument("--json", action="store_true", help="for programs: one JSON object")


def _why(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="label of the model, app_label.ModelName")
    parser.add_argument(
        "key", metavar="KEY", help="primary key; of several columns: their values, with commas"
    )


def _prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("side", choices=["source", "target"], help="what this environment is")
    parser.add_argument("--sql", action="store_true", help="print the statements, run none")


def _reset_state(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep", action="store_true", help="leave it running, to try things")
    parser.add_argument(
        "--log",
        default=None,
        metavar="URL",
        help="log to use, for example kafka://localhost:9092 (default: a sqlite file)",
    )


_DAEMON_CODES = (
    (0, "ended by SIGTERM or Ctrl-C, everything acknowledged"),
    (3, "stopped: going on would lose or mix data; the remedy is printed"),
)

_AWAY = (3, "database or log is away, or going on is refused; the remedy is printed")

COMMANDS = (
    Command(
        "capture",
        "replicator_capture.command:run",
        "publish row events of the opted-in tables (source, always on)",
        "Reads Postgres' logical replication stream and publishes every committed change of the "
        "opted-in tables to the log, in commit order, whole transactions, released columns only. "
        "Run one per source environment and stream; a second one waits and takes over. It also "
        "answers the fetches of targets.",
        (
            ("replicator capture", "run until stopped"),
            (
                "replicator capture --new-epoch --reason 'restored from a backup'",
                "after the slot was lost or the database restored",
            ),
        ),
        _capture,
        _DAEMON_CODES,
    ),
    Command(
        "apply",
        "replicator_apply.command:run_apply",
        "write what this environment subscribed to (target, always on)",
        "Reads the log, keeps the rows that the subscribed datasets want, and writes them in "
        "whole source transactions, deletions included. Rows that were not put there by "
        "replication are never touched. Run one per target environment; a second one waits.",
        (("replicator apply", "run until stopped"),),
        _nothing,
        _DAEMON_CODES,
    ),
    Command(
        "backfill",
        "replicator_apply.command:run_backfill",
        "bring a whole dataset, now or again",
        "Fetches every row of a dataset from the source while the stream keeps flowing, then "
        "removes rows of ours that the source no longer has. Ctrl-C pauses it; the same command "
        "resumes it.",
        (
            ("replicator backfill published-polls", "fill or re-fill"),
            (
                "replicator backfill published-polls --dry-run",
                "what would be inserted, updated, deleted",
            ),
        ),
        _backfill,
        (
            (0, "the dataset is complete"),
            (1, "paused, or waiting for `replicator confirm`; --dry-run: there are differences"),
            (3, "stopped; the remedy is printed"),
        ),
    ),
    Command(
        "verify",
        "replicator_apply.command:run_verify",
        "compare a dataset with its source, while both move",
        "Compares the rows of a dataset on both sides by hashes and reports missing, extra and "
        "different rows.",
        (("replicator verify published-polls", "compare"),),
        _dataset,
        (
            (0, "equal"),
            (1, "there are differences, or rows were left out because they are being fetched"),
            (3, "stopped; the remedy is printed"),
        ),
    ),
    Command(
        "confirm",
        "replicator_apply.command:run_confirm",
        "let a backfill delete more rows than the fuse allows",
        "A backfill that would delete more rows than its fuse allows waits for a person. "
        "`replicator status` shows the run with its number of rows; this lets it go on.",
        (("replicator confirm 12", "let run 12 delete its rows"),),
        _confirm,
        ((0, "the run goes on"), (1, "no such run is waiting"), _AWAY),
    ),
    Command(
        "subscribe",
        "replicator_apply.life_command:run_subscribe",
        "subscribe to a dataset while everything runs (target)",
        "Subscribes this environment to one more dataset, beside those of the settings, and fills "
        "it by a backfill while the stream keeps flowing; a running apply takes it up within "
        "seconds, without a restart. The subscription is stored in the database: other settings "
        "do not end it, `replicator unsubscribe` does. Ctrl-C pauses the backfill.",
        (
            ("replicator subscribe polls:5", "from the only source that there is"),
            (
                "replicator subscribe polls:5 --source prod --dry-run",
                "what would be inserted; nothing is stored",
            ),
        ),
        _subscribe,
        (
            (0, "subscribed; without --no-wait: and complete; or --on-clash was changed"),
            (
                1,
                "subscribed to before, and nothing was changed; or the backfill is paused or "
                "waits; --dry-run: there are rows to write",
            ),
            (
                3,
                "stopped; or the source refuses the dataset, or apply does not know it, and the "
                "subscription waits; the remedy is printed",
            ),
        ),
    ),
    Command(
        "unsubscribe",
        "replicator_apply.life_command:run_unsubscribe",
        "end a subscription, with or without its rows (target)",
        "Ends a subscription that `replicator subscribe` made, or that the settings do not name "
        "any more. Its rows are deleted in one transaction, children first, as if the source had "
        "deleted them: what other subscriptions hold stays, and so does what local rows point at, "
        "or what the rules keep here as it leaves (on_leave, soft). "
        "With --keep-rows they become local rows. Before rows are deleted it asks, and names their "
        "number.",
        (
            ("replicator unsubscribe polls:5", "and delete its rows"),
            ("replicator unsubscribe polls:5 --keep-rows", "and leave its rows behind"),
            ("replicator unsubscribe polls:5 --dry-run", "what would go and stay"),
        ),
        _unsubscribe,
        (
            (0, "unsubscribed; --dry-run: no row would change"),
            (1, "not confirmed, or interrupted; --dry-run: rows would change"),
            (3, "stopped or refused; the remedy is printed"),
        ),
    ),
    Command(
        "pause",
        "replicator_apply.life_command:run_pause",
        "let the rows of a subscription stand as they are (target)",
        "Events change, insert or delete no row of the subscription any more until it is resumed; "
        "rows that others hold as well follow them. It survives restarts, also of a subscription "
        "that the settings name. Should another subscription need a unique value that a row of "
        "this one still has, the stream stands until this one is resumed.",
        (
            ("replicator pause polls:5", "while the other subscriptions go on"),
            ("replicator pause polls:5 --dry-run", "how many rows it concerns"),
        ),
        _pause,
        ((0, "paused"), (1, "paused already"), _AWAY),
    ),
    Command(
        "resume",
        "replicator_apply.life_command:run_resume",
        "bring a paused subscription up to date (target)",
        "Ends the pause of a subscription: a backfill brings what has changed meanwhile, and "
        "removes what the source has no more, within the fuse. Ctrl-C pauses that backfill.",
        (
            ("replicator resume polls:5", "and follow its backfill"),
            ("replicator resume polls:5 --no-wait", "and leave it to the apply worker"),
        ),
        _resume,
        (
            (0, "resumed; without --no-wait: and complete"),
            (1, "not paused; or the backfill is paused, or waits for `replicator confirm`"),
            (3, "stopped; the remedy is printed"),
        ),
    ),
    Command(
        "status",
        "replicator.cli.status:run",
        "lag, slot, backfills, errors, at a glance",
        "Shows what this environment knows of the stream: on a source the slot and what targets "
        "last reported, on a target positions, lag, subscriptions, backfills and errors with "
        "their remedies.",
        (
            ("replicator status", "for people"),
            ("replicator status --json", "for programs"),
        ),
        _status,
        ((0, "everything runs"), (1, "something needs a person; it says what"), _AWAY),
    ),
    Command(
        "explain",
        "replicator.cli.explain:run",
        "draw a dataset: which rules hang on which, what leaves it, how many rows",
        "Draws the rules of a dataset as a tree: Rows rules stand by themselves, below each is "
        "what hangs on its rows, with the foreign key by which it does and the filter that its "
        "rows must pass. Then it lists the tables, and the foreign keys that may lead out of the "
        "dataset with their policy: the other row is pulled in (referenced), NULL is written "
        "(null), or the row waits (required); none! is a mistake that `check` reports too. On a "
        "source it counts the rows that belong, for a minute at most; on a target those that "
        "subscriptions hold.",
        (
            ("replicator explain published-polls", "in either environment"),
            (
                "replicator explain published-polls --mermaid",
                "a flowchart, for documentation; asks no database",
            ),
        ),
        _explain,
        (
            (0, "explained"),
            (1, "a foreign key leads out of the dataset and has no policy"),
            (3, "something failed that is not expected; a database that is away is only noted"),
        ),
    ),
    Command(
        "why",
        "replicator_apply.command:run_why",
        "tell why a row is here, or is not (target)",
        "Tells of one row of the target, for each subscription with rules on its model, whether "
        "the subscription holds it, and which rules do: filters that it passes, parents and "
        "referrers that are held, with their keys. If the row is not here, it tells what is known: "
        "that it is wanted and since when, that a backfill is under way, that other rows have NULL "
        "in its place. A row that replication did not put here is local.",
        (
            ("replicator why polls.Question 42", "is it ours, and because of what"),
            ("replicator why kinds.Reading 1,2025-06-01", "a primary key of two columns"),
        ),
        _why,
        (
            (0, "it is here because of a subscription"),
            (1, "it is not: absent, local, or kept only for rows that point at it"),
            _AWAY,
        ),
    ),
    Command(
        "check",
        "replicator.cli.check:run",
        "find what would stop it, before it starts",
        "Runs the static checks of `manage.py check` for Replicator, then probes database and "
        "log: privileges, wal_level, slots, replica identities, topic settings, clocks.",
        (("replicator check", "in either environment"),),
        _nothing,
        ((0, "nothing in the way"), (1, "errors were found; each has a hint"), _AWAY),
    ),
    Command(
        "prepare",
        "replicator.cli.prepare:run",
        "create what needs privileges",
        "Creates publication, replica identities and grants on a source, receipts tables on a "
        "target, and the topics. Run it as the owner of the tables; capture and apply do the "
        "same by themselves if their role may.",
        (
            ("replicator prepare source", "create it"),
            ("replicator prepare target --sql", "see the statements, for the administrator"),
        ),
        _prepare,
        (
            (0, "everything is there"),
            (3, "a table is missing, a statement was refused, or database or log is away"),
        ),
    ),
    Command(
        "rebase",
        "replicator_apply.command:run_rebase",
        "go on behind a gap in the log, then backfill",
        "For a target that stands before a hole that nothing will fill (the log's retention was "
        "shorter than the target's absence): goes on with the next transaction that the log "
        "has, and backfills every subscription, so that nothing stays missing.",
        (("replicator rebase", "then watch `replicator status`"),),
        _source,
        ((0, "rebased"), (1, "there is no gap"), _AWAY),
    ),
    Command(
        "reset-state",
        "replicator_apply.command:run_reset_state",
        "forget the replication state of a cloned database",
        "A database that was copied from another environment carries that environment's "
        "replication state, and apply refuses to run on it. This removes positions, receipts "
        "and runs, and no row of your tables.",
        (("replicator reset-state", "asks first, naming host and database"),),
        _reset_state,
        ((0, "the state is gone"), (1, "not confirmed"), _AWAY),
    ),
    Command(
        "demo",
        "replicator.demo.command:run",
        "see it work: no Kafka, Docker or database needed",
        "Starts an embedded Postgres with two databases and the real capture and apply daemons, "
        "changes rows on the source, shows each change arrive at the target with its latency, "
        "and proves that the dataset equals its queryset. Takes less than a minute and leaves "
        "nothing behind. Needs `pip install -e '.[demo]'` in the repository.",
        (
            ("replicator demo", "watch"),
            ("replicator demo --keep", "and try things by hand"),
            ("replicator demo --log kafka://localhost:9092", "the same, through Kafka"),
        ),
        _demo,
        (
            (0, "the dataset equals its queryset"),
            (1, "a change did not arrive, or rows differ"),
            (3, "something could not be started"),
        ),
        needs_django=False,
    ),
)
