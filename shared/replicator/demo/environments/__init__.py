"""Settings of the demo's environments; connections come from environment variables.

REPLICATOR_DEMO_SOURCE            URL of the source's database, postgresql://…
REPLICATOR_DEMO_TARGET            URL of the target's database
REPLICATOR_DEMO_LOG               URL of the log
REPLICATOR_DEMO_RUN               suffix of the environments' names (optional)
REPLICATOR_DEMO_CAPTURE_METRICS   where capture serves metrics, host:port (optional)
REPLICATOR_DEMO_APPLY_METRICS     where apply does (optional)
"""
