"""True values where NULL stands, chosen keys, due calls, subscriptions that come and go."""

import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("replicator", "0001_initial"),
    ]

    operations = [
        migrations.AddField(
            model_name="streamposition",
            name="stopped_error",
            field=models.CharField(
                blank=True,
                db_default="",
                help_text="The class of the error that did it.",
                max_length=40,
            ),
        ),
        migrations.AddField(
            model_name="streamposition",
            name="wanted_refused",
            field=models.TextField(
                blank=True,
                db_default="",
                help_text="Why the source does not answer for wanted rows.",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="gate",
            field=models.TextField(
                blank=True, db_default="", help_text="Why the source does not answer for it."
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="gated_at",
            field=models.DateTimeField(null=True, help_text="When the source last refused it."),
        ),
        migrations.AddField(
            model_name="subscription",
            name="by_command",
            field=models.BooleanField(
                db_default=False, help_text="Whether `replicator subscribe` made it."
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="paused",
            field=models.BooleanField(
                db_default=False,
                help_text="Whether its rows stand as they are until it is resumed.",
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="leaving",
            field=models.CharField(
                blank=True,
                db_default="",
                help_text="What becomes of its rows, as it is being ended: remove or keep; "
                "else empty.",
                max_length=6,
            ),
        ),
        migrations.AddField(
            model_name="subscription",
            name="doubted",
            field=models.IntegerField(
                db_default=0,
                help_text="Receipts below this generation may not fit their rows: while it was "
                "paused, others changed them.",
            ),
        ),
        migrations.AddConstraint(
            model_name="subscription",
            constraint=models.CheckConstraint(
                condition=models.Q(leaving__in=["", "remove", "keep"]),
                name="replicator_subscription_leaving",
            ),
        ),
        migrations.AddField(
            model_name="verifyrun",
            name="local",
            field=models.BigIntegerField(
                db_default=0, help_text="On the source, where a local row stands under the key."
            ),
        ),
        migrations.AddField(
            model_name="backfillrun",
            name="light",
            field=models.BooleanField(
                db_default=False,
                help_text="Whether it only chooses rows anew: no receipt becomes suspect.",
            ),
        ),
        migrations.CreateModel(
            name="ChosenRow",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "rule",
                    models.CharField(
                        help_text="The rule's name: hexadecimal digits.", max_length=16
                    ),
                ),
                (
                    "row_key",
                    models.TextField(
                        help_text="JSON array of the key's values, as Postgres' text."
                    ),
                ),
                ("run", models.BigIntegerField(help_text="The run that brought it last.")),
                (
                    "subscription",
                    models.ForeignKey(
                        on_delete=models.deletion.CASCADE,
                        related_name="chosen_rows",
                        to="replicator.subscription",
                    ),
                ),
            ],
            options={
                "db_table": "replicator_chosenrow",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("subscription", "rule", "row_key"),
                        name="replicator_chosenrow_once",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="NulledValue",
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
                (
                    "column_name",
                    models.CharField(help_text="The foreign key's column.", max_length=63),
                ),
                (
                    "value",
                    models.TextField(help_text="What the source has there, as Postgres' text."),
                ),
            ],
            options={
                "db_table": "replicator_nulledvalue",
                "indexes": [
                    models.Index(
                        fields=["source", "stream", "table_name", "column_name", "value"],
                        name="replicator_nulledvalue_of",
                    )
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("source", "stream", "table_name", "row_key", "column_name"),
                        name="replicator_nulledvalue_once",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="AppliedCall",
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
                ("function", models.TextField(help_text="The function's module and name.")),
                (
                    "inserted",
                    models.JSONField(
                        help_text="Keys, each an array of its values as Postgres' text."
                    ),
                ),
                (
                    "updated",
                    models.JSONField(help_text="The same, of rows that were here already."),
                ),
                (
                    "deleted",
                    models.JSONField(help_text="The same, of rows that are here no more."),
                ),
                (
                    "tries",
                    models.IntegerField(db_default=0, help_text="How often it has failed."),
                ),
                (
                    "tried_at",
                    models.DateTimeField(help_text="When it failed last.", null=True),
                ),
                (
                    "failed_at",
                    models.DateTimeField(help_text="When it failed first.", null=True),
                ),
                (
                    "error",
                    models.TextField(blank=True, db_default="", help_text="What it raised last."),
                ),
                (
                    "created_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now()),
                ),
            ],
            options={
                "db_table": "replicator_appliedcall",
                "indexes": [
                    models.Index(
                        fields=["source", "stream", "function", "id"],
                        name="replicator_appliedcall_order",
                    )
                ],
            },
        ),
    ]
