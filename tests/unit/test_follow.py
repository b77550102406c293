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
