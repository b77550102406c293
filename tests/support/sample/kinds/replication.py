"""What of the specimens and readings may leave its environment: all."""

from datetime import UTC, datetime

from django.db.models import Q

from replicator import Dataset, Rows, opt_in
from tests.support.sample.kinds.models import Reading, Specimen

opt_in(Specimen)
opt_in(Reading)

Dataset("kinds", Rows(Specimen), Rows(Reading))
Dataset("warm-readings", Rows(Reading, where=Q(value__gt=20.5)))
Dataset(
    "some-specimens",
    Rows(Specimen, where=Q(yes=True) & ~Q(line="hidden")),
    Rows(Specimen, where=Q(small__lt=0) | Q(moment__gte=datetime(2026, 1, 1, tzinfo=UTC))),
    Rows(Specimen, where=Q(exact__range=(1, 2), mood__isnull=False)),
)
