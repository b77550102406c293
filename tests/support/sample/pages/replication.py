"""What of the pages may leave its environment: all."""

from django.db.models import Model, Q

from replicator import Children, Dataset, Rows, latest, opt_in, sample
from tests.support.sample.pages.models import Article, Labelling, Page, Remark, Tag

MODELS: tuple[type[Model], ...] = (Tag, Page, Article, Page.tags.through, Labelling, Remark)
for model in MODELS:
    opt_in(model)

Dataset("pages", *(Rows(model) for model in MODELS))
Dataset(
    "sections",
    Rows(Page, where=Q(live=True, title="section"), null=["parent"]),
    Children(Page, of="parent"),
    Children(Article, of="page_ptr"),
    Children(Page.tags.through, of=["page", "tag"]),
    Rows(Tag, where=Q(name__startswith="a")),
)
Dataset("live-pages", Rows(Page, where=Q(live=True), required=["parent"]))
Dataset("some-tags", Rows(Tag, where=Q(name__startswith="a")), Rows(Tag, where=Q(pk__lt=10)))
Dataset("newest-tags", Rows(Tag, select=latest(3, by="name", every="2s")))
Dataset("a-few-tags", Rows(Tag, where=Q(name__startswith="a"), select=sample(3, every="1d")))
Dataset("live-roots", Rows(Page, where=Q(parent=None, live=True), required=["parent"]))
