"""The capture daemon: start-up, then a run, again and again until it is told to stop.

`replicator.stop.supervise` begins the next run if a service was away.
"""

import logging
import time
from contextlib import ExitStack, closing, suppress

import psycopg

from replicator.envelope import Source
from replicator.http import Health
from replicator.log.port import Log, open_log
from replicator.positions import Lsn
from replicator.postgres import connect
from replicator.stop import Stop
from replicator_capture import facts, prepare
from replicator_capture.run import Run
from replicator_capture.task import Task
from replicator_capture.worker import Halted, unless_stopped

logger = logging.getLogger(__name__)


class Capture:
    """One stream's capture, over all runs of this process.

    Args:
        task: what to do.
        new_epoch: begin a new epoch, once.
        reason: why.
    """

    def __init__(self, task: Task, *, new_epoch: bool = False, reason: str = "by command") -> None:
        self._task, self._new_epoch, self._reason = task, new_epoch, reason

    def run(self, stop: Stop, health: Health) -> None:
        """Capture until it is told to stop.

        Raises:
            DatabaseUnavailable, LogUnavailable: begin again after a pause.
            Refused, LostLog, BadRecord: the process must end.
        """
        with suppress(Halted):
            self._run(stop, health)

    def _run(self, stop: Stop, health: Health) -> None:
        task = self._task
        log = open_log(task.settings.log, task.settings.log_options)
        if task.settings.auto_prepare:
            _create_topics(task, stop, health)
        # Not the connection's own context: at its end it would wait for the keeper, and that one
        # perhaps for a host that has gone.
        with closing(connect(task.database)) as connection:
            site = _site(task, connection, log, stop, health)
            health.turned()
            health.ready(False, "another capture streams, or start-up is under way")
            start = facts.begin(site, new_epoch=self._new_epoch, reason=self._reason)
            if start is None:
                return
            self._new_epoch = False
            with ExitStack() as stack:
                run = Run(task, site, start, stack)
                health.ready(True)
                run.loop(stop, health)


def _create_topics(task: Task, stop: Stop, health: Health) -> None:
    def create() -> list[str]:
        return prepare.create_topics(task.settings, task.stream)

    for problem in unless_stopped("topics", create, stop, health.turned):
        logger.warning("Topic: %s", problem, extra={"event": "topic"})


def _site(
    task: Task, connection: psycopg.Connection, log: Log, stop: Stop, health: Health
) -> facts.Site:
    return facts.Site(
        connection=connection,
        log=log,
        topic=task.topic,
        stream=task.stream,
        releases=task.releases,
        beat_table=task.beat_table,
        auto_prepare=task.settings.auto_prepare,
        source=_source(task, connection),
        stop=stop,
        turned=health.turned,
    )


def _source(task: Task, connection: psycopg.Connection) -> Source:
    return Source(
        version="1",
        connector="replicator",
        name=task.settings.environment,
        db=connection.info.dbname,
        schema="",
        table="",
        txId=0,
        lsn=Lsn(0),
        ts_ms=time.time_ns() // 1_000_000,
        snapshot="false",
    )
