"""The public names, and what importing them costs a web process."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import replicator


def test_all_is_what_users_write():
    assert replicator.__all__ == [
        *("Applied", "Children", "Dataset", "Referenced", "Rows"),
        *("children_for_derived_models", "closure_of", "dataset", "latest"),
        *("on_applied", "opt_in", "opt_out"),
        *("rows_for_app", "rows_for_derived_models", "sample"),
    ]


@pytest.mark.parametrize("name", replicator.__all__)
def test_each_public_name_is_there_and_documented(name):
    assert getattr(replicator, name).__doc__
    assert name in dir(replicator)


def test_any_other_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="mask"):
        replicator.mask  # noqa: B018 (the access is what is tested)


def test_a_web_process_loads_neither_kafka_nor_psycopg(tmp_path):
    app = tmp_path / "library"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "models.py").write_text(
        "from django.db import models\nclass Book(models.Model):\n    title = models.TextField()\n"
    )
    (app / "replication.py").write_text(
        "from django.db.models import Q\n"
        "from replicator import Applied, Dataset, Rows, on_applied, opt_in, opt_out, rows_for_app\n"
        "opt_in('library.Book')\n"
        "Dataset('books', Rows('library.Book', where=Q(title='x')), rows_for_app('library'))\n"
        "@on_applied('library.Book')\ndef told(applied: Applied) -> None: ...\n"
    )
    loaded = _run(
        tmp_path,
        """
        import sys
        import django
        from django.conf import settings
        settings.configure(
            DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
            INSTALLED_APPS=["replicator", "library"],
            REPLICATOR={"ENVIRONMENT": "web", "LOG": "kafka://localhost:9092"},
        )
        django.setup()
        from replicator.declare import declared_datasets
        assert list(declared_datasets()) == ["books"], declared_datasets()
        print(*{name.partition(".")[0] for name in sys.modules})
        """,
    )
    assert "django" in loaded
    assert loaded.isdisjoint({"kafka", "psycopg", "pydantic", "replicator_capture"})


def test_the_pure_types_load_no_django(tmp_path):
    loaded = _run(
        tmp_path,
        """
        import sys
        import replicator.plan, replicator.positions
        print(*{name.partition(".")[0] for name in sys.modules})
        """,
    )
    assert loaded.isdisjoint({"django", "psycopg", "kafka"})


def _run(folder: Path, program: str) -> set[str]:
    """Run a program in a fresh interpreter; the words that it prints."""
    path = [str(folder), *(entry for entry in sys.path if entry)]
    script = f"import sys; sys.path[:] = {path!r}\n{textwrap.dedent(program)}"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())
