"""The one management command, `replicator`."""
