"""What may leave the source, and the dataset that a target can subscribe to."""

from django.db.models import Q

from replicator import Dataset, Rows, opt_in

from .models import Question, Topic

opt_in(Topic)
opt_in(Question)

Dataset(
    "published-questions",
    Rows(Topic),
    Rows(Question, where=Q(published=True)),
)
