"""The calls of `on_applied` functions that are due, as they are stored. Blocks on Postgres.

They are stored by the transactions that write the rows (`call_sql`), in the order of the commits,
and are deleted when their function has returned.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg
from django.db.models import BooleanField, Field, Model
from psycopg import sql

from replicator.applied import Applied, PrimaryKey
from replicator.models import AppliedCall
from replicator_apply.call_sql import CHUNK
from replicator_apply.state import Place, state_table

Cursor = psycopg.Cursor[Any]
Keys = Sequence[Sequence[str]]

TRIES = 10
"""Failures in a row after which a call rests: those behind it go on."""
REST = 3_600.0
"""Seconds after which a call that rests is tried once more."""
AHEAD = 100
"""Calls that are read at once, to make one of them."""


@dataclass(frozen=True, slots=True)
class Call:
    """A row of `replicator_appliedcall`.

    Attributes:
        table: schema.table
        inserted, updated, deleted: keys, each the text of its values.
        tries: how often it has failed.
    """

    id: int
    table: str
    inserted: Keys
    updated: Keys
    deleted: Keys
    tries: int

    @property
    def size(self) -> int:
        """Keys in it."""
        return len(self.inserted) + len(self.updated) + len(self.deleted)


class Due(NamedTuple):
    """What is due for one table: calls, and seconds since the oldest was stored."""

    calls: int
    age: float


_AT = "WHERE source = %(source)s AND stream = %(stream)s"


def _compose(text: str) -> sql.Composed:
    return sql.SQL(text).format(calls=state_table(AppliedCall), at=sql.SQL(_AT))


_NEXT = _compose(
    "SELECT id, table_name, inserted, updated, deleted, tries FROM {calls} {at} "
    "AND function = %(function)s AND table_name = ANY(%(tables)s) AND (tries < %(tries)s "
    "OR (tried_at < now() - make_interval(secs => %(rest)s)) IS NOT FALSE) "
    "ORDER BY id LIMIT %(limit)s"
)
_WAKE = _compose(
    "UPDATE {calls} SET tried_at = NULL {at} AND function = %(function)s AND tries >= %(tries)s"
)
_DONE = _compose("DELETE FROM {calls} WHERE id = ANY(%s)")
_FAILED = _compose(
    "UPDATE {calls} SET tries = tries + 1, tried_at = now(), error = %(error)s, "
    "failed_at = coalesce(failed_at, now()) WHERE id = ANY(%(ids)s)"
)
_DUE = _compose(
    "SELECT table_name, count(*), extract(epoch FROM now() - min(created_at))::float8 "
    "FROM {calls} {at} GROUP BY table_name"
)


def next_calls(
    cursor: Cursor, place: Place, function: str, tables: Collection[str]
) -> tuple[Call, ...]:
    """Give the oldest calls that are due, as many as make one; none: nothing is due.

    Args:
        cursor: of the target.
        place: the stream.
        function: its name.
        tables: those that it is declared for.
    """
    values = {"function": function, "tables": list(tables), "tries": TRIES, "rest": REST}
    found = cursor.execute(_NEXT, {**place.parameters, **values, "limit": AHEAD})
    return together(Call(*row) for row in found)


def together(calls: Iterable[Call]) -> tuple[Call, ...]:
    """Choose the calls, from the first on, that are made as one: a bounded number of keys. Pure.

    One that has failed before is made alone, so that it holds up no other.
    """
    chosen: list[Call] = []
    room = CHUNK
    for call in calls:
        alone = chosen and (call.tries or chosen[0].tries or call.table != chosen[0].table)
        if alone or (chosen and call.size > room):
            break
        chosen.append(call)
        room -= call.size
    return tuple(chosen)


def wake_resting(cursor: Cursor, place: Place, function: str) -> None:
    """Have the calls that rest tried at once: the code may be another one now."""
    cursor.execute(_WAKE, {**place.parameters, "function": function, "tries": TRIES})


def note_done(cursor: Cursor, calls: Iterable[Call]) -> None:
    """Strike off calls that were made."""
    cursor.execute(_DONE, ([call.id for call in calls],))


def note_failure(cursor: Cursor, calls: Iterable[Call], error: str) -> None:
    """Note that calls failed, and why."""
    cursor.execute(_FAILED, {"ids": [call.id for call in calls], "error": error})


def due_calls(cursor: Cursor, place: Place) -> dict[str, Due]:
    """Count what is due in a stream, by table."""
    return {str(name): Due(n, age) for name, n, age in cursor.execute(_DUE, place.parameters)}


def applied(model: type[Model], calls: Iterable[Call]) -> Applied:
    """Make of calls, the oldest first, what the function is told: each key once. Pure."""
    fate: dict[tuple[str, ...], str] = {}
    for call in calls:
        for op, keys in (("u", call.updated), ("c", call.inserted), ("d", call.deleted)):
            for key in map(tuple, keys):
                before = fate.pop(key, None)
                # What was here before, or new before, stays so; what it ends as comes last.
                fate[key] = op if op == "d" or before is None else "c" if before == "c" else "u"
    by_op: dict[str, list[PrimaryKey]] = {"c": [], "u": [], "d": []}
    fields = model._meta.pk_fields
    for key, op in fate.items():
        by_op[op].append(python_key(fields, key))
    return Applied(model, *(tuple(by_op[op]) for op in "cud"))


def python_key(fields: "Sequence[Field[Any, Any]]", texts: Sequence[str]) -> PrimaryKey:
    """Give a primary key as the model's fields have it in Python, from Postgres' texts. Pure."""
    values = tuple(_python(*pair) for pair in zip(fields, texts, strict=True))
    return values[0] if len(values) == 1 else values


def _python(field: "Field[Any, Any]", text: str) -> object:
    # https://www.postgresql.org/docs/current/datatype-boolean.html: as text it is true or false.
    return text == "true" if isinstance(field, BooleanField) else field.to_python(text)
