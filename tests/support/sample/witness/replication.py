"""The witnesses may leave their environment."""

from replicator import Dataset, Rows, opt_in
from tests.support.sample.witness.models import First, Second

opt_in(First)
opt_in(Second)

Dataset("witness", Rows(First), Rows(Second))
