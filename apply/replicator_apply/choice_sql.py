"""The SQL of chosen keys: noting them, and taking out what is chosen no more. Pure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, LiteralString

import msgspec
from psycopg import sql

from replicator.filter_sql import CHOSEN, key_text
from replicator.plan import Release, RowsRule
from replicator.sql_parts import Sql, column
from replicator_apply.candidate_sql import CandidateSql
from replicator_apply.plan import receipts_name

if TYPE_CHECKING:
    from replicator_apply.choice import Choice


def note_chosen(text: CandidateSql, choice: "Choice") -> sql.Composed:
    """Store the keys of a page. Without parameters: a type's name may hold a percent sign."""
    cells = [
        _typed(text, name, sql.SQL("e.value ->> {}").format(place))
        for place, name in enumerate(text.table.key)
    ]
    return sql.SQL(
        "INSERT INTO {chosen} (subscription_id, rule, row_key, run) "
        "SELECT {subscription}, {rule}, {key}, {run} FROM jsonb_array_elements({keys}::jsonb) e "
        "ON CONFLICT (subscription_id, rule, row_key) DO UPDATE SET run = EXCLUDED.run"
    ).format(
        chosen=CHOSEN,
        subscription=choice.subscription,
        rule=choice.rule.name,
        key=key_text(cells),
        run=choice.run,
        keys=msgspec.json.encode(choice.keys).decode(),
    )


def carry_chosen(
    subscription: int, rule: RowsRule, release: Release, rules: Sequence[str]
) -> sql.Composed:
    """Choose for a rule the held rows of its table that were chosen for a rule that is no more.

    Args:
        subscription: its id.
        rule: a rule with a selection.
        release: of its model.
        rules: names of all rules that are.
    """
    return sql.SQL(
        "INSERT INTO {chosen} (subscription_id, rule, row_key, run) "
        "SELECT DISTINCT {subscription}, {rule}, c.row_key, -1 FROM {chosen} c "
        "WHERE c.subscription_id = {subscription} AND c.rule <> ALL({rules}) AND c.row_key IN "
        "(SELECT {key} FROM {receipts} r WHERE r.subscription_id = {subscription}) "
        "ON CONFLICT DO NOTHING"
    ).format(
        chosen=CHOSEN,
        subscription=subscription,
        rule=rule.name,
        rules=list(rules),
        key=key_text(column(name, "r") for name in release.key),
        receipts=sql.Identifier("replicator", receipts_name(release.table)),
    )


def count_noted(choice: "Choice") -> sql.Composed:
    """Count the keys that the run has brought."""
    return sql.SQL("SELECT count(*) FROM {}").format(_of_rule(choice, "="))


def count_dropped(text: CandidateSql, choice: "Choice") -> sql.Composed:
    """Count the rows of the subscription that are chosen no more."""
    return text.part(
        "SELECT count(*) FROM {dropped} d WHERE {held}",
        dropped=_dropped(text, choice),
        held=text.is_held_by(choice.subscription, "d"),
    )


def draw_dropped(text: CandidateSql, choice: "Choice") -> str:
    """Make candidates of the rows that are chosen no more."""
    return text.draw(
        "JOIN {dropped} d ON {td} WHERE {held}",
        dropped=_dropped(text, choice),
        td=text.same_key("t", "d"),
        held=text.is_held_by(choice.subscription, "t"),
    )


def untie_dropped(text: CandidateSql, choice: "Choice") -> str:
    """Let what tied those rows to the subscription not be as before."""
    return text.compose(
        "UPDATE {candidates} v SET {same} = false FROM {dropped} d WHERE {vd}",
        same=column(f"_same_{choice.subscription}"),
        dropped=_dropped(text, choice),
        vd=text.same_key("v", "d"),
    )


def drop(text: CandidateSql, choice: "Choice") -> str:
    """Forget the keys that are chosen no more."""
    return text.compose(
        "DELETE FROM {chosen} c USING {dropped} d WHERE c.id = d._id",
        chosen=CHOSEN,
        dropped=_dropped(text, choice),
    )


def _dropped(text: CandidateSql, choice: "Choice") -> Sql:
    """Select the keys that the run has not brought, as columns of the key's types."""
    cells = [
        sql.SQL("{} AS {}").format(
            _typed(text, name, sql.SQL("c.row_key::jsonb ->> {}").format(place)), column(name)
        )
        for place, name in enumerate(text.table.key)
    ]
    return sql.SQL(
        "(SELECT t.* FROM (SELECT {cells}, c.id AS _id FROM {kept}) t WHERE {span})"
    ).format(cells=sql.SQL(", ").join(cells), kept=_of_rule(choice, "<>"), span=choice.span)


def _of_rule(choice: "Choice", operator: LiteralString) -> Sql:
    """Name the chosen keys `c` of a rule, those of the run or all others, behind FROM."""
    return sql.SQL(
        "{} c WHERE c.subscription_id = {} AND c.rule = {} AND c.run " + operator + " {}"
    ).format(CHOSEN, choice.subscription, choice.rule.name, choice.run)


def _typed(text: CandidateSql, name: str, value: Sql) -> Sql:
    return sql.SQL("({})::{}").format(value, sql.SQL(text.table.shape.columns[name].type))
