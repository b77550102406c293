"""The SQL of one table, composed once. Pure.

Aliases everywhere: `t` the table, `s` its staging table, `r` its receipts. A staged row has the
table's written columns, all nullable, and:

    _set       which columns came (an index into the batch's column sets; 0: all of them)
    _round     in which round of a large transaction it was staged
    _present   whether the row stands at the end of the batch
    _complete  whether all of its columns are known
    _read      whether a fetch has read it
    _held      whether it is ours already
    _wanted    whether it must be fetched
    _verdict   w: written, o: the old version stands, l: leaves, k: kept for a local row,
               n: not ours
"""

from collections.abc import Iterable, Sequence
from functools import cached_property

from psycopg import sql

from replicator.filter_sql import filter_sql
from replicator.plan import columns_of
from replicator_apply.catalog import Constraint
from replicator_apply.copytext import OPTIONS
from replicator_apply.plan import KEPT, Membership, Table

Sql = sql.Composable

CONTROL = (
    "_set smallint, _round integer, _present boolean, _complete boolean, _read boolean, "
    '_held boolean, _wanted boolean DEFAULT false, _verdict "char"'
)
LOADED = ("_set", "_round", "_present", "_complete", "_read")
"""Control columns that COPY fills, in this order, before the table's own."""


def identifiers(names: Iterable[str], alias: str = "") -> Sql:
    """List columns, with an alias before each."""
    return sql.SQL(", ").join(column(name, alias) for name in names)


def column(name: str, alias: str = "") -> Sql:
    """Give one column, with an alias before it."""
    return sql.Identifier(alias, name) if alias else sql.Identifier(name)


def _each(parts: Iterable[Sql]) -> Sql:
    return sql.Composed(list(parts))


def equal(names: Sequence[str], alias: str, others: Sequence[str], other: str) -> Sql:
    """Join two aliases on columns, pairwise."""
    pairs = zip(names, others, strict=True)
    return sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(column(mine, alias), column(theirs, other))
        for mine, theirs in pairs
    )


def among(subscriptions: Iterable[int]) -> Sql:
    """Write the test for a receipt of one of some subscriptions."""
    return sql.SQL("IN ({})").format(sql.SQL(", ").join(map(sql.Literal, subscriptions)))


class TableSql:
    """Statements on one table; each attribute or method gives text ready to execute."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._names: dict[str, Sql] = {
            "table": table.identifier,
            "stage": table.stage,
            "parking": table.parking,
            "receipts": table.receipts,
            "key": identifiers(table.key),
            "skey": identifiers(table.key, "s"),
            "rkey": identifiers(table.key, "r"),
            "columns": identifiers(table.columns),
            "scolumns": identifiers(table.columns, "s"),
            "ts": self._same_key("t", "s"),
            "rs": self._same_key("r", "s"),
            "tr": self._same_key("t", "r"),
            "kept": sql.Literal(KEPT),
            "ours": among(m.subscription for m in table.memberships),
            "known": among([KEPT, *(m.subscription for m in table.memberships)]),
            "loaded": identifiers(LOADED),
        }

    def _same_key(self, alias: str, other: str) -> Sql:
        return equal(self.table.key, alias, self.table.key, other)

    def compose(self, text: str, **more: Sql) -> str:
        """Fill a statement's names."""
        return sql.SQL(text).format(**self._names, **more).as_string()

    # Made once a session ---------------------------------------------------------------------

    @cached_property
    def create_stage(self) -> str:
        """Make the staging table: the table's columns without constraints, and the control ones."""
        return self.compose(
            "CREATE TEMP TABLE {stage_name} ON COMMIT DELETE ROWS AS SELECT {columns} "
            "FROM {table} WITH NO DATA; ALTER TABLE {stage} {adds}",
            stage_name=sql.Identifier(f"replicator_stage_{self.table.number}"),
            adds=sql.SQL(", ".join(f"ADD COLUMN {part.strip()}" for part in CONTROL.split(","))),
        )

    @cached_property
    def drop_temporary(self) -> str:
        """Drop what another plan's table of the same number has left."""
        return self.compose("DROP TABLE IF EXISTS {stage}, {parking}")

    @cached_property
    def analyze(self) -> str:
        """Tell the planner how many rows are staged, and how."""
        return self.compose("ANALYZE {stage}")

    # Staging ---------------------------------------------------------------------------------

    def copy_stage_columns(self, columns: Sequence[str]) -> str:
        """COPY rows of which only some columns came, or keys, into the staging table."""
        return self.compose(
            "COPY {stage} ({loaded}, {some}) FROM STDIN {options}",
            some=identifiers(columns),
            options=OPTIONS,
        )

    @cached_property
    def stage_truncated(self) -> str:
        """After a TRUNCATE: every row of ours that did not come back is gone."""
        return self.compose(
            "INSERT INTO {stage} ({loaded}, {key}) "
            "SELECT DISTINCT -1, 0, false, true, false, {rkey} FROM {receipts} r "
            "WHERE r.subscription_id {ours} AND NOT EXISTS (SELECT FROM {stage} s WHERE {rs})"
        )

    @cached_property
    def stage_kept(self) -> str:
        """Try the rows again that were kept for local rows."""
        return self.compose(
            "INSERT INTO {stage} ({loaded}, {key}) "
            "SELECT -1, 0, false, true, false, {rkey} FROM {receipts} r "
            "WHERE r.subscription_id = {kept} AND NOT EXISTS (SELECT FROM {stage} s WHERE {rs})"
        )

    @cached_property
    def staged_twice(self) -> str:
        """Whether several rounds brought the same key."""
        return self.compose("SELECT 1 FROM {stage} GROUP BY {key} HAVING count(*) > 1 LIMIT 1")

    @cached_property
    def older_rounds(self) -> str:
        """Drop what a later round says again; the columns are merged before."""
        return self.compose(
            "DELETE FROM {stage} s USING (SELECT {key}, max(_round) AS newest FROM {stage} "
            "GROUP BY {key} HAVING count(*) > 1) n WHERE s._round < n.newest AND {same}",
            same=self._same_key("s", "n"),
        )

    @cached_property
    def respelled(self) -> str:
        """Drop keys that are gone and stand in another spelling: the row is still there."""
        return self.compose(
            "DELETE FROM {stage} s USING {stage} o WHERE {same} AND NOT s._present AND o._present",
            same=self._same_key("s", "o"),
        )

    @cached_property
    def carry_read(self) -> str:
        """What a fetch read in an earlier round counts as read."""
        return self.compose(
            "UPDATE {stage} s SET _read = true FROM {stage} o "
            "WHERE {same} AND o._read AND NOT s._read",
            same=self._same_key("s", "o"),
        )

    def merge_round(self, taken: Sequence[str], number: int, older: int, merged: int) -> str:
        """Take columns that a round lacks from the one before it that has the row.

        Rounds are merged in ascending order, so that the earlier one is merged already.

        Args:
            taken: the columns to take.
            number: set of the rows that lack them.
            older: set of the earlier rows.
            merged: set of what comes out.
        """
        assignments = sql.SQL(", ").join(
            sql.SQL("{} = o.{}").format(column(name), column(name)) for name in taken
        )
        return self.compose(
            "UPDATE {stage} s SET {assignments}, _set = {merged}, _complete = {complete} "
            "FROM {stage} o WHERE s._set = {number} AND s._round = %(round)s AND s._present "
            "AND o._present AND o._set = {older} AND {same} AND o._round = (SELECT max(p._round) "
            "FROM {stage} p WHERE {psame} AND p._round < s._round)",
            assignments=assignments,
            number=sql.Literal(number),
            older=sql.Literal(older),
            merged=sql.Literal(merged),
            complete=sql.Literal(merged == 0),
            same=self._same_key("s", "o"),
            psame=self._same_key("p", "s"),
        )

    # Rules -----------------------------------------------------------------------------------

    def complete(self, columns: Sequence[str], number: int) -> str:
        """Take what the rules look at from the held row, where not every column came.

        The row of a wanted key is no base: what it lacks is not known.
        """
        assignments: list[Sql] = [
            sql.SQL("{} = {}").format(column(name), column(name, "t")) for name in columns
        ]
        assignments.append(sql.SQL("_complete = true"))
        return self.compose(
            "UPDATE {stage} s SET {assignments} FROM {table} t WHERE s._set = {number} "
            "AND s._present AND NOT s._complete AND {ts} AND {held} AND NOT {wanted}",
            assignments=sql.SQL(", ").join(assignments),
            number=sql.Literal(number),
            held=self.is_held("s"),
            wanted=self.is_wanted("s"),
        )

    def is_held(self, alias: str) -> Sql:
        """Whether the row of an alias has a receipt of one of the plan's subscriptions."""
        return self._has_receipt(alias, "r.subscription_id {ours}")

    def is_held_elsewhere(self, alias: str) -> Sql:
        """Whether the row of an alias is another stream's too."""
        return self._has_receipt(alias, "r.subscription_id NOT {known}")

    def _has_receipt(self, alias: str, condition: str) -> Sql:
        return sql.SQL(
            "EXISTS (SELECT FROM {receipts} r WHERE {same} AND " + condition + ")"
        ).format(**self._names, same=self._same_key("r", alias))

    def is_wanted(self, alias: str) -> Sql:
        """Whether the row of an alias is wanted."""
        return sql.SQL(
            "EXISTS (SELECT FROM {} w WHERE w.source = {} AND w.stream = {} "
            "AND w.table_name = {} AND w.row_key = {})"
        ).format(
            WANTED,
            sql.Placeholder("source"),
            sql.Placeholder("stream"),
            sql.Literal(str(self.table.name)),
            self.row_key(alias),
        )

    def row_key(self, alias: str) -> Sql:
        """Write a key as text: a JSON array of the text of each of its columns."""
        cells = sql.SQL(", ").join(
            sql.SQL("{}::text").format(column(name, alias)) for name in self.table.key
        )
        return sql.SQL("jsonb_build_array({})::text").format(cells)

    def belongs(self, membership: Membership, alias: str = "s") -> Sql:
        """Whether a staged row passes a subscription's filter."""
        return filter_sql(membership.filter, lambda name: column(name, alias))

    def may_belong(self, missing: Sequence[str]) -> Sql:
        """Whether a staged row that lacks columns passes a filter, as far as can be told."""
        parts = [
            sql.SQL("TRUE")
            if columns_of(membership.filter) & set(missing)
            else self.belongs(membership)
            for membership in self.table.memberships
        ]
        return sql.SQL("({})").format(sql.SQL(" OR ").join(parts))

    @cached_property
    def judge(self) -> str:
        """Give every staged row its first verdict."""
        belongs = sql.SQL(" OR ").join(self.belongs(m) for m in self.table.memberships)
        return self.compose(
            "UPDATE {stage} s SET _held = h.held, _verdict = CASE "
            "WHEN NOT s._present THEN CASE WHEN h.held OR h.kept THEN 'l' ELSE 'n' END "
            "WHEN NOT s._complete THEN CASE WHEN h.held THEN 'o' ELSE 'n' END "
            "WHEN {belongs} THEN 'w' "
            "WHEN h.held OR h.kept THEN 'l' ELSE 'n' END "
            "FROM (SELECT s.ctid AS at, {held} AS held, EXISTS (SELECT FROM {receipts} r "
            "WHERE {rs} AND r.subscription_id = {kept}) AS kept FROM {stage} s) h "
            "WHERE h.at = s.ctid",
            belongs=belongs,
            held=self.is_held("s"),
        )

    def want_incomplete(self, missing: Sequence[str], number: int) -> str:
        """Want the rows that may belong and of which not every column is known."""
        return self.compose(
            "UPDATE {stage} s SET _wanted = true WHERE s._present AND NOT s._complete "
            "AND s._set = {number} AND {may}",
            number=sql.Literal(number),
            may=self.may_belong(missing),
        )

    @cached_property
    def count_clashes(self) -> str:
        """Count local rows under the keys of rows that enter."""
        return self.compose(
            "SELECT count(*) FROM {stage} s JOIN {table} t ON {ts} WHERE s._verdict = 'w' "
            "AND NOT s._held AND NOT EXISTS (SELECT FROM {receipts} r WHERE {rs} "
            "AND r.subscription_id {known})"
        )

    def step_back(self, key: Constraint, to: Table) -> str:
        """Want rows whose foreign key dangles; their old version stands, if there is one."""
        return self.compose(
            "UPDATE {stage} s SET _wanted = true, "
            "_verdict = CASE WHEN s._held THEN 'o'::\"char\" ELSE 'n' END "
            "WHERE s._verdict = 'w' AND {given} AND NOT {itself} "
            "AND NOT EXISTS (SELECT FROM {to_stage} x WHERE {x} AND x._verdict = 'w') "
            "AND NOT EXISTS (SELECT FROM {to} y WHERE {y} AND NOT EXISTS (SELECT FROM {to_stage} z "
            "WHERE {zy} AND z._verdict = 'l'))",
            given=sql.SQL(" AND ").join(
                sql.SQL("{} IS NOT NULL").format(column(name, "s")) for name in key.columns
            ),
            itself=equal(key.columns, "s", key.to_columns, "s")
            if key.to == key.table
            else sql.SQL("FALSE"),
            to=to.identifier,
            to_stage=to.stage,
            x=equal(key.to_columns, "x", key.columns, "s"),
            y=equal(key.to_columns, "y", key.columns, "s"),
            zy=equal(to.key, "z", to.key, "y"),
        )

    @cached_property
    def lock_leaving(self) -> str:
        """Lock the rows that leave, so that no local row can come to point at one any more."""
        return self.compose(
            "SELECT count(*) FROM (SELECT FROM {table} t JOIN {stage} s ON {ts} "
            "WHERE s._verdict = 'l' ORDER BY {skey} FOR UPDATE OF t) locked"
        )

    def keep_for_local(self, key: Constraint) -> str:
        """Keep leaving rows that local rows of a table without receipts point at."""
        return self.compose(
            "UPDATE {stage} s SET _verdict = 'k' WHERE s._verdict = 'l' AND EXISTS "
            "(SELECT FROM {referrer} x WHERE {xs})",
            referrer=sql.Identifier(key.table.schema, key.table.name),
            xs=equal(key.columns, "x", key.to_columns, "s"),
        )

    def keep_for_ours(self, key: Constraint, referrer: Table) -> str:
        """Keep leaving rows that local, kept or another stream's rows of a table point at."""
        return self.compose(
            "UPDATE {stage} s SET _verdict = 'k' WHERE s._verdict = 'l' AND EXISTS "
            "(SELECT FROM {referrer} x WHERE {xs} AND NOT EXISTS (SELECT FROM {other_stage} y "
            "WHERE {yx} AND (y._verdict = 'w' OR y._verdict = 'l' AND NOT {elsewhere})) "
            "AND ({elsewhere} OR EXISTS (SELECT FROM {other_stage} z "
            "WHERE {zx} AND z._verdict = 'k') OR NOT EXISTS (SELECT FROM {other_receipts} q "
            "WHERE {qx} AND q.subscription_id {others})))",
            elsewhere=TableSql(referrer).is_held_elsewhere("x"),
            others=among(m.subscription for m in referrer.memberships),
            referrer=referrer.identifier,
            other_stage=referrer.stage,
            other_receipts=referrer.receipts,
            xs=equal(key.columns, "x", key.to_columns, "s"),
            yx=equal(referrer.key, "y", referrer.key, "x"),
            zx=equal(referrer.key, "z", referrer.key, "x"),
            qx=equal(referrer.key, "q", referrer.key, "x"),
        )

    def evict(self, key: Constraint, to: Table) -> str:
        """Rows of ours that point at leaving rows and did not change leave too, and are wanted.

        The source cannot hold such a row: what stands here is an old version.
        """
        return self.compose(
            "INSERT INTO {stage} ({loaded}, _held, _wanted, _verdict, {key}) "
            "SELECT -1, 0, false, true, false, true, true, 'l', {tkey} "
            "FROM {to_stage} x JOIN {table} t ON {tx} WHERE x._verdict = 'l' AND {held} "
            "AND NOT EXISTS (SELECT FROM {stage} s WHERE {ts})",
            tkey=identifiers(self.table.key, "t"),
            to_stage=to.stage,
            tx=equal(key.columns, "t", key.to_columns, "x"),
            held=self.is_held("t"),
        )

    def evict_old(self, key: Constraint, to: Table) -> str:
        """Staged rows whose old version stands leave if that points at a leaving row."""
        return self.compose(
            "UPDATE {stage} s SET _verdict = 'l', _wanted = true FROM {table} t, {to_stage} x "
            "WHERE s._verdict = 'o' AND {ts} AND {tx} AND x._verdict = 'l'",
            to_stage=to.stage,
            tx=equal(key.columns, "t", key.to_columns, "x"),
        )

    # Writing ---------------------------------------------------------------------------------

    def receipts_enter(self, membership: Membership) -> str:
        """Note that the rows that are written and pass the subscription's filter are ours."""
        return self.compose(
            "INSERT INTO {receipts} AS r (subscription_id, {key}, generation) "
            "SELECT {subscription}, {skey}, {generation} FROM {stage} s "
            "WHERE s._verdict = 'w' AND {belongs} "
            "ON CONFLICT ({key}, subscription_id) DO UPDATE SET generation = EXCLUDED.generation "
            "WHERE r.generation <> EXCLUDED.generation",
            subscription=sql.Literal(membership.subscription),
            generation=sql.Literal(membership.generation),
            belongs=self.belongs(membership),
        )

    def receipts_leave(self, membership: Membership) -> str:
        """Drop the receipts of rows that stay for other subscriptions only."""
        return self.compose(
            "DELETE FROM {receipts} r USING {stage} s WHERE {rs} AND s._verdict = 'w' "
            "AND r.subscription_id = {subscription} AND ({belongs}) IS NOT TRUE",
            subscription=sql.Literal(membership.subscription),
            belongs=self.belongs(membership),
        )

    @cached_property
    def receipts_gone(self) -> str:
        """Drop the receipts of rows that leave."""
        return self.compose(
            "DELETE FROM {receipts} r USING {stage} s WHERE {rs} AND s._verdict IN ('l', 'k') "
            "AND r.subscription_id {known}"
        )

    @cached_property
    def receipts_back(self) -> str:
        """Drop the mark of kept rows that are ours again."""
        return self.compose(
            "DELETE FROM {receipts} r USING {stage} s WHERE {rs} AND s._verdict = 'w' "
            "AND r.subscription_id = {kept}"
        )

    @cached_property
    def receipts_kept(self) -> str:
        """Mark rows that left and stay for local rows."""
        return self.compose(
            "INSERT INTO {receipts} (subscription_id, {key}, generation) "
            "SELECT {kept}, {skey}, 0 FROM {stage} s WHERE s._verdict = 'k'"
        )

    def update(self, columns: Sequence[str], number: int) -> str | None:
        """Write the columns that came to rows that are here; None: there is nothing but the key."""
        settable = self._settable(columns)
        if not settable:
            return None
        return self.compose(
            "UPDATE {table} t SET {assignments} FROM {stage} s "
            "WHERE {ts} AND s._verdict = 'w' AND s._set = {number}",
            assignments=self._assignments(settable),
            number=sql.Literal(number),
        )

    def _settable(self, columns: Sequence[str]) -> list[str]:
        """Leave out the key, unless it may be here in another spelling."""
        if self.table.respelled:
            return list(columns)
        return [name for name in columns if name not in self.table.key]

    def _assignments(self, columns: Sequence[str]) -> Sql:
        return sql.SQL(", ").join(
            sql.SQL("{} = {}").format(column(name), column(name, "s")) for name in columns
        )

    @cached_property
    def insert(self) -> str:
        """Write the rows that are not here."""
        return self.compose(
            "INSERT INTO {table} ({columns}{more}) OVERRIDING SYSTEM VALUE "
            "SELECT {scolumns}{values} FROM {stage} s WHERE s._verdict = 'w' AND s._complete "
            "AND NOT EXISTS (SELECT FROM {table} t WHERE {ts})",
            more=_each(sql.SQL(", {}").format(column(name)) for name in self.table.defaults),
            values=_each(
                sql.SQL(", {}::{}").format(text, sql.SQL(self.table.shape.columns[name].type))
                for name, text in self.table.defaults.items()
            ),
        )

    @cached_property
    def delete(self) -> str:
        """Delete the rows that leave, but for those that another stream holds too."""
        return self.compose(
            "DELETE FROM {table} t USING {stage} s WHERE {ts} AND s._verdict = 'l' "
            "AND NOT {elsewhere}",
            elsewhere=self.is_held_elsewhere("s"),
        )

    # Unique values that change hands -----------------------------------------------------------

    def _conflict(self, columns: Sequence[str]) -> Sql:
        """Join: a row `t` that stands on the unique value of another, staged row `s`."""
        same = sql.SQL(
            "({0} = {1} OR {0} IS NULL AND {1} IS NULL)"
            if columns in self.table.shape.nulls_equal
            else "{0} = {1}"
        )
        values = (same.format(column(name, "t"), column(name, "s")) for name in columns)
        return sql.SQL("{} AND NOT ({}) AND s._verdict = 'w'").format(
            sql.SQL(" AND ").join(values), self._same_key("t", "s")
        )

    @cached_property
    def create_parking(self) -> str:
        """Make the table where rows stand while their unique values change hands."""
        return self.compose(
            "CREATE TEMP TABLE IF NOT EXISTS {name} (LIKE {table} INCLUDING GENERATED) "
            "ON COMMIT DELETE ROWS",
            name=sql.Identifier(f"replicator_parking_{self.table.number}"),
        )

    def delete_early(self, columns: Sequence[str]) -> str:
        """Delete the leaving rows that stand on a unique value first."""
        return self.compose(
            "DELETE FROM {table} t USING {stage} l WHERE {tl} AND l._verdict = 'l' "
            "AND NOT {elsewhere} AND EXISTS (SELECT FROM {stage} s WHERE {conflict})",
            tl=self._same_key("t", "l"),
            elsewhere=self.is_held_elsewhere("l"),
            conflict=self._conflict(columns),
        )

    def park(self, columns: Sequence[str]) -> str:
        """Take the written rows that stand on a unique value off the table."""
        return self.compose(
            "WITH parked AS (DELETE FROM {table} t USING {stage} w WHERE {tw} "
            "AND w._verdict = 'w' AND EXISTS (SELECT FROM {stage} s WHERE {conflict}) "
            "RETURNING {tcolumns}) INSERT INTO {parking} ({all}) SELECT {all} FROM parked",
            tw=self._same_key("t", "w"),
            conflict=self._conflict(columns),
            tcolumns=identifiers(self._stored, "t"),
            all=identifiers(self._stored),
        )

    @cached_property
    def park_all(self) -> str:
        """Take every written row off the table."""
        return self.compose(
            "WITH parked AS (DELETE FROM {table} t USING {stage} w WHERE {tw} "
            "AND w._verdict = 'w' RETURNING {tcolumns}) "
            "INSERT INTO {parking} ({all}) SELECT {all} FROM parked",
            tw=self._same_key("t", "w"),
            tcolumns=identifiers(self._stored, "t"),
            all=identifiers(self._stored),
        )

    @property
    def _stored(self) -> list[str]:
        return [name for name, c in self.table.shape.columns.items() if not c.generated]

    def update_parked(self, columns: Sequence[str], number: int) -> str | None:
        """As `update`, on the rows that are parked."""
        settable = self._settable(columns)
        if not settable:
            return None
        return self.compose(
            "UPDATE {parking} t SET {assignments} FROM {stage} s "
            "WHERE {ts} AND s._verdict = 'w' AND s._set = {number}",
            assignments=self._assignments(settable),
            number=sql.Literal(number),
        )

    @cached_property
    def unpark(self) -> str:
        """Put the parked rows back."""
        return self.compose(
            "INSERT INTO {table} ({all}) OVERRIDING SYSTEM VALUE SELECT {all} FROM {parking}",
            all=identifiers(self._stored),
        )

    def step_aside(self, columns: Sequence[str], name: str, value: Sql) -> str:
        """Give the written rows that stand on a unique value a passing value instead."""
        return self.compose(
            "UPDATE {table} t SET {last} = {value} FROM {stage} w WHERE {tw} "
            "AND w._verdict = 'w' AND EXISTS (SELECT FROM {stage} s WHERE {conflict})",
            last=column(name),
            value=value,
            tw=self._same_key("t", "w"),
            conflict=self._conflict(columns),
        )

    def evict_unsure(self, columns: Sequence[str]) -> str:
        """Rows of ours that stand on a unique value and did not change are old versions: fetch."""
        return self.compose(
            "INSERT INTO {stage} ({loaded}, _held, _wanted, _verdict, {key}) "
            "SELECT DISTINCT -1, 0, false, true, false, true, true, 'l'::\"char\", {tkey} "
            "FROM {stage} s JOIN {table} t ON {conflict} WHERE {held} "
            "AND NOT EXISTS (SELECT FROM {stage} o WHERE {ot})",
            tkey=identifiers(self.table.key, "t"),
            conflict=self._conflict(columns),
            held=self.is_held("t"),
            ot=self._same_key("o", "t"),
        )

    def evict_unsure_old(self, columns: Sequence[str]) -> str:
        """As `evict_unsure`, for staged rows whose old version stands."""
        return self.compose(
            "UPDATE {stage} o SET _verdict = 'l', _wanted = true FROM {table} t WHERE {ot} "
            "AND o._verdict = 'o' AND EXISTS (SELECT FROM {stage} s WHERE {conflict})",
            ot=self._same_key("o", "t"),
            conflict=self._conflict(columns),
        )

    def count_local_values(self, columns: Sequence[str]) -> str:
        """Count local or kept rows that stand on a unique value; no other is left there by now."""
        return self.compose(
            "SELECT count(*) FROM {stage} s JOIN {table} t ON {conflict} "
            "WHERE NOT EXISTS (SELECT FROM {stage} o WHERE {ot} AND o._verdict IN ('w', 'l'))",
            conflict=self._conflict(columns),
            ot=self._same_key("o", "t"),
        )

    # Wanted rows -----------------------------------------------------------------------------

    @cached_property
    def want(self) -> str:
        """Store what must be fetched."""
        return self.compose(
            "INSERT INTO {wanted} (source, stream, table_name, row_key, reason, created_at) "
            "SELECT {source}, {stream}, {name}, {row_key}, {reason}, now() FROM {stage} s "
            "WHERE s._wanted ON CONFLICT (source, stream, table_name, row_key) DO NOTHING",
            wanted=WANTED,
            source=sql.Placeholder("source"),
            stream=sql.Placeholder("stream"),
            name=sql.Literal(str(self.table.name)),
            row_key=self.row_key("s"),
            reason=sql.Literal("incomplete"),
        )

    @cached_property
    def settled(self) -> str:
        """Strike off what a fetch has answered, and what is gone."""
        return self.compose(
            "DELETE FROM {wanted} w USING {stage} s WHERE w.source = {source} "
            "AND w.stream = {stream} AND w.table_name = {name} AND w.row_key = {row_key} "
            "AND NOT s._wanted AND (s._read OR NOT s._present)",
            wanted=WANTED,
            source=sql.Placeholder("source"),
            stream=sql.Placeholder("stream"),
            name=sql.Literal(str(self.table.name)),
            row_key=self.row_key("s"),
        )

    # The fast path -----------------------------------------------------------------------------

    @cached_property
    def copy_table(self) -> str:
        """COPY new rows straight into the table, behind the defaults of other columns."""
        return self.compose(
            "COPY {table} ({filled}) FROM STDIN {options}",
            filled=identifiers((*self.table.defaults, *self.table.columns)),
            options=OPTIONS,
        )

    @cached_property
    def insert_values(self) -> str:
        """Begin to insert new rows, behind the defaults of other columns; VALUES follow."""
        return self.compose(
            "INSERT INTO {table} ({filled}) OVERRIDING SYSTEM VALUE VALUES ",
            filled=identifiers((*self.table.defaults, *self.table.columns)),
        )

    @cached_property
    def insert_receipts(self) -> str:
        """Begin to insert the receipts of new rows; VALUES follow."""
        return self.compose("INSERT INTO {receipts} (subscription_id, generation, {key}) VALUES ")

    @cached_property
    def insert_changed(self) -> str:
        """Begin to stage changed rows; VALUES follow."""
        return self.compose("INSERT INTO {stage} (_present, {columns}) VALUES ")

    @cached_property
    def insert_gone(self) -> str:
        """Begin to stage deleted keys; VALUES follow."""
        return self.compose("INSERT INTO {stage} (_present, {key}) VALUES ")

    @cached_property
    def copy_receipts(self) -> str:
        """COPY the receipts of new rows."""
        return self.compose(
            "COPY {receipts} (subscription_id, generation, {key}) FROM STDIN {options}",
            options=OPTIONS,
        )

    @cached_property
    def copy_changed(self) -> str:
        """COPY changed rows into the staging table."""
        return self.compose(
            "COPY {stage} (_present, {columns}) FROM STDIN {options}", options=OPTIONS
        )

    @cached_property
    def copy_gone(self) -> str:
        """COPY deleted keys into the staging table."""
        return self.compose("COPY {stage} (_present, {key}) FROM STDIN {options}", options=OPTIONS)

    @cached_property
    def update_held(self) -> str | None:
        """Write all columns of staged rows that are ours; None: there is nothing but the key."""
        settable = [name for name in self.table.columns if name not in self.table.key]
        if not settable:
            return None
        return self.compose(
            "UPDATE {table} t SET {assignments} FROM {stage} s "
            "WHERE {ts} AND s._present AND {held}",
            assignments=self._assignments(settable),
            held=self.is_held("s"),
        )

    @cached_property
    def delete_held(self) -> str:
        """Delete the staged keys that are ours."""
        return self.compose(
            "DELETE FROM {table} t USING {stage} s WHERE {ts} AND NOT s._present AND {held} "
            "AND NOT {elsewhere}",
            held=self.is_held("s"),
            elsewhere=self.is_held_elsewhere("s"),
        )

    @cached_property
    def delete_receipts(self) -> str:
        """Drop the receipts of the staged keys."""
        return self.compose(
            "DELETE FROM {receipts} r USING {stage} s WHERE {rs} AND NOT s._present "
            "AND r.subscription_id {ours}"
        )


WANTED = sql.Identifier("public", "replicator_wantedrow")
