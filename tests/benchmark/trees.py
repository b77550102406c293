"""W6: questions with choices, votes and voters, every fifth question published.

A transaction changes 10 rows: four votes come, two change, two go, a choice and a question change.
Votes come, change and go in pairs of opposite weights, under one question; so the weights below a
question add up to 0 in every state that a transaction leaves, and each question has four choices.
A reader of the target sees by that whether a tree, or a transaction, is torn. In every tenth
transaction the change of the question is that it is published, or no longer: its tree enters or
leaves where the dataset follows relations.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.benchmark.sites import Connection, Site, open_connection

CHANGES = 10
"""Rows changed by a transaction."""
ROWS_OF_QUESTION = 100
"""Changed rows for each question that there is."""
CHOICES = 4
PAIRS = 10
"""Pairs of votes of each question at the beginning."""
VOTERS = 5
"""Voters of each question."""
EVERY = 5
"""Of so many questions, one is published."""
TURN = 10
"""In one of so many transactions, a question enters or leaves."""

_FILL = f"""
TRUNCATE parcels_vote, parcels_choice, parcels_question, parcels_voter;
INSERT INTO parcels_voter (id, name) SELECT n, 'voter ' || n
FROM generate_series(1, {{questions}} * {VOTERS}) AS n;
INSERT INTO parcels_question (id, published, title, changed_at)
SELECT n, n % {EVERY} = 0, 'which of the four, number ' || n, now()
FROM generate_series(1, {{questions}}) AS n;
INSERT INTO parcels_choice (id, question_id, text)
SELECT n, (n - 1) / {CHOICES} + 1, 'the choice of those who like ' || n
FROM generate_series(1, {{questions}} * {CHOICES}) AS n;
INSERT INTO parcels_vote (id, choice_id, voter_id, weight, comment)
SELECT 2 * p - 1 + half,
       (p % {{questions}}) * {CHOICES} + 1 + (p / {{questions}} + half) % {CHOICES},
       (p % {{questions}}) * {VOTERS} + 1 + p / {{questions}} % {VOTERS},
       (1 - 2 * half) * (1 + p % 9), 'because of reason ' || p
FROM generate_series(1, {{questions}} * {PAIRS}) AS p, generate_series(0, 1) AS half
"""
_TRANSACTION = f"""
    q := (i::bigint * 7919) % {{questions}};
    FOR k IN 1..2 LOOP
        p := {{pairs}} + 2 * i + k;
        INSERT INTO parcels_vote (id, choice_id, voter_id, weight, comment)
        SELECT 2 * p - 1 + half, q * {CHOICES} + 1 + (p + half) % {CHOICES},
               q * {VOTERS} + 1 + p % {VOTERS}, (1 - 2 * half) * (1 + p % 9),
               'because of reason ' || p FROM generate_series(0, 1) AS half;
    END LOOP;
    UPDATE parcels_vote SET weight = weight + CASE id % 2 WHEN 1 THEN 1 ELSE -1 END
    WHERE id BETWEEN 2 * ({{pairs}} + i + 1) - 1 AND 2 * ({{pairs}} + i + 1);
    DELETE FROM parcels_vote WHERE id BETWEEN 2 * (i + 1) - 1 AND 2 * (i + 1);
    UPDATE parcels_choice SET text = text || '.' WHERE id = q * {CHOICES} + 1 + i % {CHOICES};
    IF i % {TURN} = 0 THEN
        j := i / {TURN} / 2 % ({{questions}} / {EVERY});
        r := i / {TURN} / 2 / ({{questions}} / {EVERY}) + (i / {TURN}) % 2;
        UPDATE parcels_question SET published = i / {TURN} % 2 = 1, changed_at = now()
        WHERE id = j * {EVERY} + 1 + (r + {EVERY} - 1) % {EVERY};
    ELSE
        UPDATE parcels_question SET changed_at = now() WHERE id = q + 1;
    END IF
"""


def fill(connection: Connection, rows: int) -> None:
    """Begin anew with as many trees as `write` needs."""
    connection.execute(_FILL.format(questions=_questions(rows)))


def _questions(rows: int) -> int:
    return max(EVERY * 2, rows // ROWS_OF_QUESTION // EVERY * EVERY)


def write(connection: Connection, rows: int) -> int:
    """W6: 10 rows a transaction, behind `fill` of as many; gives the number of rows changed."""
    questions, times = _questions(rows), max(1, rows // CHANGES)
    body = _TRANSACTION.format(questions=questions, pairs=questions * PAIRS)
    connection.execute(
        "DO $$ DECLARE q bigint; p bigint; j bigint; r bigint; BEGIN "
        f"FOR i IN 0..{times - 1} LOOP SET LOCAL synchronous_commit = off; {body}; COMMIT; "
        "END LOOP; END $$"
    )
    return times * CHANGES


_TORN = f"""
SELECT count(*) FROM parcels_question q LEFT JOIN LATERAL (
    SELECT count(*) AS choices, sum(weights) AS weights FROM (
        SELECT (SELECT sum(weight) FROM parcels_vote v WHERE v.choice_id = c.id) AS weights
        FROM parcels_choice c WHERE c.question_id = q.id
    ) each_choice
) tree ON true WHERE q.id %% 7 = %s AND (choices <> {CHOICES} OR weights <> 0)
"""
"""Counts trees of which a part is missing, in one snapshot; a seventh of them, to look often."""
_PAUSE = 0.2


class Torn:
    """What the reader has seen.

    Attributes:
        looks: how often it looked.
        trees: how many torn trees it saw.
    """

    def __init__(self) -> None:
        self.looks = self.trees = 0


@contextmanager
def watched(site: Site) -> Iterator[Torn]:
    """Look for torn trees in the target while the body runs."""
    torn, done = Torn(), threading.Event()

    def look() -> None:
        with open_connection(site.target) as connection:
            while not done.wait(_PAUSE):
                row = connection.execute(_TORN, [torn.looks % 7]).fetchone()
                torn.trees += int(row[0]) if row else 0
                torn.looks += 1

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield torn
    finally:
        done.set()
        thread.join()
