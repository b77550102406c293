"""An apply worker in a thread of the test's process, under supervision as in the daemon.

The worker's database is the one that the ORM knows as `default`.
"""

import threading

from replicator.http import Health
from replicator.settings import ReplicatorSettings
from replicator.stop import Stop, supervise
from replicator_apply.state import Place
from replicator_apply.worker import Worker


class RunningApply:
    """Applies one stream until it is ended."""

    def __init__(self, settings: ReplicatorSettings, place: Place) -> None:
        self.stop = Stop()
        self.error: BaseException | None = None
        self.health = Health()
        self._settings, self._place = settings, place
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        def work() -> None:
            Worker(self._settings, self._place, self.stop, self.health).run()

        try:
            supervise(work, self.stop)
        except BaseException as error:  # noqa: BLE001 (handed over to the test)
            self.error = error

    def end(self, timeout: float = 15) -> None:
        """Stop it as a signal does, and wait; raises what it raised."""
        self.stop.set()
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "apply does not stop"
        if self.error is not None:
            raise self.error
