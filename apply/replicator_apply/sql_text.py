"""The SQL of one table: the names that all statements share, and how they are filled in. Pure.

Aliases everywhere: `t` the table, `s` its staging table, `v` its candidates, `r` its receipts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, LiteralString, ParamSpec, TypeVar, cast

from psycopg import sql

from replicator.filter_sql import key_text
from replicator.sql_parts import Sql, all_of, any_of, column, equal, identifiers
from replicator_apply.plan import KEPT, LEFT, Table

GONE = sql.SQL("0, false, true, false, false, false")
"""Values of the control columns behind `_set` for a key that is gone, in the order of `LOADED`."""
LOADED = ("_set", "_round", "_present", "_complete", "_read", "_born", "_base")
"""Control columns of a staging table that COPY fills, in this order, before the table's own."""
WANTED = sql.Identifier("public", "replicator_wantedrow")


def among(subscriptions: Iterable[int]) -> Sql:
    """Write the test for a receipt of one of some subscriptions; without any, none is."""
    numbers = list(map(sql.Literal, subscriptions)) or [sql.Literal(None)]
    return sql.SQL("IN ({})").format(sql.SQL(", ").join(numbers))


_OTHER_STREAMS = sql.SQL(
    "SELECT o.id FROM public.replicator_subscription o WHERE "
    "(o.declared OR o.by_command OR o.leaving <> '') AND (o.source, o.stream) <> ({}, {})"
)


P = ParamSpec("P")
T = TypeVar("T")


def once(compose: Callable[P, T]) -> Callable[P, T]:
    """Compose a statement of a table once for the same arguments, and remember it.

    A mapping among them (the tables of a batch) does not count: for a table that can be looked at,
    it is always the same.
    """

    @wraps(compose)
    def remembered(*args: P.args, **kwargs: P.kwargs) -> T:
        owner, *others = args
        key = (compose.__name__, *(each for each in others if not isinstance(each, Mapping)))
        memory: dict[Any, T] = cast("TableText", owner).memory
        found = memory.get(key)
        if found is None:
            found = memory[key] = compose(*args, **kwargs)
        return found

    return remembered


class TableText:
    """Composes statements on one table; each attribute or method gives text ready to execute.

    They take no parameters: a filter may hold percent signs.

    Args:
        table: the table.
        source, stream: which stream it is written by.
    """

    def __init__(self, table: Table, source: str, stream: str) -> None:
        self.table, self.place = table, (source, stream)
        self.memory: dict[Any, Any] = {}
        self._names: dict[str, Sql] = {
            "table": table.identifier,
            "stage": table.stage,
            "candidates": table.candidates,
            "parking": table.parking,
            "loaded": identifiers(LOADED),
            "gone": GONE,
            "receipts": table.receipts,
            "key": identifiers(table.key),
            "tkey": identifiers(table.key, "t"),
            "skey": identifiers(table.key, "s"),
            "vkey": identifiers(table.key, "v"),
            "rkey": identifiers(table.key, "r"),
            "columns": identifiers(table.columns),
            "scolumns": identifiers(table.columns, "s"),
            "ts": self.same_key("t", "s"),
            "tv": self.same_key("t", "v"),
            "sv": self.same_key("s", "v"),
            "rs": self.same_key("r", "s"),
            "rv": self.same_key("r", "v"),
            "tr": self.same_key("t", "r"),
            "kept": sql.Literal(KEPT),
            "left": sql.Literal(LEFT),
            "ours": among(m.subscription for m in table.holders),
            "standing": among(m.subscription for m in table.memberships),
            "known": among([KEPT, *(m.subscription for m in table.memberships)]),
            "name": sql.Literal(str(table.name)),
            "source": sql.Literal(source),
            "stream": sql.Literal(stream),
            "other_streams": _OTHER_STREAMS.format(sql.Literal(source), sql.Literal(stream)),
        }

    def same_key(self, alias: str, other: str) -> Sql:
        """Join two aliases on the primary key."""
        return equal(self.table.key, alias, self.table.key, other)

    def compose(self, text: str, **more: Sql) -> str:
        """Fill a statement's names."""
        return self.part(text, **more).as_string()

    def part(self, text: str, **more: Sql) -> sql.Composed:
        """Fill the names of a part of a statement."""
        return sql.SQL(text).format(**self._names, **more)

    def is_held(self, alias: str) -> Sql:
        """Whether the row of an alias has a receipt of one of the plan's subscriptions."""
        return self._has_receipt(alias, "r.subscription_id {ours}")

    def is_held_by(self, subscription: int, alias: str) -> Sql:
        """Whether the row of an alias has a subscription's receipt."""
        return self._has_receipt(alias, f"r.subscription_id = {int(subscription)}")

    def any_receipt(self, alias: str, subscriptions: Sequence[int]) -> Sql:
        """Whether the row of an alias has a receipt of one of some subscriptions."""
        return any_of(self.is_held_by(number, alias) for number in subscriptions)

    def is_held_elsewhere(self, alias: str) -> Sql:
        """Whether the row of an alias is another stream's too.

        A subscription that rests, because nothing names it any more, holds no row here.
        """
        return self._has_receipt(alias, "r.subscription_id IN ({other_streams})")

    def has_left(self, alias: str) -> Sql:
        """Whether the row of an alias left, and stays by its policy."""
        return self._has_receipt(alias, "r.subscription_id = {left}")

    def is_local(self, alias: str) -> Sql:
        """Whether a local row stands under the key of an alias: it clashes, or is adopted."""
        return self.part(
            "(EXISTS (SELECT FROM {table} l WHERE {same}) AND NOT {ours_})",
            same=self.same_key("l", alias),
            ours_=self._has_receipt(alias, "r.subscription_id NOT IN ({other_streams})"),
        )

    def _has_receipt(self, alias: str, condition: str) -> Sql:
        return self.part(
            "EXISTS (SELECT FROM {receipts} r WHERE {same} AND " + condition + ")",
            same=self.same_key("r", alias),
        )

    def is_wanted(self, alias: str) -> Sql:
        """Whether the row of an alias is wanted."""
        return self.part(
            "EXISTS (SELECT FROM {wanted} w WHERE w.source = {source} AND w.stream = {stream} "
            "AND w.table_name = {name} AND {same})",
            wanted=WANTED,
            same=self.same_wanted(alias),
        )

    def same_wanted(self, alias: str) -> Sql:
        """Whether the wanted row `w`, of this table, has the key of an alias."""
        return self.same_stored("w", [column(name, alias) for name in self.table.key])

    def same_nulled(self, alias: str) -> Sql:
        """Whether the nulled value `n`, of this table, is of the row of an alias."""
        return self.same_stored("n", [column(name, alias) for name in self.table.key])

    def same_stored(self, stored: LiteralString, key: Sequence[Sql]) -> Sql:
        """Whether a row of the state (`w`, `n`) about a row of this table has its key.

        By the table's own equality, where one key may be spelled in several ways. A key of another
        table may be no value of these types, so the CASE: conditions have no order.
        """
        if not self.table.respelled:
            return self.part(f"{stored}.row_key = {{row_key}}", row_key=key_text(key))
        cell = f"({stored}.row_key::jsonb ->> {{place}})::{{type}}"
        return all_of(
            self.part(
                f"CASE WHEN {stored}.table_name = {{name}} THEN {cell} END = {{value}}",
                place=sql.Literal(place),
                type=sql.SQL(self.table.shape.columns[name].type),
                value=value,
            )
            for place, (name, value) in enumerate(zip(self.table.key, key, strict=True))
        )

    def row_key(self, alias: str) -> Sql:
        """Write the key of the row of an alias as text."""
        return key_text(column(name, alias) for name in self.table.key)
