"""docker-compose.yml and the Dockerfile, as far as they can be checked without an engine."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from replicator.cli.parser import parse
from replicator.demo import environments
from replicator.http import Health, serve_http
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
SCHEMA = Path(__file__).with_name("compose.schema.json")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


@pytest.fixture(scope="module")
def dockerfile() -> list[str]:
    lines = (ROOT / "deploy/Dockerfile").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_it_follows_the_schema(compose: dict[str, Any]) -> None:
    jsonschema.validate(compose, json.loads(SCHEMA.read_text()))


@pytest.mark.parametrize(
    "broken",
    [
        {"services": {"a": {"image": "x", "comand": ["y"]}}},
        {"services": {"a": {"command": ["y"]}}},
        {"services": {"a": {"image": "x", "restart": "sometimes"}}},
        {"services": {"a": {"image": "x", "depends_on": {"b": {"condition": "up"}}}}},
        {"services": {"a": {"image": "x", "ports": ["all"]}}},
    ],
)
def test_the_schema_sees_mistakes(broken: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, json.loads(SCHEMA.read_text()))


def test_docker_compose_accepts_it() -> None:
    docker = shutil.which("docker")
    if (
        docker is None
        or subprocess.run(
            [docker, "compose", "version"], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("docker compose is not installed")
    command = [docker, "compose", "--file", ROOT / "docker-compose.yml", "config", "--quiet"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_services_depend_on_services(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in services, name
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other], other


def test_volumes_are_declared(compose: dict[str, Any]) -> None:
    used = {
        mount.partition(":")[0]
        for service in compose["services"].values()
        for mount in service.get("volumes", [])
    }
    assert used == set(compose["volumes"])


def test_what_is_built_exists(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        if "build" in service:
            context = ROOT / service["build"]["context"]
            assert (context / service["build"]["dockerfile"]).is_file()


def test_commands_are_commands_of_replicator(compose: dict[str, Any]) -> None:
    commands = {
        name: service["command"]
        for name, service in compose["services"].items()
        if "build" in service and "command" in service
    }
    assert set(commands) == {"capture", "apply"}
    for name, command in commands.items():
        assert parse(command).command == name


def test_environment_variables_are_those_that_the_settings_read(compose: dict[str, Any]) -> None:
    known = set(re.findall(r"REPLICATOR_DEMO_\w+", environments.__doc__ or ""))
    assert len(known) == 6
    for service in compose["services"].values():
        given = {
            name for name in service.get("environment", {}) if name.startswith("REPLICATOR_DEMO_")
        }
        assert given <= known
        if "build" in service:
            assert {"REPLICATOR_DEMO_SOURCE", "REPLICATOR_DEMO_TARGET"} <= given


def test_the_environments_are_real_settings(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    from replicator.settings import ReplicatorSettings

    for name, side in (("capture", "source"), ("apply", "target")):
        service = compose["services"][name]
        for variable, value in service["environment"].items():
            monkeypatch.setenv(variable, value)
        module = service["environment"]["DJANGO_SETTINGS_MODULE"]
        assert module.endswith(side)
        importlib.reload(importlib.import_module("replicator.demo.environments.base"))
        loaded = importlib.reload(importlib.import_module(module))
        settings = ReplicatorSettings.model_validate(loaded.REPLICATOR)
        address = getattr(settings.metrics, name)
        assert service["ports"] == [f"127.0.0.1:{address.port}:{address.port}"]
        host = loaded.DATABASES["default"]["HOST"]
        assert (
            compose["services"][host]["environment"]["POSTGRES_DB"]
            == (loaded.DATABASES["default"]["NAME"])
        )
        kafka, _, port = settings.log.removeprefix("kafka://").partition(":")
        assert (
            f"PLAINTEXT://{kafka}:{port}"
            in (compose["services"][kafka]["environment"]["KAFKA_ADVERTISED_LISTENERS"])
        )


@pytest.mark.parametrize("name", ["capture", "apply"])
@pytest.mark.parametrize("ready", [True, False])
def test_a_daemon_is_healthy_when_it_is_ready(
    compose: dict[str, Any], name: str, *, ready: bool
) -> None:
    service = compose["services"][name]
    port = service["ports"][0].rpartition(":")[2]
    kind, program, *arguments = service["healthcheck"]["test"]
    assert (kind, program, port in arguments[-1]) == ("CMD", "python", True)
    health = Health()
    health.ready(ready)
    here = free_port()
    with serve_http(("127.0.0.1", here), health):
        command = [sys.executable, *(each.replace(port, str(here)) for each in arguments)]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert (result.returncode, result.stderr) == (0 if ready else 1, "")


def test_postgres_is_read_logically(compose: dict[str, Any]) -> None:
    assert "wal_level=logical" in compose["services"]["source-db"]["command"]


def test_nothing_listens_beyond_this_machine(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_the_dockerfile_copies_what_exists(dockerfile: list[str]) -> None:
    sources = [
        word
        for line in dockerfile
        if line.startswith("COPY ") and "--from=" not in line
        for word in shlex.split(line)[1:-1]
    ]
    assert {"capture", "apply", "shared", "speed", "pyproject.toml"} <= set(sources)
    ignored = (ROOT / ".dockerignore").read_text().split()
    for source in sources:
        assert (ROOT / source).exists()
        assert source not in ignored


def test_the_dockerfile_installs_as_the_readme_says(dockerfile: list[str]) -> None:
    steps = [line for line in dockerfile if "pip install" in line]
    step = steps[0].removeprefix("RUN ").replace(" --no-cache-dir", "")
    assert f"{step} && replicator demo" in (ROOT / "README.md").read_text()


def test_the_twins_are_compiled_for_the_image(dockerfile: list[str]) -> None:
    built, image = [line.split()[1] for line in dockerfile if line.startswith("FROM ")]
    assert built == image
    made = next(line for line in dockerfile if "pip wheel" in line)
    assert made.endswith(" --wheel-dir wheels ./speed")
    copied = dockerfile.index("COPY --from=twins /srv/twins/wheels wheels")
    installed = dockerfile.index("RUN pip install --no-cache-dir wheels/*.whl")
    assert copied < installed < dockerfile.index("USER replicator")


def test_the_image_runs_the_command_without_root(dockerfile: list[str]) -> None:
    assert 'ENTRYPOINT ["replicator"]' in dockerfile
    assert "USER replicator" in dockerfile
