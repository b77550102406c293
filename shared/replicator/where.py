"""From a `Q` to a filter on a table's own columns, with the ORM's meaning of NULL.

Django itself resolves the `Q` (names, value conversion, the `IS NOT NULL` that it adds under a
negation); this module translates the resulting tree and refuses whatever would need another
table, the clock, or a locale to be decided. Pure but for the models' meta.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast, get_args

from django.core.exceptions import FieldError, ValidationError
from django.db.models import Field, Model, Q
from django.db.models.expressions import Col
from django.db.models.lookups import Lookup as DjangoLookup
from django.db.models.query import QuerySet
from django.db.models.sql.where import AND, OR, NothingNode, WhereNode

from replicator.columns import column_name, column_type
from replicator.errors import WrongDeclaration
from replicator.input_text import input_text
from replicator.plan import TEXT_TYPES, And, Compare, Filter, IsNull, Lookup, Not, Or, Release

if TYPE_CHECKING:
    from django.db.models.sql.query import Query

_LOOKUPS = frozenset(get_args(Lookup))
_PATTERNS = frozenset({"startswith", "contains", "endswith"})
COMPARABLE = TEXT_TYPES | {
    "smallint",
    "integer",
    "bigint",
    "boolean",
    "bytea",
    "date",
    "double precision",
    "inet",
    "interval",
    "numeric",
    "real",
    "time",
    "timestamp with time zone",
    "uuid",
}
"""Postgres types whose values have one order everywhere."""
_ALLOWED = (
    "Allowed are exact, in, isnull, lt, lte, gt, gte, range, startswith, contains and endswith "
    "on the model's own, released columns, combined by &, | and ~."
)


def compile_where(model: type[Model], where: Q | None, release: Release) -> Filter | None:
    """Compile the filter of a rule.

    Args:
        model: the rule's model.
        where: its conditions; None or an empty Q: every row.
        release: what of the model may leave; other columns may not be looked at.

    Raises:
        WrongDeclaration: the filter cannot be decided from the row's released columns alone.
    """
    if where is None or not where:
        return None
    _refuse_expressions(where, release.label)
    try:
        query = QuerySet(model).filter(where).query
    except (FieldError, ValueError, TypeError, ValidationError, OverflowError) as error:
        raise _refusal(release.label, str(error)) from error
    return _Translation(query, release).node(query.where)


class _Translation:
    """Translates the resolved tree of one query."""

    def __init__(self, query: "Query", release: Release) -> None:
        self._alias = query.get_initial_alias()
        self._release = release

    def node(self, node: object) -> Filter:
        if isinstance(node, WhereNode):
            return self._tree(node)
        if isinstance(node, NothingNode):
            return Or(())
        if isinstance(node, DjangoLookup):
            return self._lookup(node)
        raise self._refuse("it contains an expression")

    def _tree(self, node: WhereNode) -> Filter:
        parts = tuple(self.node(child) for child in node.children)
        tree: Filter
        if len(parts) == 1:
            tree = parts[0]
        elif node.connector == AND:
            tree = And(parts)
        elif node.connector == OR:
            tree = Or(parts)
        else:
            raise self._refuse(f"it is combined by {node.connector}")
        return Not(tree) if node.negated else tree

    def _lookup(self, lookup: "DjangoLookup[Any]") -> Filter:
        name, field = lookup.lookup_name, self._own_field(lookup)
        if name == "isnull":
            column = IsNull(column_name(field))
            return column if lookup.rhs else Not(column)
        if name not in _LOOKUPS or not type(lookup).__module__.startswith("django.db.models."):
            raise self._refuse(
                f"the lookup {name} on {field.name} is not one whose result is the same everywhere"
            )
        return self._comparison(field, cast("Lookup", name), lookup.rhs)

    def _own_field(self, lookup: "DjangoLookup[Any]") -> "Field[Any, Any]":
        lhs = lookup.lhs
        if not isinstance(lhs, Col):
            raise self._refuse("it transforms a column, or compares several at once")
        if lhs.alias != self._alias:
            raise self._refuse(f"{lhs.target.name} is a column of another table")
        if lhs.target.column not in self._release.columns:
            raise self._refuse(f"the column {lhs.target.column} is not released")
        return lhs.target

    def _comparison(self, field: "Field[Any, Any]", lookup: Lookup, value: object) -> Filter:
        kind = column_type(field)
        if column_name(field) in self._release.natural:
            raise self._refuse(
                f"{field.name} points at rows that have other keys in every environment"
            )
        if kind not in COMPARABLE or (lookup in _PATTERNS and kind not in TEXT_TYPES):
            raise self._refuse(f"{field.name} ({kind}) cannot be compared by {lookup}")
        if _is_expression(value):
            raise self._refuse(f"{field.name} is compared with an expression or a subquery")
        values = [value] if lookup not in ("in", "range") else list(cast("Iterable[object]", value))
        if lookup == "in":
            values = [item for item in values if item is not None]
        try:
            texts = [_text(item, kind) for item in values]
        except (TypeError, ValueError, OverflowError) as error:
            raise self._refuse(f"{field.name}: {error}") from error
        # Order and repetition mean nothing to `in`, and must not change the fingerprint.
        return Compare(
            column_name(field), lookup, tuple(sorted(set(texts)) if lookup == "in" else texts), kind
        )

    def _refuse(self, reason: str) -> WrongDeclaration:
        return _refusal(self._release.label, reason)


def _text(value: object, kind: str) -> str:
    if isinstance(value, str) != (kind in TEXT_TYPES) and kind != "inet":
        raise TypeError(f"a {type(value).__name__} cannot be compared with {kind}")
    return input_text(value, kind)


def _refuse_expressions(where: Q, label: str) -> None:
    for child in where.children:
        if isinstance(child, Q):
            _refuse_expressions(child, label)
        elif not isinstance(child, tuple):
            raise _refusal(label, "it contains an expression")
        elif _is_expression(child[1]):
            raise _refusal(label, f"{child[0]} is compared with an expression or a subquery")
        elif _has_callable(child[1]):
            raise _refusal(label, f"{child[0]} is compared with a callable")


def _is_expression(value: object) -> bool:
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(map(_is_expression, value))
    return hasattr(value, "resolve_expression") or hasattr(value, "as_sql")


def _has_callable(value: object) -> bool:
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(map(_has_callable, value))
    return callable(value)


def _refusal(label: str, reason: str) -> WrongDeclaration:
    reason = re.sub(r"\s+", " ", reason).rstrip(".")
    return WrongDeclaration(
        f"The filter on {label} is refused: {reason}", check_id="replicator.E031", remedy=_ALLOWED
    )
