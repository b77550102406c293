"""The demo's log: usable before anything is started, and not left behind. Blocks on the log."""

from collections.abc import Sequence
from pathlib import Path

from replicator.errors import ConfigurationError, LogUnavailable
from replicator.log.kafka_client import Clients
from replicator.log.port import open_log


def require_log(url: str) -> None:
    """Refuse a log that the demo cannot use, within some ten seconds.

    Raises:
        ConfigurationError: the URL names no log, or a file that is not the demo's own.
        LogUnavailable: nobody answers there.
    """
    log = open_log(url)
    path = _file_of(url)
    if path is not None and path.exists():
        raise ConfigurationError(
            f"The file {path} is there already, and the demo needs a log of its own.",
            remedy="Give --log the path of a file that does not exist, or leave it out.",
        )
    try:
        log.state("replicator.demo")
    except LogUnavailable as error:
        remedy = error.remedy if path else "Start the brokers, or correct --log."
        raise LogUnavailable(str(error), remedy=remedy) from error


def remove_log(url: str, topics: Sequence[str]) -> None:
    """Remove the demo's file, or its topics from a Kafka that outlives it.

    Raises:
        LogUnavailable: Kafka is away; the message names the topics.
    """
    path = _file_of(url)
    if path is not None:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return
    try:
        with Clients(url.partition("://")[2].split(","), {}).admin() as admin:
            present = set(admin.list_topics())
            admin.delete_topics([topic for topic in topics if topic in present])
    except LogUnavailable as error:
        raise LogUnavailable(
            f"The demo's topics {', '.join(topics)} are left on Kafka: {error}",
            remedy="Delete them with kafka-topics.sh --delete.",
        ) from error


def _file_of(url: str) -> Path | None:
    """Give the path of a sqlite log; None for Kafka."""
    scheme, _, rest = url.partition("://")
    return Path(rest[1:]) if scheme == "sqlite" else None
