"""The SQL of a table's candidates: the rows that a batch may make ours, or no longer ours. Pure.

A candidate has the columns that the rules look at, in the version that is chosen for it, and:

    _verdict   w: the new version, o: the old version stands, l: leaves, k: leaves and is kept for
               a local row, s: leaves and stays by its policy, n: not ours
    _changed   whether the batch tells of it; else it was drawn in because of another row
    _present   whether the row stands at the end of the batch
    _complete  whether all of its columns are known
    _closed    whether all that may belong because of it is in the batch, or held
    _read      whether a fetch has read it
    _held      whether it is ours already
    _kept      whether it is kept for a local row
    _wanted    whether it must be fetched
    _back      whether it steps back to its old version
    _set       which columns came, as in the staging table
    _way       whether it makes way for another row, whatever its policy and that of rows behind it

and for each subscription N that holds rows of the table:

    _was_N     whether it belonged to it before
    _same_N    whether what tied it to the subscription is as before, other rows aside
    _may_N     whether it may belong to it now
    _in_N      whether it does, as far as has been found out

What a paused subscription holds is in, whatever the batch tells: its old version stands, unless
another subscription has it too and takes the new one.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import LiteralString

from psycopg import sql

from replicator.filter_sql import filter_sql
from replicator.plan import Filter, columns_of
from replicator.sql_parts import Sql, all_of, any_of, column, identifiers
from replicator_apply.plan import Membership
from replicator_apply.sql_text import WANTED, TableText, once

FLAGS = [
    "_changed",
    "_present",
    "_complete",
    "_closed",
    "_read",
    "_held",
    "_kept",
    "_wanted",
    "_back",
    "_way",
]
PER_SUBSCRIPTION = ("_was", "_same", "_may", "_in")


def flag(name: str, subscription: int, alias: str = "v") -> Sql:
    """Name a flag of a subscription."""
    return column(f"{name}_{subscription}", alias)


def passes(condition: Filter | None, alias: str) -> Sql:
    """Whether the row of an alias passes a filter; never NULL."""
    if condition is None:
        return sql.SQL("TRUE")
    return sql.SQL("(({}) IS TRUE)").format(filter_sql(condition, lambda n: column(n, alias)))


def may_pass(condition: Filter | None, alias: str, missing: Sequence[str]) -> Sql:
    """Whether a row that lacks columns passes a filter, as far as can be told."""
    if columns_of(condition) & set(missing):
        return sql.SQL("TRUE")
    return passes(condition, alias)


class CandidateSql(TableText):
    """Statements that make candidates and change their state."""

    @cached_property
    def _subscriptions(self) -> list[int]:
        return [m.subscription for m in self.table.memberships]

    @cached_property
    def _holders(self) -> list[int]:
        return [m.subscription for m in self.table.holders]

    @cached_property
    def _others(self) -> list[str]:
        return [name for name in self.table.looked_at if name not in self.table.key]

    def any_flag(self, name: str, alias: str = "v") -> Sql:
        """Whether a flag is set for one of the subscriptions, paused ones aside."""
        return any_of(flag(name, number, alias) for number in self._holders)

    def any_frozen(self, alias: str = "v") -> Sql:
        """Whether a paused subscription holds a candidate."""
        return any_of(flag("_in", number, alias) for number in self.table.frozen)

    def stays(self, alias: str) -> Sql:
        """Whether a candidate is here in the end, for whichever subscription."""
        return any_of([self.any_flag("_in", alias), self.any_frozen(alias)])

    @cached_property
    def create_candidates(self) -> str:
        """Make the table of candidates."""
        flags = [f"{name} boolean NOT NULL DEFAULT false" for name in FLAGS]
        flags += [
            f"{name}_{number} boolean NOT NULL DEFAULT false"
            for number in self._subscriptions
            for name in PER_SUBSCRIPTION
        ]
        return self.compose(
            "CREATE TEMP TABLE {name_} AS SELECT {looked} FROM {table} "
            "WITH NO DATA; ALTER TABLE {candidates} ADD PRIMARY KEY ({key}), {adds}, "
            "ADD COLUMN _set smallint NOT NULL DEFAULT 0, "
            "ADD COLUMN _verdict \"char\" NOT NULL DEFAULT 'o'",
            name_=sql.Identifier(f"replicator_candidate_{self.table.number}"),
            looked=identifiers(self.table.looked_at),
            adds=sql.SQL(", ".join(f"ADD COLUMN {part}" for part in flags)),
        )

    @cached_property
    def analyze_candidates(self) -> str:
        """Tell the planner how many candidates there are."""
        return self.compose("ANALYZE {candidates}")

    # What the batch tells of ---------------------------------------------------------------------

    @cached_property
    def take_staged(self) -> str:
        """Make a candidate of every staged row."""
        names = [*self.table.looked_at, *_STAGED]
        values: list[Sql] = [
            identifiers(self.table.looked_at, "s"),
            *(sql.SQL(text).format(**self._staged_parts) for text in _STAGED.values()),
        ]
        for membership in self.table.memberships:
            number = membership.subscription
            names += [f"{name}_{number}" for name in PER_SUBSCRIPTION]
            values += self._flags(membership)
        return self.compose(
            "INSERT INTO {candidates} ({names}) SELECT {values} FROM {stage} s {joins}",
            names=identifiers(names),
            values=sql.SQL(", ").join(values),
            joins=self._joins,
        )

    @property
    def _staged_parts(self) -> dict[str, Sql]:
        return {
            "held": any_of(_has(m) for m in self.table.holders),
            "closed": sql.Literal(self.table.closed),
        }

    @property
    def _joins(self) -> Sql:
        """Join a staged row's receipts, and the held row where its old version matters."""
        joins = [
            self.part(
                "LEFT JOIN {receipts} {alias} ON {same} AND {alias}.subscription_id = {number}",
                alias=_receipt(number),
                same=self.same_key(f"r{number}", "s"),
                number=sql.Literal(number),
            )
            for number in self._subscriptions
        ]
        joins.append(
            self.part(
                "LEFT JOIN {receipts} r0 ON {same} AND r0.subscription_id = {kept}",
                same=self.same_key("r0", "s"),
            )
        )
        if any(m.related for m in self.table.memberships):
            joins.append(self.part("LEFT JOIN {table} t ON {ts}"))
        return sql.SQL(" ").join(joins)

    def _flags(self, membership: Membership) -> list[Sql]:
        was = _has(membership)
        if membership.frozen:
            return [was] * len(PER_SUBSCRIPTION)
        if membership.leaving:
            return [was, *[sql.SQL("FALSE")] * 3]
        same = all_of([was, self._unchanged(membership)])
        may = sql.SQL(
            "(s._present AND (s._complete AND ({was} OR {closed} OR s._born OR {read}) "
            "OR NOT s._complete AND {was}))"
        ).format(
            was=was,
            closed=sql.Literal(self.table.closed),
            read=sql.SQL("FALSE" if membership.gated else "s._read"),
        )
        inside = sql.SQL("({may} AND s._complete AND ({passes} OR {same}))").format(
            may=may, passes=passes(membership.filter, "s"), same=same
        )
        return [was, same, may, inside]

    def _unchanged(self, membership: Membership) -> Sql:
        """Whether a row's own facts that tie it to a subscription are as before."""
        if not membership.related:
            return sql.SQL("FALSE")
        conditions = [membership.filter, *(r.filter for r in membership.children)]
        conditions += [r.filter for r in membership.referenced]
        facts = [(self.passed(c, "t"), passes(c, "s")) for c in conditions if c is not None]
        columns = self._edge_columns(membership)
        facts += [(self.true_value(name, "t"), column(name, "s")) for name in columns]
        receipt, doubted = _receipt(membership.subscription), membership.doubted
        return all_of(
            [
                *([sql.SQL("{}.generation >= {}").format(receipt, doubted)] if doubted else []),
                *(sql.SQL("{} IS NOT DISTINCT FROM {}").format(*fact) for fact in facts),
                sql.SQL("{} IS NOT NULL").format(column(self.table.key[0], "t")),
            ]
        )

    def _edge_columns(self, membership: Membership) -> list[str]:
        edges = [edge for rule in membership.children for edge in rule.edges]
        return list(dict.fromkeys(name for edge in edges for name in edge.own_columns))

    def passed(self, condition: Filter | None, alias: str) -> Sql:
        """As `passes`, of a held row as the source has it."""
        if condition is None:
            return sql.SQL("TRUE")
        return sql.SQL("(({}) IS TRUE)").format(
            filter_sql(condition, lambda n: self.true_value(n, alias))
        )

    def true_value(self, name: str, alias: str) -> Sql:
        """Give a column of a held row as the source has it: NULL may stand for its value."""
        if not any(need.null and name in need.key.columns for need in self.table.needs):
            return column(name, alias)
        return self.part(
            "coalesce({column}, (SELECT n.value::{type} FROM {nulled} n WHERE n.source = {source} "
            "AND n.stream = {stream} AND n.table_name = {name} AND n.column_name = {named} "
            "AND {same}))",
            column=column(name, alias),
            type=sql.SQL(self.table.shape.columns[name].type),
            nulled=NULLED,
            named=sql.Literal(name),
            same=self.same_nulled(alias),
        )

    # Old versions --------------------------------------------------------------------------------

    @cached_property
    def stand(self) -> str:
        """Let the old version of incomplete rows of ours stand, and want them."""
        same = [
            sql.SQL(", {} = {}").format(column(f"_same_{n}"), flag("_was", n))
            for n in self._subscriptions
        ]
        where: LiteralString = "v._verdict = 'o' AND v._changed AND NOT v._wanted"
        return self._take_old(where, also="", may=sql.Composed(same))

    @cached_property
    def step_back(self) -> str:
        """Give the rows that step back their old version."""
        may = [
            sql.SQL(", {} = {}, {} = true").format(
                column(f"_may_{n}"), flag("_was", n), column(f"_same_{n}")
            )
            for n in self._subscriptions
        ]
        return self._take_old("v._back", also="_back = false, ", may=sql.Composed(may))

    def _take_old(
        self, where: LiteralString, *, also: LiteralString, may: Sql | None = None
    ) -> str:
        columns = [
            sql.SQL("{} = {}, ").format(column(name), self.true_value(name, "t"))
            for name in self._others
        ]
        return self.compose(
            "UPDATE {candidates} v SET {old}{also}_wanted = true, _verdict = 'o'{may} "
            "FROM {table} t WHERE {tv} AND {where}",
            old=sql.Composed(columns),
            also=sql.SQL(also),
            may=may or sql.SQL(""),
            where=sql.SQL(where),
        )

    def draw(self, which: LiteralString, **names: Sql) -> str:
        """Make candidates of held rows of which the batch does not tell.

        Args:
            which: joins and conditions that choose rows of `t`.
            names: parts of it.
        """
        flags = [f"{name}_{n}" for n in self._subscriptions for name in PER_SUBSCRIPTION]
        held = [
            sql.SQL("{} AS {}").format(_exists_receipt(self, n, "t"), column(f"_was_{n}"))
            for n in self._subscriptions
        ]
        receipts = [
            sql.SQL("FALSE")
            if membership.leaving and name != "_was"
            else flag("_was", membership.subscription, "d")
            for membership in self.table.memberships
            for name in PER_SUBSCRIPTION
        ]
        values = [
            sql.SQL("{} AS {}").format(self.true_value(name, "t"), column(name))
            for name in self.table.looked_at
        ]
        return self.compose(
            "INSERT INTO {candidates} ({looked}, _present, _complete, _held, {flags}) "
            "SELECT {drawn}, true, true, true, {receipts_} FROM "
            # Else the planner would look a receipt up for each of its flags.
            "(SELECT {values} FROM {table} t {which} OFFSET 0) d ON CONFLICT DO NOTHING",
            which=self.part(which, **names),
            looked=identifiers(self.table.looked_at),
            drawn=identifiers(self.table.looked_at, "d"),
            flags=identifiers(flags),
            values=sql.SQL(", ").join([*values, *held]),
            receipts_=sql.SQL(", ").join(receipts),
        )

    @cached_property
    def shut_out(self) -> Sql:
        """Assign that a candidate may belong to no subscription, paused ones aside."""
        return sql.SQL(", ").join(
            sql.SQL("{} = false").format(column(f"_may_{n}")) for n in self._holders
        )

    # The fixpoint --------------------------------------------------------------------------------

    @cached_property
    def reset(self) -> str:
        """Begin again: what stands by itself, or was tied to the dataset as it is now, is in."""
        return self.compose(
            "UPDATE {candidates} v SET {assignments}",
            assignments=sql.SQL(", ").join(
                sql.SQL("{} = {}").format(column(f"_in_{m.subscription}"), self.stands(m))
                for m in self.table.memberships
            ),
        )

    def stands(self, membership: Membership) -> Sql:
        """Whether a candidate belongs before other rows are looked at."""
        number = membership.subscription
        return sql.SQL("({} AND ({} OR {}))").format(
            flag("_may", number), passes(membership.filter, "v"), flag("_same", number)
        )

    # The end -------------------------------------------------------------------------------------

    @cached_property
    def conclude(self) -> str:
        """Give the verdict on rows that belong to no subscription, or to paused ones alone."""
        stays = "(CASE WHEN v._way THEN 'l' ELSE 's' END)"
        return self.compose(
            "UPDATE {candidates} v SET _verdict = CASE WHEN {frozen} THEN 'o' "
            "WHEN v._held OR v._kept THEN {leaves}::\"char\" ELSE 'n' END WHERE NOT {inside}",
            frozen=self.any_frozen(),
            leaves=sql.SQL(stays) if self.table.stay else sql.Literal("l"),
            inside=self.any_flag("_in"),
        )

    def let_stay(self, subscription: int) -> str:
        """Keep the rows that a subscription leaves behind as local ones."""
        return self.compose(
            "UPDATE {candidates} v SET _verdict = 'k' WHERE v._verdict IN ({leaving}) AND {was}",
            leaving=self.leaving,
            was=flag("_was", subscription),
        )

    def count_leaving(self, subscription: int) -> str:
        """Count what becomes of rows as a subscription ends.

        Of those that it holds: how many are deleted, how many stay for local rows or as such, and
        by their policy. Of others that leave along: how many are deleted, and how many stay.
        """
        return self.compose(
            "SELECT count(*) FILTER (WHERE {was} AND v._verdict = 'l' AND NOT {elsewhere}), "
            "count(*) FILTER (WHERE {was} AND v._verdict = 'k'), "
            "count(*) FILTER (WHERE {was} AND v._verdict = 's' AND NOT {elsewhere}), "
            "count(*) FILTER (WHERE NOT {was} AND v._held AND v._verdict = 'l' "
            "AND NOT {elsewhere}), count(*) FILTER (WHERE NOT {was} AND v._held "
            "AND v._verdict = 's' AND NOT {elsewhere}) FROM {candidates} v",
            was=flag("_was", subscription),
            elsewhere=self.is_held_elsewhere("v"),
        )

    def forget_left(self, subscription: int) -> str:
        """Drop the marks of rows that a subscription leaves behind: they are local now."""
        return self.compose(
            "DELETE FROM {receipts} r USING {candidates} v WHERE {rv} AND {was} "
            "AND v._verdict = 'k' AND r.subscription_id = {kept}",
            was=flag("_was", subscription),
        )

    @cached_property
    def count_clashes(self) -> str:
        """Count local rows under the keys of rows that enter.

        Rows of a subscription that is paused, or rests because nothing names it, are taken over.
        """
        return self.compose(
            "SELECT count(*) FROM {candidates} v JOIN {table} t ON {tv} WHERE v._verdict = 'w' "
            "AND NOT v._held AND NOT EXISTS (SELECT FROM {receipts} r WHERE {rv} "
            "AND r.subscription_id NOT IN ({other_streams}))"
        )

    @cached_property
    def finish_stage(self) -> str:
        """Leave in the staging table what is to be written or deleted, with its verdict."""
        return self.compose(
            "DELETE FROM {stage} s USING {candidates} v WHERE {sv} AND v._verdict IN ('o', 'n'); "
            "UPDATE {stage} s SET _verdict = v._verdict FROM {candidates} v "
            "WHERE {sv} AND v._verdict IN ({leaving}); "
            "INSERT INTO {stage} ({loaded}, _verdict, {key}) "
            "SELECT -1, {gone}, v._verdict, {vkey} "
            "FROM {candidates} v WHERE v._verdict IN ({leaving}) "
            "AND NOT EXISTS (SELECT FROM {stage} s WHERE {sv})",
            leaving=self.leaving,
        )

    @property
    def leaving(self) -> Sql:
        """List the verdicts on rows that leave."""
        verdicts = "lks" if self.table.stay else "lk"
        return sql.SQL(", ").join(map(sql.Literal, verdicts))

    # Receipts ------------------------------------------------------------------------------------

    @once
    def receipts_enter(self, membership: Membership) -> str:
        """Note what is a subscription's now, and what its newest backfill has seen.

        A row that is in doubt, and of which not every column came, is as it was for the others.
        """
        number = membership.subscription
        certain = self.part(
            "(NOT {was} OR v._set = 0 OR EXISTS (SELECT FROM {receipts} r WHERE {rv} "
            "AND r.subscription_id = {number} AND r.generation >= {doubted}))",
            was=flag("_was", number),
            number=sql.Literal(number),
            doubted=sql.Literal(membership.doubted),
        )
        return self.compose(
            "INSERT INTO {receipts} AS r (subscription_id, {key}, generation) "
            "SELECT {number}, {vkey}, {generation} FROM {candidates} v "
            "WHERE v._verdict = 'w' AND {inside} AND ({closed} OR NOT {was}) AND {certain} "
            "ON CONFLICT ({key}, subscription_id) DO UPDATE SET generation = EXCLUDED.generation "
            "WHERE r.generation <> EXCLUDED.generation",
            number=sql.Literal(number),
            generation=sql.Literal(membership.generation),
            inside=flag("_in", number),
            was=flag("_was", number),
            certain=certain if membership.doubted else sql.SQL("TRUE"),
            closed=sql.SQL("v._closed AND NOT v._read" if membership.gated else "v._closed"),
        )

    @once
    def receipts_leave(self, membership: Membership) -> str:
        """Drop the receipts of what is a subscription's no more."""
        number = membership.subscription
        return self.compose(
            "DELETE FROM {receipts} r USING {candidates} v WHERE {rv} "
            "AND r.subscription_id = {number} AND {was} AND NOT {inside}",
            number=sql.Literal(number),
            inside=flag("_in", number),
            was=flag("_was", number),
        )

    @cached_property
    def receipts_kept(self) -> str:
        """Mark rows that left and stay for local rows; drop the mark of those that do not.

        What is deleted leaves no receipt of a subscription that rests.
        """
        return self.compose(
            "DELETE FROM {receipts} r USING {candidates} v WHERE {rv} AND v._verdict = 'l' "
            "AND r.subscription_id NOT {known} AND r.subscription_id NOT IN ({other_streams}); "
            "DELETE FROM {receipts} r USING {candidates} v WHERE {rv} AND v._kept "
            "AND v._verdict <> 'k' AND r.subscription_id = {kept}; "
            "INSERT INTO {receipts} (subscription_id, {key}, generation) "
            "SELECT {kept}, {vkey}, 0 FROM {candidates} v WHERE v._verdict = 'k' AND NOT v._kept"
        )

    @cached_property
    def receipts_stay(self) -> str:
        """Note the rows that left and stay by their policy; another stream's are its own."""
        return self.compose(
            "INSERT INTO {receipts} (subscription_id, {key}, generation) "
            "SELECT {left}, {vkey}, 0 FROM {candidates} v WHERE v._verdict = 's' "
            "AND NOT {elsewhere} ON CONFLICT DO NOTHING",
            elsewhere=self.is_held_elsewhere("v"),
        )

    # Wanted rows ---------------------------------------------------------------------------------

    @cached_property
    def settled(self) -> str:
        """Strike off what a fetch has answered, and what is gone."""
        answered: LiteralString = "v._changed AND NOT v._wanted AND (v._read OR NOT v._present)"
        mine = (
            "DELETE FROM {wanted} w {using} WHERE w.source = {source} AND w.stream = {stream} "
            "AND w.table_name = {name} AND {same}"
        )
        if self.table.respelled:
            return self.compose(
                mine,
                wanted=WANTED,
                using=self.part("USING {candidates} v"),
                same=all_of([self.same_wanted("v"), sql.SQL(answered)]),
            )
        # As an array: each key is looked up. The planner takes wanted rows for few, and compares
        # each with each where it joins them.
        return self.compose(
            mine,
            wanted=WANTED,
            using=sql.SQL(""),
            same=self.part(
                "w.row_key = ANY(ARRAY(SELECT {row_key} FROM {candidates} v WHERE {answered}))",
                row_key=self.row_key("v"),
                answered=sql.SQL(answered),
            ),
        )

    @cached_property
    def want(self) -> str:
        """Store what must be fetched."""
        rows = "{candidates} v WHERE v._wanted"
        return self.insert_wanted(self.row_key("v"), rows, "incomplete")

    def insert_wanted(
        self, key: Sql, rows: LiteralString, reason: LiteralString, **names: Sql
    ) -> str:
        """Store keys of this table that must be fetched.

        Args:
            key: the key as text.
            rows: where from.
            reason: why.
            names: parts of `rows`.
        """
        return self.compose(
            "INSERT INTO {wanted} (source, stream, table_name, row_key, reason, created_at) "
            "SELECT DISTINCT {source}, {stream}, {name}, x.k, {reason}, now() "
            "FROM (SELECT {wanted_key} AS k FROM {rows}) x "
            "ON CONFLICT (source, stream, table_name, row_key) DO NOTHING",
            wanted=WANTED,
            reason=sql.Literal(reason),
            wanted_key=key,
            rows=self.part(rows, **names),
        )


NULLED = sql.Identifier("public", "replicator_nulledvalue")

_STAGED = {
    "_verdict": "CASE WHEN NOT s._present THEN CASE WHEN {held} OR r0.subscription_id IS NOT NULL "
    "THEN 'l'::\"char\" ELSE 'n' END WHEN s._complete THEN 'w' WHEN {held} THEN 'o' ELSE 'n' END",
    "_set": "s._set",
    "_changed": "s._set <> -2",
    "_present": "s._present",
    "_complete": "s._complete",
    "_closed": "s._present AND ({closed} OR s._born OR s._read)",
    "_read": "s._read",
    "_held": "{held}",
    "_kept": "r0.subscription_id IS NOT NULL",
}


def _receipt(number: int) -> Sql:
    return sql.Identifier(f"r{number}")


def _has(membership: Membership) -> Sql:
    return sql.SQL("({}.subscription_id IS NOT NULL)").format(_receipt(membership.subscription))


def _exists_receipt(text: TableText, number: int, alias: str) -> Sql:
    return text.part(
        "EXISTS (SELECT FROM {receipts} r WHERE {same} AND r.subscription_id = {number})",
        same=text.same_key("r", alias),
        number=sql.Literal(number),
    )
