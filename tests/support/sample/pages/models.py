"""A tree of pages, with tags by both kinds of many-to-many, inheritance and a generic relation."""

from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import models


class Tag(models.Model):
    """A tag; its name is unique."""

    name = models.CharField(max_length=100, unique=True)

    def __str__(self) -> str:
        return self.name


class Page(models.Model):
    """A page of the tree, unique by its place in it."""

    parent = models.ForeignKey(
        "self", models.CASCADE, null=True, blank=True, related_name="children"
    )
    slug = models.SlugField()
    title = models.CharField(max_length=200)
    body = models.TextField(blank=True, default="")
    live = models.BooleanField(default=True)
    tags = models.ManyToManyField(Tag, blank=True, related_name="pages")
    labels = models.ManyToManyField(Tag, through="Labelling", related_name="labelled_pages")
    remarks = GenericRelation("pages.Remark")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["parent", "slug"], nulls_distinct=False, name="pages_page_place"
            )
        ]

    def __str__(self) -> str:
        return self.title


class Labelling(models.Model):
    """That a page carries a label, with a note."""

    page = models.ForeignKey(Page, models.CASCADE)
    tag = models.ForeignKey(Tag, models.PROTECT)
    note = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["page", "tag"], name="pages_labelling_once")]

    def __str__(self) -> str:
        return f"labelling {self.pk}"


class Article(Page):
    """A page with more columns, in a table of its own (multi-table inheritance)."""

    summary = models.TextField(blank=True, default="")
    read_minutes = models.PositiveSmallIntegerField(default=1)


class Remark(models.Model):
    """A remark on an object of any model."""

    content_type = models.ForeignKey(ContentType, models.CASCADE)
    object_id = models.BigIntegerField()
    target = GenericForeignKey("content_type", "object_id")
    text = models.TextField()

    class Meta:
        indexes = [models.Index(fields=["content_type", "object_id"], name="pages_remark_target")]

    def __str__(self) -> str:
        return f"remark {self.pk}"
