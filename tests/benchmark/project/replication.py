"""All tables leave whole; and once more as the trees of rows that pass a filter.

Every parcel is a child of a depot that passes; of the questions, every fifth does.
"""

from django.db.models import Q

from replicator import Children, Dataset, Referenced, Rows, opt_in
from tests.benchmark.project.models import (
    Choice,
    Depot,
    Leaflet,
    Parcel,
    Question,
    Signal,
    Vote,
    Voter,
)
from tests.benchmark.project.shapes import SHARDS, Bulky, Narrow, Wide

POLLS = (Question, Choice, Vote, Voter)
SHAPES = (Narrow, Wide, Bulky, *SHARDS)

for model in (Depot, Leaflet, Parcel, Signal, *POLLS, *SHAPES):
    opt_in(model)

Dataset("parcels", Rows(Parcel), Rows(Signal), *map(Rows, POLLS), *map(Rows, SHAPES))
Dataset(
    "by-depot",
    Rows(Depot, where=Q(open=True)),
    Children(Parcel, of="depot"),
    Rows(Question, where=Q(published=True)),
    Children(Choice, of="question"),
    Children(Vote, of="choice"),
    Referenced(Voter),
    Rows(Leaflet, where=Q(published=True)),
    Rows(Signal),
    *map(Rows, SHAPES),
)
