"""The publication of a stream: its members are the opted-in tables, and nothing else.

Reads the catalog and composes statements; `prepare` runs them. Errors of the driver pass through,
to be translated by the caller (`replicator.postgres`). No column lists: they
lose whole tables at DROP COLUMN … CASCADE and make the application's own UPDATEs fail under
REPLICA IDENTITY FULL. Capture releases columns instead.

Source: https://www.postgresql.org/docs/current/logical-replication-publication.html
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from psycopg import Connection, errors, sql
from psycopg.rows import class_row

from replicator_capture.partitions import Part


class Table(NamedTuple):
    """An opted-in table.

    Attributes:
        schema: Postgres schema it lies in.
        name: its name there.
        key: names of the columns of the model's primary key.
    """

    schema: str
    name: str
    key: tuple[str, ...]

    @property
    def label(self) -> str:
        """The table as the log names it: `schema.table`."""
        return f"{self.schema}.{self.name}"

    @property
    def identifier(self) -> sql.Identifier:
        """The table as SQL names it."""
        return sql.Identifier(self.schema, self.name)


class Member(NamedTuple):
    """A table of a publication.

    Attributes:
        oid: the table's oid in pg_class.
        token: oid of its membership in pg_publication_rel: another one each time it joins, so a
            target that has seen another token knows that events are missing. To that of a
            partitioned table `partitions.Trees` adds what is told of its partitions.
        label: `schema.table`.
        restricted: it has a column list or a row filter, which Replicator does not use.
    """

    oid: int
    token: int
    label: str
    restricted: bool


class Publication(NamedTuple):
    """What the catalog says of a publication. `members` is by oid of the table."""

    name: str
    all_tables: bool
    via_root: bool
    every_operation: bool
    members: Mapping[int, Member]


class Relation(NamedTuple):
    """A table, or a leaf of a partitioned one, as the catalog knows it.

    Attributes:
        root: oid of the opted-in table, `oid` itself unless it is a partition.
        kind: pg_class.relkind.
        persistence: pg_class.relpersistence: p permanent, u unlogged, t temporary.
        identity: pg_class.relreplident: d default, f full, i index, n nothing.
        columns: the columns that deletes and updates carry; empty under FULL and NOTHING.
        primary: the columns of its primary key.
    """

    root: int
    oid: int
    schema: str
    name: str
    kind: str
    persistence: str
    identity: str
    columns: Sequence[str]
    primary: Sequence[str]

    @property
    def label(self) -> str:
        """`schema.name`."""
        return f"{self.schema}.{self.name}"

    def primary_has(self, key: Sequence[str]) -> bool:
        """Say whether the primary key tells the model's key."""
        return set(key) <= set(self.primary)


class Difference(NamedTuple):
    """What separates a publication from the opted-in tables."""

    missing: tuple[Table, ...]
    superfluous: tuple[Member, ...]


_PUBLICATION = """
SELECT oid, puballtables, pubviaroot, pubinsert AND pubupdate AND pubdelete AND pubtruncate
FROM pg_publication WHERE pubname = %s
"""

_MEMBERS = """
SELECT r.prrelid::int8 AS oid, r.oid::int8 AS token, n.nspname || '.' || c.relname AS label,
       r.prattrs IS NOT NULL OR r.prqual IS NOT NULL AS restricted
FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE r.prpubid = %s
"""

_OIDS = """
SELECT w.label, c.oid::int8
FROM unnest(%s::text[], %s::text[], %s::text[]) AS w (label, schema, name)
JOIN pg_namespace n ON n.nspname = w.schema
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name AND c.relkind IN ('r', 'p')
"""

_RELATIONS = """
SELECT w.root, c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name,
       c.relkind::text AS kind, c.relpersistence::text AS persistence,
       c.relreplident::text AS identity,
       ARRAY(SELECT a.attname::text FROM pg_index i
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
             WHERE i.indrelid = c.oid AND i.indisvalid
             AND CASE c.relreplident WHEN 'd' THEN i.indisprimary
                                     WHEN 'i' THEN i.indisreplident ELSE false END) AS columns,
       ARRAY(SELECT a.attname::text FROM pg_index i
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
             WHERE i.indrelid = c.oid AND i.indisvalid AND i.indisprimary) AS primary
FROM unnest(%s::int8[]) AS w (root)
CROSS JOIN LATERAL (WITH RECURSIVE tree AS (
        SELECT w.root::oid AS oid
        UNION SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid
        JOIN pg_class p ON p.oid = i.inhrelid AND p.relispartition
    ) SELECT oid FROM tree) AS m
JOIN pg_class c ON c.oid = m.oid JOIN pg_namespace n ON n.oid = c.relnamespace
"""
# Not by pg_partition_tree: it waits for whoever rewrites a partition.

_PARTS = """
WITH RECURSIVE tree AS (
    SELECT n.nspname || '.' || c.relname AS label, c.oid, '' AS attached
    FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
    JOIN pg_class c ON c.oid = r.prrelid AND c.relkind = 'p'
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE p.pubname = %s
    UNION SELECT tree.label, i.inhrelid, i.xmin::text
    FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid
) SELECT tree.label, c.oid::int8, c.relfilenode::int8, tree.attached
FROM tree JOIN pg_class c ON c.oid = tree.oid
"""

_EMPTY = """
SELECT coalesce(bool_and(pg_relation_size(c.oid) = 0), true)
FROM pg_class c WHERE c.oid = ANY (%s::oid[]) AND c.relkind <> 'p'
"""


def name_of(stream: str) -> str:
    """Name of a stream's publication."""
    return f"replicator_{stream}"


def read(connection: Connection, name: str) -> Publication | None:
    """Read the publication from the catalog; None if there is none of that name."""
    row = connection.execute(_PUBLICATION, (name,)).fetchone()
    if row is None:
        return None
    oid, all_tables, via_root, every_operation = row
    with connection.cursor(row_factory=class_row(Member)) as cursor:
        members = cursor.execute(_MEMBERS, (oid,)).fetchall()
    return Publication(
        name, all_tables, via_root, every_operation, {member.oid: member for member in members}
    )


def read_parts(connection: Connection, name: str) -> dict[str, frozenset[Part]]:
    """Give each partitioned table of a publication, and its partitions, by its label."""
    found: dict[str, set[Part]] = {}
    for label, *part in connection.execute(_PARTS, (name,)):
        found.setdefault(label, set()).add(Part(*part))
    return {label: frozenset(parts) for label, parts in found.items()}


def are_empty(connection: Connection, oids: Collection[int]) -> bool | None:
    """Say whether tables have no row; None: one of them is locked."""
    try:
        with connection.transaction():
            connection.execute("SET LOCAL lock_timeout = '1s'")
            row = connection.execute(_EMPTY, (list(oids),)).fetchone()
    except errors.LockNotAvailable:
        return None
    return row is not None and bool(row[0])


def find_oids(connection: Connection, tables: Sequence[Table]) -> dict[str, int]:
    """Give the oid of each table that exists, by its label."""
    rows = connection.execute(
        _OIDS,
        ([t.label for t in tables], [t.schema for t in tables], [t.name for t in tables]),
    )
    return dict(rows.fetchall())


def read_relations(connection: Connection, oids: Iterable[int]) -> list[Relation]:
    """Describe the tables with these oids, and the partitions of those that have any."""
    with connection.cursor(row_factory=class_row(Relation)) as cursor:
        return cursor.execute(_RELATIONS, (list(oids),)).fetchall()


def compare(
    publication: Publication, tables: Sequence[Table], oids: Mapping[str, int]
) -> Difference:
    """Say which tables are to join and to leave. Pure.

    Args:
        publication: as read.
        tables: the opted-in tables of the stream.
        oids: of those that exist, by label.
    """
    wanted = {oids[table.label] for table in tables if table.label in oids}
    return Difference(
        tuple(t for t in tables if oids.get(t.label, 0) not in publication.members),
        tuple(m for oid, m in sorted(publication.members.items()) if oid not in wanted),
    )


def problems(publication: Publication) -> list[str]:
    """Say what makes a publication of this name unfit, a sentence each. Pure."""
    name = publication.name
    found = [
        f"{member.label} has a column list or a row filter in the publication {name}."
        for member in publication.members.values()
        if member.restricted
    ]
    if publication.all_tables:
        found.append(f"The publication {name} is FOR ALL TABLES.")
    if not publication.via_root:
        found.append(f"The publication {name} lacks publish_via_partition_root.")
    if not publication.every_operation:
        found.append(f"The publication {name} leaves out some of insert, update, delete, truncate.")
    return found


def unlogged(relations: Sequence[Relation]) -> list[str]:
    """Say which tables never reach the WAL, a sentence each. Pure."""
    return [
        f"{relation.label} is unlogged or temporary: its changes never reach the WAL."
        for relation in relations
        if relation.persistence != "p"
    ]


def lacking_identity(relation: Relation, key: Sequence[str]) -> str:
    """Say what a table's replica identity lacks; "" if nothing. Pure.

    Args:
        relation: an opted-in table or a partition of one; a partitioned table itself has no rows.
        key: columns of the model's primary key.
    """
    if relation.identity == "f" or relation.kind == "p":
        return ""
    missing = [column for column in key if column not in relation.columns]
    if not missing:
        return ""
    return (
        f"The replica identity of {relation.label} lacks its key ({', '.join(missing)}): "
        "updates and deletes would fail, or could not be told apart."
    )


def create_sql(name: str, tables: Sequence[Table]) -> sql.Composed:
    """Compose what creates the publication. Needs CREATE on the database and the tables' owner."""
    members = sql.SQL(" FOR TABLE {}").format(_list(tables)) if tables else sql.SQL("")
    return sql.SQL("CREATE PUBLICATION {}{} WITH (publish_via_partition_root = true)").format(
        sql.Identifier(name), members
    )


def add_sql(name: str, tables: Sequence[Table]) -> sql.Composed:
    """Compose what lets tables join. Needs their owner, who also owns the publication."""
    return sql.SQL("ALTER PUBLICATION {} ADD TABLE {}").format(sql.Identifier(name), _list(tables))


def remove_sql(name: str, members: Sequence[Member]) -> sql.Composed:
    """Compose what lets tables leave that are no longer opted in."""
    identifiers = [sql.Identifier(*member.label.split(".", 1)) for member in members]
    return sql.SQL("ALTER PUBLICATION {} DROP TABLE {}").format(
        sql.Identifier(name), sql.SQL(", ").join(identifiers)
    )


def _list(tables: Sequence[Table]) -> sql.Composed:
    return sql.SQL(", ").join(table.identifier for table in tables)
