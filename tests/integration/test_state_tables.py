"""The fixed tables, made by the migrations: their defaults and what they refuse."""

import io
from dataclasses import replace

import psycopg
import pytest
from django.core.management import call_command
from django.db import connections

from replicator.models import BackfillRun, Beat, StreamPosition, Subscription
from replicator_apply.runs import look_at_backfill, pause_backfill
from replicator_apply.state import Place, save_run, unfinished_runs
from tests.support.sample.databases import connected

SUBSCRIPTION = (
    "INSERT INTO replicator_subscription (source, stream, dataset, fingerprint, declared)"
    " VALUES ('prod', 'main', 'polls', '0123456789abcdef', true) RETURNING id"
)
RUN = (
    "INSERT INTO replicator_backfillrun (subscription_id, generation, state, reason)"
    " VALUES (%s, 1, %s, 'command')"
)


def test_the_migrations_are_complete(sample_database):
    with connected("default", sample_database()):
        call_command("makemigrations", "replicator", check=True, dry_run=True, stdout=io.StringIO())


def test_an_insert_names_only_what_it_has_to_say(any_sample_database):
    conninfo = any_sample_database()
    with psycopg.connect(conninfo, autocommit=True) as connection, connected("default", conninfo):
        (subscription,) = connection.execute(SUBSCRIPTION).fetchone()
        connection.execute(RUN, [subscription, "running"])
        connection.execute(
            "INSERT INTO replicator_streamposition"
            " (environment, source, stream, epoch, next_lsn, log_offset)"
            " VALUES ('stage', 'prod', 'main', '0000abcd', 9223372036854775807, 7)"
        )
        connection.execute(
            "INSERT INTO replicator_wantedrow (source, stream, table_name, row_key, reason)"
            " VALUES ('prod', 'main', 'public.polls_question', '[\"1\"]', 'incomplete')"
        )
        connection.execute(
            "INSERT INTO replicator_verifyrun (subscription_id) VALUES (%s)", [subscription]
        )
        position = StreamPosition.objects.get()
        assert (position.stopped_reason, position.source_report) == ("", {})
        assert position.applied_at is not None
        assert position.committed_at is None
        assert Subscription.objects.get().on_clash == "refuse"
        run = BackfillRun.objects.get()
        assert (run.rule, run.after_key, run.sweeping, run.rows_done) == (0, "", False, 0)
        assert run.finished_at is None


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        ("running", "paused", True),
        ("waiting", "running", True),
        ("finished", "running", False),
        ("cancelled", "finished", False),
    ],
)
def test_at_most_one_unfinished_backfill_per_subscription(sample_database, first, second, refused):
    with psycopg.connect(sample_database(), autocommit=True) as connection:
        (subscription,) = connection.execute(SUBSCRIPTION).fetchone()
        connection.execute(RUN, [subscription, first])
        if refused:
            with pytest.raises(psycopg.errors.UniqueViolation):
                connection.execute(RUN, [subscription, second])
        else:
            connection.execute(RUN, [subscription, second])


@pytest.mark.parametrize(
    ("meanwhile", "saved", "stored"),
    [
        ("running", "running", "running"),
        ("running", "waiting", "waiting"),
        ("paused", "running", "paused"),
        ("paused", "finished", "finished"),
        ("cancelled", "running", "cancelled"),
    ],
)
def test_progress_of_a_run_does_not_undo_what_a_command_did(
    sample_database, meanwhile, saved, stored
):
    with psycopg.connect(sample_database(), autocommit=True) as connection:
        (subscription,) = connection.execute(SUBSCRIPTION).fetchone()
        connection.execute(RUN, [subscription, "running"])
        with connection.cursor() as cursor:
            (run,) = unfinished_runs(cursor, Place("prod", "main"))
            cursor.execute("UPDATE replicator_backfillrun SET state = %s", [meanwhile])
            save_run(cursor, replace(run, state=saved))
        (found,) = connection.execute("SELECT state FROM replicator_backfillrun").fetchall()
        assert found == (stored,)


def test_a_run_that_has_ended_is_not_paused(sample_database):
    with psycopg.connect(sample_database(), autocommit=True) as connection:
        (subscription,) = connection.execute(SUBSCRIPTION).fetchone()
        connection.execute(RUN, [subscription, "finished"])
        (run,) = connection.execute("SELECT id FROM replicator_backfillrun").fetchone()
        pause_backfill(connection, run)
        assert look_at_backfill(connection, run).state == "finished"


@pytest.mark.parametrize(
    "statement",
    [
        SUBSCRIPTION,
        SUBSCRIPTION.replace("'polls'", "'tags'")
        .replace("declared)", "declared, on_clash)")
        .replace("true)", "true, 'ignore')"),
        "INSERT INTO replicator_beat (id, nonce, at) VALUES (2, 'x', now())",
    ],
)
def test_what_must_not_be_stored_is_refused(sample_database, statement):
    with psycopg.connect(sample_database(), autocommit=True) as connection:
        connection.execute(SUBSCRIPTION)
        with pytest.raises(psycopg.errors.IntegrityError):
            connection.execute(statement)


def test_the_migrations_apply_harmlessly_to_sqlite(tmp_path):
    lite = {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "db.sqlite3"}
    connections.databases["lite"] = connections.configure_settings({"default": {}, "lite": lite})[
        "lite"
    ]
    try:
        call_command("migrate", "replicator", database="lite", verbosity=0)
        assert not Beat.objects.using("lite").exists()
    finally:
        connections["lite"].close()
        del connections["lite"]
        del connections.databases["lite"]
