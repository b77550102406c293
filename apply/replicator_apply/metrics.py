"""The metrics of apply; `docs/metrics.md` lists them, and a test compares the two."""

from replicator.metrics import ROWS as ROW_BUCKETS
from replicator.metrics import Metric

PLACE = ("source", "stream")

POSITION = Metric(
    "replicator_apply_position_lsn", "gauge", "The position N: all before it is applied.", PLACE
)
LAG = Metric(
    "replicator_apply_lag_seconds",
    "gauge",
    "From the commit on the source to the commit here, of the last batch.",
    PLACE,
)
TRANSACTIONS = Metric(
    "replicator_apply_transactions_total", "counter", "Source transactions applied.", PLACE
)
ROWS = Metric(
    "replicator_apply_rows_total",
    "counter",
    "Rows written, by op: c inserted, u updated, d deleted.",
    (*PLACE, "table", "op"),
)
ABSENT = Metric(
    "replicator_apply_absent_rows_total",
    "counter",
    "Deletes of rows that should have been here and were not; `replicator verify` tells more.",
    (*PLACE, "table"),
)
BATCH_ROWS = Metric(
    "replicator_apply_batch_rows", "histogram", "Row events of a batch.", PLACE, ROW_BUCKETS
)
BATCH_SECONDS = Metric(
    "replicator_apply_batch_seconds", "histogram", "Duration of a batch's transaction.", PLACE
)
REQUESTS = Metric(
    "replicator_apply_requests_total", "counter", "Requests sent, repeats included.", PLACE
)
WANTED = Metric(
    "replicator_apply_wanted_rows", "gauge", "Rows that wait for a fetch.", (*PLACE, "table")
)
BACKFILL_ROWS = Metric(
    "replicator_apply_backfill_rows",
    "gauge",
    "Rows that the unfinished backfill of a dataset has brought.",
    (*PLACE, "dataset"),
)
HOLES = Metric(
    "replicator_apply_holes_total", "counter", "Times the stream met a hole in the log.", PLACE
)
STOPPED = Metric(
    "replicator_apply_stopped", "gauge", "1 while the stream stands until a person acts.", PLACE
)

CALLS = Metric(
    "replicator_apply_calls_total",
    "counter",
    "Calls of functions of on_applied, by outcome: made, failed.",
    (*PLACE, "table", "outcome"),
)
CALLS_DUE = Metric(
    "replicator_apply_due_calls",
    "gauge",
    "Calls of functions of on_applied that are still to be made.",
    (*PLACE, "table"),
)
CALLS_AGE = Metric(
    "replicator_apply_due_calls_age_seconds",
    "gauge",
    "Age of the oldest call of a function of on_applied that is still to be made; 0 if none is.",
    (*PLACE, "table"),
)

METRICS = (
    POSITION,
    LAG,
    TRANSACTIONS,
    ROWS,
    ABSENT,
    BATCH_ROWS,
    BATCH_SECONDS,
    REQUESTS,
    WANTED,
    BACKFILL_ROWS,
    HOLES,
    STOPPED,
    CALLS,
    CALLS_DUE,
    CALLS_AGE,
)
