"""Articles of a Wagtail site, with what projects hang on pages."""

from django.db import models
from modelcluster.contrib.taggit import ClusterTaggableManager
from modelcluster.fields import ParentalKey
from taggit.managers import TaggableManager
from taggit.models import TaggedItemBase
from wagtail.fields import RichTextField
from wagtail.models import Page


class ArticlePageTag(TaggedItemBase):
    content_object = ParentalKey(
        "stories.ArticlePage", on_delete=models.CASCADE, related_name="tagged_items"
    )


class ArticlePage(Page):
    body = RichTextField(blank=True)
    hero = models.ForeignKey(
        "wagtailimages.Image", null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    tags = ClusterTaggableManager(through=ArticlePageTag, blank=True)


class Clip(models.Model):
    """A film of an article; its tags are generic, in taggit's own table."""

    article = models.ForeignKey(ArticlePage, on_delete=models.CASCADE, related_name="clips")
    title = models.CharField(max_length=100)
    tags = TaggableManager(blank=True)
