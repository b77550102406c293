"""The fixed tables of both sides, as Django models; the daemons read and write them by SQL.

Defaults are the database's, so that an INSERT names only what it has to say.

The source has the beat; all others are the target's. Receipts are not here: there is one table of
them per replicated model, in the Postgres schema `replicator`.
"""

from typing import ClassVar

from django.db import models
from django.db.models import Q, Value
from django.db.models.functions import Now


class Beat(models.Model):
    """Source: the newest beat, one row. Proves that log and database belong together."""

    id = models.SmallIntegerField(primary_key=True, default=1, help_text="Always 1.")
    nonce = models.CharField(
        max_length=64, help_text="<epoch>.<number>.<random>; the log carries the same one."
    )
    at = models.DateTimeField(help_text="When capture wrote it.")

    class Meta:
        db_table = "replicator_beat"
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(id=1), name="replicator_beat_one_row")
        ]


class StreamPosition(models.Model):
    """Target: how far one stream is applied. Written in the transaction that wrote the rows."""

    environment = models.CharField(
        max_length=63,
        help_text="This database's own; another one means that it is a copy.",
    )
    source = models.CharField(max_length=63, help_text="The environment that publishes.")
    stream = models.CharField(max_length=40, help_text="The stream's name.")
    epoch = models.CharField(max_length=8, help_text="Eight hexadecimal digits.")
    next_lsn = models.BigIntegerField(
        help_text="Every source transaction with a commit LSN below it is applied."
    )
    log_offset = models.BigIntegerField(help_text="Where in the log reading goes on.")
    committed_at = models.DateTimeField(
        null=True, help_text="When the last applied transaction was committed on the source."
    )
    applied_at = models.DateTimeField(db_default=Now(), help_text="When this position was written.")
    stopped_reason = models.TextField(
        db_default="", blank=True, help_text="Why the stream stands still; empty while it does not."
    )
    stopped_error = models.CharField(
        max_length=40, db_default="", blank=True, help_text="The class of the error that did it."
    )
    stopped_remedy = models.TextField(
        db_default="", blank=True, help_text="What to do about it, for the operator."
    )
    wanted_refused = models.TextField(
        db_default="", blank=True, help_text="Why the source does not answer for wanted rows."
    )
    wanted_answered_at = models.DateTimeField(
        null=True, help_text="When the source last answered for wanted rows."
    )
    source_report = models.JSONField(
        db_default=Value({}, models.JSONField()),
        blank=True,
        help_text="The source's health, as its last mark told it.",
    )
    source_report_at = models.DateTimeField(null=True, help_text="When that mark was written.")

    class Meta:
        db_table = "replicator_streamposition"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["source", "stream"], name="replicator_streamposition_once"
            )
        ]


class Subscription(models.Model):
    """Target: one dataset of one source that this environment wants.

    It is wanted if the settings name it, or if the command made it; one that neither wants rests.
    """

    id = models.AutoField(primary_key=True)
    source = models.CharField(max_length=63, help_text="The environment that publishes.")
    stream = models.CharField(max_length=40, help_text="The stream's name.")
    dataset = models.CharField(max_length=200, help_text="The dataset's name.")
    arguments = models.CharField(
        max_length=500, db_default="", blank=True, help_text="The dataset's arguments, if any."
    )
    fingerprint = models.CharField(
        max_length=16, help_text="Of the rules that the rows here were written by."
    )
    generation = models.IntegerField(
        db_default=0, help_text="Grows with every backfill; receipts below it are suspect."
    )
    doubted = models.IntegerField(
        db_default=0,
        help_text="Receipts below this generation may not fit their rows: while it was paused, "
        "others changed them.",
    )
    declared = models.BooleanField(help_text="Whether the settings name it.")
    by_command = models.BooleanField(
        db_default=False, help_text="Whether `replicator subscribe` made it."
    )
    paused = models.BooleanField(
        db_default=False, help_text="Whether its rows stand as they are until it is resumed."
    )
    leaving = models.CharField(
        max_length=6,
        db_default="",
        blank=True,
        help_text="What becomes of its rows, as it is being ended: remove or keep; else empty.",
    )
    gate = models.TextField(
        db_default="", blank=True, help_text="Why the source does not answer for it."
    )
    gated_at = models.DateTimeField(null=True, help_text="When the source last refused it.")
    on_clash = models.CharField(
        max_length=10, db_default="refuse", help_text="refuse or adopt an existing local row."
    )
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "replicator_subscription"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["source", "stream", "dataset", "arguments"],
                name="replicator_subscription_once",
            ),
            models.CheckConstraint(
                condition=Q(on_clash__in=["refuse", "adopt"]),
                name="replicator_subscription_on_clash",
            ),
            models.CheckConstraint(
                condition=Q(leaving__in=["", "remove", "keep"]),
                name="replicator_subscription_leaving",
            ),
        ]


class WantedRow(models.Model):
    """Target: a row that may belong here and cannot be written whole; a fetch brings it."""

    source = models.CharField(max_length=63, help_text="The environment that publishes.")
    stream = models.CharField(max_length=40, help_text="The stream's name.")
    table_name = models.CharField(max_length=130, help_text="schema.table")
    row_key = models.TextField(help_text="JSON array of the key's values, as Postgres' text.")
    reason = models.CharField(max_length=40, help_text="Why it is wanted.")
    asked_at = models.DateTimeField(null=True, help_text="When the source was last asked for it.")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "replicator_wantedrow"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["source", "stream", "table_name", "row_key"],
                name="replicator_wantedrow_once",
            )
        ]


class ChosenRow(models.Model):
    """Target: a key that the source has chosen for a rule that selects a number of rows."""

    subscription = models.ForeignKey(
        Subscription, on_delete=models.CASCADE, related_name="chosen_rows"
    )
    rule = models.CharField(max_length=16, help_text="The rule's name: hexadecimal digits.")
    row_key = models.TextField(help_text="JSON array of the key's values, as Postgres' text.")
    run = models.BigIntegerField(help_text="The run that brought it last.")

    class Meta:
        db_table = "replicator_chosenrow"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["subscription", "rule", "row_key"], name="replicator_chosenrow_once"
            )
        ]


class NulledValue(models.Model):
    """Target: the true value of a foreign key in whose place NULL stands, until its row is here."""

    source = models.CharField(max_length=63, help_text="The environment that publishes.")
    stream = models.CharField(max_length=40, help_text="The stream's name.")
    table_name = models.CharField(max_length=130, help_text="schema.table")
    row_key = models.TextField(help_text="JSON array of the key's values, as Postgres' text.")
    column_name = models.CharField(max_length=63, help_text="The foreign key's column.")
    value = models.TextField(help_text="What the source has there, as Postgres' text.")

    class Meta:
        db_table = "replicator_nulledvalue"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["source", "stream", "table_name", "row_key", "column_name"],
                name="replicator_nulledvalue_once",
            )
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["source", "stream", "table_name", "column_name", "value"],
                name="replicator_nulledvalue_of",
            )
        ]


class AppliedCall(models.Model):
    """Target: rows that were written, of which a function of `on_applied` is still to be told."""

    source = models.CharField(max_length=63, help_text="The environment that publishes.")
    stream = models.CharField(max_length=40, help_text="The stream's name.")
    table_name = models.CharField(max_length=130, help_text="schema.table")
    function = models.TextField(help_text="The function's module and name.")
    inserted = models.JSONField(help_text="Keys, each an array of its values as Postgres' text.")
    updated = models.JSONField(help_text="The same, of rows that were here already.")
    deleted = models.JSONField(help_text="The same, of rows that are here no more.")
    tries = models.IntegerField(db_default=0, help_text="How often it has failed.")
    tried_at = models.DateTimeField(null=True, help_text="When it failed last.")
    failed_at = models.DateTimeField(null=True, help_text="When it failed first.")
    error = models.TextField(db_default="", blank=True, help_text="What it raised last.")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "replicator_appliedcall"
        indexes: ClassVar = [
            models.Index(
                fields=["source", "stream", "function", "id"], name="replicator_appliedcall_order"
            )
        ]


class BackfillRun(models.Model):
    """Target: one bringing of a whole subscription, resumable after each page."""

    class State(models.TextChoices):
        """What a run is doing; the last two are the end of it."""

        RUNNING = "running"
        PAUSED = "paused"
        WAITING = "waiting", "waiting for a person"
        FINISHED = "finished"
        CANCELLED = "cancelled"

    subscription = models.ForeignKey(
        Subscription, on_delete=models.CASCADE, related_name="backfill_runs"
    )
    generation = models.IntegerField(help_text="The subscription's generation that it writes.")
    state = models.CharField(max_length=10, choices=State, db_default=State.RUNNING)
    reason = models.CharField(
        max_length=40, help_text="Why it began: subscribed, new_epoch, command, rebase, …"
    )
    rule = models.IntegerField(db_default=0, help_text="Index of the rule whose pages come now.")
    after_key = models.TextField(
        db_default="", blank=True, help_text="JSON array: the key after which the next page begins."
    )
    sweeping = models.BooleanField(
        db_default=False, help_text="Whether the pages are through and suspects are asked for."
    )
    light = models.BooleanField(
        db_default=False,
        help_text="Whether it only chooses rows anew: no receipt becomes suspect.",
    )
    confirmed = models.BooleanField(
        db_default=False, help_text="Whether a person allowed more deletions than the fuse does."
    )
    rows_done = models.BigIntegerField(db_default=0, help_text="Rows read so far.")
    rows_estimated = models.BigIntegerField(null=True, help_text="Rows that the source expects.")
    suspects = models.BigIntegerField(
        null=True, help_text="Rows of ours that no page brought, when the sweep began."
    )
    note = models.TextField(
        db_default="", blank=True, help_text="Why it does not go on, if the source refuses it."
    )
    started_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(
        db_default=Now(), help_text="The run's heartbeat; an old one means that nobody works."
    )
    finished_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "replicator_backfillrun"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["subscription"],
                condition=Q(state__in=["running", "paused", "waiting"]),
                name="replicator_backfillrun_one_unfinished",
            )
        ]


class VerifyRun(models.Model):
    """Target: one comparison of a subscription's rows with the source."""

    class State(models.TextChoices):
        """What a run is doing; the last two are the end of it."""

        RUNNING = "running"
        PAUSED = "paused"
        FINISHED = "finished"
        CANCELLED = "cancelled"

    subscription = models.ForeignKey(
        Subscription, on_delete=models.CASCADE, related_name="verify_runs"
    )
    state = models.CharField(max_length=10, choices=State, db_default=State.RUNNING)
    rule = models.IntegerField(db_default=0, help_text="Index of the rule whose pages come now.")
    after_key = models.TextField(
        db_default="", blank=True, help_text="JSON array: the key after which the next page begins."
    )
    rows_checked = models.BigIntegerField(db_default=0)
    missing = models.BigIntegerField(db_default=0, help_text="On the source, not here.")
    extra = models.BigIntegerField(db_default=0, help_text="Ours, and not on the source.")
    different = models.BigIntegerField(db_default=0, help_text="On both, with other values.")
    local = models.BigIntegerField(
        db_default=0, help_text="On the source, where a local row stands under the key."
    )
    left_out = models.BigIntegerField(
        db_default=0, help_text="Not compared: a fetch is about to bring them."
    )
    findings = models.JSONField(
        db_default=Value([], models.JSONField()),
        blank=True,
        help_text="The first of them: table, key, kind; bounded.",
    )
    started_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now(), help_text="The run's heartbeat.")
    finished_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "replicator_verifyrun"
