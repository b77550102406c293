"""All tables leave whole; and once more as the children of rows that pass a filter, all of them."""

from django.db.models import Q

from replicator import Children, Dataset, Rows, opt_in
from tests.benchmark.project.models import Depot, Parcel, Signal

for model in (Depot, Parcel, Signal):
    opt_in(model)

Dataset("parcels", Rows(Parcel), Rows(Signal))
Dataset("by-depot", Rows(Depot, where=Q(open=True)), Children(Parcel, of="depot"), Rows(Signal))
