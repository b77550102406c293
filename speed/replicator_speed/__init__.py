"""Compiled twins of the hottest steps of Replicator; it works without them, more slowly."""

from replicator_speed._events import collapse_events, go_on, take_events
from replicator_speed._frames import take_frames
from replicator_speed._lines import copy_lines
from replicator_speed._reads import LineEncoder, place_records
from replicator_speed._records import decode_records, encode_records
from replicator_speed._rows import RowEncoder

FORM = 3
"""Replicator takes twins of the form that it knows, and no others."""

__all__ = [
    "FORM",
    "LineEncoder",
    "RowEncoder",
    "collapse_events",
    "copy_lines",
    "decode_records",
    "encode_records",
    "go_on",
    "place_records",
    "take_events",
    "take_frames",
]
