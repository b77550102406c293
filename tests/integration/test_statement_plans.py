"""No statement of a small batch reads a large table from end to end.

REPLICATOR_TEST_HELD   rows of each table that are held: 1000000. Of few rows Postgres rightly reads
                       all, so the test is not run without.
REPLICATOR_TEST_PLANS  a file for every plan
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator.plan import TableName
from tests.integration.conftest import StartTarget
from tests.integration.test_relations import asked, choice, question, user, vote
from tests.support.target import Target

HELD = int(os.environ.get("REPLICATOR_TEST_HELD", "0"))
CHANGES = max(100, HELD // 1000)
LARGE = ("polls_vote", "polls_choice", "polls_question", "auth_user")

_FILL = f"""
INSERT INTO auth_user (id, password, is_superuser, username, first_name, last_name, email, is_staff,
  is_active, date_joined)
SELECT n, '', false, 'u' || n, '', '', '', false, true, now() FROM generate_series(1, {HELD}) n;
INSERT INTO polls_question (id, question_text, body, published, pub_date, author_id)
SELECT n, 'which', '', true, now(), n FROM generate_series(1, {HELD}) n;
INSERT INTO polls_choice (id, question_id, choice_text, rank, votes)
SELECT n, n, 'this', 1, 0 FROM generate_series(1, {HELD}) n;
INSERT INTO polls_vote (id, choice_id, voter_email, weight, cast_at)
SELECT n, n, 'a@b.c', 1, now() FROM generate_series(1, {HELD}) n;
"""
_RECEIPTS = """
INSERT INTO replicator."public.{0}" (id, subscription_id, generation)
SELECT id, (SELECT id FROM replicator_subscription), 1 FROM {0};
"""


def fill(target: Target) -> None:
    """Hold many trees."""
    target.execute(_FILL)
    for name in LARGE:
        target.execute(_RECEIPTS.format(name))
    target.execute("UPDATE replicator_subscription SET generation = 1")
    target.execute("VACUUM ANALYZE")


class Plans:
    """The plans of all statements that a worker has run."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []
        self.errors: list[psycopg.Error] = []

    def note(self, cursor: psycopg.Cursor[Any], query: Any, parameters: Any) -> None:
        """Explain the statements of a text, before they are run, under the settings it makes."""
        text = query if isinstance(query, str) else query.as_string(cursor)
        begins = text.startswith("BEGIN;")

        def run(statement: str, *values: Any) -> psycopg.Cursor[Any]:
            execute = psycopg.Cursor.execute.__wrapped__  # type: ignore[attr-defined]
            return execute(cursor, statement, *values, prepare=False)  # type: ignore[no-any-return]

        if begins:
            run("BEGIN")
        for statement in re.split(r";\s+(?=SET|SELECT|INSERT|UPDATE|DELETE|WITH)", text):
            if statement.startswith("SET LOCAL"):
                run(statement)
            elif re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)", statement):
                explained = run(f"EXPLAIN {statement.removesuffix('; COMMIT')}", parameters)
                self.found.append((statement, "\n".join(row[0] for row in explained)))
        if begins:
            run("ROLLBACK")

    @property
    def scanning(self) -> Iterator[str]:
        """Give the plans that read one of the large tables, or its receipts, from end to end."""
        names = "|".join([*LARGE, *(f'"{TableName("public", name)}"' for name in LARGE)])
        for statement, plan in self.found:
            if re.search(rf"Seq Scan on ({names})\b", plan.replace('"public.', '"public.')):
                yield f"{statement}\n{plan}"


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> Plans:
    """Explain what workers run."""
    found, execute = Plans(), psycopg.Cursor.execute

    def explained(
        cursor: psycopg.Cursor[Any], query: Any, params: Any = None, **options: Any
    ) -> psycopg.Cursor[Any]:
        in_transaction = cursor.connection.info.transaction_status.name == "INTRANS"
        in_transaction |= isinstance(query, str) and query.startswith("BEGIN;")
        application = cursor.connection.info.get_parameters().get("application_name")
        if in_transaction and application == "replicator apply":
            found.note(cursor, query, params)
        return execute(cursor, query, params, **options)

    explained.__wrapped__ = execute  # type: ignore[attr-defined]
    monkeypatch.setattr(psycopg.Cursor, "execute", explained)
    return found


@pytest.mark.skipif(not HELD, reason="REPLICATOR_TEST_HELD is not given: it takes minutes")
@pytest.mark.timeout(600)
def test_large_tables_are_searched_by_their_indexes(start: StartTarget, plans: Plans) -> None:
    target, published = start("poll-trees")
    fill(target)
    target.stop()
    target.start()
    plans.found.clear()
    new, few = HELD + 1, CHANGES // 10
    target.reach(
        published.transaction(
            *(vote("c", new + n, 7 + n) for n in range(CHANGES)),
            *(vote("u", 1000 + n, 1000 + n, voter_email="x@y.z") for n in range(CHANGES)),
            *(vote("d", 5000 + n, 1) for n in range(few)),
            *(vote("u", 6000 + n, 3 + n) for n in range(few)),
            *(choice("u", 900 + n, 5 + n) for n in range(few)),
            *(question("u", 2000 + n, published=False, author_id=2000 + n) for n in range(few)),
            *(question("d", 2500 + n) for n in range(few)),
            *(question("u", HELD + 9 + n, published=True) for n in range(few)),
            *(user("c", HELD + 99 + n) for n in range(few)),
        )
    )
    rows = [question("r", HELD + 9 + n, published=True) for n in range(few)]
    asked(target, published, *rows, choice("r", HELD + 9, HELD + 9))
    assert len(plans.found) > 100
    if record := os.environ.get("REPLICATOR_TEST_PLANS"):
        texts = [f"{statement}\n\n{plan}\n" for statement, plan in dict(plans.found).items()]
        Path(record).write_text("\n".join(texts))
    scanning = list(plans.scanning)
    assert not scanning, f"{len(scanning)} of {len(plans.found)}:\n" + "\n\n".join(scanning)
