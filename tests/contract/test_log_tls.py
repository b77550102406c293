"""The log on a broker that is reached by TLS: kafka-python has code of its own for that."""

import random
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest

from replicator.log.kafka import KafkaLog, KafkaReader
from replicator.positions import Lsn
from tests.contract.test_log import PATIENCE, acknowledged, reading, writing
from tests.support import kafka as kafka_support
from tests.support.kafka import KafkaBroker

_PASSWORD = "of-no-value"


@pytest.fixture(scope="module")
def tls(
    tmp_path_factory: pytest.TempPathFactory, kafka: KafkaBroker
) -> Iterator[tuple[str, dict[str, object]]]:
    """A broker's address and the options of its clients; skipped where `kafka` is."""
    if kafka.pid is None:
        pytest.skip(f"the broker of {kafka_support.GIVEN_BY} is not ours to configure")
    folder = tmp_path_factory.mktemp("tls")
    keys, certificate = folder / "keys.p12", folder / "broker.pem"
    tool = [shutil.which("keytool") or "keytool", "-keystore", str(keys), "-alias", "broker"]
    tool += ["-storetype", "PKCS12", "-storepass", _PASSWORD]
    named = ["-dname", "CN=broker", "-ext", "SAN=ip:127.0.0.1", "-keyalg", "EC"]
    subprocess.run([*tool, "-genkeypair", *named], check=True, capture_output=True)
    exported = [*tool, "-exportcert", "-rfc", "-file", str(certificate)]
    subprocess.run(exported, check=True, capture_output=True)
    broker = KafkaBroker.start(
        listener_security_protocol_map="PLAINTEXT:PLAINTEXT,PROXIED:SSL,CONTROLLER:PLAINTEXT",
        ssl_keystore_type="PKCS12",
        ssl_keystore_location=str(keys),
        ssl_keystore_password=_PASSWORD,
    )
    proxy = broker.proxy()
    yield f"127.0.0.1:{proxy.port}", {"security_protocol": "SSL", "ssl_cafile": str(certificate)}
    proxy.close()
    broker.stop()


@pytest.mark.parametrize("fast", [True, False], ids=["kafka", "kafka-public"])
def test_records_of_any_size_pass_through_tls(
    tls: tuple[str, dict[str, object]], *, fast: bool
) -> None:
    address, options = tls
    log = KafkaLog([address], options, fast=fast)
    topic = f"tls.{fast}"
    log.create(topic)
    values = [random.Random(n).randbytes(n) for n in (1, 2_000, 500_000, 3_000_000)]
    with reading(log, topic, 0) as reader, writing(log, topic) as writer:
        assert reader.poll(0.1) == []
        for number, value in enumerate(values * 2):
            writer.append([(b"k", value)], Lsn(number + 1))
            assert acknowledged(writer) == number + 1
            got: list[bytes] = []
            deadline = time.monotonic() + PATIENCE
            while not got and time.monotonic() < deadline:
                got += [value for chunk in reader.poll(0.2) for _, value in chunk.records]
            assert got == [value], number
        assert isinstance(reader, KafkaReader)
        assert (getattr(reader._receiver, "_line", None) is not None) == fast
