"""What a command is called with, typed."""

import argparse


class Arguments(argparse.Namespace):
    """All options of all commands; an attribute is set only if its command declares the option.

    Attributes:
        command: name of the command, as in `commands.COMMANDS`.
        traceback: show where an error comes from.
        new_epoch: capture: begin a new epoch.
        reason: capture, with `new_epoch`: why, for the record; None: nobody said.
        stream: capture: name of the stream.
        dataset: backfill, verify, subscribe, unsubscribe, pause, resume: dataset with its
            arguments, as subscribed (`polls:3,4`); explain: its name.
        source: the same, and rebase: source environment; None: the only one there is.
        dry_run: the same but verify: only say what would be done.
        on_clash: subscribe: refuse or adopt local rows under the dataset's keys; None: not said.
        no_wait: subscribe, resume: leave the backfill to the apply worker.
        keep_rows: unsubscribe: leave the rows behind as local ones.
        run: confirm: number of the backfill run.
        json: explain, status: for programs.
        mermaid: explain: as a flowchart.
        side: prepare: "source" or "target".
        sql: prepare: only print the statements.
        model: why: label of the model.
        key: why: the row's primary key, values of several columns with commas.
        yes: reset-state, unsubscribe: do not ask.
        keep: demo: leave it running.
        log: demo: URL of the log; None: a sqlite file.
    """

    command: str
    traceback: bool
    new_epoch: bool
    reason: str | None
    stream: str
    dataset: str
    source: str | None
    dry_run: bool
    on_clash: str | None
    no_wait: bool
    keep_rows: bool
    run: int
    json: bool
    mermaid: bool
    side: str
    sql: bool
    model: str
    key: str
    yes: bool
    keep: bool
    log: str | None
