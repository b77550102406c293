"""The apply worker of one stream: reads, applies, asks, until it is told to stop.

One connection, used by one thread at a time: a large batch is written in a thread while the next
one is read. A standby waits for the advisory lock; the position row is the fence
that keeps two workers from applying the same batch, whatever the lock does.
"""

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import psycopg

from replicator.envelope import Answer
from replicator.errors import BadRecord, DatabaseUnavailable, Hole, Stopped
from replicator.http import Health
from replicator.log import Chunk, Log, LogReader, open_log
from replicator.metrics import counter, gauge, histogram
from replicator.plan import TableName
from replicator.positions import Lsn, Position, format_lsn
from replicator.postgres import driver_errors, is_passing
from replicator.settings import ReplicatorSettings, requests_topic, stream_topic
from replicator.stop import Stop
from replicator_apply import metrics
from replicator_apply.arriving import GivenUp
from replicator_apply.asking import Asker
from replicator_apply.assemble import Transaction
from replicator_apply.backfill import next_selecting, tell_begun, turn_pages
from replicator_apply.batch import Applier, Batch
from replicator_apply.bootstrap import first_position
from replicator_apply.caller import Callers, calling
from replicator_apply.calls import Due, due_calls
from replicator_apply.connection import connect_target
from replicator_apply.consume import Consumer, NewEpoch, consumer_at
from replicator_apply.fenced import Overtaken
from replicator_apply.lock import try_lock
from replicator_apply.marks import take_mark
from replicator_apply.pipeline import Applied, Pipeline
from replicator_apply.plan import TargetPlan
from replicator_apply.reports import make_report
from replicator_apply.state import (
    FEW,
    Place,
    StoredPosition,
    begin_at,
    count_wanted,
    fence,
    load_position,
    note_stop,
    schedule_run,
    start_run,
    stop_of,
    stored_subscriptions,
    tables_awaiting,
    tables_with_kept_rows,
    tables_with_suspects,
    ungate,
    wanted_by_table,
    wanted_subscriptions,
)
from replicator_apply.subscriptions import load_plan, set_unknown_apart, store_declared
from replicator_apply.unsubscribe import drop_all, end_all, endings
from replicator_apply.verify import check_id, check_request, compare, end_check, open_checks
from replicator_apply.write import Written

logger = logging.getLogger(__name__)

IDLE = 0.2
"""Seconds that the loop waits for records at most."""
HOUSEKEEPING = 0.5
"""Seconds between looks at what a command or a person may have changed."""
REPORT = 5.0
"""Seconds between reports to the source."""
REPORT_SHARE = 50
"""Times that a report's own time must pass until the next one, if that is longer."""
QUIET_ADVANCE = 1.0
"""Seconds after which a position is stored though no row of ours came."""
STANDBY = 1.0
_FIRST_STANDBY = 0.05
"""Seconds between tries to become active, in the end and at first, doubled each time: the session
of a worker that has just stopped holds the lock for a moment."""
STOPPED_RETRY = 5.0
"""Seconds after which a stream that stands is tried again: what stopped it may be mended."""
DEADLOCK_TRIES = 5
_LOCKS = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.LockNotAvailable,
)
"""What a batch meets that waits for other sessions in vain."""
ARRIVES_WITHIN = 2.0
"""Seconds without rows of ours after which a transaction that is written as it arrives is given up:
what it has written is locked meanwhile."""
ARRIVING_PAUSE = 60.0
"""Seconds after one that was given up in which none is begun: to read again costs half a second,
and where one needs verdicts others will."""
SOON = 0.005
"""Seconds after which the loop looks for more to read while a batch is written."""
WHILE_WAITING = 0.02
"""Seconds for which it waits before, while another batch, or an answer, waits for that one."""


class Worker:
    """Applies one stream.

    Args:
        settings: of this environment.
        place: the stream.
        stop: ends it.
        health: told about each turn.
    """

    def __init__(
        self, settings: ReplicatorSettings, place: Place, stop: Stop, health: Health
    ) -> None:
        self._settings = settings
        self._place = place
        self._stop = stop
        self._health = health
        self._stopped = False
        self._hole: Hole | None = None
        self._counted = ""
        self._told = set[int]()
        self._due = 0.0
        self._outdated = False
        self._dry = False
        self._forget = False
        self._report_due = 0.0
        self._quiet_since = time.monotonic()
        self._tried, self._none_before = set[Lsn](), 0.0

    def run(self) -> None:
        """Apply until stopped; a stream that stands is tried again until it goes on.

        Raises:
            Unavailable: database or log is away; call again.
            ReplicatorError: this environment must not apply as it is.
        """
        with connect_target(self._settings) as connection:
            if not self._become_active(connection):
                return
            with driver_errors("preparing the target"), connection.cursor() as cursor:
                self._ungate(cursor, every=True)
            with self._calling() as self._callers:
                while not self._stop.is_set():
                    try:
                        self._apply_stream(connection)
                    except (Stopped, BadRecord) as error:
                        self._stand(connection, error)
                    except DatabaseUnavailable as error:
                        self._note_limit(connection, error)
                        raise

    def _calling(self) -> AbstractContextManager[Callers]:
        """Call the functions of `on_applied` meanwhile."""
        return calling(self._settings, self._place)

    def _become_active(self, connection: psycopg.Connection[Any]) -> bool:
        """Wait until no other worker holds the stream; False if told to stop meanwhile."""
        waiting, pause = False, _FIRST_STANDBY
        while not self._stop.is_set():
            if try_lock(connection, self._place):
                return True
            if not waiting and pause > _FIRST_STANDBY:
                waiting = True
                self._health.ready(False, "standby: another worker applies this stream")
                logger.info(
                    "Another worker applies stream %s of %s; standing by.",
                    self._place.stream,
                    self._place.source,
                    extra={"event": "standby"},
                )
            self._health.turned()
            self._stop.wait(pause)
            pause = min(pause * 2, STANDBY)
        return False

    def _stand(self, connection: psycopg.Connection[Any], error: Stopped | BadRecord) -> None:
        """Tell why the stream stands, and wait."""
        self._tell(connection, error)
        until = time.monotonic() + STOPPED_RETRY
        while time.monotonic() < until and not self._stop.wait(0.5):
            self._health.turned()

    def _note_limit(self, connection: psycopg.Connection[Any], error: DatabaseUnavailable) -> None:
        """Tell `status` of what the next try may well meet again: too little space, locks."""
        cause = error.__cause__
        if not isinstance(cause, psycopg.Error) or connection.broken:
            return
        if isinstance(cause, _LOCKS):
            remedy = (
                "Another session holds what apply must lock: pg_stat_activity and "
                "pg_blocking_pids() tell which. End it; apply tries again by itself."
            )
        elif is_passing(cause):
            return
        else:
            remedy = "See the target's Postgres log and mend it; apply tries again by itself."
        with driver_errors("noting what failed"), connection.cursor() as cursor:
            if stop_of(cursor, self._place) is None:
                note_stop(cursor, self._place, DatabaseUnavailable(str(error), remedy=remedy))

    def _tell(self, connection: psycopg.Connection[Any], error: Stopped | BadRecord) -> None:
        """Tell why the stream stands: once to the log, and to whoever asks."""
        if not self._stopped:
            logger.error(
                "Stream %s of %s stands: %s %s",
                self._place.stream,
                self._place.source,
                error,
                error.remedy,
                extra={"event": "stopped_stream", "error_class": type(error).__name__},
            )
        self._stopped = True
        gauge(metrics.STOPPED).labels(*self._place).set(1)
        if isinstance(error, Hole) and str(error) != self._counted:
            counter(metrics.HOLES).labels(*self._place).inc()
            self._counted = str(error)
        self._health.ready(False, str(error))
        with driver_errors("noting why the stream stands"), connection.cursor() as cursor:
            note_stop(cursor, self._place, error)

    # One stretch of the stream: from the stored position until something changes ------------------

    def _apply_stream(self, connection: psycopg.Connection[Any]) -> None:
        settings, place = self._settings, self._place
        log = open_log(*settings.log_of_stream(*place))
        topic = stream_topic(*place)
        with driver_errors("preparing the target"):
            self._settle_subscriptions(connection)
            plan = self._load_plan(connection)
        if not self._wait_for_topic(connection, log, topic):
            return
        requests = requests_topic(*place, settings.environment)
        log.create(requests)
        with ExitStack() as stack:
            reader = log.reader(topic)
            stack.callback(reader.close)
            writer = log.writer(requests)
            stack.callback(writer.close, 1.0)
            with driver_errors("loading the position"):
                stored = self._load_or_begin(connection, log, topic)
            if stored is None:
                return
            reader.seek(stored.offset)
            self._tried = {commit for commit in self._tried if commit >= stored.position.next}
            self._applier = Applier(
                connection, place, settings.environment, plan, self._health.turned
            )
            self._asker = Asker(writer, place, settings.environment)
            self._consumer = self._consume_from(stored)
            self._pipeline = Pipeline(
                partial(self._apply, connection), partial(self._settle, connection)
            )
            self._health.ready(True, "")
            with driver_errors("applying"):
                with connection.cursor() as cursor:
                    tell_begun(cursor, place, plan, self._told)
                self._loop(connection, reader)

    def _settle_subscriptions(self, connection: psycopg.Connection[Any]) -> None:
        """Store what the settings declare, and end what is to end, of tables, too."""
        store_declared(connection, self._settings, self._place)
        set_unknown_apart(connection, self._place)
        end_all(connection, self._settings, self._place, self._health.turned)
        drop_all(connection, self._settings, self._place, self._health.turned)
        self._callers.tell()

    def _load_plan(self, connection: psycopg.Connection[Any]) -> TargetPlan:
        return load_plan(connection, self._settings, self._place)

    def _wait_for_topic(self, connection: psycopg.Connection[Any], log: Log, topic: str) -> bool:
        """Wait until the source has published something; False if told to stop, or end one."""
        told = False
        while not self._stop.is_set():
            state = log.state(topic)
            if state.exists and state.end > state.begin:
                return True
            if not told:
                told = True
                logger.info(
                    "Topic %s has no records yet; waiting for capture.",
                    topic,
                    extra={"event": "waiting_for_capture"},
                )
            with driver_errors("looking at subscriptions"), connection.cursor() as cursor:
                if endings(cursor, self._place):
                    return False
            self._health.ready(False, "waiting for the source's capture")
            self._health.turned()
            self._stop.wait(0.5)
        return False

    def _load_or_begin(
        self, connection: psycopg.Connection[Any], log: Log, topic: str
    ) -> StoredPosition | None:
        environment = self._settings.environment
        with connection.cursor() as cursor:
            stored = load_position(cursor, self._place, environment)
            if stored is not None:
                return stored
            first = first_position(log, topic)
            if first is None:
                return None
            with connection.transaction():
                begin_at(cursor, self._place, environment, first)
            logger.info(
                "Stream %s of %s begins here, at %s of epoch %s.",
                self._place.stream,
                self._place.source,
                format_lsn(first.position.next),
                first.position.epoch,
                extra={"event": "stream_begun"},
            )
            return first

    def _consume_from(self, stored: StoredPosition) -> Consumer:
        readers = {t.prefix: t.reader for t in self._applier.plan.tables.values()}
        return consumer_at(stored, readers)

    def _loop(self, connection: psycopg.Connection[Any], reader: LogReader) -> None:
        self._hole = None
        self._due, self._outdated, self._dry = 0.0, False, False
        try:
            self._turn_on(connection, reader)
        except Overtaken:
            logger.info("Another worker has applied meanwhile.", extra={"event": "overtaken"})
        finally:
            # Nobody else uses the connection before what is under way has ended.
            self._pipeline.close()
            self._consumer.close()

    def _turn_on(self, connection: psycopg.Connection[Any], reader: LogReader) -> None:
        """Turn until something changes, or it is told to stop."""
        try:
            while not self._stop.is_set():
                # What arrives has the connection until it is whole.
                if not self._pipeline.arriving and (
                    self._outdated or self._housekeeping(connection)
                ):
                    break
                if not self._turn(connection, reader):
                    break
                self._health.turned()
            if not self._pipeline.arriving:
                self._pipeline.join()
        except GivenUp:
            self._none_before = time.monotonic() + ARRIVING_PAUSE
            # Whatever ended the writing is what is to be told, if anything did.
            self._pipeline.give_up()
            logger.info(
                "A large transaction is read again, and kept until all of it is here.",
                extra={"event": "kept_whole"},
            )

    def _turn(self, connection: psycopg.Connection[Any], reader: LogReader) -> bool:
        """Read and apply what has arrived; False if the stretch ends here."""
        self._pipeline.proceed()
        if self._pipeline.full or (self._pipeline.busy and self._has_answer):
            # What would be read now comes after two batches, and to look for it costs time, too.
            self._pipeline.wait(WHILE_WAITING)
            self._pipeline.proceed()
        consumer, busy = self._consumer, self._pipeline.busy
        # What was read while a batch was written is not kept waiting for more.
        chunks = reader.poll(0.0 if busy or consumer.rows else IDLE)
        if busy and not chunks:
            self._pipeline.wait(SOON)
        self._watch_arriving()
        self._dry = not chunks and not busy and not consumer.rows and consumer.hole is None
        if not self._feed(connection, chunks):
            return False
        hole = consumer.hole
        if hole is not None:
            self._finish()
            if hole is not self._hole:
                self._tell(connection, hole)
        elif not self._pipeline.arriving:
            self._pipeline.proceed()
            if not self._pipeline.busy:
                quiet = time.monotonic() - self._quiet_since < QUIET_ADVANCE
                self._hand_over_what_is_due(quiet=quiet)
        self._hole = hole
        return True

    def _feed(self, connection: psycopg.Connection[Any], chunks: Sequence[Chunk]) -> bool:
        """Have transactions made of what has arrived; False: another epoch has begun."""
        for chunk in chunks:
            try:
                new_epoch = self._consumer.feed(chunk, self._hand_over, self._begin_large)
            except (Stopped, BadRecord):
                # What came whole before it is not held up.
                self._finish()
                raise
            if new_epoch is not None:
                self._finish()
                self._change_epoch(connection, new_epoch)
                return False
        return True

    def _finish(self) -> None:
        """Apply what has come whole, and wait for it.

        Raises GivenUp if something arrives still.
        """
        if self._pipeline.arriving:
            raise GivenUp
        self._hand_over_what_is_due()
        self._pipeline.finish()

    def _hand_over_what_is_due(self, *, quiet: bool = False) -> None:
        """Apply what has come whole; `quiet`: what is not for us can wait."""
        consumer = self._consumer
        # The answer that ends a rule's pages has no rows, and the next rule waits for it.
        if consumer.pending and (consumer.rows or self._has_answer or not quiet):
            self._hand_over()

    @property
    def _has_answer(self) -> bool:
        """Whether an answer to this target has come and was not handed over."""
        return any(map(self._is_ours, self._consumer.answers))

    def _hand_over(self) -> None:
        """Apply what has been collected: a large batch while the next one is read."""
        answers = [*filter(self._is_ours, self._consumer.answers)]
        batch = self._consumer.take()
        self._quiet_since = time.monotonic()
        counter(metrics.REQUESTS).labels(*self._place).inc(
            self._asker.ask_ahead(self._applier.plan, answers)
        )
        self._applier.collapse(batch)
        self._pipeline.hand_over(batch)

    def _begin_large(self, batch: Batch) -> bool:
        """Begin to write a transaction while the rest of it arrives; False: that cannot be done.

        Each is tried once.
        """
        (transaction,) = batch.transactions
        if transaction.commit in self._tried or time.monotonic() < self._none_before:
            return False
        # What lies before it may leave rows unsettled, or have subscriptions changed.
        self._pipeline.finish()
        if self._outdated or not self._applier.begin_rounds(transaction):
            return False
        self._tried.add(transaction.commit)
        self._pipeline.begin(batch)
        return True

    def _watch_arriving(self) -> None:
        """Raise GivenUp, or what has failed, if what arrives cannot go on."""
        arriving = self._pipeline.arriving
        if arriving is not None:
            self._pipeline.proceed()
            if time.monotonic() - arriving.put_at > ARRIVES_WITHIN:
                raise GivenUp

    def _apply(self, connection: psycopg.Connection[Any], batch: Batch) -> Applied:  # noqa: ARG002
        """Write a batch; while that goes on aside, nothing else here uses the connection."""
        began = time.monotonic()
        mine = [t for t in batch.transactions if self._answers_us(t)]

        def finish(cursor: psycopg.Cursor[Any]) -> None:
            plan = self._applier.plan
            if batch.new_run:
                # Before its answers are looked at: capture may run other code now.
                self._ungate(cursor, every=True)
            for transaction in mine:
                if transaction.hashed:
                    compare(cursor, self._place, self._applier, transaction)
            turn_pages(cursor, self._place, plan, mine)
            if batch.mark is not None:
                take_mark(cursor, self._place, plan, batch.mark)

        written = self._try(batch, finish)
        return Applied(batch, mine, written, time.monotonic() - began)

    def _settle(self, connection: psycopg.Connection[Any], applied: Applied) -> None:
        """Tell of a batch that is written, and ask for what it leaves wanting."""
        batch, written = applied.batch, applied.written
        batch.close()
        self._callers.tell()
        if self._stopped:
            logger.info(
                "Stream %s of %s goes on.",
                self._place.stream,
                self._place.source,
                extra={"event": "stream_goes_on"},
            )
            self._stopped = False
            self._counted = ""
            self._health.ready(True, "")
            gauge(metrics.STOPPED).labels(*self._place).set(0)
        self._count(batch, written, applied.seconds)
        self._forget = self._forget or batch.new_run
        due = self._note_answers(applied)
        if due or written.judged:
            self._due = 0.0
            self._outdated = self._housekeeping(connection, written.looked)

    def _note_answers(self, applied: Applied) -> bool:
        """Take note of answers that are applied; give whether more is to be asked for at once."""
        mine, pace = applied.mine, applied.seconds / max(1, applied.batch.rows)
        answers = [(t.answer, t.size) for t in mine if t.answer]
        for answer, _ in answers:
            if answer.refused:
                self._asker.refused(answer.request)
        answered = [(answer.request, size) for answer, size in answers if not answer.refused]
        due = self._asker.answered(answered, pace)
        return due or len(answered) < len(mine)

    def _ungate(self, cursor: psycopg.Cursor[Any], *, every: bool) -> None:
        ungate(cursor, self._place, every=every)

    def _try(self, batch: Batch, finish: Any) -> Written:
        """Apply, again after a deadlock with local traffic."""
        for _ in range(DEADLOCK_TRIES - 1):
            try:
                return self._applier.apply(batch, finish)
            except _LOCKS as error:
                if batch.arriving is not None:
                    raise GivenUp from error
                logger.info("Met a lock; trying the batch again.", extra={"event": "lock_retry"})
        return self._applier.apply(batch, finish)

    def _answers_us(self, transaction: Transaction) -> bool:
        return transaction.answer is not None and self._is_ours(transaction.answer)

    def _is_ours(self, answer: Answer) -> bool:
        return (
            answer.target == self._settings.environment
            and answer.plan == self._applier.plan.fingerprint
        )

    def _count(self, batch: Batch, written: Written, seconds: float) -> None:
        place = self._place
        for (table, op), number in written.rows.items():
            counter(metrics.ROWS).labels(*place, str(table), op).inc(number)
        for name, number in written.absent.items():
            counter(metrics.ABSENT).labels(*place, str(name)).inc(number)
        for name, number in written.made_way.items():
            logger.warning(
                "%d row(s) of %s that left did not stay: other rows have their unique values.",
                number,
                name,
                extra={"event": "left_made_way", "table": str(name), "rows": number},
            )
        counter(metrics.TRANSACTIONS).labels(*place).inc(
            sum(each.count for each in batch.transactions)
        )
        histogram(metrics.BATCH_ROWS).labels(*place).observe(batch.rows)
        histogram(metrics.BATCH_SECONDS).labels(*place).observe(seconds)
        gauge(metrics.POSITION).labels(*place).set(batch.next)
        gauge(metrics.LAG).labels(*place).set(max(0.0, time.time() - batch.committed_ms / 1000))

    def _change_epoch(self, connection: psycopg.Connection[Any], new: NewEpoch) -> None:
        """Go on in the epoch that the source has begun: every subscription is backfilled."""
        logger.warning(
            "Stream %s of %s goes on in epoch %s (%s); every subscription is backfilled.",
            self._place.stream,
            self._place.source,
            new.start.id,
            new.start.reason,
            extra={"event": "new_epoch", "epoch": new.start.id},
        )
        stored = StoredPosition(Position(new.start.id, new.start.start), new.offset)
        with connection.transaction(), connection.cursor() as cursor:
            if fence(cursor, self._place) != self._consumer.stored:
                raise Overtaken
            begin_at(cursor, self._place, self._settings.environment, stored)
            for subscription in stored_subscriptions(cursor, self._place):
                start_run(cursor, subscription.id, "new epoch")

    # What is not the stream ----------------------------------------------------------------------

    def _housekeeping(
        self, connection: psycopg.Connection[Any], looked: Collection[TableName] | None = None
    ) -> bool:
        """Ask and report what is due; True if subscriptions or runs changed: begin again.

        Args:
            connection: of the target.
            looked: the tables in which a batch may have kept rows just now; None: look at all.
        """
        now = time.monotonic()
        if now < self._due:
            return False
        self._pipeline.join()
        self._due = now + HOUSEKEEPING
        plan = self._applier.plan
        with connection.cursor() as cursor:
            if self._forget:
                self._forget = False
                self._asker.forget(cursor)
            wanted = count_wanted(cursor, self._place, plan)
            # Before all else: the next batch of the same poll is written by it.
            kept = self._look_for_kept(cursor, looked)
            suspect = tables_with_suspects(cursor, self._place, plan)
            filling = {name for name in suspect if plan.tables[name].enters_alone}
            self._applier.filling = filling
            self._applier.unsettled = kept | tables_awaiting(plan, wanted) | (suspect - filling)
            self._ungate(cursor, every=False)
            self._schedule(cursor)
            if self._changed(cursor):
                return True
            stored = stored_subscriptions(cursor, self._place)
            asked = self._asker.ask(cursor, plan)
            asked += self._ask_checks(cursor, {s.id: s.gate for s in stored})
            if now >= self._report_due:
                self._report(cursor)
                self._measure_calls(cursor)
        counter(metrics.REQUESTS).labels(*self._place).inc(asked)
        self._show_wanted({name: n for name, n in wanted.items() if n <= FEW}, wanted)
        return self._asker.drops

    def _report(self, cursor: psycopg.Cursor[Any]) -> None:
        """Tell the source how this target is, and count what is wanted."""
        began = time.monotonic()
        wanted, environment = wanted_by_table(cursor, self._place), self._settings.environment
        number = sum(wanted.values())
        self._asker.report(make_report(cursor, self._place, environment, number, dry=self._dry))
        self._show_wanted(wanted)
        # Very many take long to count, and the stream waits.
        took = time.monotonic() - began
        self._report_due = began + max(REPORT, REPORT_SHARE * took)

    def _look_for_kept(
        self, cursor: psycopg.Cursor[Any], looked: Collection[TableName] | None
    ) -> frozenset[TableName]:
        """See which tables have kept rows; after a batch, only of those it has looked at."""
        applier = self._applier
        if applier.kept is None:
            looked = None
        found = frozenset(tables_with_kept_rows(cursor, applier.plan, looked))
        others = frozenset() if looked is None else frozenset(applier.kept or ()) - set(looked)
        applier.kept = kept = found | others
        return kept

    def _show_wanted(self, wanted: Mapping[str, int], more: Collection[str] = ()) -> None:
        """Show the number of wanted rows of each table, but for those of which there are more."""
        for table in map(str, self._applier.plan.tables):
            if table in wanted or table not in more:
                gauge(metrics.WANTED).labels(*self._place, table).set(wanted.get(table, 0))

    def _measure_calls(self, cursor: psycopg.Cursor[Any]) -> None:
        """Tell how many calls of functions are due, of the tables that have some."""
        hooked = [str(name) for name, table in self._applier.plan.tables.items() if table.hooks]
        due = due_calls(cursor, self._place) if hooked else {}
        for name in hooked:
            calls, age = due.get(name, Due(0, 0.0))
            gauge(metrics.CALLS_DUE).labels(*self._place, name).set(calls)
            gauge(metrics.CALLS_AGE).labels(*self._place, name).set(age)

    def _schedule(self, cursor: psycopg.Cursor[Any]) -> None:
        """Have rows chosen anew where it is time."""
        for subscription in self._applier.plan.subscriptions:
            dataset = subscription.dataset
            rule = next_selecting(dataset.paged)
            if (
                rule is not None
                and dataset.every is not None
                and schedule_run(cursor, subscription.id, rule, dataset.every)
            ):
                logger.info(
                    "Rows of %s are chosen anew.",
                    dataset.full_name,
                    extra={"event": "scheduled_run", "dataset": dataset.full_name},
                )

    def _changed(self, cursor: psycopg.Cursor[Any]) -> bool:
        """Whether other subscriptions stand, or otherwise, than the plan knows."""
        plan, wanted = self._applier.plan, wanted_subscriptions(cursor, self._place)
        standing = {
            (s.id, s.generation, bool(s.gate), s.on_clash) for s in wanted if not s.stands_still
        }
        return (
            standing != {(s.id, s.generation, s.gated, s.on_clash) for s in plan.subscriptions}
            or {s.id for s in wanted if s.stands_still} != set(plan.frozen)
            or bool(endings(cursor, self._place))
        )

    def _ask_checks(self, cursor: psycopg.Cursor[Any], gates: Mapping[int, str]) -> int:
        """Ask for what is compared; give the number of requests.

        Args:
            cursor: of the target.
            gates: by subscription of the plan, why the source refuses it, "" if it does not.
        """
        plan, asked = self._applier.plan, 0
        for check in open_checks(cursor, self._place, plan):
            gate = gates.get(check.subscription)
            if gate:
                end_check(cursor, check, gate)
            elif gate is not None:
                request = partial(check_request, plan, check, self._settings.environment)
                asked += self._asker.ask_once(check_id(check), request)
        return asked
