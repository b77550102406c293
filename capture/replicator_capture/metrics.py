"""The metrics of capture."""

from replicator.metrics import Metric

LAG_SECONDS = Metric(
    "replicator_capture_lag_seconds",
    "gauge",
    "Age of the newest commit that was read; 0 while there is nothing to read.",
    ("stream",),
)
LAG_BYTES = Metric(
    "replicator_capture_lag_bytes",
    "gauge",
    "WAL that Postgres has written and capture has not yet received.",
    ("stream",),
)
RETAINED_BYTES = Metric(
    "replicator_capture_retained_wal_bytes",
    "gauge",
    "WAL that the slot holds back on the source's disk.",
    ("stream",),
)
SAFE_BYTES = Metric(
    "replicator_capture_safe_wal_bytes",
    "gauge",
    "WAL that may still be written before Postgres gives up the slot; -1 without a limit.",
    ("stream",),
)
SLOT_ENDANGERED = Metric(
    "replicator_capture_slot_endangered",
    "gauge",
    "1 while the slot's wal_status is neither reserved nor extended.",
    ("stream",),
)
CONFIRMED = Metric(
    "replicator_capture_confirmed_lsn",
    "gauge",
    "Position up to which the slot may forget, as a number of bytes.",
    ("stream",),
)
PUBLISHED = Metric(
    "replicator_capture_published_lsn",
    "gauge",
    "Position up to which records were handed to the log, as a number of bytes.",
    ("stream",),
)
TRANSACTIONS = Metric(
    "replicator_capture_transactions_total",
    "counter",
    "Source transactions read that have rows of opted-in tables.",
    ("stream",),
)
ROWS_READ = Metric(
    "replicator_capture_rows_total",
    "counter",
    "Row events of opted-in tables read.",
    ("stream",),
)
UNSEEN = Metric(
    "replicator_capture_unseen_commits",
    "gauge",
    "Commits read that snapshots do not see yet; they hold the confirmed position back.",
    ("stream",),
)
UNKNOWN_COLUMNS = Metric(
    "replicator_capture_unknown_columns",
    "gauge",
    "Columns of a table that the database has and the code does not know; never published.",
    ("stream", "table"),
)
UNPREPARED = Metric(
    "replicator_capture_unprepared_tables",
    "gauge",
    "Findings of the last check of publication and replica identities.",
    ("stream",),
)
BEATS = Metric("replicator_capture_beats_total", "counter", "Beats written.", ("stream",))
MARKS = Metric("replicator_capture_marks_total", "counter", "Marks published.", ("stream",))
FETCHES = Metric(
    "replicator_capture_fetches_total",
    "counter",
    "Requests of targets, by kind and by what became of them: answered, refused, dropped.",
    ("stream", "target", "kind", "outcome"),
)
FETCHED_ROWS = Metric(
    "replicator_capture_fetched_rows_total",
    "counter",
    "Rows read for answers.",
    ("stream", "target"),
)
FETCH_SECONDS = Metric(
    "replicator_capture_fetch_seconds",
    "histogram",
    "Time from taking up a request to handing its answer to the log.",
    ("stream", "kind"),
)
FETCH_RETRIES = Metric(
    "replicator_capture_fetch_retries_total",
    "counter",
    "Snapshots thrown away because a commit already read was not visible in them.",
    ("stream",),
)
BAD_REQUESTS = Metric(
    "replicator_capture_bad_requests_total",
    "counter",
    "Messages of a requests topic that were ignored: unreadable, of another target, too many.",
    ("stream", "target", "reason"),
)
REPORT_AGE = Metric(
    "replicator_capture_target_report_time_seconds",
    "gauge",
    "When a target last reported, seconds since 1970.",
    ("stream", "target"),
)
TARGET_LAG = Metric(
    "replicator_capture_target_lag_seconds",
    "gauge",
    "Age of the last commit that a target has applied, by its last report; 0 if it has them all.",
    ("stream", "target"),
)

METRICS = (
    LAG_SECONDS,
    LAG_BYTES,
    RETAINED_BYTES,
    SAFE_BYTES,
    SLOT_ENDANGERED,
    CONFIRMED,
    PUBLISHED,
    TRANSACTIONS,
    ROWS_READ,
    UNSEEN,
    UNKNOWN_COLUMNS,
    UNPREPARED,
    BEATS,
    MARKS,
    FETCHES,
    FETCHED_ROWS,
    FETCH_SECONDS,
    FETCH_RETRIES,
    BAD_REQUESTS,
    REPORT_AGE,
    TARGET_LAG,
)
