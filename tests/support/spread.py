"""How tests are spread over workers: a file's stay together, and so do their services and fixtures.

Histories of the oracle are many, and each is a world of its own: each goes where there is room.
"""

import time

import pytest
from xdist.scheduler import LoadFileScheduling

ALONE = (
    "tests/integration/test_oracle.py::test_random_history[",
    "tests/integration/test_oracle.py::test_random_history_of_subscriptions[",
    "tests/integration/test_mutations.py::",
)
"""How the ids of tests begin that need no other test of their file."""
HISTORY = "history"
"""The property of a report that says how a history was played."""
TELL_EVERY = 60.0


class Spread(LoadFileScheduling):
    """Gives each file to one worker, but for the tests that stand alone."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(ALONE) else super()._split_scope(nodeid)


class Progress:
    """Tells now and then how many histories were played, and of each that failed.

    Args:
        config: of the session that prints.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._began = self._told = time.monotonic()
        self._played = self._failed = 0
        self._seconds = 0.0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = dict(report.user_properties).get(HISTORY)
        if report.when != "call" or not isinstance(found, float):
            return
        self._played += 1
        self._seconds += found
        self._failed += report.failed
        if report.failed or time.monotonic() - self._told > TELL_EVERY:
            self._tell(report)

    def _tell(self, report: pytest.TestReport) -> None:
        self._told = time.monotonic()
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(
                f"{self._played} histories in {(self._told - self._began) / 60:.1f} min, "
                f"{self._seconds / self._played:.1f} s each, {self._failed} failed"
                + (f"; now {report.nodeid}" if report.failed else "")
            )
