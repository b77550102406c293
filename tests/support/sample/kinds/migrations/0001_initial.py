"""The tables of `kinds`."""

import django.contrib.postgres.fields
import django.contrib.postgres.fields.ranges
import django.db.models.functions.text
from django.db import migrations, models

import tests.support.sample.kinds.models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.RunSQL(
            "CREATE TYPE kinds_mood AS ENUM ('sad', 'ok', 'happy')",
            "DROP TYPE kinds_mood",
        ),
        migrations.RunSQL(
            [
                "CREATE TABLE kinds_reading (sensor integer NOT NULL, taken_on date NOT NULL,"
                " value double precision NOT NULL, PRIMARY KEY (sensor, taken_on))"
                " PARTITION BY RANGE (taken_on)",
                "CREATE TABLE kinds_reading_2025 PARTITION OF kinds_reading"
                " FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
                "CREATE TABLE kinds_reading_2026 PARTITION OF kinds_reading"
                " FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
                "CREATE TABLE kinds_reading_rest PARTITION OF kinds_reading DEFAULT",
            ],
            "DROP TABLE kinds_reading",
        ),
        migrations.CreateModel(
            name="Reading",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "sensor",
                        "taken_on",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("sensor", models.IntegerField()),
                ("taken_on", models.DateField()),
                ("value", models.FloatField()),
            ],
            options={
                "db_table": "kinds_reading",
                "managed": False,
            },
        ),
        migrations.CreateModel(
            name="Specimen",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("small", models.SmallIntegerField(null=True)),
                ("whole", models.IntegerField(null=True)),
                ("big", models.BigIntegerField(null=True)),
                ("yes", models.BooleanField(null=True)),
                ("real", models.FloatField(null=True)),
                ("exact", models.DecimalField(decimal_places=10, max_digits=30, null=True)),
                ("line", models.CharField(max_length=100, null=True)),
                ("text", models.TextField(null=True)),
                ("day", models.DateField(null=True)),
                ("clock", models.TimeField(null=True)),
                ("moment", models.DateTimeField(null=True)),
                ("lasting", models.DurationField(null=True)),
                ("key", models.UUIDField(null=True)),
                ("address", models.GenericIPAddressField(null=True)),
                ("raw", models.BinaryField(null=True)),
                ("data", models.JSONField(null=True)),
                (
                    "numbers",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.IntegerField(null=True), null=True, size=None
                    ),
                ),
                (
                    "words",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=django.contrib.postgres.fields.ArrayField(
                            base_field=models.TextField(null=True), size=None
                        ),
                        null=True,
                        size=None,
                    ),
                ),
                ("span", django.contrib.postgres.fields.ranges.IntegerRangeField(null=True)),
                ("period", django.contrib.postgres.fields.ranges.DateTimeRangeField(null=True)),
                ("mood", tests.support.sample.kinds.models.MoodField(null=True)),
                (
                    "length",
                    models.GeneratedField(
                        db_persist=True,
                        expression=django.db.models.functions.text.Length("text"),
                        output_field=models.IntegerField(),
                    ),
                ),
            ],
        ),
    ]
