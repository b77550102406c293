"""The SQL of the fast path: changes written without a look at the rules. Pure."""

from functools import cached_property

from replicator.sql_parts import identifiers
from replicator_apply.copytext import OPTIONS
from replicator_apply.write_sql import WriteSql


class DirectSql(WriteSql):
    """Statements that write changes straight away."""

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
            "AND r.subscription_id NOT IN ({other_streams})"
        )
