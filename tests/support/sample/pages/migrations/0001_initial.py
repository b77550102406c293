"""The tables of `pages`."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [
        migrations.CreateModel(
            name="Page",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("slug", models.SlugField()),
                ("title", models.CharField(max_length=200)),
                ("body", models.TextField(blank=True, default="")),
                ("live", models.BooleanField(default=True)),
                (
                    "parent",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="children",
                        to="pages.page",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="Tag",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=100, unique=True)),
            ],
        ),
        migrations.CreateModel(
            name="Article",
            fields=[
                (
                    "page_ptr",
                    models.OneToOneField(
                        auto_created=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        parent_link=True,
                        primary_key=True,
                        serialize=False,
                        to="pages.page",
                    ),
                ),
                ("summary", models.TextField(blank=True, default="")),
                ("read_minutes", models.PositiveSmallIntegerField(default=1)),
            ],
            bases=("pages.page",),
        ),
        migrations.CreateModel(
            name="Labelling",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("note", models.CharField(blank=True, default="", max_length=200)),
                (
                    "page",
                    models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="pages.page"),
                ),
                (
                    "tag",
                    models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to="pages.tag"),
                ),
            ],
        ),
        migrations.AddField(
            model_name="page",
            name="labels",
            field=models.ManyToManyField(
                related_name="labelled_pages", through="pages.Labelling", to="pages.tag"
            ),
        ),
        migrations.AddField(
            model_name="page",
            name="tags",
            field=models.ManyToManyField(blank=True, related_name="pages", to="pages.tag"),
        ),
        migrations.CreateModel(
            name="Remark",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("object_id", models.BigIntegerField()),
                ("text", models.TextField()),
                (
                    "content_type",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, to="contenttypes.contenttype"
                    ),
                ),
            ],
            options={
                "indexes": [
                    models.Index(fields=["content_type", "object_id"], name="pages_remark_target")
                ],
            },
        ),
        migrations.AddConstraint(
            model_name="page",
            constraint=models.UniqueConstraint(
                fields=("parent", "slug"), name="pages_page_place", nulls_distinct=False
            ),
        ),
        migrations.AddConstraint(
            model_name="labelling",
            constraint=models.UniqueConstraint(fields=("page", "tag"), name="pages_labelling_once"),
        ),
    ]
