"""From a real Postgres, of every version here, to records: what each kind of change publishes."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from replicator.envelope import Mark, Record, decode
from replicator.errors import DatabaseUnavailable, Refused
from replicator.plan import Release, TableName
from replicator.positions import EpochId, Lsn, RunId, parse_lsn
from replicator.postgres import connect, connection_parameters
from replicator_capture.assemble import Assembler, Commitment, Origin
from replicator_capture.encode import ReadEncoder
from replicator_capture.publish import Publisher
from replicator_capture.pump import Pump
from replicator_capture.table_read import copy_blocks
from replicator_capture.wal import SlotBusy, WalStream
from tests.conftest import DatabaseFactory
from tests.support.postgres import PostgresServer
from tests.support.recording_writer import RecordingWriter

_TABLE = TableName("public", "t")
_BIG = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 400) AS n)"
_HOSTILE = {
    "datestyle": "SQL, DMY",
    "intervalstyle": "sql_standard",
    "timezone": "Asia/Kolkata",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "lc_monetary": "C.UTF-8",
    "array_nulls": "off",
    "xmloption": "document",
    "search_path": "elsewhere",
}


class Capture:
    """Steps 1 to 3 of a row's life on one database, with a log that stores at once."""

    def __init__(self, conninfo: str, *releases: Release) -> None:
        self.conninfo = conninfo
        entry = {key: str(value) for key, value in conninfo_to_dict(conninfo).items()}
        self.parameters = connection_parameters(entry, application="reader")
        self.session = connect(self.parameters)
        self.slot = f"reader_{entry['dbname']}"
        self.releases = {release.table: release for release in releases}
        self.unknowns: list[tuple[TableName, tuple[str, ...]]] = []
        self.commits: list[Commitment] = []
        self.contents: list[bytes] = []
        self.writer = RecordingWriter()
        self._drained = 0
        self._publish()
        self.start()

    def execute(self, *statements: str) -> None:
        """Run the statements in one transaction."""
        with self.session.transaction():
            for statement in statements:
                self.session.execute(sql.SQL(statement))

    def value(self, query: str) -> str:
        row = self.session.execute(sql.SQL(query)).fetchone()
        assert row is not None
        return str(row[0])

    def _publish(self) -> None:
        tables = ", ".join(f'"{table.schema}"."{table.name}"' for table in self.releases)
        self.execute(
            f"CREATE PUBLICATION p FOR TABLE {tables} WITH (publish_via_partition_root = true)"
        )
        self.session.execute(
            "SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [self.slot]
        )

    def start(self) -> None:
        """Stream from where the slot is confirmed."""
        confirmed = self.confirmed()
        self.stream = WalStream.open(self.parameters, self.slot, "p", confirmed)
        origin = Origin("prod", "app", EpochId("00000001"), RunId(5))
        self.assembler = Assembler(origin, self.releases, confirmed, self)
        self.publisher = Publisher(self.assembler, self.writer, self.stream.tick)
        self.pump = Pump(self.stream, self.assembler, self.publisher)

    def confirmed(self) -> Lsn:
        return parse_lsn(
            self.value(
                "SELECT confirmed_flush_lsn FROM pg_catalog.pg_replication_slots "
                f"WHERE slot_name = '{self.slot}'"
            )
        )

    def unknown(self, table: TableName, columns: tuple[str, ...]) -> None:
        self.unknowns.append((table, columns))

    def committed(self, commitments: Sequence[Commitment]) -> None:
        self.commits += commitments

    def message(self, content: bytes, commitment: Commitment) -> None:
        self.contents.append(content)
        self.publisher.publish_mark(Mark(content.decode()), commitment)

    def drain(self) -> list[Record]:
        """Give all records up to now, less the mark that shows where now is."""
        nonce = f"end-{len(self.contents)}"
        self.execute(f"SELECT pg_logical_emit_message(true, 'replicator', '{nonce}')")
        self.turn_until(lambda: nonce.encode() in self.contents)
        self.turn_until(lambda: not self.assembler.pending)
        self.pump.turn(0)
        values = [value for _, value in self.writer.records]
        records = [decode(value) for value in values[self._drained :]]
        self._drained = len(values)
        return [record for record in records if record.mark is None]

    def turn_until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not done():
            assert time.monotonic() < deadline, "the stream does not bring it"
            self.pump.turn(0.05)

    def close(self) -> None:
        self.stream.close()
        self.session.close()


@contextmanager
def _capture(conninfo: str, ddl: str, *releases: Release) -> Iterator[Capture]:
    with psycopg.connect(conninfo, autocommit=True) as session:
        session.execute(sql.SQL(ddl))
    capture = Capture(conninfo, *releases)
    try:
        yield capture
    finally:
        capture.close()


def _release(*columns: str, key: tuple[str, ...] = ("id",), table: TableName = _TABLE) -> Release:
    return Release(f"app.{table.name}", table, key, columns)


def _told(records: list[Record]) -> list[tuple[object, ...]]:
    return [(record.op, record.before, record.after, record.unchanged) for record in records]


def _check_chain(records: list[Record], start: Lsn) -> None:
    """Ordinals count from 0 in each transaction; `from` is the `to` before."""
    ordinal = 0
    for record in records:
        assert record.at.ordinal == ordinal
        ordinal += 1
        if record.at.to is not None:
            assert record.at.from_ == start
            assert record.source.lsn < record.at.to
            start, ordinal = record.at.to, 0
    assert ordinal == 0


def test_insert_update_delete(any_database: DatabaseFactory) -> None:
    ddl = "CREATE TABLE t (id int PRIMARY KEY, name text, ok bool, secret text)"
    with _capture(any_database(), ddl, _release("id", "name", "ok")) as capture:
        start = capture.confirmed()
        capture.execute(
            "INSERT INTO public.t VALUES (1, 'a', true, 'hush'), (2, NULL, false, NULL)"
        )
        capture.execute("UPDATE public.t SET name = 'b' WHERE id = 1")
        capture.execute("DELETE FROM public.t WHERE id = 2", "DELETE FROM public.t WHERE id = 1")
        records = capture.drain()
        assert _told(records) == [
            ("c", None, {"id": 1, "name": "a", "ok": True}, ()),
            ("c", None, {"id": 2, "name": None, "ok": False}, ()),
            ("u", None, {"id": 1, "name": "b", "ok": True}, ()),
            ("d", {"id": 2}, None, ()),
            ("d", {"id": 1}, None, ()),
        ]
        _check_chain(records, start)
        assert [commit.rows for commit in capture.commits] == [2, 1, 2]
        assert capture.unknowns[0] == (_TABLE, ("secret",))
        assert {record.source.txId for record in records} == {c.xid for c in capture.commits}


def test_the_time_is_that_of_the_commit(any_database: DatabaseFactory) -> None:
    with _capture(any_database(), "CREATE TABLE t (id int PRIMARY KEY)", _release("id")) as capture:
        before = time.time_ns() // 1_000_000
        capture.execute("INSERT INTO public.t VALUES (1)")
        [record] = capture.drain()
        assert before - 1 <= record.source.ts_ms <= time.time_ns() // 1_000_000


def test_unchanged_toast_is_named_and_filled_under_full(any_database: DatabaseFactory) -> None:
    ddl = f"CREATE TABLE t (id int PRIMARY KEY, n int, big text); INSERT INTO t SELECT 1, 1, {_BIG}"
    with _capture(any_database(), ddl, _release("id", "n", "big")) as capture:
        big = capture.value("SELECT big FROM public.t")
        capture.execute("UPDATE public.t SET n = 2")
        capture.execute("UPDATE public.t SET id = 7")
        capture.execute("ALTER TABLE public.t REPLICA IDENTITY FULL")
        capture.execute("UPDATE public.t SET n = 3")
        capture.execute("UPDATE public.t SET id = 8")
        capture.execute("DELETE FROM public.t")
        assert _told(capture.drain()) == [
            ("u", None, {"id": 1, "n": 2}, ("big",)),
            ("d", {"id": 1}, None, ()),
            ("c", None, {"id": 7, "n": 2}, ("big",)),
            (
                "u",
                {"id": 7, "n": 2, "big": big},
                {"id": 7, "n": 3, "big": big},
                (),
            ),
            ("d", {"id": 7, "n": 3, "big": big}, None, ()),
            ("c", None, {"id": 8, "n": 3, "big": big}, ()),
            ("d", {"id": 8, "n": 3, "big": big}, None, ()),
        ]


def test_full_identity_shows_released_columns_only(any_database: DatabaseFactory) -> None:
    ddl = (
        "CREATE TABLE t (id int PRIMARY KEY, secret text, n int);"
        "ALTER TABLE t REPLICA IDENTITY FULL"
    )
    with _capture(any_database(), ddl, _release("id", "n")) as capture:
        capture.execute("INSERT INTO public.t VALUES (1, 'hush', 1)")
        capture.execute("UPDATE public.t SET secret = 'hush hush'")
        capture.execute("DELETE FROM public.t")
        assert _told(capture.drain()) == [
            ("c", None, {"id": 1, "n": 1}, ()),
            ("u", {"id": 1, "n": 1}, {"id": 1, "n": 1}, ()),
            ("d", {"id": 1, "n": 1}, None, ()),
        ]


def test_a_toasted_primary_key(any_database: DatabaseFactory) -> None:
    ddl = (
        "CREATE TABLE t (id text PRIMARY KEY, n int, pad text);"
        "ALTER TABLE t ALTER id SET STORAGE EXTERNAL, ALTER pad SET STORAGE PLAIN;"
        "INSERT INTO t VALUES (repeat('k', 2100), 1, repeat('p', 500))"
    )
    with _capture(any_database(), ddl, _release("id", "n")) as capture:
        capture.execute("UPDATE public.t SET n = 2")
        [record] = capture.drain()
        key = "k" * 2100
        assert (record.before, record.after) == ({"id": key}, {"id": key, "n": 2})


def test_identity_by_index_and_by_nothing(any_database: DatabaseFactory) -> None:
    ddl = (
        "CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL, n int, UNIQUE (code, id));"
        "ALTER TABLE t REPLICA IDENTITY USING INDEX t_code_id_key;"
        "CREATE TABLE bare (id int PRIMARY KEY);"
        "ALTER TABLE bare REPLICA IDENTITY NOTHING"
    )
    bare = TableName("public", "bare")
    releases = (_release("id", "code", "n"), _release("id", table=bare))
    with _capture(any_database(), ddl, *releases) as capture:
        capture.execute("INSERT INTO public.t VALUES (1, 'a', 1)")
        capture.execute("UPDATE public.t SET n = 2", "UPDATE public.t SET code = 'b'")
        capture.execute("UPDATE public.t SET id = 2", "DELETE FROM public.t")
        capture.execute("INSERT INTO public.bare VALUES (1)")
        assert _told(capture.drain()) == [
            ("c", None, {"id": 1, "code": "a", "n": 1}, ()),
            ("u", None, {"id": 1, "code": "a", "n": 2}, ()),
            ("u", {"id": 1, "code": "a"}, {"id": 1, "code": "b", "n": 2}, ()),
            ("d", {"id": 1, "code": "b"}, None, ()),
            ("c", None, {"id": 2, "code": "b", "n": 2}, ()),
            ("d", {"id": 2, "code": "b"}, None, ()),
            ("c", None, {"id": 1}, ()),
        ]


def test_an_identity_without_the_primary_key_stops_the_stream(
    any_database: DatabaseFactory,
) -> None:
    ddl = (
        "CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL UNIQUE);"
        "ALTER TABLE t REPLICA IDENTITY USING INDEX t_code_key"
    )
    with _capture(any_database(), ddl, _release("id", "code")) as capture:
        capture.execute("INSERT INTO public.t VALUES (1, 'a')", "UPDATE public.t SET id = 2")
        with pytest.raises(Refused, match=r"primary key of changed rows of public\.t"):
            capture.drain()


def test_truncate_cascade_over_several_tables(any_database: DatabaseFactory) -> None:
    ddl = (
        "CREATE TABLE t (id int PRIMARY KEY);"
        "CREATE TABLE child (id int PRIMARY KEY, t_id int REFERENCES t);"
        "CREATE TABLE other (id int PRIMARY KEY);"
        "CREATE TABLE hidden (id int PRIMARY KEY, t_id int REFERENCES t)"
    )
    names = [TableName("public", name) for name in ("t", "child", "other")]
    with _capture(any_database(), ddl, *(_release("id", table=n) for n in names)) as capture:
        capture.execute("INSERT INTO public.t VALUES (1)")
        capture.execute("TRUNCATE public.t, public.other CASCADE")
        records = capture.drain()[1:]
        assert [record.op for record in records] == ["t"] * 3
        assert {record.source.table for record in records} == {"t", "child", "other"}
        assert len({record.source.lsn for record in records}) == 1


def test_partitions_arrive_under_their_root(any_database: DatabaseFactory) -> None:
    ddl = (
        "CREATE TABLE t (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);"
        # A leaf may have its columns in another order.
        "CREATE TABLE low (n int, id int NOT NULL);"
        "ALTER TABLE t ATTACH PARTITION low FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE high PARTITION OF t FOR VALUES FROM (10) TO (20)"
    )
    with _capture(any_database(), ddl, _release("id", "n")) as capture:
        capture.execute("INSERT INTO public.t VALUES (1, 5), (11, 6)")
        capture.execute("UPDATE public.t SET id = 12 WHERE id = 1")
        capture.execute("TRUNCATE public.t")
        records = capture.drain()
        assert {str(record.source.table) for record in records} == {"t"}
        assert _told(records) == [
            ("c", None, {"id": 1, "n": 5}, ()),
            ("c", None, {"id": 11, "n": 6}, ()),
            ("d", {"id": 1}, None, ()),
            ("c", None, {"id": 12, "n": 5}, ()),
            ("t", None, None, ()),
        ]


def test_a_column_added_or_dropped_while_the_stream_flows(any_database: DatabaseFactory) -> None:
    ddl = "CREATE TABLE t (id int PRIMARY KEY, n int, old int)"
    with _capture(any_database(), ddl, _release("id", "n")) as capture:
        capture.execute("INSERT INTO public.t VALUES (1, 1, 1)")
        capture.execute("ALTER TABLE public.t ADD secret text DEFAULT 'hush', DROP old")
        capture.execute("INSERT INTO public.t VALUES (2, 2)")
        assert [record.after for record in capture.drain()] == [
            {"id": 1, "n": 1},
            {"id": 2, "n": 2},
        ]
        assert capture.unknowns[-1] == (_TABLE, ("secret",))
        capture.execute("ALTER TABLE public.t DROP n", "INSERT INTO public.t VALUES (3)")
        with pytest.raises(Refused, match=r"public\.t has no column n"):
            capture.drain()


def test_messages_of_others_and_outside_of_transactions_are_ignored(
    any_database: DatabaseFactory,
) -> None:
    with _capture(any_database(), "CREATE TABLE t (id int PRIMARY KEY)", _release("id")) as capture:
        capture.execute("SELECT pg_logical_emit_message(false, 'replicator', 'loose')")
        capture.execute("SELECT pg_logical_emit_message(true, 'other', 'foreign')")
        with capture.session.transaction(force_rollback=True):
            capture.session.execute("SELECT pg_logical_emit_message(true, 'replicator', 'undone')")
        assert capture.drain() == []
        assert capture.contents == [b"end-0"]


_VALUES = {
    "int2": "-32768",
    "int8": "9223372036854775807",
    "float8": "0.1::float8 + 0.2",
    "float4": "'-Infinity'",
    "numeric": "'NaN'",
    "numeric(1000, 500)": "repeat('9', 400) || '.' || repeat('1', 500)",
    "money": "-1234.5",
    "date": "'infinity'",
    "timestamptz": "'2026-11-20 09:52:22.164124+00'",
    "timestamp": "'0044-03-15 12:00:00 BC'",
    "timetz": "'01:02:03+05:30'",
    "interval": "'-1 year 2 days -03:04:05.6'",
    "bytea": "'\\x00ff5c22'",
    "text": r"E'a\"b\\c\n\u2028\u00fc\U0001F600'",
    "bpchar": "'x   '",
    "jsonb": """'{"a": "\\u00fc", "b": [1.50, null]}'""",
    "json": """'{"a" :  1, "a":2}'""",
    "uuid": "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'",
    "int4[]": "'[0:1]={NULL,1}'",
    "text[]": """ARRAY['NULL', NULL, 'a"b\\c', '']""",
    "int4range": "'[1,5]'",
    "nummultirange": "'{[1.0,2.5),(7,8]}'",
    "inet": "'::ffff:1.2.3.4/128'",
    "bit varying": "B'0101'",
    "tsvector": "'fat:2A cat:1'",
    "xml": "'<a>1</a>text'",
    "point": "'(1e-7,3)'",
    "pg_lsn": "'16/B374D848'",
    "bool": "false",
}


def test_values_are_text_whatever_the_database_is_set_to(any_database: DatabaseFactory) -> None:
    values = dict(_VALUES)
    if not _has_xml(capture_database := any_database("hostile", **_HOSTILE)):
        values.pop("xml")
    columns = {f"c{n}": kind for n, kind in enumerate(values)}
    names = ("id", *columns, "mood", "pair", "small")
    ddl = (
        "CREATE SCHEMA elsewhere;"
        "CREATE TYPE public.mood AS ENUM ('sad', 'so \"so\"');"
        "CREATE TYPE public.pair AS (a int, b text);"
        "CREATE DOMAIN public.small AS int CHECK (VALUE < 10);"
        "CREATE TABLE public.t (id int PRIMARY KEY, "
        + "".join(f"{name} {kind}, " for name, kind in columns.items())
        + "mood public.mood, pair public.pair, small public.small)"
    )
    with _capture(capture_database, ddl, _release(*names)) as capture:
        for _ in range(2):
            capture.execute(
                "INSERT INTO public.t SELECT count(*) + 1, "
                + ", ".join(
                    f"({text})::text::{kind}"
                    if kind.startswith("numeric(")
                    else f"({text})::{kind}"
                    for kind, text in values.items()
                )
                + """, 'so "so"'::public.mood, '(1,"a,""b")'::public.pair, 3 FROM public.t"""
            )
        streamed = capture.drain()
        blocks = _copied(capture, names)
        types = capture.session.execute(
            "SELECT atttypid FROM pg_catalog.pg_attribute "
            "WHERE attrelid = 'public.t'::regclass AND attnum > 0 ORDER BY attnum"
        ).fetchall()
    assert len(streamed) == 2
    encoder = ReadEncoder(capture.releases[_TABLE], [oid for (oid,) in types])
    rows = [row for block in blocks for row in encoder.rows(block)]
    for record, (_, head) in zip(streamed, rows, strict=True):
        fetched = decode(head + b'"source":' + _SOURCE + b"}")
        assert record.after is not None
        assert fetched.after is not None
        assert record.after == fetched.after
    after = streamed[0].after
    assert after is not None
    by_kind = {kind: after[name] for name, kind in columns.items()}
    assert by_kind["date"] == "infinity"
    assert by_kind["timestamptz"] == "2026-11-20 09:52:22.164124+00"
    assert by_kind["interval"] == "-1 years +2 days -03:04:05.6"
    assert by_kind["float8"] == "0.30000000000000004"
    assert by_kind["bytea"] == "\\x00ff5c22"
    assert by_kind["money"] == "-$1,234.50"
    assert by_kind["int8"] == 9223372036854775807
    assert by_kind["bool"] is False
    assert after["small"] == "3"


def _has_xml(conninfo: str) -> bool:
    """Say whether the server was built with libxml; the wheel's is not."""
    with psycopg.connect(conninfo) as session:
        try:
            session.execute("SELECT '<a/>'::xml")
        except psycopg.errors.FeatureNotSupported:
            return False
    return True


def _copied(capture: Capture, columns: tuple[str, ...]) -> list[bytes]:
    """Read the table as a fetch does: by COPY, without a cast to text."""
    query = sql.SQL("SELECT {} FROM public.t ORDER BY id")
    names = sql.SQL(", ").join(sql.Identifier(name) for name in columns)
    return [*copy_blocks(capture.session, query.format(names))]


# The session


def test_what_is_stored_is_confirmed_to_the_slot(any_database: DatabaseFactory) -> None:
    with _capture(any_database(), "CREATE TABLE t (id int PRIMARY KEY)", _release("id")) as capture:
        capture.execute("INSERT INTO public.t VALUES (1)")
        capture.drain()
        told = capture.assembler.told
        capture.turn_until(lambda: capture.confirmed() == told)
        capture.execute("INSERT INTO public.t VALUES (2)")
        capture.stream.close()
        capture.start()
        assert [record.after for record in capture.drain()] == [{"id": 2}]


def test_a_clean_stop_confirms_and_frees_the_slot(any_database: DatabaseFactory) -> None:
    with _capture(any_database(), "CREATE TABLE t (id int PRIMARY KEY)", _release("id")) as capture:
        capture.execute("INSERT INTO public.t SELECT generate_series(1, 20000)")
        capture.pump.turn(1)
        started = time.monotonic()
        capture.stream.close()
        assert time.monotonic() - started < 2
        capture.start()
        records = capture.drain()
        assert len(records) == 20000
        _check_chain(records, records[-1].at.from_ or Lsn(0))


def test_unseen_commits_are_not_confirmed(any_database: DatabaseFactory) -> None:
    with _capture(any_database(), "CREATE TABLE t (id int PRIMARY KEY)", _release("id")) as capture:
        capture.execute("INSERT INTO public.t VALUES (1)")
        capture.execute("INSERT INTO public.t VALUES (2)")
        capture.pump = Pump(
            capture.stream,
            capture.assembler,
            capture.publisher,
            unseen=lambda: capture.commits[1].lsn if len(capture.commits) > 1 else None,
        )
        capture.drain()
        assert capture.stream.confirmed == capture.commits[1].lsn


def test_a_second_session_finds_the_slot_busy(any_database: DatabaseFactory) -> None:
    with _capture(any_database(), "CREATE TABLE t (id int PRIMARY KEY)", _release("id")) as capture:
        with pytest.raises(SlotBusy):
            WalStream.open(capture.parameters, capture.slot, "p", Lsn(0))
        with pytest.raises(Refused, match="nowhere"):
            WalStream.open(capture.parameters, "nowhere", "p", Lsn(0))


def test_a_missing_publication_is_refused(
    any_postgres: PostgresServer, any_database: DatabaseFactory
) -> None:
    if any_postgres.version >= 18:
        pytest.skip("from 18 on the server only warns in its own log; capture looks every minute")
    with _capture(any_database(), "CREATE TABLE t (id int PRIMARY KEY)", _release("id")) as capture:
        capture.stream.close()
        capture.execute("DROP PUBLICATION p", "INSERT INTO public.t VALUES (1)")
        capture.start()
        with pytest.raises(Refused, match='publication "p" does not exist'):
            capture.drain()


def test_a_terminated_walsender_is_a_database_that_is_away(any_database: DatabaseFactory) -> None:
    with _capture(any_database(), "CREATE TABLE t (id int PRIMARY KEY)", _release("id")) as capture:
        capture.execute("INSERT INTO public.t VALUES (1)")
        capture.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_catalog.pg_replication_slots "
            f"WHERE slot_name = '{capture.slot}'"
        )
        with pytest.raises(DatabaseUnavailable):
            capture.turn_until(lambda: False)


def test_a_status_goes_out_every_second_while_nothing_is_read(
    any_database: DatabaseFactory,
) -> None:
    settings = {"wal_sender_timeout": "2s"}
    with _capture(
        any_database("impatient", **settings), "CREATE TABLE t (id int PRIMARY KEY)", _release("id")
    ) as capture:
        capture.publisher.has_room = lambda: False  # type: ignore[method-assign]
        until = time.monotonic() + 4
        while time.monotonic() < until:
            capture.pump.turn(0.1)
        del capture.publisher.has_room
        capture.execute("INSERT INTO public.t VALUES (1)")
        assert len(capture.drain()) == 1


def test_a_server_that_shuts_down_is_not_held_up(own_postgres: PostgresServer) -> None:
    name = own_postgres.create_database()
    conninfo = own_postgres.conninfo(name)
    with _capture(conninfo, "CREATE TABLE t (id int PRIMARY KEY)", _release("id")) as capture:
        capture.execute("INSERT INTO public.t VALUES (1)")
        capture.drain()
        # WAL that concerns nobody here: the slot is not confirmed up to its end.
        capture.execute("CREATE TABLE public.idle AS SELECT generate_series(1, 1000)")
        for _ in range(20):
            capture.pump.turn(0.1)
        started = time.monotonic()
        stopping = threading.Thread(target=own_postgres.halt)
        stopping.start()
        with pytest.raises(DatabaseUnavailable):
            capture.turn_until(lambda: False)
        capture.stream.close()
        stopping.join()
        assert time.monotonic() - started < 10


def test_memory_is_bounded_in_a_large_transaction(any_database: DatabaseFactory) -> None:
    with _capture(
        any_database(), "CREATE TABLE t (id int PRIMARY KEY, n text)", _release("id", "n")
    ) as capture:
        start = capture.confirmed()
        capture.execute(
            "INSERT INTO public.t SELECT n, repeat('x', 100) FROM generate_series(1, 60000) n"
        )
        tops = []

        def complete() -> bool:
            tops.append(capture.assembler.pending)
            return bool(capture.commits)

        capture.turn_until(complete)
        records = capture.drain()
        assert len(records) == 60000
        assert max(tops) <= 6_000
        _check_chain(records, start)


_SOURCE = (
    b'{"version":"1","connector":"replicator","name":"p","db":"d","schema":"s","table":"t",'
    b'"txId":1,"lsn":1,"ts_ms":1,"snapshot":"false"},"at":{"v":1,"epoch":"1","run":1,"ordinal":0}'
)
