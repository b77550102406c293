"""`replicator check` on real databases: what is wrong is found, with a hint, and nothing else."""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from django.conf import settings as django_settings
from psycopg.conninfo import make_conninfo

import replicator_apply.preflight
import replicator_capture.preflight
from replicator.cli.arguments import Arguments
from replicator.cli.check import probes
from replicator.cli.dispatch import find_command, resolve
from replicator.cli.parser import parse
from replicator.cli.status import gather
from replicator.compiler import releases
from replicator.errors import ConfigurationError
from replicator.log.port import open_log
from replicator.preflight import server_messages
from replicator.settings import ReplicatorSettings, stream_topic
from replicator_capture import prepare
from replicator_capture.command import run as run_capture
from replicator_capture.preflight import Server, server_checks
from tests.conftest import SampleFactory, StartProcess
from tests.support.sample.environments import django_database, environment

GOOD = Server("logical", False, 1, 0, 10, 1, 10, True, True, 1024)


@pytest.fixture
def conninfo(sample_database: SampleFactory) -> str:
    return sample_database()


@pytest.fixture
def role(conninfo: str) -> Iterator[str]:
    """Connection parameters of a role without any right."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("CREATE ROLE modest LOGIN PASSWORD 'modest'")
        yield make_conninfo(conninfo, user="modest", password="modest")
        connection.execute("DROP OWNED BY modest")
        connection.execute("DROP ROLE modest")


def settings(tmp_path: Path, **more: object) -> ReplicatorSettings:
    log = f"sqlite:///{tmp_path}/log.sqlite3"
    return ReplicatorSettings.model_validate({"ENVIRONMENT": "here", "LOG": log, **more})


def source(conninfo: str, wanted: ReplicatorSettings) -> set[tuple[str, object]]:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        found = replicator_capture.preflight.probe(wanted, connection, open_log(wanted.log))
    assert all(message.hint for message in found)
    return {(str(message.id).removeprefix("replicator."), message.obj) for message in found}


def target(conninfo: str, wanted: ReplicatorSettings) -> set[tuple[str, object]]:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        found = replicator_apply.preflight.probe(wanted, connection)
    assert all(message.hint for message in found)
    return {(str(message.id).removeprefix("replicator."), message.obj) for message in found}


def execute(conninfo: str, *statements: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def publish(conninfo: str) -> None:
    """Prepare the source as the owner of its tables does."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        todo = prepare.statements(connection, "main", releases("main"))
        assert prepare.run(connection, todo) == []


def test_a_publication_that_is_not_ours(conninfo: str, tmp_path: Path) -> None:
    execute(conninfo, "CREATE PUBLICATION replicator_main FOR ALL TABLES")
    assert ("E129", None) in source(conninfo, settings(tmp_path))
    execute(conninfo, "DROP PUBLICATION replicator_main")
    publish(conninfo)
    execute(conninfo, "ALTER PUBLICATION replicator_main ADD TABLE django_migrations")
    assert ("W129", None) in source(conninfo, settings(tmp_path))
    assert ("W129", None) in source(conninfo, settings(tmp_path, AUTO_PREPARE=False))


def test_a_good_source_has_no_error(conninfo: str, tmp_path: Path) -> None:
    found = source(conninfo, settings(tmp_path, TARGETS={"there": ["*"]}))
    assert not {number for number, _ in found if number.startswith("E")}


def test_what_is_wrong_with_tables_of_a_source(conninfo: str, tmp_path: Path) -> None:
    execute(
        conninfo,
        "ALTER TABLE shop_orderline SET UNLOGGED",
        "ALTER TABLE polls_question REPLICA IDENTITY NOTHING",
        "DROP TABLE polls_vote",
        "CREATE VIEW polls_vote AS SELECT 1 AS id",
    )
    before = source(conninfo, settings(tmp_path))
    assert {
        ("E105", "public.shop_orderline"),
        ("E104", "public.polls_vote"),
        ("W125", "public.polls_question"),
    } <= before
    by_hand = source(conninfo, settings(tmp_path, AUTO_PREPARE=False))
    assert ("E125", "public.polls_question") in by_hand
    assert ("E126", None) in by_hand
    assert ("E127", stream_topic("here", "main")) in by_hand
    execute(
        conninfo,
        "ALTER TABLE shop_orderline SET LOGGED",
        "ALTER TABLE polls_question REPLICA IDENTITY FULL",
        "DROP VIEW polls_vote",
    )
    publish(conninfo)
    open_log(settings(tmp_path).log).create(stream_topic("here", "main"))
    after = source(conninfo, settings(tmp_path, AUTO_PREPARE=False))
    assert {each for each in after if each[0].startswith("E")} == {("E103", "public.polls_vote")}


def test_a_key_of_a_nondeterministic_collation(conninfo: str, tmp_path: Path) -> None:
    execute(
        conninfo,
        "CREATE COLLATION blurred (provider = libc, locale = 'C')",
        "ALTER TABLE polls_vote ALTER id DROP IDENTITY",
        "ALTER TABLE polls_vote ALTER id TYPE text COLLATE blurred",
        "ALTER TABLE polls_choice ALTER choice_text TYPE text COLLATE blurred",
        # CREATE COLLATION makes such ones of ICU alone, which this Postgres may lack.
        "UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'blurred'",
    )
    wanted = settings(tmp_path, SUBSCRIPTIONS=[{"source": "prod", "dataset": "poll-trees"}])
    for found in (source(conninfo, wanted), target(conninfo, wanted)):
        assert {each for each in found if each[0] == "E109"} == {("E109", "public.polls_vote")}


def test_what_a_role_of_a_source_lacks(conninfo: str, role: str, tmp_path: Path) -> None:
    found = source(role, settings(tmp_path))
    assert {("E124", None), ("E126", None), ("E106", "public.polls_question")} <= found
    assert ("E106", "public.replicator_beat") in found
    assert ("E106", "public.django_content_type") in found
    execute(
        conninfo,
        "ALTER ROLE modest REPLICATION",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO modest",
        "GRANT INSERT, UPDATE ON replicator_beat TO modest",
        "ALTER TABLE polls_choice ENABLE ROW LEVEL SECURITY",
    )
    publish(conninfo)
    found = source(role, settings(tmp_path))
    assert {each for each in found if each[0].startswith("E")} == {("E107", "public.polls_choice")}


def test_what_is_wrong_with_a_target(conninfo: str, role: str, tmp_path: Path) -> None:
    wanted = settings(tmp_path, SUBSCRIPTIONS=[{"source": "prod", "dataset": "polls"}])
    topic = stream_topic("prod", "main")
    assert target(conninfo, wanted) == {("W140", topic)}
    name = psycopg.conninfo.conninfo_to_dict(conninfo)["dbname"]
    execute(
        conninfo,
        f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC',
        f'GRANT CONNECT ON DATABASE "{name}" TO modest',
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO modest",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER loud BEFORE UPDATE ON polls_choice FOR EACH ROW EXECUTE FUNCTION f()",
        "CREATE TRIGGER quiet BEFORE UPDATE ON polls_vote FOR EACH ROW EXECUTE FUNCTION f()",
        "ALTER TABLE polls_vote DISABLE TRIGGER quiet",
    )
    open_log(wanted.log).create(topic)
    assert target(role, wanted) == {
        ("E140", None),
        ("E141", None),
        ("W141", "public.polls_choice"),
        ("E106", "public.auth_user"),
        ("E106", "public.polls_choice"),
        ("E106", "public.polls_question"),
        ("E106", "public.polls_vote"),
        ("E106", "public.replicator_streamposition"),
    }
    execute(
        conninfo,
        f'GRANT TEMPORARY ON DATABASE "{name}" TO modest',
        "CREATE SCHEMA replicator AUTHORIZATION modest",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO modest",
    )
    assert target(role, wanted) == {("W141", "public.polls_choice")}


def test_a_role_of_a_target_that_may_not_make_content_types(
    conninfo: str, role: str, tmp_path: Path
) -> None:
    wanted = settings(tmp_path, SUBSCRIPTIONS=[{"source": "prod", "dataset": "pages"}])
    execute(
        conninfo,
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO modest",
        "REVOKE INSERT ON django_content_type FROM modest",
    )
    lacking = ("E106", "public.django_content_type")
    assert lacking in target(role, wanted)
    execute(conninfo, "GRANT INSERT ON django_content_type TO modest")
    assert lacking not in target(role, wanted)


def test_a_target_that_is_a_copy(conninfo: str, tmp_path: Path) -> None:
    wish = {"source": "prod", "dataset": "polls"}
    wanted = settings(tmp_path, ENVIRONMENT="stage", SUBSCRIPTIONS=[wish])
    execute(
        conninfo,
        "INSERT INTO replicator_streamposition (environment, source, stream, epoch, next_lsn,"
        " log_offset) VALUES ('stage', 'prod', 'main', '0123abcd', 1, 1)",
    )
    assert ("E142", None) not in target(conninfo, wanted)
    execute(conninfo, "UPDATE replicator_streamposition SET environment = 'here'")
    assert ("E142", None) in target(conninfo, wanted)


def test_a_database_that_was_not_migrated(database: Callable[[], str]) -> None:
    with psycopg.connect(database(), autocommit=True) as connection:
        assert [message.id for message in server_messages(connection)] == ["replicator.E108"]


class _Pooled:
    """A connection of which the pooler made up the process id."""

    def __init__(self, connection: psycopg.Connection, version: int) -> None:
        self.execute = connection.execute
        self.cursor = connection.cursor
        self.info = self
        self.backend_pid = connection.info.backend_pid + 1
        self.server_version = version


@pytest.mark.parametrize(("version", "number"), [(140_011, "E101"), (190_000, "W101")])
def test_pooler_and_version(conninfo: str, version: int, number: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        found = [message.id for message in server_messages(_Pooled(connection, version))]  # type: ignore[arg-type]
    assert found == [f"replicator.{number}", "replicator.E102"]


def test_clocks_that_differ(conninfo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    now = time.time
    monkeypatch.setattr("replicator.preflight.time.time", lambda: now() + 60)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        (message,) = server_messages(connection)
    assert message.id == "replicator.W102"
    assert "-60.0 s" in message.msg


@pytest.mark.parametrize(
    ("change", "number"),
    [
        ({"wal_level": "replica"}, "E120"),
        ({"standby": True}, "E121"),
        ({"slots": 10}, "E122"),
        ({"senders": 10}, "E123"),
        ({"replicates": False}, "E124"),
        ({"keep": -1}, "W121"),
    ],
)
def test_settings_of_the_server(change: dict[str, object], number: str) -> None:
    assert not list(server_checks(GOOD))
    (message,) = server_checks(GOOD._replace(**change))  # type: ignore[arg-type]
    assert message.id == f"replicator.{number}"


def test_own_slots_are_no_obstacle() -> None:
    assert not list(server_checks(GOOD._replace(slots=10, own_slots=1)))


def test_the_command(conninfo: str, tmp_path: Path, process: StartProcess) -> None:
    plain = {"ENVIRONMENT": "here", "LOG": f"sqlite:///{tmp_path}/l", "TARGETS": {"there": ["*"]}}
    good = process("replicator", "check", env=environment(conninfo, plain))
    assert good.wait(60) == 0, good.output()
    execute(conninfo, "ALTER TABLE shop_orderline SET UNLOGGED")
    bad = process("replicator", "check", env=environment(conninfo, plain))
    assert bad.wait(60) == 1
    assert "✘ replicator.E105 (public.shop_orderline)" in bad.output()
    assert "→ Run ALTER TABLE public.shop_orderline SET LOGGED." in bad.output()


def test_the_command_names_what_is_away(tmp_path: Path, process: StartProcess) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        away = f"host=127.0.0.1 port={port} dbname=x user=x"
        wanted = {"ENVIRONMENT": "here", "LOG": f"sqlite:///{tmp_path}/l", "TARGETS": {"t": ["*"]}}
        command = process("replicator", "check", env=environment(away, wanted))
        assert command.wait(60) == 3
    lines = command.output().splitlines()
    assert lines[-2].startswith("replicator: Postgres failed while connecting")
    assert lines[-1].startswith("  → ")


def test_wrong_settings_are_findings(conninfo: str, process: StartProcess) -> None:
    wrong = {"ENVIRONMENT": "h?re", "LOG": "carrier-pigeon://x", "COLOUR": "red"}
    command = process("replicator", "check", env=environment(conninfo, wrong))
    assert command.wait(60) == 2
    for key in ("ENVIRONMENT", "LOG", "COLOUR"):
        assert key in command.output()


def test_status_json_is_one_object(conninfo: str, tmp_path: Path, process: StartProcess) -> None:
    wanted = {"ENVIRONMENT": "here", "LOG": f"sqlite:///{tmp_path}/l"}
    command = process("replicator", "status", "--json", env=environment(conninfo, wanted))
    assert command.wait(60) == 0, command.output()
    assert json.loads(command.output())["environment"] == "here"


def test_an_environment_that_publishes_to_nobody_is_told(
    conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(django_settings, "DATABASES", {"default": django_database(conninfo)})

    def found(**more: object) -> set[tuple[str, object]]:
        messages = probes(settings(tmp_path, **more))
        assert all(message.hint for message in messages)
        return {(str(message.id).removeprefix("replicator."), message.obj) for message in messages}

    wish = {"SUBSCRIPTIONS": [{"source": "prod", "dataset": "some-tags"}]}
    slot = "replicator_main__0123abcd"
    assert ("W103", None) in found()
    assert ("W103", None) in found(STREAMS={"main": {}}, **wish)
    assert ("W103", None) not in found(**wish)
    assert ("W103", None) not in found(TARGETS={"there": ["*"]})
    execute(conninfo, f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
    assert ("W122", slot) in found(**wish)
    assert ("W122", slot) not in found(TARGETS={"there": ["*"]})
    (problem,) = [what for _, what in gather(settings(tmp_path, **wish)).problems()][:1]
    assert problem.what.endswith(f"and slot {slot} holds WAL.")
    # As docs/operations.md says.
    text = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    statements = text.split("for each\nstream (here `main`):")[1].split("The topics")[0]
    execute(conninfo, statements)
    assert ("W122", slot) not in found(**wish)


def test_capture_refuses_where_nobody_may_ask(
    conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = settings(tmp_path)
    monkeypatch.setattr("replicator_capture.command.load_settings", lambda: wanted)
    with pytest.raises(ConfigurationError, match="'here', publishes to nobody") as caught:
        run_capture(Arguments(stream="main", new_epoch=False, reason=None))
    assert "run `replicator apply`" in caught.value.remedy


@pytest.mark.parametrize("command", ["verify", "backfill", "pause", "resume", "unsubscribe", "why"])
def test_a_command_of_the_target_says_so_at_the_source(
    command: str,
    conninfo: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(django_settings, "DATABASES", {"default": django_database(conninfo)})
    wanted = settings(tmp_path, TARGETS={"there": ["*"]})
    for module in ("command", "life_command"):
        monkeypatch.setattr(f"replicator_apply.{module}.load_settings", lambda: wanted)
    words = ["pages.Tag", "1"] if command == "why" else ["some-tags"]
    arguments = parse([command, *words])
    with pytest.raises(ConfigurationError, match="has no subscriptions") as caught:
        resolve(find_command(command))(arguments)
    assert "Run it in the target." in caught.value.remedy


def test_a_released_column_that_the_database_lacks_is_named(conninfo: str, tmp_path: Path) -> None:
    wanted = settings(tmp_path, TARGETS={"there": ["*"]})
    wish = settings(tmp_path, SUBSCRIPTIONS=[{"source": "prod", "dataset": "some-tags"}])
    lacking = ("E110", "public.pages_tag")
    assert lacking not in source(conninfo, wanted) | target(conninfo, wish)
    execute(conninfo, "ALTER TABLE pages_tag RENAME COLUMN name TO title")
    for found in (source(conninfo, wanted), target(conninfo, wish)):
        assert {each for each in found if each[0] == "E110"} == {lacking}
