"""A project that keeps rows which leave, and is told of what is applied; commands as processes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_commands import Pair, Site, pair  # noqa: F401 (a fixture)
from tests.support.processes import wait_until

APP = """
import json
from pathlib import Path

from replicator import Applied, Dataset, Rows, on_applied

Dataset("members", Rows("auth.User", soft="last_login"))
TOLD, BROKEN = Path({told!r}), Path({broken!r})


@on_applied("auth.User")
def index(applied: Applied) -> None:
    if BROKEN.exists():
        raise ConnectionError("the index is away")
    names = dict(applied.model.objects.values_list("pk", "username"))
    line = [[names.get(key) for key in applied.inserted + applied.updated], applied.deleted]
    with TOLD.open("a") as file:
        file.write(json.dumps(line) + "\\n")
"""
SETTINGS = """
from tests.support.sample.settings import *

INSTALLED_APPS = [*INSTALLED_APPS, "listening"]
"""
USERS = "SELECT id, username, last_login IS NOT NULL FROM auth_user ORDER BY id"


@pytest.fixture
def project(tmp_path: Path) -> dict[str, str]:
    """Write an app that listens, and settings that install it; give their environment."""
    folder = tmp_path / "project"
    app = folder / "listening"
    app.mkdir(parents=True)
    (app / "__init__.py").touch()
    paths = {"told": str(tmp_path / "told"), "broken": str(tmp_path / "broken")}
    (app / "replication.py").write_text(APP.format(**paths))
    (folder / "listening_settings.py").write_text(SETTINGS)
    return {"folder": str(folder), **paths}


def add_user(site: Site, pk: int, name: str) -> None:
    site.execute(
        "INSERT INTO auth_user (id, username, password, is_superuser, first_name, last_name, "
        f"email, is_staff, is_active, date_joined) VALUES ({pk}, '{name}', '', false, '', '', "
        "'', false, true, now())"
    )


def test_rows_that_leave_stay_and_a_function_is_told(
    pair: Callable[..., Pair],  # noqa: F811
    project: dict[str, str],
) -> None:
    both = pair(dataset="members")
    for site in (both.prod, both.stage):
        site.configure(DJANGO_SETTINGS_MODULE="listening_settings", add_path=project["folder"])
    add_user(both.prod, 1, "one")
    both.prod.start("capture")
    both.stage.start("apply")
    both.until_backfilled()
    add_user(both.prod, 2, "two")
    both.prod.execute("DELETE FROM auth_user WHERE id = 1")
    wait_until(
        lambda: both.stage.rows(USERS) == [(1, "one", True), (2, "two", False)],
        30,
        "one left and stays, two is here",
    )
    wait_until(lambda: names(project) >= {"one", "two"}, 30, "the function is told")
    assert "it stays by their policy (soft last_login)" in both.stage.run(
        "why", "auth.User", "1", code=1
    )
    assert "[on leave: soft last_login]" in both.stage.run("explain", "--dataset", "members")
    assert "0 missing, 0 extra, 0 different" in both.stage.run("verify", "--dataset", "members")
    add_user(both.prod, 1, "again")
    wait_until(lambda: both.stage.rows(USERS)[0] == (1, "again", False), 30, "one is back")
    wait_until(lambda: "again" in names(project), 30, "the function is told")

    # A function that fails is told of by status, and the stream goes on.
    Path(project["broken"]).touch()
    add_user(both.prod, 3, "three")
    wait_until(lambda: len(both.stage.rows(USERS)) == 3, 30, "three is here")
    wait_until(
        lambda: both.stage.rows("SELECT tries > 0 FROM replicator_appliedcall") == [(True,)],
        30,
        "the function has failed",
    )
    told = both.stage.run("status", code=1)
    assert "1 call(s) of listening.replication.index for public.auth_user are due" in told
    assert "ConnectionError: the index is away" in told
    status = json.loads(both.stage.run("status", "--json", code=1))
    assert status["target"][0]["due"][0]["calls"] == 1
    Path(project["broken"]).unlink()
    wait_until(lambda: "three" in names(project), 30, "the function is called again")
    wait_until(lambda: both.stage.rows("SELECT FROM replicator_appliedcall") == [], 10, "all made")


def names(project: dict[str, str]) -> set[Any]:
    """Give the names of users of which the function was told."""
    told = Path(project["told"])
    lines = told.read_text().splitlines() if told.exists() else []
    return {name for line in lines for name in json.loads(line)[0]}
