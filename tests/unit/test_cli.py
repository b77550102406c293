"""The command line: parsing, help, errors as two lines, exit codes, and the management command."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from replicator.cli import main
from replicator.cli.arguments import Arguments
from replicator.cli.commands import COMMANDS, Command
from replicator.cli.dispatch import INTERRUPTED, resolve, run_command
from replicator.cli.parser import build_parser, epilog, parse
from replicator.errors import ConfigurationError, Hole


def command_that(action, monkeypatch):
    """Make `rebase` do `action`."""
    monkeypatch.setattr("replicator.cli.dispatch.resolve", lambda _command: action)
    return Arguments(command="rebase", traceback=False)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
class TestEveryCommand:
    def test_help_teaches(self, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            parse([command.name, "--help"])
        assert ended.value.code == 0
        text = capsys.readouterr().out
        assert " ".join(command.description.split()[:6]) in " ".join(text.split())
        for line, _ in command.examples:
            assert line in text
        assert "exit codes:" in text

    def test_every_exit_code_is_explained(self, command: Command) -> None:
        codes = [code for code, _ in command.codes]
        assert codes[0] == 0
        assert codes == sorted(set(codes))
        # Whatever asks database or log may find it away.
        assert 3 in codes
        assert "  2  usage" in epilog(command)

    def test_examples_are_valid_command_lines(self, command: Command) -> None:
        import shlex

        for line, _ in command.examples:
            words = shlex.split(line)
            assert words[0] == "replicator"
            assert parse(words[1:]).command == command.name

    def test_options_are_typed(self, command: Command) -> None:
        parser = argparse.ArgumentParser()
        command.configure(parser)
        declared = set(Arguments.__annotations__)
        assert {action.dest for action in parser._actions} - {"help"} <= declared

    def test_its_function_is_there(self, command: Command) -> None:
        assert callable(resolve(command))

    def test_protocol_table_names_it(self, command: Command) -> None:
        import replicator.cli.commands as module

        lines = (module.__doc__ or "").splitlines()
        line = next(line for line in lines if line.split()[:1] == [command.name])
        assert command.function in line


def test_the_package_imports_neither_side() -> None:
    for command in COMMANDS:
        module, _, function = command.function.partition(":")
        assert module.split(".")[0] in {"replicator", "replicator_capture", "replicator_apply"}
        assert function.isidentifier()


def test_options_of_the_environment_stand_before_or_after_the_command() -> None:
    before = parse(["--settings", "a.b", "status", "--json"])
    after = parse(["status", "--settings", "a.b", "--json"])
    assert (before.settings, before.json) == (after.settings, after.json) == ("a.b", True)


NAMING = ("verify", "backfill", "explain", "subscribe", "unsubscribe", "pause", "resume")


@pytest.mark.parametrize("command", NAMING)
@pytest.mark.parametrize("columns", ["40", "80", "300"])
def test_a_dataset_is_named_with_or_without_the_option(
    command: str,
    columns: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for words in (["polls:3"], ["--dataset", "polls:3"], ["--dataset=polls:3"]):
        assert parse([command, *words]).dataset == "polls:3"
    for words in ([], ["polls", "--dataset", "polls"], ["--dataset", "polls", "polls"]):
        with pytest.raises(SystemExit):
            parse([command, *words])
    with pytest.raises(SystemExit):
        parse([command, "--help"])
    told = capsys.readouterr().out
    assert "NAME[:ARGUMENTS]" in told
    assert "--dataset" in told


def test_an_option_before_the_command_is_not_lost() -> None:
    assert parse(["--traceback", "status"]).traceback is True
    assert parse(["status", "--traceback"]).traceback is True
    assert parse(["status"]).traceback is False


@pytest.mark.parametrize("argv", [[], ["unknown"], ["backfill"], ["confirm", "x"], ["prepare"]])
def test_mistakes_end_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert "usage: replicator" in capsys.readouterr().err


def test_an_error_is_two_lines(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(_arguments):
        raise Hole("Records are missing after 0/1.", remedy="Rebase.")

    assert run_command(command_that(stop, monkeypatch)) == 3
    assert capsys.readouterr().err == "replicator: Records are missing after 0/1.\n  → Rebase.\n"


def test_a_configuration_error_is_2(monkeypatch) -> None:
    def stop(_arguments):
        raise ConfigurationError("no")

    assert run_command(command_that(stop, monkeypatch)) == 2


def test_traceback_lets_the_error_out(monkeypatch) -> None:
    def stop(_arguments):
        raise Hole("x")

    arguments = command_that(stop, monkeypatch)
    arguments.traceback = True
    with pytest.raises(Hole):
        run_command(arguments)


def test_ctrl_c_is_quiet(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(_arguments):
        raise KeyboardInterrupt

    assert run_command(command_that(interrupt, monkeypatch)) == INTERRUPTED == 130
    assert capsys.readouterr().err == ""


def test_an_unexpected_error_is_3_and_quotes_no_value(monkeypatch, caplog) -> None:
    def fail(_arguments):
        raise ValueError("Key (email)=(someone@example.org) already exists")

    assert run_command(command_that(fail, monkeypatch)) == 3
    assert "builtins.ValueError" in caplog.text
    assert "someone@example.org" not in caplog.text


def test_the_result_of_the_command_is_the_exit_code(monkeypatch) -> None:
    assert run_command(command_that(lambda _arguments: 1, monkeypatch)) == 1


def replicator(*argv: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    folders = [path for path in sys.path if path]
    environment = {
        key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"
    }
    environment |= {"PYTHONPATH": os.pathsep.join(folders), **variables}
    return subprocess.run(
        [sys.executable, "-m", "replicator", *argv],
        cwd=cwd,
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_without_settings_it_says_what_to_do(tmp_path: Path) -> None:
    result = replicator("status", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "replicator: No settings are named.",
        "  → Pass --settings MODULE, or set DJANGO_SETTINGS_MODULE as for django-admin.",
    ]


def test_settings_that_do_not_exist(tmp_path: Path) -> None:
    result = replicator("--settings", "nowhere.settings", "status", cwd=tmp_path)
    assert result.returncode == 2
    assert "There is no settings module nowhere.settings." in result.stderr


def test_the_current_folder_and_pythonpath_are_searched(tmp_path: Path) -> None:
    (tmp_path / "here.py").write_text("INSTALLED_APPS = ['replicator']\n")
    other = tmp_path / "other"
    other.mkdir()
    (other / "there.py").write_text("INSTALLED_APPS = ['replicator']\n")
    for argv in (["--settings", "here"], ["--settings", "there", "--pythonpath", "other"]):
        result = replicator(*argv, "status", cwd=tmp_path)
        assert "settings.REPLICATOR is missing" in result.stderr
        assert result.returncode == 2


MODELS = """
from django.db import models
class Topic(models.Model):
    name = models.TextField()
class Question(models.Model):
    topic = models.ForeignKey(Topic, models.CASCADE)
    published = models.BooleanField(default=False)
    internal_note = models.TextField(default="")
"""


@pytest.fixture
def started_project(tmp_path: Path) -> Path:
    """What `django-admin startproject` makes, on sqlite, with the README's replication.py."""
    (tmp_path / "started.py").write_text(
        "INSTALLED_APPS = ['replicator', 'polls', 'django.contrib.admin', 'django.contrib.auth',"
        " 'django.contrib.contenttypes', 'django.contrib.sessions', 'django.contrib.messages']\n"
        "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': 'db.sqlite3'}}\n"
        "DEFAULT_AUTO_FIELD = 'django.db.models.BigAutoField'\n"
        "REPLICATOR = {'ENVIRONMENT': 'prod', 'LOG': 'kafka://127.0.0.1:9',"
        " 'TARGETS': {'stage': ['*']}}\n"
    )
    polls = tmp_path / "polls"
    polls.mkdir()
    (polls / "__init__.py").touch()
    (polls / "models.py").write_text(MODELS)
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    declared = re.search(r"```python\n(# polls/replication.py.*?)```", readme, re.DOTALL)
    assert declared
    (polls / "replication.py").write_text(declared[1])
    return tmp_path


def test_the_readme_declares_all_that_a_started_project_must(started_project: Path) -> None:
    result = replicator("check", "--settings", "started", cwd=started_project)
    assert "E020" not in result.stdout
    assert "✘" not in result.stdout


@pytest.mark.parametrize("argv", [["check"], ["status"], ["capture"], ["prepare", "source"]])
def test_another_database_than_postgres_is_refused(argv: list[str], started_project: Path) -> None:
    result = replicator(*argv, "--settings", "started", cwd=started_project)
    assert result.returncode == 2, result.stderr
    assert "The database 'default' is not Postgres" in result.stderr
    assert ("replicator.W002" in result.stdout) == (argv == ["check"])


def test_a_reason_without_a_new_epoch_is_refused(started_project: Path) -> None:
    result = replicator("capture", "--reason", "x", "--settings", "started", cwd=started_project)
    assert result.returncode == 2
    assert result.stderr.startswith("replicator: --reason is given without --new-epoch.\n  → ")


def test_check_says_that_it_did_not_probe(started_project: Path) -> None:
    with (started_project / "polls" / "replication.py").open("a") as file:
        file.write('Dataset("drafts", Rows("auth.User"))\n')
        line = len((started_project / "polls" / "replication.py").read_text().splitlines()) + 1
    result = replicator("check", "--settings", "started", cwd=started_project)
    assert result.returncode == 1, result.stderr
    assert f"✘ replicator.E030 (polls/replication.py:{line}): " in result.stdout
    assert "Database and log were not probed" in result.stdout


def test_a_contradiction_names_its_place_in_every_command(started_project: Path) -> None:
    with (started_project / "polls" / "replication.py").open("a") as file:
        file.write("opt_in(Topic)\n")
    result = replicator("check", "--settings", "started", cwd=started_project)
    assert result.returncode == 2
    first, second = result.stderr.splitlines()
    assert re.fullmatch(
        r"replicator: polls/replication\.py:\d+: polls\.Topic is opted in already, "
        r"at polls/replication\.py:\d+\.",
        first,
    )
    assert second.startswith("  → Keep exactly one")


def test_manage_py_takes_the_same_command_line(tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text("INSTALLED_APPS = ['replicator']\n")
    script = (
        "import sys\nfrom django.core.management import execute_from_command_line\n"
        "execute_from_command_line(['manage.py', *sys.argv[1:]])\n"
    )
    (tmp_path / "manage.py").write_text(script)
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "project",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }

    def manage(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "manage.py", "replicator", *argv],
            cwd=tmp_path,
            check=False,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    teaching = manage("backfill", "--help")
    assert teaching.returncode == 0
    assert "--dry-run" in teaching.stdout
    assert "exit codes:" in teaching.stdout
    (tmp_path / "other.py").write_text("INSTALLED_APPS = ['replicator']\nREPLICATOR = {'X': 1}\n")
    for argv in (
        ["--settings", "other", "status"],
        ["status", "--settings", "other"],
        ["status", "--json", "--settings=other", "--pythonpath", ".", "-v", "2", "--no-color"],
    ):
        result = manage(*argv)
        assert result.stderr.startswith("replicator: settings.REPLICATOR is wrong"), argv
        assert result.returncode == 2
    assert "Traceback" in manage("status", "--traceback").stderr
    assert "Traceback" in manage("--traceback", "status").stderr
    missing = manage("status")
    assert missing.returncode == 2
    assert missing.stderr.startswith("replicator: settings.REPLICATOR is missing")
    assert manage("backfill").returncode == 2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("replicator ")
