"""Creates a stream's topic with safe settings, and says what endangers one that is there.

Blocks on the brokers; raises what `kafka_client.translated` says.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from kafka import TopicPartition, errors
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.protocol.consumer import OffsetSpec

from replicator.errors import ConfigurationError
from replicator.log.kafka_client import FETCH_BYTES
from replicator.log.port import TopicState
from replicator.positions import Offset

_SMALL_BATCH = 64 << 10


def create_topic(admin: Any, topic: str) -> None:
    """Create the topic unless it is there, and wait until it has a leader.

    LogAppendTime: latency is measured from the broker's clock, and a wrong clock at the source
    cannot make retention delete too early.

    Raises:
        ConfigurationError: no right to create it, or the cluster's policy forbids it.
        kafka.errors.KafkaError: any other refusal.
    """
    if _described(admin, topic) is not None:
        return
    brokers = len(admin.describe_cluster()["brokers"])
    wanted = {
        "num_partitions": 1,
        "replication_factor": min(3, brokers),
        "configs": {
            "cleanup.policy": "delete",
            "min.insync.replicas": "2" if brokers >= 3 else "1",
            "unclean.leader.election.enable": "false",
            "message.timestamp.type": "LogAppendTime",
            "max.message.bytes": str(FETCH_BYTES),
        },
    }
    try:
        admin.create_topics({topic: wanted}, wait_for_metadata=True)
    except errors.TopicAlreadyExistsError:
        admin.wait_for_topics([topic])
    except (
        errors.AuthorizationError,
        errors.PolicyViolationError,
        errors.InvalidConfigurationError,
        errors.InvalidReplicationFactorError,
    ) as error:
        raise ConfigurationError(
            f"Topic {topic} could not be created ({type(error).__name__}).",
            remedy=_command(topic, wanted),
        ) from error


def _command(topic: str, wanted: Mapping[str, Any]) -> str:
    configs = " ".join(f"--config {name}={value}" for name, value in wanted["configs"].items())
    return (
        f"Let somebody who may run: kafka-topics.sh --create --topic {topic} --partitions 1 "
        f"--replication-factor {wanted['replication_factor']} {configs}"
    )


def topic_state(admin: Any, topic: str) -> TopicState:
    """Look at the topic: offsets and dangerous settings. Raises kafka.errors.KafkaError."""
    described = _described(admin, topic)
    if described is None:
        return TopicState(False, Offset(0), Offset(0))
    partitions = described["partitions"]
    partition = TopicPartition(topic, 0)
    begin = admin.list_partition_offsets({partition: OffsetSpec.EARLIEST})[partition].offset
    end = admin.list_partition_offsets({partition: OffsetSpec.LATEST})[partition].offset
    problems = _shape_problems(partitions, len(admin.describe_cluster()["brokers"]))
    problems += _setting_problems(topic_settings(admin, topic), len(partitions[0]["replica_nodes"]))
    return TopicState(True, Offset(begin), Offset(end), problems)


def _described(admin: Any, topic: str) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] = admin.describe_topics([topic])[0]
    error = errors.for_code(found["error_code"])
    if error is errors.UnknownTopicOrPartitionError:
        return None
    if error is not errors.NoError:
        raise error
    return found


def topic_settings(admin: Any, topic: str) -> Mapping[str, str]:
    """Read the topic's settings, defaults included; empty if they may not be read."""
    resource = ConfigResource(ConfigResourceType.TOPIC, topic)
    answer = admin.describe_configs([resource], config_filter="all")
    settings = answer.get("topic", {}).get(topic, {})
    return {name: str(entry["value"]) for name, entry in settings.items()}


def _shape_problems(partitions: Sequence[Mapping[str, Any]], brokers: int) -> list[str]:
    found = []
    if len(partitions) != 1:
        found.append(
            f"It has {len(partitions)} partitions, and order holds inside one only: "
            "create it anew with 1 partition."
        )
    replicas = len(partitions[0]["replica_nodes"])
    if replicas < min(3, brokers):
        found.append(
            f"It has {replicas} replica(s), and {brokers} brokers could hold {min(3, brokers)}: "
            "a broker's loss would lose acknowledged records."
        )
    return found


def _setting_problems(settings: Mapping[str, str], replicas: int) -> list[str]:
    if not settings:
        return ["Its settings may not be read: grant DescribeConfigs on the topic."]
    found = []
    if settings.get("cleanup.policy", "delete") != "delete":
        found.append("cleanup.policy compacts it, which removes records: set it to delete.")
    if replicas >= 3 and int(settings.get("min.insync.replicas", "1")) < 2:
        found.append("min.insync.replicas is 1: one broker's loss can lose records; set it to 2.")
    if settings.get("unclean.leader.election.enable", "false") == "true":
        found.append("unclean.leader.election.enable is true, which can lose records: set false.")
    if int(settings.get("max.message.bytes", str(FETCH_BYTES))) < _SMALL_BATCH:
        found.append("max.message.bytes is below 64 kB, which makes batches slow: raise it.")
    return found
