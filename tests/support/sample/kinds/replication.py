"""What of the specimens and readings may leave its environment: all."""

from replicator import Dataset, Rows, opt_in
from tests.support.sample.kinds.models import Reading, Specimen

opt_in(Specimen)
opt_in(Reading)

Dataset("kinds", Rows(Specimen), Rows(Reading))
