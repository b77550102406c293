"""Both tables leave whole."""

from replicator import Dataset, Rows, opt_in
from tests.benchmark.project.models import Parcel, Signal

opt_in(Parcel)
opt_in(Signal)

Dataset("parcels", Rows(Parcel), Rows(Signal))
