"""One target transaction in few round trips: the fence comes first, the position last.

The fence is the position row, locked: whoever reads another position there than the one he has in
memory was overtaken by another worker, and writes nothing. Its answer need not be waited for: what
is sent along with it is rolled back (but for `setval`, see `sequences`). Blocks on Postgres.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from replicator_apply.state import Place, StoredPosition, advancing, fencing, stored_of


class Overtaken(Exception):
    """Another worker has applied meanwhile: the position is not the one in memory."""


class FencedCursor(psycopg.Cursor[Any]):
    """A cursor whose transaction begins with the first statement, in the same round trip.

    The first statement may be executed before the fence is looked at; nothing is committed then.
    Only `execute` and `copy` begin: the session's other ways past it must not come first.

    Args:
        connection: in autocommit mode, idle.
        place: the stream.
        stored: what the position row must say.
    """

    def __init__(
        self, connection: psycopg.Connection[Any], place: Place, stored: StoredPosition
    ) -> None:
        super().__init__(connection)
        self._place, self._stored, self._begun = place, stored, False

    def begin(self, statement: str = "") -> None:
        """Begin unless that was done; with the statement, if any, whose result is the current one.

        Raises:
            Overtaken: the position is another one.
        """
        if self._begun:
            return
        self._begun = True
        # The simple protocol takes several statements
        # (https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-MULTI-STATEMENT).
        super().execute(f"BEGIN; {fencing(self._place)}; {statement}", prepare=False)
        self.nextset()
        self.nextset()
        if stored_of(self.fetchone()) != self._stored:
            raise Overtaken
        if statement:
            self.nextset()

    def execute(self, query: Any, params: Any = None, **options: Any) -> "FencedCursor":
        """Execute, behind the fence; see psycopg."""
        alone = params is None and options.keys() <= {"prepare"}
        if not self._begun and isinstance(query, str) and alone:
            self.begin(query)
            return self
        self.begin()
        super().execute(query, params, **options)
        return self

    def copy(self, statement: Any, params: Any = None, **options: Any) -> Any:
        """Copy, behind the fence; see psycopg."""
        self.begin()
        return super().copy(statement, params, **options)

    def commit(self, following: StoredPosition, committed_ms: int) -> None:
        """Store how far the batch brings the stream, and commit.

        Args:
            following: what the position row says after.
            committed_ms: when the last transaction was committed on the source, ms since 1970.
        """
        # What commits must not be the statement that goes along with the fence.
        self.begin()
        text = advancing(self._place, following, committed_ms)
        self.execute(f"{text}; COMMIT", prepare=False)


@contextmanager
def fenced(
    connection: psycopg.Connection[Any], place: Place, stored: StoredPosition
) -> Iterator[FencedCursor]:
    """Give a cursor for one transaction; roll back unless it was committed."""
    with FencedCursor(connection, place, stored) as cursor:
        try:
            yield cursor
        finally:
            if connection.info.transaction_status != TransactionStatus.IDLE:
                # A session that is lost has rolled back by itself, and says so at its next use.
                with suppress(psycopg.Error):
                    connection.rollback()
