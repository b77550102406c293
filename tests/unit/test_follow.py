"""The commands that follow a run: on whose subscription, and until its worker ends."""

import re
from types import SimpleNamespace
from typing import Any

import pytest

from replicator.errors import ConfigurationError, Refused
from replicator.settings import ReplicatorSettings
from replicator_apply import follow
from replicator_apply.command import choose
from replicator_apply.state import Place


class _Progress:
    done, estimated, ended, note = 0, None, False, ""


class _Worker:
    """Fails as a worker does on a copied database."""

    def __init__(self, *_: object) -> None:
        pass

    def run(self) -> None:
        raise Refused("The database is a copy.")


class _Session:
    """The target, where nothing stands."""

    def execute(self, *_: object) -> Any:
        return SimpleNamespace(fetchone=lambda: None)

    def cursor(self) -> Any:
        return self

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_a_failure_of_its_own_worker_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "Worker", _Worker)
    monkeypatch.setattr(follow, "try_lock", lambda *_: True)
    settings = ReplicatorSettings.model_validate({"ENVIRONMENT": "stage", "LOG": "sqlite:////x"})
    session: Any = _Session()
    place = Place("prod", "main")
    with (
        pytest.raises(Refused, match="a copy"),
        follow.worker_for(settings, session, place) as must_work,
    ):
        follow.Follower[_Progress](session, place, "Backfill", must_work).follow(_Progress)


class _Through(_Progress):
    """What has ended, with something to tell."""

    ended, note = True, "The source does not answer: [red]section:a:"


@pytest.mark.parametrize("terminal", ["", "1"])
def test_a_name_that_looks_like_an_emoji_or_markup_is_shown_as_it_is(
    terminal: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(follow, "PLAIN_EVERY", 0.0)
    session: Any = _Session()
    what = "Backfill of [b]section:a:"
    follower = follow.Follower[_Progress](session, Place("prod", "main"), what, lambda: None)
    follower.follow(_Through)
    told = capsys.readouterr().out
    assert what in told
    assert _Through.note in told


def test_whoever_follows_is_told_once_that_the_worker_has_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session: Any = _Session()
    held, now = [True], [0.0]
    monkeypatch.setattr(follow, "try_lock", lambda *_: False)
    monkeypatch.setattr(follow, "is_locked", lambda *_: held[0])
    watch = follow._Watch(session, Place("prod", "main"), lambda: now[0])
    watch.look()
    held[0] = False
    for now[0] in (1.0, 2.0, 5.9):
        watch.look()
    assert capsys.readouterr().out == ""
    for now[0] in (6.0, 20.0):
        watch.look()
    assert capsys.readouterr().out.count("No apply worker runs here any more") == 1


def test_a_subscription_that_is_not_there_is_named_with_its_source() -> None:
    wishes = [{"source": name, "dataset": "polls"} for name in ("prod", "dev")]
    settings = ReplicatorSettings.model_validate(
        {"ENVIRONMENT": "stage", "LOG": "sqlite:////x", "SUBSCRIPTIONS": wishes}
    )
    assert choose(settings.subscriptions, "polls", "dev").source == "dev"
    for dataset, source, problem in (
        ("polls", "nope", "subscribes to no 'polls' from 'nope'."),
        ("users", None, "subscribes to no 'users'."),
        ("polls", None, "subscribes to more than one 'polls'."),
    ):
        with pytest.raises(ConfigurationError, match=re.escape(problem)) as caught:
            choose(settings.subscriptions, dataset, source)
        assert "polls (from dev), polls (from prod)" in caught.value.remedy
