"""Plays a history and compares: what comes out is nothing, or `Broken`."""

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import psycopg
from django.db import DatabaseError, connections, transaction

from replicator.compiler import find_model
from replicator.plan import Release
from replicator_apply.backfill import next_selecting
from replicator_apply.life import ask_to_end, leaving, pause, resume, subscribe
from replicator_apply.runs import begin_verification
from replicator_apply.state import StoredSubscription, known_subscriptions, schedule_run, start_run
from tests.support.oracle.fixpoint import Meaning, Row
from tests.support.oracle.history import History, Rule, Step
from tests.support.oracle.invent import may_be_local, written
from tests.support.oracle.judge import Broken, Judge
from tests.support.oracle.states import (
    SourceReader,
    SourceState,
    TargetReader,
    TargetState,
    read_rows,
)
from tests.support.oracle.system import (
    WITNESS,
    System,
    declared,
    enough,
    is_local,
    key_text,
    knobs,
    resting,
    schedules_that_end,
    session,
    unhurried_fetches,
)
from tests.support.oracle.tables import LOCAL, LOCAL_UUID, TableSpec
from tests.support.oracle.watch import Watcher

QUIET_WITHIN = 100.0
SCHEDULES_WITHIN = 10.0
"""Seconds of a wait: all of it, and the part in which the schedule begins runs."""
_MARK = (
    "INSERT INTO {} (id, number) VALUES (1, {}) ON CONFLICT (id) DO UPDATE "
    "SET number = EXCLUDED.number"
)


def play(history: History, source: str, target: str, log: str) -> dict[str, int]:
    """Play a history on two fresh databases; give some counts.

    Raises:
        Broken: the target is not what it must be.
    """
    tables = [spec.label for spec in written(history.labels)]
    with (
        declared(history, tables) as plans,
        knobs(history.knobs),
        unhurried_fetches(),
        schedules_that_end(),
        System(source, target, log, plans) as system,
        System(source, target, log, plans, _begins(history)) as system,
    ):
        player = Player(history, system)
        try:
            return player.play()
        finally:
            player.close()


def _begins(history: History) -> list[str] | None:
    return None if history.begins is None else [WITNESS, *history.begins]


class Player:
    """Plays one history."""

    def __init__(self, history: History, system: System) -> None:
        self._history, self._system = history, system
        self._meaning = Meaning(system.plans)
        self._states: dict[int, SourceState] = {}
        self._number = 0
        self._opened: psycopg.Connection[Any] | None = None
        self._opened_operations = 0
        self._source: SourceReader | None = None
        self._watcher: Watcher | None = None
        self._local = {name: {} for name in system.releases}  # type: ignore[var-annotated]
        self._left: dict[Row, str] = {}
        self._left_at = 0
        self._ever_left: set[Row] = set()
        self._once_paused: set[str] = set()
        self._counts = {
            "transactions": 0,
            "refused": 0,
            "operations": 0,
            "skipped": 0,
            "verified": 0,
        }

    def play(self) -> dict[str, int]:
        """Play all steps, and the end."""
        system = self._system
        later = {rule[0] for step in self._history.steps if step[0] == "rules" for rule in step[2]}
        system.add_releases(later)
        for statement in self._history.source:
            system.at_source.execute(_public(statement))
        for statement in self._history.target:
            system.at_target.execute(_public(statement))
        self._local = self._local_rows()
        if self._history.begins is not None or later:
            system.prepare_receipts()
        system.start("capture")
        self._source = SourceReader(session(system.source), system.releases, self._meaning)
        self._transaction([])
        system.start("apply")
        self._await_receipts()
        reader = TargetReader(session(system.target), system.releases, self._meaning)
        self._reader = TargetReader(system.at_target, system.releases, self._meaning)
        self._judge = Judge(self._states, self._ever_left, self._once_paused)
        self._watcher = Watcher(reader)
        for number, step in enumerate([*self._history.steps, ["end"]]):
            try:
                self._step(step)
                system.check()
                self._watcher.judge(self._judge)
            except Exception as error:
                error.add_note(f"Step {number} of {len(self._history.steps)}: {step[0]}")
                raise
        return {**self._counts, "seen": self._watcher.seen}

    def close(self) -> None:
        """Let go of everything."""
        if self._watcher is not None:
            self._watcher.end()
            self._watcher._reader.connection.close()
        if self._opened is not None:
            self._opened.close()
        if self._source is not None:
            self._source.close()
        connections["source"].close()

    # Steps ---------------------------------------------------------------------------------------

    def _step(self, step: Step) -> None:
        name, *arguments = step
        getattr(self, f"_do_{name}")(*arguments)

    def _do_tx(self, operations: Sequence[Any]) -> None:
        self._transaction(operations)

    def _do_open(self, operations: Sequence[Any]) -> None:
        if self._opened is None:
            self._opened = connection = psycopg.connect(self._system.source)
            connection.execute("SET lock_timeout = '50ms'")
            for operation in operations:
                with contextlib.suppress(psycopg.Error), connection.transaction():
                    # A TRUNCATE would keep everybody from reading until it is committed.
                    if isinstance(operation, str) and not operation.startswith("TRUNCATE"):
                        connection.execute(operation)  # type: ignore[call-overload]

    def _do_close(self) -> None:
        if self._opened is None:
            return
        number = self._number + 1
        try:
            for table in ("witness_first", "witness_second"):
                self._opened.execute(_MARK.format(table, number))  # type: ignore[call-overload]
            self._opened.commit()
        except psycopg.Error:
            self._counts["refused"] += 1
        else:
            self._committed()
        finally:
            self._opened.close()
            self._opened = None

    def _do_local(self, statements: Sequence[str]) -> None:
        self._check_local()
        with contextlib.suppress(psycopg.Error), self._system.at_target.transaction():
            for statement in statements:
                self._system.at_target.execute(_public(statement))
        self._local = self._local_rows()

    def _do_backfill(self, dataset: str) -> None:
        known = self._known(dataset)
        if known is not None and (known.paused or not known.wanted):
            return
        for number, name in self._system.subscriptions().items():
            if name == dataset:
                connection = self._system.at_target
                with connection.transaction(), connection.cursor() as cursor:
                    start_run(cursor, number, "command")

    def _do_meddle(self, statements: Sequence[str]) -> None:
        """Have an operator do harm behind apply's back; backfills of all datasets mend it."""
        assert self._watcher is not None
        self._do_quiet()
        self._watcher.judge(self._judge)
        connection = self._system.at_target
        with self._watcher.blind():
            with connection.transaction(), connection.cursor() as cursor:
                cursor.execute("SET LOCAL session_replication_role = replica")
                for statement in statements:
                    with contextlib.suppress(psycopg.Error), connection.transaction():
                        cursor.execute(_public(statement))
                for known in self._applied():
                    start_run(cursor, known.id, "command")
            self._transaction([])
            self._wait_until_settled()
        self._do_quiet()

    def _do_rules(self, dataset: str, rules: Sequence[Rule]) -> None:
        """Deploy other rules on both sides; no local row holds what they do not have any more."""
        assert self._watcher is not None
        assert self._source is not None
        self._do_close()
        self._do_quiet()
        self._let_go()
        self._do_quiet()
        # What is still kept where no rule is any more stays for good.
        self._wait_for_quiet(lambda target: not _kept(target) and self._verified)
        self._watcher.judge(self._judge)
        system = self._system
        with self._watcher.blind():
            system.deploy(dataset, rules)
            self._meaning = meaning = Meaning(system.plans)
            self._source = SourceReader(self._source._connection, system.releases, meaning)
            self._reader = TargetReader(system.at_target, system.releases, meaning)
            watching = self._watcher._reader.connection
            self._watcher._reader = TargetReader(watching, system.releases, meaning)
            self._local = self._local_rows()
            self._transaction([])
            self._wait_until_settled()
        self._do_quiet()

    # Subscriptions that come and go --------------------------------------------------------------

    def _known(self, dataset: str) -> StoredSubscription | None:
        found = known_subscriptions(self._system.at_target)
        return next((each for each in found if each.name == dataset), None)

    def _do_subscribe(self, dataset: str) -> None:
        known = self._known(dataset)
        if known is None or not known.wanted:
            plan = self._system.plans[dataset]
            subscribe(self._system.at_target, self._system.place, plan, "adopt")

    def _do_unsubscribe(self, dataset: str, keep_rows: bool) -> None:
        """End a subscription, and see which rows it leaves behind."""
        known = self._known(dataset)
        if known is None or known.declared:
            return
        self._check_local()
        ask_to_end(self._system.at_target, known.id, keep_rows=keep_rows)

        def ended() -> bool:
            self._help_on(self._reader.read().stopped)
            return leaving(self._system.at_target, known.id) is None

        self._until(ended, lambda: f"{dataset} does not end")
        target = self._reader.read()
        now = {
            (table, key): row
            for table, rows in target.rows.items()
            for key, row in rows.items()
            if not is_local(key) and key not in target.receipts[table]
        }
        if not keep_rows and now.keys() - self._left.keys():
            raise Broken(f"{dataset} left rows behind: {now.keys() - self._left.keys()}")
        self._ever_left.update(now)
        self._judge.forget_local(now.keys())
        self._left, self._left_at = now, self._judge.mark(target) or 1

    def _do_pause_subscription(self, dataset: str) -> None:
        known = self._known(dataset)
        if known is not None and known.wanted:
            self._once_paused.add(dataset)
            pause(self._system.at_target, known.id)

    def _do_resume_subscription(self, dataset: str) -> None:
        known = self._known(dataset)
        if known is not None and known.wanted:
            resume(self._system.at_target, known.id)

    def _resume_all(self) -> None:
        for dataset in self._history.datasets:
            self._do_resume_subscription(dataset)

    def _help_on(self, stopped: str) -> None:
        """Let go what stands in the way: a kept row, one left behind, one that is paused."""
        if "unique column" in stopped or (self._stays and stopped):
            self._let_go()
            self._let_left_go()
        if self._history.begins is not None and ("unique column" in stopped or "Viol" in stopped):
            self._let_go()
            self._resume_all()

    def _do_pause(self) -> None:
        self._set_runs("running", "paused")

    def _do_resume(self) -> None:
        self._set_runs("paused", "running")

    def _set_runs(self, before: str, after: str) -> None:
        self._system.at_target.execute(
            "UPDATE public.replicator_backfillrun SET state = %s WHERE state = %s", (after, before)
        )

    def _do_restart(self, side: Any) -> None:
        self._system.restart(side)

    def _do_kill(self, side: Any) -> None:
        self._system.kill(side)

    def _do_second(self, side: Any) -> None:
        self._system.second(side)

    def _do_verify(self, *, at_end: bool = False) -> None:
        """Begin to compare all subscriptions, unless rows may still be missing, or chosen anew."""
        if self._reader.read().runs or (self._meaning.chooses and not at_end):
            return
        for known in self._applied():
            begin_verification(self._system.at_target, known.id)
            self._counts["verified"] += 1

    def _applied(self) -> list[StoredSubscription]:
        """List the subscriptions to whose rows events are applied."""
        found = known_subscriptions(self._system.at_target)
        return [known for known in found if known.wanted and not known.paused]

    @property
    def _verified(self) -> bool:
        found = self._system.at_target.execute(
            "SELECT count(*) FROM public.replicator_verifyrun WHERE state = 'running'"
        )
        return found.fetchone() == (0,)

    def _check_verified(self) -> None:
        statement = "SELECT state, missing, extra, different, findings::text FROM public.{}"
        runs = self._system.at_target.execute(statement.format("replicator_verifyrun")).fetchall()
        for state, *differences, findings in runs:
            if state == "cancelled" and self._history.begins is not None:
                continue  # Its subscription was paused.
            if state != "finished" or any(differences):
                raise Broken(f"verify: {state}, {differences}: {findings}")

    def _do_wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def _do_quiet(self) -> None:
        self._do_resume()
        self._transaction([])
        target = self._wait_until_settled()
        if self._meaning.chooses:
            self._choose_anew()
            target = self._wait_until_settled()
        self._judge.rest(target, self._number)
        self._check_local()

    def _wait_until_settled(self) -> TargetState:
        return self._wait_for_quiet(
            lambda target: not target.runs and not any(target.wanted.values())
        )

    def _choose_anew(self) -> None:
        """Begin a run as the schedule does, for each subscription of which rows are chosen."""
        for known in self._applied():
            rule = next_selecting(self._system.plans[known.name].paged)
            if rule is not None:
                self._until(
                    partial(self._begin_choosing, known.id, rule), lambda: "no scheduled run begins"
                )

    def _begin_choosing(self, subscription: int, rule: int) -> bool:
        connection = self._system.at_target
        with connection.transaction(), connection.cursor() as cursor:
            return schedule_run(cursor, subscription, rule, every=0)

    def _do_end(self) -> None:
        """Compare; let local rows go that hold rows of ours, and compare again."""
        self._do_close()
        self._do_quiet()
        self._resume_all()
        self._let_go()
        self._do_quiet()
        if self._stays:
            self._do_verify()
            self._wait_for_quiet(lambda _: self._verified)
            self._check_verified()
            self._counts["left"] = len(self._let_left_go())
        left = self._wait_for_quiet(lambda target: not _kept(target))
        self._judge.rest(left, self._number)
        self._wait_until_settled()
        self._do_verify(at_end=True)
        self._wait_for_quiet(lambda _: self._verified)
        self._check_verified()
        assert self._watcher is not None
        self._watcher.judge(self._judge)

    # The source ----------------------------------------------------------------------------------

    def _transaction(self, operations: Sequence[Any]) -> None:
        """Write to the source; what Postgres refuses is left out."""
        number = self._number + 1
        try:
            with transaction.atomic(using="source"):
                cursor = connections["source"].cursor()
                cursor.execute("SET LOCAL lock_timeout = '50ms'")
                for operation in operations:
                    self._operation(cursor, operation)
                for table in ("witness_first", "witness_second"):
                    cursor.execute(_MARK.format(table, number))
        except DatabaseError:
            self._counts["refused"] += 1
        else:
            self._committed()

    def _operation(self, cursor: Any, operation: Any) -> None:
        self._counts["operations"] += 1
        try:
            with transaction.atomic(using="source"):
                if isinstance(operation, str):
                    cursor.execute(operation)
                else:
                    _cascade(cursor, *operation[1:])
        except DatabaseError:
            self._counts["skipped"] += 1

    def _committed(self) -> None:
        self._number += 1
        self._counts["transactions"] += 1
        assert self._source is not None
        self._states[self._number] = self._source.read()

    # The target ----------------------------------------------------------------------------------

    def _await_receipts(self) -> None:
        names = [f"public.{name}" for name in self._system.releases]
        statement = "SELECT count(*) FROM pg_tables WHERE schemaname = 'replicator'"
        self._until(
            lambda: self._system.at_target.execute(statement).fetchone() == (len(names),),
            lambda: "apply does not begin",
        )

    def _wait_for_quiet(self, condition: Callable[[TargetState], bool]) -> TargetState:
        seen: list[TargetState] = []

        def there() -> bool:
            seen[:] = [self._reader.read()]
            stopped = seen[0].stopped
            # An index on expressions has no columns to name.
            kept = "UniqueViolation" in stopped and any(self._local.values())
            if "unique column" in stopped or kept or (self._stays and stopped):
                # A kept row stands in the way of a row of the dataset: a person lets it go.
                self._let_go()
                self._let_left_go()
            self._help_on(seen[0].stopped)
            return self._judge.mark(seen[0]) == self._number and condition(seen[0])

        def state() -> str:
            one = seen[0]
            wanted = {table: keys for table, keys in one.wanted.items() if keys}
            return (
                f"no quiet: transaction {self._judge.mark(one)} of {self._number}, "
                f"runs {one.runs}, wanted {wanted}, kept {_kept(one)}, stopped: {one.stopped!r}"
            )

        self._until(there, state)
        return seen[0]

    def _until(self, condition: Callable[[], bool], state: Callable[[], str]) -> None:
        began = time.monotonic()
        resting.set()
        try:
            while not condition():
                self._system.check()
                waited = time.monotonic() - began
                if waited > QUIET_WITHIN:
                    raise Broken(state())
                if waited > SCHEDULES_WITHIN:
                    enough.set()
                time.sleep(0.02)
        finally:
            resting.clear()
            enough.clear()

    # Local rows ----------------------------------------------------------------------------------

    def _local_rows(self) -> dict[str, dict[str, str]]:
        releases = self._system.releases.values()
        rows = read_rows(self._system.at_target, releases, self._meaning)
        return {
            name: {key: row for key, row in each.items() if is_local(key)}
            for name, each in rows.items()
        }

    def _check_local(self) -> None:
        found = self._local_rows()
        if found != self._local:
            raise Broken(f"local rows were {self._local} and are {found}")
        target = self._reader.read()
        for (table, key), row in list(self._left.items()):
            if target.receipts[table].get(key):
                del self._left[table, key]
            elif target.rows[table].get(key) != row:
                if (table, key) in self._takeable(self._left_at):
                    # One that fills, and adopts, had it between two looks.
                    del self._left[table, key]
                    continue
                raise Broken(f"{table} {key} was left as {row}: {target.rows[table].get(key)}")

    def _takeable(self, number: int) -> set[Row]:
        """Give what subscriptions may have held since a transaction, whatever dangles."""
        meaning = self._meaning.of(frozenset(known.name for known in self._applied()))
        found = set[Row]()
        for state in (self._states[n] for n in range(number, self._number + 1)):
            facts = state.facts.with_all_eligible()
            every = {(name, row) for name in meaning.plans for row in facts.points}
            found |= {row for _, row in meaning.grounded(facts, every)}
        return found

    @property
    def _stays(self) -> bool:
        """Whether rows that leave may stay."""
        return any(plan.on_leave for plan in self._system.plans.values())

    def _let_left_go(self) -> list[Row]:
        """Delete all rows that left and stay, and those that they keep; give them."""
        target = self._reader.read()
        gone = [
            (table, key)
            for table, receipts in target.receipts.items()
            for key in receipts
            if self._stays and (target.left(table, key) or target.kept(table, key))
        ]
        connection = self._system.at_target
        with connection.transaction():
            connection.execute("SET CONSTRAINTS ALL DEFERRED")
            for table, key in gone:
                release = self._system.releases[table]
                for name in (f'public."{table}"', f'replicator."public.{table}"'):
                    connection.execute(
                        f"DELETE FROM {name} t WHERE {key_text(release, 't')} = %s",  # type: ignore[arg-type]
                        [key],
                    )
        self._judge.forget_left()
        return gone

    def _let_go(self) -> None:
        """Delete all local rows."""
        self._check_local()
        connection = self._system.at_target
        left, self._left = self._left, {}
        with connection.transaction():
            connection.execute("SET CONSTRAINTS ALL DEFERRED")
            for spec in written(self._history.labels):
                if spec.name in self._local:
                    _delete_local(connection, spec.name, list(self._local[spec.name]))
                elif may_be_local(spec):
                    # Rows of tables that no dataset holds point at ours as well.
                    _delete_outside(connection, spec)
            for table, key in left:
                _delete_left(connection, self._system.releases[table], key)
        self._local = self._local_rows()


def _delete_local(connection: psycopg.Connection[Any], table: str, keys: list[str]) -> None:
    column = {"kinds_reading": "sensor"}.get(table, "id")
    for key in keys:
        value = key.strip("[]").split(", ")[0].strip('"')
        connection.execute(
            f'DELETE FROM public."{table}" WHERE {column}::text = %s',  # type: ignore[arg-type]
            [value],
        )


def _delete_left(connection: psycopg.Connection[Any], release: Release, key: str) -> None:
    """Delete a row, unless it has become ours."""
    table = release.table.name
    connection.execute(
        f'DELETE FROM public."{table}" t WHERE {key_text(release, "t")} = %s AND NOT EXISTS '  # type: ignore[arg-type]
        f'(SELECT FROM replicator."public.{table}" r WHERE {key_text(release, "r")} = %s)',
        [key, key],
    )


def _delete_outside(connection: psycopg.Connection[Any], spec: TableSpec) -> None:
    key = next(iter(spec.key))
    connection.execute(
        f"DELETE FROM public.{spec.name} WHERE {key}::text LIKE ANY (%s)",  # type: ignore[arg-type]
        [[f"{str(LOCAL)[:4]}%", f"{LOCAL_UUID}%"]],
    )


def _kept(target: TargetState) -> list[str]:
    return [
        f"{table} {key}"
        for table, keys in target.receipts.items()
        for key in keys
        if target.kept(table, key)
    ]


def _cascade(cursor: Any, label: str, expression: str) -> None:
    """Delete a row and what hangs on it by the ORM."""
    cursor.execute(f"SELECT {expression}")
    model = find_model(label)
    for row in model._base_manager.using("source").filter(pk=cursor.fetchone()[0]):
        row.delete(using="source")


def _public(statement: str) -> Any:
    return f"SET search_path = public; {statement}; SET search_path = ''"
