"""`replicator explain` counts: on a source what belongs by the rules, on a target what is held."""

from pathlib import Path

import psycopg
import pytest
from django.conf import settings as django_settings

from replicator.cli.explain import counted
from replicator.datasets import find_dataset
from replicator.errors import DatabaseUnavailable, Refused
from replicator.explain import Count, Explanation, explain
from replicator.settings import ReplicatorSettings
from replicator_capture import members
from tests.conftest import SampleFactory
from tests.integration.conftest import StartTarget
from tests.support.sample.environments import django_database
from tests.support.target import change

ROWS = """
INSERT INTO auth_user (id, username, email, password, is_superuser, first_name, last_name, is_staff,
    is_active, date_joined)
SELECT n, 'u' || n, '', '', false, '', '', false, true, now() FROM generate_series(1, 7) n;
INSERT INTO polls_question (id, question_text, body, published, priority, pub_date, author_id)
SELECT n, '?', '', n < 3, n, now(), n + 3 FROM generate_series(1, 4) n;
INSERT INTO polls_choice (id, question_id, choice_text, rank, votes)
SELECT n * 10 + m, n, 'c', m, 0 FROM generate_series(1, 4) n, generate_series(1, 3) m;
INSERT INTO polls_vote (choice_id, voter_email, weight, cast_at)
SELECT id, '', rank - 2, now() FROM polls_choice;
INSERT INTO pages_tag (id, name) VALUES (1, 'a'), (2, 'b');
INSERT INTO pages_page (id, parent_id, slug, title, body, live) VALUES
    (1, null, 'r', 'root', '', true), (2, 1, 's', 'section', '', true),
    (3, 2, 't', 'x', '', false), (4, 3, 'u', 'x', '', true), (5, 1, 'v', 'x', '', true);
INSERT INTO pages_article (page_ptr_id, summary, read_minutes) VALUES (3, '', 1), (5, '', 1);
INSERT INTO pages_page_tags (page_id, tag_id) VALUES (3, 1), (3, 2), (5, 1);
"""


@pytest.fixture
def source(sample_database: SampleFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    conninfo = sample_database()
    monkeypatch.setattr(django_settings, "DATABASES", {"default": django_database(conninfo)})
    with psycopg.connect(conninfo) as connection:
        connection.execute(ROWS)
    return conninfo


def settings(folder: Path, **more: object) -> ReplicatorSettings:
    log = f"sqlite:///{folder}/log.sqlite3"
    return ReplicatorSettings.model_validate({"ENVIRONMENT": "here", "LOG": log, **more})


def explained(name: str, with_settings: ReplicatorSettings) -> Explanation:
    plan = find_dataset(name)
    return counted(explain(plan), plan, with_settings)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("poll-trees", {"polls.Question": 2, "polls.Choice": 6, "polls.Vote": 2, "auth.User": 2}),
        (
            "sections",
            {"pages.Page": 3, "pages.Article": 1, "pages.Page_tags": 1, "pages.Tag": 1},
        ),
        ("live-pages", {"pages.Page": 3}),
        ("live-roots", {"pages.Page": 1}),
        ("waiting", {"polls.Question": 1, "auth.User": 4}),
        ("authorless", {"polls.Question": 4, "auth.User": 4}),
    ],
)
def test_a_source_counts_what_belongs(source: str, tmp_path: Path, name: str, rows) -> None:
    found = explained(name, settings(tmp_path, TARGETS={"there": ["*"]}))
    assert found.note == ""
    assert found.counts == (Count("rows that belong", rows),)


@pytest.mark.usefixtures("source")
def test_who_neither_publishes_nor_subscribes_counts_nothing(tmp_path: Path) -> None:
    found = explained("poll-trees", settings(tmp_path))
    assert found.counts == ()
    assert "neither publishes" in found.note


def test_counting_ends_when_its_time_is_up(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "LIMIT", 0.05)
    with psycopg.connect(source, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO pages_tag (id, name) SELECT n, 'a' || n FROM generate_series(9, 99999) n"
        )
        with pytest.raises(DatabaseUnavailable, match="statement timeout"):
            members.count(connection, find_dataset("sections"))


def test_a_role_without_rights_is_told_what_it_lacks(source: str) -> None:
    with psycopg.connect(source, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = on")
        with pytest.raises(Refused, match="read-only") as caught:
            members.count(connection, find_dataset("poll-trees"))
    assert "TEMPORARY" in caught.value.remedy


def test_a_database_that_is_away_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = django_database("host=127.0.0.1 port=9 dbname=none")
    monkeypatch.setattr(django_settings, "DATABASES", {"default": entry})
    found = explained("poll-trees", settings(tmp_path, TARGETS={"there": ["*"]}))
    assert found.counts == ()
    assert found.note.startswith("Postgres failed while connecting")


def test_a_target_counts_what_subscriptions_hold(
    start: StartTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, published = start("poll-trees", "sections")
    entry = django_database(target.connection.info.dsn)
    entry["PASSWORD"] = target.connection.info.password
    monkeypatch.setattr(django_settings, "DATABASES", {"default": entry})
    target.reach(
        published.transaction(
            change("c", "polls_question", 1, published=True),
            change("c", "polls_choice", 1, question_id=1),
            change("c", "polls_choice", 2, question_id=1, rank=2),
        )
    )
    (count,) = explained("poll-trees", target.settings).counts
    assert count == Count(
        "held from prod",
        {"polls.Question": 1, "polls.Choice": 2, "polls.Vote": 0, "auth.User": 0},
    )
