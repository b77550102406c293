"""The ports of the log: what capture and apply may ask of it, and what it may do to them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from replicator.errors import ConfigurationError
from replicator.log.url import FORMS, mistake_in
from replicator.positions import Lsn, Offset


class Chunk(NamedTuple):
    """Consecutive records of one topic, as the reader got them.

    Attributes:
        offsets: offset of each record, ascending. A value that travelled in slices has the
            offset of its first slice and stands where its last one stood, so behind records of
            another writer that came between them: one writer's records are always in order.
        records: key and value of each, in the same order.
        resume: read from here to lose nothing that comes after this chunk (it lies before the
            first slice of a value of which the rest is still to come). Who keeps records for
            later resumes at the smaller of this and the offset of the oldest one kept.
        timestamp_ms: when the last record was appended, milliseconds since 1970; 0 if unknown.
    """

    offsets: Sequence[int]
    records: Sequence[tuple[bytes, bytes]]
    resume: Offset
    timestamp_ms: int


class TopicState(NamedTuple):
    """What is known of a topic.

    Attributes:
        exists: False if it has not been created.
        begin: offset of the oldest record that can still be read.
        end: offset that the next record gets; equal to `begin` if the topic is empty.
        problems: settings that endanger the stream, a sentence each (empty: none).
    """

    exists: bool
    begin: Offset
    end: Offset
    problems: Sequence[str] = ()


class LogWriter(Protocol):
    """Appends to one topic, in order."""

    def append(self, records: Sequence[tuple[bytes, bytes]], until: Lsn | None) -> None:
        """Hand over records; returns before they are stored.

        Args:
            records: key and value each, at least one, in order; a value may be of any size.
            until: the position that may be confirmed once these records and all before them
                are stored; None inside a transaction.

        Raises:
            LostLog: this or an earlier append failed. The process must end.
        """

    def acknowledged(self) -> Lsn | None:
        """Highest `until` of which everything is stored; grows only. Does not block.

        Raises:
            LostLog: an append failed.
        """

    def in_flight(self) -> int:
        """Count the appends handed over and not yet acknowledged. Does not block."""

    def wait(self, timeout: float) -> None:
        """Block until an append is acknowledged or fails, or `timeout` seconds have passed."""

    def close(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for what is in flight, then let go of everything."""


class LogReader(Protocol):
    """Reads one topic from a given place on; never joins a group, never commits offsets."""

    def seek(self, offset: Offset) -> None:
        """Read on from `offset`.

        Raises:
            Hole: the log no longer has, or never had, that offset.
        """

    def position(self) -> Offset:
        """Say which offset is read next: everything below has been given, or holds no record."""

    def poll(self, timeout: float) -> Sequence[Chunk]:
        """Give what has arrived, waiting at most `timeout` seconds for the first of it.

        May give nothing. Each call returns at most some 8 MB.

        Raises:
            Hole: the records at the offset to read have been removed from the log.
            LogUnavailable: the log is away; the next poll may be tried after a pause.
            BadRecord: a record's checksum or framing is wrong.
        """

    def close(self) -> None:
        """Let go of connections and threads."""


class Log(Protocol):
    """One log, of any number of topics, each with exactly one partition."""

    def create(self, topic: str) -> None:
        """Create the topic, with safe settings, unless it is there.

        Raises:
            LogUnavailable: the log is away.
            ConfigurationError: no right to create it; the remedy names what to run.
        """

    def state(self, topic: str) -> TopicState:
        """Say what is known of the topic. Raises LogUnavailable."""

    def writer(self, topic: str) -> LogWriter:
        """Open the topic for appending. Raises LogUnavailable."""

    def reader(self, topic: str) -> LogReader:
        """Open the topic for reading; `seek` before the first `poll`. Raises LogUnavailable."""


def open_log(url: str, options: Mapping[str, object] | None = None) -> Log:
    """Give the log that `url` names, without connecting to it.

    Args:
        url: `kafka://host:port[,host:port…]` or `sqlite:////path/to/file`.
        options: Kafka: passed through to the client (kafka-python's own names); security goes
            here. sqlite: `retain_seconds`, `retain_bytes`.

    Raises:
        ConfigurationError: the URL names no log.
    """
    if (mistake := mistake_in(url)) is not None:
        raise ConfigurationError(f"The URL of the log {mistake}.", remedy=f"Use {FORMS}.")
    scheme, _, rest = url.partition("://")
    if scheme == "kafka":
        from replicator.log.kafka import KafkaLog  # noqa: PLC0415 (web processes never load kafka)

        return KafkaLog(rest.split(","), options or {})
    from replicator.log.sqlite import SqliteLog  # noqa: PLC0415

    return SqliteLog(rest[1:], options or {})
