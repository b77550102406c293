"""The log on brokers that are reached by TLS, or with SASL: kafka-python has code for each."""

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
from tests.support.proxy import TcpProxy

_PASSWORD = "of-no-value"


def _skip_if_given(kafka: KafkaBroker) -> None:
    if kafka.pid is None:
        pytest.skip(f"the broker of {kafka_support.GIVEN_BY} is not ours to configure")


@pytest.fixture(scope="module")
def tls(
    tmp_path_factory: pytest.TempPathFactory, kafka: KafkaBroker
) -> Iterator[tuple[str, dict[str, object]]]:
    """A broker's address and the options of its clients; skipped where `kafka` is."""
    _skip_if_given(kafka)
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


@pytest.fixture
def sasl(kafka: KafkaBroker) -> Iterator[tuple[TcpProxy, dict[str, object]]]:
    """A proxy to a broker of which each session must authenticate again every 1.5 s."""
    _skip_if_given(kafka)
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    broker = KafkaBroker.start(
        listener_security_protocol_map=(
            "PLAINTEXT:PLAINTEXT,PROXIED:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT"
        ),
        listener_name_proxied_sasl_enabled_mechanisms="PLAIN",
        listener_name_proxied_plain_sasl_jaas_config=f'{login} user_me="{_PASSWORD}";',
        listener_name_proxied_connections_max_reauth_ms="1500",
    )
    options = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"}
    options |= {"sasl_plain_username": "me", "sasl_plain_password": _PASSWORD}
    with broker.proxy() as proxy:
        yield proxy, options
    broker.stop()


@pytest.mark.parametrize("fast", [True, False], ids=["kafka", "kafka-public"])
def test_sessions_that_authenticate_again_go_on(
    sasl: tuple[TcpProxy, dict[str, object]], *, fast: bool
) -> None:
    proxy, options = sasl
    log = KafkaLog([f"127.0.0.1:{proxy.port}"], options, fast=fast)
    log.create("sasl")
    got: list[bytes] = []
    with reading(log, "sasl", 0) as reader, writing(log, "sasl") as writer:
        assert isinstance(reader, KafkaReader)

        def go_on(seconds: float) -> float:
            """Append and read for a while; gives when the reader has authenticated last."""
            nonlocal number, straight
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                writer.append([(b"k", b"%d" % number)], Lsn(number + 1))
                number += 1
                got.extend(value for chunk in reader.poll(0.02) for _, value in chunk.records)
                straight += getattr(reader._receiver, "_line", None) is not None
            connections = reader._consumer._manager._conns.values()
            return max(each._reauth.authenticated_at or 0.0 for each in connections)

        number = straight = 0
        first = go_on(0.5)
        assert go_on(4.0) > first + 2
        time.sleep(2.0)  # longer than a session, and nobody turns the reader's loop
        go_on(1.0)
        assert acknowledged(writer) == number
        deadline = time.monotonic() + PATIENCE
        while len(got) < number and time.monotonic() < deadline:
            got += [value for chunk in reader.poll(0.2) for _, value in chunk.records]
        assert got == [b"%d" % each for each in range(number)]
        assert bool(straight) == fast
