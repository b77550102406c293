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
            name="Signal",
            fields=[_ID, ("value", models.BigIntegerField())],
        ),
    ]
