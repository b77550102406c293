"""Two environments of the sample project with both daemons as processes, restarted by the test.

A daemon is `tests.support.faulty` and so takes faults. `settle` waits for quiet and then holds
the target against the source: rows by the ORM on both sides, receipts against rows.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
from django.db import connections
from django.db.models import Model, Q, QuerySet

from tests.support.faulty import CONTROL, Fault
from tests.support.processes import Process
from tests.support.sample.databases import connected
from tests.support.sample.environments import environment
from tests.support.traffic import next_number

SOURCE, TARGET = "prod", "stage"
WHOLE = ("polls", "shop")
BY_RULE = ("published-polls", "shop")
_BY_PUBLISHED = Q(published=True) | Q(priority__gte=5)

_AUDIT = """
CREATE TABLE applied (at serial, number int);
CREATE FUNCTION note_applied() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO public.applied (number) VALUES (NEW.number::int);
  RETURN NEW;
END $$;
CREATE TRIGGER note_applied AFTER INSERT OR UPDATE ON shop_order
  FOR EACH ROW WHEN (NEW.id = 1) EXECUTE FUNCTION note_applied();
"""
_BACKWARDS = """
SELECT at, before, number FROM (SELECT at, number, lag(number) OVER (ORDER BY at) AS before
                                FROM applied) a WHERE number < before
"""


class Daemon:
    """A daemon that can be started again and again, and takes faults.

    Attributes:
        module: what is run; `replicator` takes no faults, and has all limits as they are.
    """

    module = "tests.support.faulty"

    def __init__(self, command: str, folder: Path, name: str, env: Mapping[str, str]) -> None:
        self.command, self._log = command, folder / f"{name}.log"
        self.fault = Fault(folder / f"{name}.fault")
        python_path = os.pathsep.join(path for path in sys.path if path)
        self.env = {
            **os.environ,
            "PYTHONPATH": python_path,
            "PYTHONUNBUFFERED": "1",
            **env,
            CONTROL: str(self.fault.control),
        }
        self.process: Process | None = None
        self.restarts = 0

    def start(self, *options: str) -> Process:
        """Start it; it must not run."""
        assert not self.running
        command = [sys.executable, "-m", self.module, self.command, *options]
        self.process = Process(command, self._log, env=self.env)
        return self.process

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.running

    def again(self) -> None:
        """Start it if it does not run, as its supervisor would."""
        if not self.running:
            self.restarts += 1
            self.start()

    def kill(self) -> None:
        """Kill it, if it runs."""
        if self.process is not None:
            self.process.kill9()

    def output(self) -> str:
        """What all its processes wrote last."""
        text = self._log.read_text() if self._log.exists() else ""
        return "\n".join(text.splitlines()[-40:])


class TwoEnvironments:
    """Source, target, log, and the daemons between.

    Args:
        folder: for logs, faults and the sqlite log.
        source: conninfo.
        target: conninfo.
        log: URL of the log; None: a sqlite log in the folder.
        datasets: what the target subscribes to.
        capture_settings: further settings REPLICATOR of the source.
        apply_settings: further settings REPLICATOR of the target.
        source_via: conninfo by which capture reaches the source, if another one.
        target_via: conninfo by which apply reaches the target, if another one.
        name: of the source environment; one of its own for each test on a shared broker.
    """

    def __init__(
        self,
        folder: Path,
        source: str,
        target: str,
        *,
        log: str | None = None,
        datasets: Sequence[str] = WHOLE,
        capture_settings: Mapping[str, object] | None = None,
        apply_settings: Mapping[str, object] | None = None,
        source_via: str | None = None,
        target_via: str | None = None,
        name: str = SOURCE,
    ) -> None:
        self.folder, self.source, self.target, self.name = folder, source, target, name
        self.log = log or f"sqlite:///{folder}/log.sqlite3"
        self.datasets = tuple(datasets)
        self._settings = (
            {
                "ENVIRONMENT": name,
                "LOG": self.log,
                "TARGETS": {TARGET: ["*"]},
                **(capture_settings or {}),
            },
            {
                "ENVIRONMENT": TARGET,
                "LOG": self.log,
                "SUBSCRIPTIONS": [{"source": name, "dataset": each} for each in datasets],
                **(apply_settings or {}),
            },
        )
        self._via = (source_via or source, target_via or target)
        self.capture = self.daemon("capture")
        self.apply = self.daemon("apply")
        with psycopg.connect(target, autocommit=True) as connection:
            connection.execute(_AUDIT)

    def daemon(self, command: str, name: str = "") -> Daemon:
        """Make a further daemon of a side; it is not started."""
        side = 0 if command == "capture" else 1
        env = environment(self._via[side], self._settings[side])
        return Daemon(command, self.folder, name or command, env)

    def run(self, *command: str, side: int = 1) -> Process:
        """Start a command of `replicator` in one of the environments; 0: the source."""
        env = {**self.apply.env, **environment(self._via[side], self._settings[side])}
        main = "import sys; from replicator.cli import main; sys.exit(main())"
        return Process(
            [sys.executable, "-c", main, *command], self.folder / f"{command[0]}-once.log", env=env
        )

    def start(self) -> None:
        """Start both daemons, and wait until the first backfill is through."""
        self.capture.start()
        self.apply.start()
        self.until(self.backfilled, "first backfill", 90, restart=False)

    def close(self) -> None:
        """Kill the daemons."""
        self.capture.kill()
        self.apply.kill()

    # Looking --------------------------------------------------------------------------------------

    def on_target(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Query the target."""
        with psycopg.connect(self.target, autocommit=True) as connection:
            return connection.execute(statement, values or None).fetchall()

    def on_source(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Query the source."""
        with psycopg.connect(self.source, autocommit=True) as connection:
            return connection.execute(statement, values or None).fetchall()

    def backfilled(self) -> bool:
        """Whether all backfills are through, and nothing is wanted."""
        states = self.on_target("SELECT state FROM replicator_backfillrun")
        return (
            len(states) >= len(self.datasets)
            and all(state in {"finished", "cancelled"} for (state,) in states)
            and self.on_target("SELECT count(*) FROM replicator_wantedrow") == [(0,)]
        )

    def stopped(self) -> tuple[str, str]:
        """Why the stream stands, and the remedy; empty if it does not."""
        found = self.on_target(
            "SELECT stopped_reason, stopped_remedy FROM replicator_streamposition"
        )
        return found[0] if found else ("", "")

    def position(self) -> int:
        """How far the target has applied."""
        found = self.on_target("SELECT next_lsn FROM replicator_streamposition")
        return int(found[0][0]) if found else 0

    def until(
        self, condition: Callable[[], bool], what: str, timeout: float = 60, *, restart: bool = True
    ) -> None:
        """Wait for a condition; daemons that have ended are started again meanwhile.

        restart: False: they must not end.
        """

        def met() -> bool:
            if restart:
                self.capture.again()
                self.apply.again()
            elif not (self.capture.running and self.apply.running):
                raise AssertionError(f"a daemon has ended before: {what}{self._story()}")
            return condition()

        self.wait(met, what, timeout)

    def wait(self, condition: Callable[[], bool], what: str, timeout: float = 60) -> None:
        """Wait for a condition, over lost connections; the error tells all that is known."""
        end = time.monotonic() + timeout
        while True:
            try:
                if condition():
                    return
            except psycopg.OperationalError:
                pass
            if time.monotonic() > end:
                raise AssertionError(f"not within {timeout} s: {what}{self._story()}")
            time.sleep(0.03)

    def _story(self) -> str:
        outputs = [f"\n--- {d.command}:\n{d.output()}" for d in (self.capture, self.apply)]
        try:
            state = self.on_target("SELECT * FROM replicator_streamposition")
            runs = self.on_target("SELECT * FROM replicator_backfillrun WHERE state <> 'finished'")
            wanted = self.on_target("SELECT * FROM replicator_wantedrow LIMIT 5")
        except psycopg.OperationalError as error:
            return f"\n{error}{''.join(outputs)}"
        return f"\nposition {state}\nruns {runs}\nwanted {wanted}{''.join(outputs)}"

    # Quiet ----------------------------------------------------------------------------------------

    def settle(self, timeout: float = 60, *, restart: bool = True) -> None:
        """Wait until everything has been applied, then compare."""
        with psycopg.connect(self.source) as connection, connection.cursor() as cursor:
            last = next_number(cursor)
        number = "SELECT number FROM shop_order WHERE id = 1"

        def quiet() -> bool:
            return self.on_target(number) == [(str(last),)] and self.backfilled()

        self.until(quiet, f"quiet at {last}", timeout, restart=restart)
        assert self.stopped()[0] == ""
        self.compare()
        assert self.on_target(_BACKWARDS) == []

    def compare(self) -> None:
        """Hold rows against the source's, and receipts against rows."""
        with connected("of_source", self.source), connected("of_target", self.target):
            for rows in self._querysets():
                names = [field.attname for field in rows.model._meta.concrete_fields]
                if rows.model._meta.label == "auth.User":
                    names = ["id", "username", "email"]
                table = rows.model._meta.db_table
                wanted = list(rows.using("of_source").order_by("pk").values_list(*names))
                held = rows.model._default_manager.using("of_target")
                found = list(held.order_by("pk").values_list(*names))
                assert found == wanted, _difference(table, found, wanted)
                self._compare_receipts(table, [row[0] for row in wanted])
            connections["of_source"].close()
            connections["of_target"].close()

    def _compare_receipts(self, table: str, keys: Sequence[object]) -> None:
        receipts = self.on_target(f'SELECT DISTINCT id FROM replicator."public.{table}" ORDER BY 1')
        assert [row[0] for row in receipts] == keys, f"receipts of {table}"

    def _querysets(self) -> Sequence[QuerySet[Model]]:
        from django.contrib.auth.models import User

        from tests.support.sample.polls.models import Question
        from tests.support.sample.shop.models import Member, Order, Team

        questions = Question._default_manager.all()
        if "published-polls" in self.datasets:
            questions = questions.filter(_BY_PUBLISHED)
        others = (m._default_manager.all() for m in (User, Team, Member, Order))
        return [questions, *others]  # type: ignore[list-item]


def _difference(table: str, found: Sequence[object], wanted: Sequence[object]) -> str:
    missing = [row for row in wanted if row not in found]
    extra = [row for row in found if row not in wanted]
    return f"{table}: missing or different {missing[:3]!r}, extra or different {extra[:3]!r}"
