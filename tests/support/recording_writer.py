"""A LogWriter that keeps what it gets and acknowledges when told to."""

from collections.abc import Sequence

from replicator.positions import Lsn


class RecordingWriter:
    """The fake of `replicator.log.port.LogWriter`.

    Attributes:
        appends: records and `until` of each append.
        waited: how often `wait` was called; each call acknowledges the oldest append.
    """

    def __init__(self, *, at_once: bool = True) -> None:
        self.appends: list[tuple[list[tuple[bytes, bytes]], Lsn | None]] = []
        self.waited = 0
        self.most_in_flight = 0
        self._at_once = at_once
        self._stored = 0

    @property
    def records(self) -> list[tuple[bytes, bytes]]:
        return [record for records, _ in self.appends for record in records]

    def append(self, records: Sequence[tuple[bytes, bytes]], until: Lsn | None) -> None:
        assert records
        self.appends.append((list(records), until))
        if self._at_once:
            self._stored += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight())

    def acknowledged(self) -> Lsn | None:
        stored = [until for _, until in self.appends[: self._stored] if until is not None]
        return max(stored, default=None)

    def in_flight(self) -> int:
        return len(self.appends) - self._stored

    def wait(self, timeout: float) -> None:  # noqa: ARG002
        self.waited += 1
        self._stored = min(self._stored + 1, len(self.appends))

    def close(self, timeout: float) -> None:  # noqa: ARG002
        self._stored = len(self.appends)
