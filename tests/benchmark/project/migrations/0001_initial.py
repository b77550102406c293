"""The tables of `parcels`."""

from django.db import migrations, models

_ID = ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False))


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Depot",
            fields=[_ID, ("open", models.BooleanField())],
        ),
        migrations.CreateModel(
            name="Parcel",
            fields=[
                _ID,
                (
                    "depot",
                    models.ForeignKey(
                        "parcels.depot",
                        models.DO_NOTHING,
                        db_column="depot",
                        db_constraint=False,
                        db_index=False,
                    ),
                ),
                ("batch", models.IntegerField()),
                ("weight", models.IntegerField()),
                ("paid", models.BooleanField()),
                ("returned", models.BooleanField()),
                ("sent_at", models.DateTimeField()),
                ("changed_at", models.DateTimeField()),
                ("label", models.CharField(max_length=40)),
                ("note", models.TextField()),
            ],
        ),
        migrations.CreateModel(
            name="Voter",
            fields=[_ID, ("name", models.CharField(max_length=40))],
        ),
        migrations.CreateModel(
            name="Question",
            fields=[
                _ID,
                ("published", models.BooleanField()),
                ("title", models.CharField(max_length=80)),
                ("changed_at", models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name="Choice",
            fields=[
                _ID,
                ("question", models.ForeignKey("parcels.question", models.CASCADE)),
                ("text", models.CharField(max_length=80)),
            ],
        ),
        migrations.CreateModel(
            name="Vote",
            fields=[
                _ID,
                ("choice", models.ForeignKey("parcels.choice", models.CASCADE)),
                ("voter", models.ForeignKey("parcels.voter", models.CASCADE)),
                ("weight", models.IntegerField()),
                ("comment", models.CharField(max_length=80)),
            ],
        ),
        migrations.CreateModel(
            name="Leaflet",
            fields=[
                _ID,
                ("published", models.BooleanField()),
                ("title", models.CharField(max_length=80)),
            ],
        ),
        migrations.CreateModel(
            name="Signal",
            fields=[_ID, ("value", models.BigIntegerField())],
        ),
    ]
