"""Opens kafka-python's clients: configuration, security options, errors in Replicator's words.

Owns no connection. Passwords and row values stay out of messages: kafka-python prints both on
level DEBUG, so its loggers are kept at WARNING unless somebody has set them.
"""

import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, errors
from kafka.net.compat import KafkaNetClient
from kafka.record import util

from replicator.errors import (
    BadRecord,
    ConfigurationError,
    Hole,
    LogUnavailable,
    ReplicatorError,
)
from replicator.log.kafka_network import DrivenNetwork, Network
from replicator.log.kafka_sockets import DIRECT

FETCH_BYTES = 8 << 20
"""Bytes of a fetch, of a poll and of the largest request."""

_OURS = frozenset(
    {"bootstrap_servers", "kafka_client", "metric_reporters", "metrics_num_samples"}
    | {"metrics_sample_window_ms", "max_in_flight_requests_per_connection", "selector"}
    | {"metrics_enabled", "allow_auto_create_topics"}
)
_FILES = frozenset({"ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_crlfile"})
_CHOICES: Mapping[str, Sequence[str]] = {
    "security_protocol": ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
    "sasl_mechanism": (
        *("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"),
        *("OAUTHBEARER", "GSSAPI", "AWS_MSK_IAM"),
    ),
}
_DEFAULTS: Mapping[str, object] = {
    "bootstrap_timeout_ms": 8_000,
    "reconnect_backoff_max_ms": 1_000,
    "request_timeout_ms": 30_000,
}
_PRODUCER: Mapping[str, object] = {
    "acks": "all",
    "enable_idempotence": True,
    "compression_type": "lz4",
    "metrics_enabled": False,
    "max_request_size": FETCH_BYTES,
    "delivery_timeout_ms": 3_600_000,
    "batch_size": 1 << 20,
    "max_block_ms": 8_000,
    "allow_auto_create_topics": False,
}
_CONSUMER: Mapping[str, object] = {
    "group_id": None,
    "enable_auto_commit": False,
    "auto_offset_reset": "none",
    "check_crcs": True,
    "fetch_max_bytes": FETCH_BYTES,
    "max_partition_fetch_bytes": FETCH_BYTES,
    "metrics_enabled": False,
    "allow_auto_create_topics": False,
}


def require_fast_checksums() -> None:
    """Refuse to run on kafka-python's pure Python CRC, which costs 40 µs a row.

    Raises:
        ConfigurationError: kafka-python did not find the package crc32c.
    """
    if util.crc32c_c is None:
        raise ConfigurationError(
            "kafka-python computes checksums in pure Python.", remedy="pip install crc32c"
        )


def keep_secrets_out_of_logs() -> None:
    """Keep kafka-python's loggers at WARNING: on DEBUG they print passwords and row values."""
    logger = logging.getLogger("kafka")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.WARNING)


def client_options(options: Mapping[str, object]) -> dict[str, object]:
    """Give the options that both producer and consumer take, defaults filled in.

    Args:
        options: kafka-python's names, for connection, TLS and SASL
            (https://kafka-python.readthedocs.io/en/master/apidoc/KafkaProducer.html).

    Raises:
        ConfigurationError: an option that they do not know, or that is ours to set, or that
            names a file that is not there; named.
    """
    known = (set(KafkaProducer.DEFAULT_CONFIG) & set(KafkaConsumer.DEFAULT_CONFIG)) - _OURS
    if unknown := sorted(set(options) - known):
        raise ConfigurationError(
            f"LOG_OPTIONS names unknown options: {', '.join(unknown)}.",
            remedy="Use kafka-python's names of options for connection, TLS and SASL.",
        )
    for name, value in options.items():
        if value is not None:
            _check(name, value)
    return {**_DEFAULTS, **options}


def _check(name: str, value: object) -> None:
    """Refuse values that kafka-python would meet with silence or an unclear error."""
    if name in _FILES and not Path(str(value)).is_file():
        raise ConfigurationError(f"LOG_OPTIONS: {name} names no file.", remedy="Correct the path.")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise ConfigurationError(
            f"LOG_OPTIONS: {name} has no such value.", remedy=f"Use {', '.join(_CHOICES[name])}."
        )


class Clients:
    """Opens clients of one cluster. Holds options, no connection.

    Args:
        servers: `host:port` of some brokers.
        options: see `client_options`.
        fast: with our event loop in place of kafka-python's own; see `why_not_network`.

    Raises:
        ConfigurationError: an unknown option, or no fast checksums.
    """

    def __init__(
        self, servers: Sequence[str], options: Mapping[str, object], *, fast: bool = False
    ) -> None:
        require_fast_checksums()
        keep_secrets_out_of_logs()
        self._fast = fast
        self._servers = list(servers)
        self._options = client_options(options)

    def producer(self) -> Any:
        """Open a producer. Raises LogUnavailable within 10 s, ConfigurationError."""
        return self._open(KafkaProducer, _PRODUCER)

    def consumer(self) -> Any:
        """Open a consumer. Raises LogUnavailable within 10 s, ConfigurationError."""
        return self._open(KafkaConsumer, _CONSUMER)

    @contextmanager
    def admin(self) -> Iterator[Any]:
        """Open an admin client for a few calls. Raises LogUnavailable, ConfigurationError."""
        admin = self._open(KafkaAdminClient, {})
        try:
            with translated("asking the brokers"):
                yield admin
        finally:
            admin.close()

    def _open(self, kind: Any, settings: Mapping[str, object]) -> Any:
        """Open a client; one that fails half-way is closed, its thread or sockets would stay."""
        self._probe()
        opened: list[Any] = []

        def connect(**configs: object) -> object:
            if self._fast:
                # A consumer is used by one thread.
                network = DrivenNetwork if kind is KafkaConsumer else Network
                configs["net"] = network(**configs)
            opened.append(KafkaNetClient(**configs))
            return opened[0]

        options = {name: v for name, v in self._options.items() if name in kind.DEFAULT_CONFIG}
        options |= {**settings, "kafka_client": connect, "bootstrap_servers": self._servers}
        if not self._proxied:
            options["proxy_url"] = DIRECT
        try:
            with translated("connecting"), _refused_values():
                return kind(**options)
        except ReplicatorError:
            for half_open in opened:
                with suppress(errors.KafkaError, OSError):
                    half_open.close()
            raise

    @property
    def _proxied(self) -> bool:
        return bool(self._options.get("proxy_url") or self._options.get("socks5_proxy"))

    def _probe(self) -> None:
        """Find out in a moment, and without a client, that nobody listens."""
        if self._proxied:
            return
        for server in self._servers:
            host, _, port = server.rpartition(":")
            try:
                with socket.create_connection((host.strip("[]"), int(port)), timeout=2):
                    return
            except ValueError as error:
                raise ConfigurationError(
                    "LOG names a broker without a port.", remedy="Use kafka://host:port."
                ) from error
            except OSError:
                continue
        raise unavailable(f"No broker listens at {', '.join(self._servers)}.")


@contextmanager
def _refused_values() -> Iterator[None]:
    """Translate what kafka-python's constructors say of values that they do not understand."""
    try:
        yield
    except (ValueError, TypeError, AssertionError, errors.KafkaConfigurationError) as error:
        raise ConfigurationError(
            f"kafka-python refuses LOG_OPTIONS ({type(error).__name__}).",
            remedy="Check the values of LOG_OPTIONS.",
        ) from error


def unavailable(message: str) -> LogUnavailable:
    """Make the error for a log that cannot be reached."""
    return LogUnavailable(
        message,
        remedy="Start the brokers, or correct LOG and the network between; daemons then go on.",
    )


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Translate kafka-python's errors into ours; messages carry its class, never its text.

    Args:
        doing: what is being done, for the message.

    Raises:
        Hole, BadRecord, ConfigurationError, LogUnavailable
    """
    try:
        yield
    except (errors.OffsetOutOfRangeError, errors.LogTruncationError) as error:
        raise Hole("The records at the offset to read are no longer in the topic.") from error
    except errors.CorruptRecordError as error:
        raise BadRecord("A record batch has a wrong checksum or framing.") from error
    except (errors.AuthorizationError, errors.SaslAuthenticationFailedError) as error:
        raise ConfigurationError(
            f"Kafka refuses access while {doing} ({type(error).__name__}).",
            remedy="Grant the user its topic (describe, describe configs, read or write), and "
            "check the SASL options.",
        ) from error
    except errors.InvalidTopicError as error:
        raise ConfigurationError("The topic's name is not valid in Kafka.") from error
    except (errors.KafkaError, OSError) as error:
        raise unavailable(f"Kafka failed while {doing} ({type(error).__name__}).") from error
