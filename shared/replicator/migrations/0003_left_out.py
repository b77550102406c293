"""How many rows a comparison has left out, and when the source last answered for wanted rows."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("replicator", "0002_nulled_values"),
    ]

    operations = [
        migrations.AddField(
            model_name="streamposition",
            name="wanted_answered_at",
            field=models.DateTimeField(
                null=True, help_text="When the source last answered for wanted rows."
            ),
        ),
        migrations.AddField(
            model_name="verifyrun",
            name="left_out",
            field=models.BigIntegerField(
                db_default=0, help_text="Not compared: a fetch is about to bring them."
            ),
        ),
    ]
