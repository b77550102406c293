"""`python -m replicator`: the same as the command `replicator`."""

import sys

from replicator.cli import main

sys.exit(main())
