"""The command `replicator`: one parser, shared with `manage.py replicator`.

Exit codes: 0 right, 1 a finding, 2 usage or configuration, 3 stopped. See `commands` for the
protocol that the commands follow.
"""

from replicator.cli.dispatch import main

__all__ = ["main"]
