"""The fixed tables, as they began."""

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Beat",
            fields=[
                (
                    "id",
                    models.SmallIntegerField(
                        default=1, help_text="Always 1.", primary_key=True, serialize=False
                    ),
                ),
                (
                    "nonce",
                    models.CharField(
                        help_text="<epoch>.<number>.<random>; the log carries the same one.",
                        max_length=64,
                    ),
                ),
                ("at", models.DateTimeField(help_text="When capture wrote it.")),
            ],
            options={
                "db_table": "replicator_beat",
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("id", 1)), name="replicator_beat_one_row"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="StreamPosition",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "environment",
                    models.CharField(
                        help_text="This database's own; another one means that it is a copy.",
                        max_length=63,
                    ),
                ),
                (
                    "source",
                    models.CharField(help_text="The environment that publishes.", max_length=63),
                ),
                ("stream", models.CharField(help_text="The stream's name.", max_length=40)),
                ("epoch", models.CharField(help_text="Eight hexadecimal digits.", max_length=8)),
                (
                    "next_lsn",
                    models.BigIntegerField(
                        help_text="Every source transaction with a commit LSN below it is applied."
                    ),
                ),
                (
                    "log_offset",
                    models.BigIntegerField(help_text="Where in the log reading goes on."),
                ),
                (
                    "committed_at",
                    models.DateTimeField(
                        help_text="When the last applied transaction was committed on the source.",
                        null=True,
                    ),
                ),
                (
                    "applied_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        help_text="When this position was written.",
                    ),
                ),
                (
                    "stopped_reason",
                    models.TextField(
                        blank=True,
                        db_default="",
                        help_text="Why the stream stands still; empty while it does not.",
                    ),
                ),
                (
                    "stopped_remedy",
                    models.TextField(
                        blank=True,
                        db_default="",
                        help_text="What to do about it, for the operator.",
                    ),
                ),
                (
                    "source_report",
                    models.JSONField(
                        blank=True,
                        db_default=models.Value({}, models.JSONField()),
                        help_text="The source's health, as its last mark told it.",
                    ),
                ),
                (
                    "source_report_at",
                    models.DateTimeField(help_text="When that mark was written.", null=True),
                ),
            ],
            options={
                "db_table": "replicator_streamposition",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("source", "stream"), name="replicator_streamposition_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Subscription",
            fields=[
                ("id", models.AutoField(primary_key=True, serialize=False)),
                (
                    "source",
                    models.CharField(help_text="The environment that publishes.", max_length=63),
                ),
                ("stream", models.CharField(help_text="The stream's name.", max_length=40)),
                ("dataset", models.CharField(help_text="The dataset's name.", max_length=200)),
                (
                    "arguments",
                    models.CharField(
                        blank=True,
                        db_default="",
                        help_text="The dataset's arguments, if any.",
                        max_length=500,
                    ),
                ),
                (
                    "fingerprint",
                    models.CharField(
                        help_text="Of the rules that the rows here were written by.", max_length=16
                    ),
                ),
                (
                    "generation",
                    models.IntegerField(
                        db_default=0,
                        help_text="Grows with every backfill; receipts below it are suspect.",
                    ),
                ),
                ("declared", models.BooleanField(help_text="Whether the settings name it.")),
                (
                    "on_clash",
                    models.CharField(
                        db_default="refuse",
                        help_text="refuse or adopt an existing local row.",
                        max_length=10,
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now()),
                ),
            ],
            options={
                "db_table": "replicator_subscription",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("source", "stream", "dataset", "arguments"),
                        name="replicator_subscription_once",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("on_clash__in", ["refuse", "adopt"])),
                        name="replicator_subscription_on_clash",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="VerifyRun",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("running", "Running"),
                            ("paused", "Paused"),
                            ("finished", "Finished"),
                            ("cancelled", "Cancelled"),
                        ],
                        db_default="running",
                        max_length=10,
                    ),
                ),
                (
                    "rule",
                    models.IntegerField(
                        db_default=0, help_text="Index of the rule whose pages come now."
                    ),
                ),
                (
                    "after_key",
                    models.TextField(
                        blank=True,
                        db_default="",
                        help_text="JSON array: the key after which the next page begins.",
                    ),
                ),
                ("rows_checked", models.BigIntegerField(db_default=0)),
                (
                    "missing",
                    models.BigIntegerField(db_default=0, help_text="On the source, not here."),
                ),
                (
                    "extra",
                    models.BigIntegerField(db_default=0, help_text="Ours, and not on the source."),
                ),
                (
                    "different",
                    models.BigIntegerField(db_default=0, help_text="On both, with other values."),
                ),
                (
                    "findings",
                    models.JSONField(
                        blank=True,
                        db_default=models.Value([], models.JSONField()),
                        help_text="The first of them: table, key, kind; bounded.",
                    ),
                ),
                (
                    "started_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now()),
                ),
                (
                    "updated_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        help_text="The run's heartbeat.",
                    ),
                ),
                ("finished_at", models.DateTimeField(null=True)),
                (
                    "subscription",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="verify_runs",
                        to="replicator.subscription",
                    ),
                ),
            ],
            options={
                "db_table": "replicator_verifyrun",
            },
        ),
        migrations.CreateModel(
            name="WantedRow",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "source",
                    models.CharField(help_text="The environment that publishes.", max_length=63),
                ),
                ("stream", models.CharField(help_text="The stream's name.", max_length=40)),
                ("table_name", models.CharField(help_text="schema.table", max_length=130)),
                (
                    "row_key",
                    models.TextField(
                        help_text="JSON array of the key's values, as Postgres' text."
                    ),
                ),
                ("reason", models.CharField(help_text="Why it is wanted.", max_length=40)),
                (
                    "asked_at",
                    models.DateTimeField(
                        help_text="When the source was last asked for it.", null=True
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now()),
                ),
            ],
            options={
                "db_table": "replicator_wantedrow",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("source", "stream", "table_name", "row_key"),
                        name="replicator_wantedrow_once",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="BackfillRun",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "generation",
                    models.IntegerField(help_text="The subscription's generation that it writes."),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("running", "Running"),
                            ("paused", "Paused"),
                            ("waiting", "waiting for a person"),
                            ("finished", "Finished"),
                            ("cancelled", "Cancelled"),
                        ],
                        db_default="running",
                        max_length=10,
                    ),
                ),
                (
                    "reason",
                    models.CharField(
                        help_text="Why it began: subscribed, new_epoch, command, rebase, …",
                        max_length=40,
                    ),
                ),
                (
                    "rule",
                    models.IntegerField(
                        db_default=0, help_text="Index of the rule whose pages come now."
                    ),
                ),
                (
                    "after_key",
                    models.TextField(
                        blank=True,
                        db_default="",
                        help_text="JSON array: the key after which the next page begins.",
                    ),
                ),
                (
                    "sweeping",
                    models.BooleanField(
                        db_default=False,
                        help_text="Whether the pages are through and suspects are asked for.",
                    ),
                ),
                (
                    "confirmed",
                    models.BooleanField(
                        db_default=False,
                        help_text="Whether a person allowed more deletions than the fuse does.",
                    ),
                ),
                ("rows_done", models.BigIntegerField(db_default=0, help_text="Rows read so far.")),
                (
                    "rows_estimated",
                    models.BigIntegerField(help_text="Rows that the source expects.", null=True),
                ),
                (
                    "suspects",
                    models.BigIntegerField(
                        help_text="Rows of ours that no page brought, when the sweep began.",
                        null=True,
                    ),
                ),
                (
                    "note",
                    models.TextField(
                        blank=True,
                        db_default="",
                        help_text="Why it does not go on, if the source refuses it.",
                    ),
                ),
                (
                    "started_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now()),
                ),
                (
                    "updated_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        help_text="The run's heartbeat; an old one means that nobody works.",
                    ),
                ),
                ("finished_at", models.DateTimeField(null=True)),
                (
                    "subscription",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="backfill_runs",
                        to="replicator.subscription",
                    ),
                ),
            ],
            options={
                "db_table": "replicator_backfillrun",
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("state__in", ["running", "paused", "waiting"])),
                        fields=("subscription",),
                        name="replicator_backfillrun_one_unfinished",
                    )
                ],
            },
        ),
    ]
