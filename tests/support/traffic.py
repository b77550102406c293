"""Random whole transactions on a source, and a reader of the target that would see them torn.

Every transaction writes its number into two tables; every team's name says how many members it
has. Each runs in a thread of its own until it is ended, and waits out a server that is away.
"""

import random
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import psycopg

Cursor = psycopg.Cursor[Any]

_OTHERS = "(SELECT id FROM polls_question WHERE id > 1 ORDER BY random() LIMIT %s)"


class _Loop:
    """Repeats one step on one connection, in a thread, over lost connections."""

    def __init__(self, conninfo: str, pause: float) -> None:
        self._conninfo, self._pause = conninfo, pause
        self._end = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                with psycopg.connect(self._conninfo, autocommit=True) as connection:
                    while not self._end.is_set():
                        self._step(connection)
                        self._end.wait(self._pause)
            except psycopg.OperationalError:
                self._end.wait(0.05)
            except BaseException as error:  # noqa: BLE001 (handed over to the test)
                self.error = error
                return

    def _step(self, connection: psycopg.Connection[Any]) -> None:
        raise NotImplementedError

    def end(self) -> None:
        """End the thread; raise what ended it before."""
        self._end.set()
        self._thread.join(20)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()


class Traffic(_Loop):
    """Writes random transactions.

    Args:
        conninfo: of the source.
        seed: of the history.
        pause: seconds between two transactions.
    """

    def __init__(self, conninfo: str, seed: int, pause: float = 0.012) -> None:
        self.count = 0
        self._random = random.Random(seed)
        self._steps: list[Callable[[Cursor, int], None]] = [
            new_team,
            grow_team,
            drop_team,
            swap_teams,
            choose_captain,
            self._new_question,
            self._change_questions,
            drop_question,
        ]
        super().__init__(conninfo, pause)

    def at_least(self, count: int, timeout: float = 60) -> None:
        """Wait until so many further transactions are committed."""
        target, until = self.count + count, time.monotonic() + timeout
        while self.count < target:
            assert self.error is None, self.error
            assert time.monotonic() < until, f"{self.count} of {target} transactions"
            time.sleep(0.005)

    def _step(self, connection: psycopg.Connection[Any]) -> None:
        with connection.transaction(), connection.cursor() as cursor:
            number = next_number(cursor)
            for step in self._random.choices(self._steps, k=self._random.randint(1, 3)):
                step(cursor, number)
            if self._random.random() < 0.04:
                add_team(cursor, f"{number}-large", 130)
        self.count += 1

    def _new_question(self, cursor: Cursor, number: int) -> None:
        published, priority = self._random.random() < 0.5, self._random.randint(0, 9)
        add_question(cursor, f"q{number}", published=published, priority=priority)

    def _change_questions(self, cursor: Cursor, _number: int) -> None:
        cursor.execute(
            "UPDATE polls_question SET published = NOT published, priority = %s"
            f" WHERE id IN {_OTHERS}",
            [self._random.randint(0, 9), self._random.randint(1, 3)],
        )


def next_number(cursor: Cursor) -> int:
    """Write the next number into both tables."""
    row = cursor.execute(
        "UPDATE polls_question SET priority = priority + 1 WHERE id = 1 RETURNING priority"
    ).fetchone()
    assert row is not None
    cursor.execute("UPDATE shop_order SET number = %s WHERE id = 1", [str(row[0])])
    return int(row[0])


def begin(conninfo: str, teams: int = 40, questions: int = 60) -> None:
    """Write what a history begins with."""
    with psycopg.connect(conninfo) as connection, connection.cursor() as cursor:
        add_question(cursor, "the number", published=True, priority=100, large=0)
        cursor.execute("INSERT INTO shop_order (number) VALUES ('100')")
        for number in range(teams):
            add_team(cursor, f"first-{number}", number % 4)
        for number in range(questions):
            add_question(cursor, f"first {number}", published=number % 2 == 0, priority=number % 9)


def add_question(
    cursor: Cursor, text: str, *, published: bool, priority: int, large: float = 0.5
) -> None:
    """Insert a question, whose body is TOASTed with a probability of `large`.

    A TOASTed body does not come with later updates. That of the number, which every transaction
    updates, must come: else no batch would take apply's fast path.
    """
    cursor.execute(
        "INSERT INTO polls_question (question_text, body, published, priority, pub_date)"
        " SELECT %s, CASE WHEN random() >= %s THEN '' ELSE"
        " (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 150)) END,"
        " %s, %s, now()",
        [text, large, published, priority],
    )


def add_team(cursor: Cursor, name: str, members: int) -> None:
    """Insert a team with members; its name ends in their number."""
    cursor.execute(
        "WITH team AS (INSERT INTO shop_team (name) VALUES (%s) RETURNING id)"
        " INSERT INTO shop_member (team_id, name) SELECT id, 'm' || i"
        " FROM team, generate_series(1, %s) AS i",
        [f"{name}/{members}", members],
    )


def new_team(cursor: Cursor, number: int) -> None:
    """Insert a small team."""
    add_team(cursor, f"{number}-{random.getrandbits(40)}", number % 4)  # names need no seed


def _team(cursor: Cursor) -> tuple[int, str] | None:
    row = cursor.execute(
        "SELECT id, name FROM shop_team ORDER BY random() LIMIT 1 FOR UPDATE"
    ).fetchone()
    return (int(row[0]), str(row[1])) if row else None


def grow_team(cursor: Cursor, number: int) -> None:
    """Add a member to a team, and tell so in its name."""
    if (team := _team(cursor)) is None:
        return
    name, _, members = team[1].partition("/")
    cursor.execute(
        "INSERT INTO shop_member (team_id, name) VALUES (%s, %s)", [team[0], f"m{number}"]
    )
    cursor.execute(
        "UPDATE shop_team SET name = %s WHERE id = %s", [f"{name}/{int(members) + 1}", team[0]]
    )


def drop_team(cursor: Cursor, number: int) -> None:
    """Delete a team with its members."""
    if (team := _team(cursor)) is None:
        return
    cursor.execute(
        "UPDATE shop_team SET captain_id = NULL WHERE captain_id IN"
        " (SELECT id FROM shop_member WHERE team_id = %s)",
        [team[0]],
    )
    cursor.execute("DELETE FROM shop_member WHERE team_id = %s", [team[0]])
    cursor.execute("DELETE FROM shop_team WHERE id = %s", [team[0]])


def swap_teams(cursor: Cursor, number: int) -> None:
    """Swap names, which are unique, and members of two teams."""
    one, other = _team(cursor), _team(cursor)
    if one is None or other is None or one[0] == other[0]:
        return
    rename = "UPDATE shop_team SET name = %s WHERE id = %s"
    cursor.execute(rename, ["passing/0", one[0]])
    cursor.execute(rename, [one[1], other[0]])
    cursor.execute(rename, [other[1], one[0]])
    cursor.execute(
        "UPDATE shop_member SET team_id = CASE team_id WHEN %(one)s THEN %(other)s ELSE %(one)s END"
        " WHERE team_id IN (%(one)s, %(other)s)",
        {"one": one[0], "other": other[0]},
    )


def choose_captain(cursor: Cursor, number: int) -> None:
    """Give a team a captain, who closes a cycle of two tables."""
    cursor.execute(
        "UPDATE shop_team t SET captain_id = (SELECT min(id) FROM shop_member WHERE team_id = t.id)"
        " WHERE id = (SELECT id FROM shop_team ORDER BY random() LIMIT 1)"
    )


def drop_question(cursor: Cursor, number: int) -> None:
    """Delete a question."""
    cursor.execute(f"DELETE FROM polls_question WHERE id IN {_OTHERS}", [1])


_LOOK = """
SELECT (SELECT number FROM shop_order WHERE id = 1),
       (SELECT priority FROM polls_question WHERE id = 1),
       (SELECT count(*) FROM shop_team t WHERE split_part(name, '/', 2)::int <>
               (SELECT count(*) FROM shop_member WHERE team_id = t.id))
"""


class Watch(_Loop):
    """Reads the target again and again.

    Attributes:
        looks: how often it has looked.
        torn: what it saw of transactions that were not whole.
    """

    def __init__(self, conninfo: str) -> None:
        self.looks = 0
        self.torn: list[tuple[Any, ...]] = []
        self.paused = False
        super().__init__(conninfo, 0.02)

    def _step(self, connection: psycopg.Connection[Any]) -> None:
        if self.paused:
            return
        row = connection.execute(_LOOK).fetchone()
        assert row is not None
        if not self.paused and (row[0] != str(row[1]) or row[2]):
            self.torn.append(row)
        self.looks += 1
