"""Every built-in type of Postgres travels unchanged, whatever the databases' settings say.

By the stream (insert, update, key change) and by a backfill; the text of each value is compared
under the pinned settings, and verify's hashes of both sides with each other.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest
from django.db.models import Model

from replicator import Dataset, Rows, opt_in
from replicator.datasets import compile_dataset
from replicator.declare import declared_datasets, no_declarations
from replicator_apply import verify
from replicator_apply.runs import begin_verification, look_at_verification
from tests.conftest import SampleFactory
from tests.support.any_model import any_model, create_table
from tests.support.oracle.system import System, knobs, session
from tests.support.wait import until

HOSTILE = {
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "TimeZone": "Asia/Kathmandu",
    "lc_monetary": "C.UTF-8",
    "array_nulls": "off",
    "extra_float_digits": "0",
    "xmloption": "document",
    "standard_conforming_strings": "off",
    "transform_null_equals": "on",
    "search_path": "pg_catalog",
}
OTHERWISE = {
    **HOSTILE,
    "DateStyle": "German",
    "IntervalStyle": "iso_8601",
    "TimeZone": "America/St_Johns",
    "extra_float_digits": "-15",
}

BEFORE = """
CREATE SCHEMA kinds;
CREATE TYPE kinds.mood AS ENUM ('sad', 'it''s "ok"', E'back\\\\slash', 'ä, {b}');
CREATE DOMAIN kinds.small AS numeric(5, 2) CHECK (VALUE < 500);
CREATE DOMAIN kinds.names AS text[];
CREATE TYPE kinds.pair AS (a integer, "b c" text, d numeric[]);
CREATE TYPE kinds.nested AS (p kinds.pair, q kinds.mood);
CREATE TYPE kinds.texts AS RANGE (subtype = text);
"""
LONG = "9" * 1000
TYPES: dict[str, Sequence[str]] = {
    "smallint": ("-32768", "32767", "0"),
    "integer": ("-2147483648", "2147483647"),
    "bigint": ("-9223372036854775808", "9223372036854775807", "9007199254740993"),
    "numeric": ("NaN", "Infinity", "-Infinity", "1.10", "-0.00", LONG, f"{LONG}.{LONG}", "1e-300"),
    "numeric(20,5)": ("1", "-999999999999999.99999", "NaN"),
    "real": ("NaN", "Infinity", "-Infinity", "-0", "1e-45", "3.4028235e38", "0.1", "1e-37"),
    "double precision": (
        "NaN",
        "Infinity",
        "-0",
        "5e-324",
        "1.7976931348623157e308",
        "0.1",
        "0.30000000000000004",
        "2.2250738585072014e-308",
    ),
    "money": ("-92233720368547758.08", "92233720368547758.07", "0.01"),
    "boolean": ("true", "false"),
    "text": (
        "",
        " ",
        "\\N",
        "\\",
        "a\\nb",
        "\x01\x02\x07\x1b",
        "\t\r\n",
        "NULL",
        "ä 😀",
        "''",
        '"',
    ),
    "varchar(10)": ("a", "  ", "\\."),
    "character(5)": ("a", "", "ab  c", "😀"),
    "bpchar": ("a", "a  "),
    '"char"': ("a", "", "\\", "\\351", "\\001"),
    "name": ("a b", "ÄÖ"),
    "bytea": ("\\x", "\\x00", "\\x5c5c", "\\xdeadbeef00ff0a0d09", "\\x27"),
    "date": ("infinity", "-infinity", "4713-01-01 BC", "0044-03-15 BC", "5874897-12-31"),
    "time": ("00:00", "24:00:00", "23:59:59.999999"),
    "timetz": ("00:00:00+15:59:59", "24:00:00-15:59", "12:00:00.000001+05:45"),
    "timestamp": (
        "infinity",
        "-infinity",
        "4713-01-01 00:00:00 BC",
        "294276-12-31 23:59:59.999999",
    ),
    "timestamptz": (
        "infinity",
        "-infinity",
        "4713-01-02 00:00:00+00 BC",
        "294276-12-31 23:59:59.999999+00",
        "2026-03-29 01:30:00.000001+01",
    ),
    "timestamptz(0)": ("2026-10-25 02:30:00+02",),
    "interval": (
        "178000000 years",
        "-178000000 years",
        "1 mon -1 day",
        "1 day",
        "24:00:00",
        "-25:00:00.000001",
        "-1 mon 2 days -3:04:05.6",
        "0",
    ),
    "uuid": ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
    "json": (
        '{"a": "\\u00e9\\ud83d\\ude00",  "a":1.0}',
        "null",
        " [1e400, -0.0, 12345678901234567890.10]",
        '"\\u0000"',
        '{"\\n": "\\t\\\\ \\""}',
    ),
    "jsonb": (
        '{"b": 1.10, "a": "\\u00e9\\ud83d\\ude00"}',
        "null",
        f"[{LONG}]",
        '"\\\\ \\" \\n \\u0001"',
        "{}",
    ),
    "jsonpath": ('$."a b"[*] ? (@ > 1)', "strict $.*"),
    "xml": ("<a b='1'>x &amp; y</a>", "text <b/> only", "<?xml version='1.0'?><a/>", ""),
    "inet": ("0.0.0.0", "10.1.2.3/8", "::ffff:1.2.3.4", "2001:db8::/32", "fe80::1"),
    "cidr": ("10.0.0.0/8", "::/0", "2001:db8::/32"),
    "macaddr": ("08:00:2b:01:02:03",),
    "macaddr8": ("08:00:2b:01:02:03:04:05",),
    "bit(3)": ("101",),
    "bit varying": ("", "0", "1010101010101010101"),
    "point": ("(1e300,-0)", "(NaN,Infinity)", "(0.1,0.30000000000000004)"),
    "line": ("{1,-1,0.1}",),
    "lseg": ("[(0,0),(1,0.1)]",),
    "box": ("(1,1),(0,0.1)",),
    "path": ("((0,0),(1,1),(2,0.1))", "[(0,0),(1,1)]"),
    "polygon": ("((0,0),(1,1),(2,0.1))",),
    "circle": ("<(1,1),0.1>",),
    "tsvector": ("'a b':1A,2 'it''s':3B", "", "'back\\\\slash':16383"),
    "tsquery": ("'a b' & !('c' | 'd':*AB)", "'it''s' <-> 'x' <2> 'y'", ""),
    "int4range": ("empty", "[1,5)", "(,)", "[,3)"),
    "int8range": ("[-9223372036854775808,9223372036854775807)",),
    "numrange": ("(1.10,2.0]", "[NaN,]", "(-Infinity,Infinity)"),
    "tsrange": ('["2026-01-01 00:00:00","infinity"]', '("0044-03-15 00:00:00 BC",)'),
    "tstzrange": ('["2026-01-01 00:00:00+00","2026-01-02 00:00:00+05:45")',),
    "daterange": ("[2026-01-01,infinity)", "[4713-01-01 BC,)"),
    "int4multirange": ("{}", "{[1,3),[5,)}"),
    "nummultirange": ("{[1.10,2.0),(3,4]}",),
    "tstzmultirange": ('{["2026-01-01 00:00:00+00",infinity)}',),
    "datemultirange": ("{[2026-01-01,2026-01-05),[2027-01-01,)}",),
    "kinds.texts": ('["a ""b""","c,d)")', '[" ",)', "(,\\\\]"),
    "oid": ("0", "4294967295"),
    "regclass": ("pg_catalog.pg_class",),
    "regtype": ("pg_catalog.int4", "pg_catalog.timestamptz[]"),
    "pg_lsn": ("0/0", "FFFFFFFF/FFFFFFFF"),
    "xid": ("0", "4294967295"),
    "xid8": ("0", "18446744073709551615"),
    "cid": ("7",),
    "tid": ("(4294967295,65535)",),
    "pg_snapshot": ("10:20:10,14,15",),
    "int2vector": ("1 2 3", ""),
    "oidvector": ("1 2 4294967295",),
    "refcursor": ("a 'cursor'",),
    "kinds.mood": ("sad", 'it\'s "ok"', "back\\slash", "ä, {b}"),
    "kinds.small": ("499.99", "-0.10"),
    "kinds.names": ('{a,NULL,"NULL"}',),
    "kinds.pair": ('(1,"a ""b"", \\\\c","{1.0,NULL,NaN}")', "(,,)", '(2147483647,"",{})'),
    "kinds.nested": ('("(1,""x, y"",{1.10})",sad)', '("(,,)","ä, {b}")'),
    "integer[]": ("{}", "{1,NULL,-2147483648}", "{{1,2},{3,NULL}}", "[0:1]={1,2}"),
    "text[]": (
        '{"",NULL,"NULL","null"," a ","it\'s","say \\"hi\\"","back\\\\slash","{b,c}",",",";"}',
        '{{"a\\nb","\t"},{NULL,"\\\\N"}}',
    ),
    "numeric[]": (f"{{1.10,NaN,NULL,{LONG}}}",),
    "timestamptz[]": ("{infinity,NULL,2026-01-01 00:00:00+05:45}",),
    "interval[]": ('{"1 day","-1 mon"}',),
    "bytea[]": ('{"\\\\x00","\\\\x5c",NULL}',),
    "double precision[]": ("{NaN,-0,0.1,1e300}",),
    "money[]": ("{1.00,-2.50}",),
    "jsonb[]": ('{"{\\"a\\": [1.0, null]}",NULL}',),
    "kinds.mood[]": ('{sad,"ä, {b}","back\\\\slash",NULL}',),
    "kinds.pair[]": ('{"(1,\\"a \\"\\"b\\"\\"\\",{NULL})",NULL}',),
    "int4range[]": ('{"[1,3)",empty,NULL}',),
    "uuid[]": ("{00000000-0000-0000-0000-000000000000}",),
    "boolean[]": ("{t,f,NULL}",),
    "box[]": ("{(1,1),(0,0);(3,3),(2,2)}",),
    "citext": ("Ab", "", "\\"),
    "hstore": ('"a b"=>"it\'s", "c"=>NULL, "d"=>"NULL", "e\\\\"=>"\\"x\\", y=>z"', ""),
}
KEYS: dict[str, tuple[str, str, str]] = {
    "smallint": ("-32768", "0", "7"),
    "bigint": ("-9223372036854775808", "9007199254740993", "9223372036854775807"),
    "numeric": ("1.10", LONG, "NaN"),
    "double precision": ("0.1", "NaN", "-Infinity"),
    "boolean": ("t", "f", "t"),
    "text": ('a "b", [c]\\', "\x01\t\n'", "ä😀"),
    "character(5)": ("a", "b  c", ""),
    '"char"': ("a", "\\", "b"),
    "bytea": ("\\x00", "\\x5c", "\\x"),
    "date": ("infinity", "0044-03-15 BC", "2026-01-01"),
    "timestamptz": ("-infinity", "2026-03-29 01:30:00.000001+01", "4713-01-02 00:00:00+00 BC"),
    "interval": ("1 mon", "-25:00:00.000001", "3 days"),
    "uuid": (
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "00000000-0000-0000-0000-000000000001",
    ),
    "inet": ("10.1.2.3/8", "::1", "10.1.2.3/32"),
    "kinds.mood": ("sad", "ä, {b}", "back\\slash"),
    "kinds.pair": ('(1,"a ""b""",{1.0})', "(,,)", "(2,,)"),
    "text[]": ('{"a,b",NULL}', "{}", '{"\\\\"}'),
    "jsonb": ('{"a": 1.0}', "null", "[]"),
    "int4range": ("empty", "[1,5)", "(,)"),
    "citext": ("Ab", "x", "\\"),
}


@pytest.fixture
def pair(any_sample_database: SampleFactory) -> Iterator[tuple[str, str]]:
    """Conninfos of two databases with hostile settings, and of what types there are."""
    conninfos = any_sample_database("source", **HOSTILE), any_sample_database("target", **OTHERWISE)
    for conninfo in conninfos:
        with session(conninfo) as connection:
            connection.execute(BEFORE)
            for extension in ("citext", "hstore"):
                with contextlib.suppress(psycopg.Error):
                    connection.execute(f"CREATE EXTENSION {extension} SCHEMA kinds")
    return conninfos


def supported(connection: psycopg.Connection, kind: str, values: Sequence[str]) -> list[str]:
    """Give the values that this Postgres takes: none, if it is built without the type."""
    found = []
    for value in values:
        with contextlib.suppress(
            psycopg.errors.UndefinedObject, psycopg.errors.FeatureNotSupported
        ):
            connection.execute(f"SELECT %s::{kind}", [value])
            found.append(value)
    return found


def spelled(kind: str) -> str:
    """Give a type's name with its schema."""
    return f"kinds.{kind}" if kind in ("citext", "hstore") else kind


@contextlib.contextmanager
def replicated(models: Sequence[type[Model]], pair: tuple[str, str], log: str) -> Iterator[System]:
    """Run both daemons on tables of these models, not begun yet."""
    with no_declarations(), knobs({}):
        for model in models:
            opt_in(model)
        Dataset("types", *(Rows(model) for model in models))
        plans = {"types": compile_dataset(declared_datasets()["types"])}
        with System(*pair, log, plans) as system:
            for connection in (system.at_source, system.at_target):
                for model in models:
                    connection.execute(create_table(model))
            yield system


def texts(connection: psycopg.Connection, model: type[Model]) -> list[tuple[str, ...]]:
    """Read a table by the output text of its columns; a cast to text may be something else."""
    columns = ", ".join(f'ROW("{field.column}")::text' for field in model._meta.concrete_fields)
    rows = connection.execute(f'SELECT {columns} FROM public."{model._meta.db_table}"').fetchall()
    return sorted(rows, key=str)


def await_equal(system: System, models: Sequence[type[Model]]) -> None:
    """Wait until all tables are equal; say what differs."""

    def differing() -> list[object]:
        system.check()
        found: list[object] = []
        for model in models:
            one, other = texts(system.at_source, model), texts(system.at_target, model)
            names = [field.column for field in model._meta.concrete_fields]
            found += [
                (model.__name__, name, mine, theirs)
                for row, copy in zip(one, other, strict=False)
                for name, mine, theirs in zip(names, row, copy, strict=True)
                if mine != theirs
            ]
            if len(one) != len(other):
                found.append((model.__name__, len(one), len(other), one, other))
        found += system.at_target.execute(
            "SELECT stopped_reason FROM public.replicator_streamposition WHERE stopped_reason <> ''"
        ).fetchall()
        return found

    until(lambda: not differing(), lambda: str(differing()[:10]))


def await_backfill(system: System) -> None:
    """Wait until no backfill is under way."""
    statement = (
        "SELECT bool_or(state = 'finished') AND bool_and(state IN ('finished', 'cancelled')) "
        "FROM public.replicator_backfillrun"
    )
    until(
        lambda: system.at_target.execute(statement).fetchall() == [(True,)],
        lambda: "the backfill does not finish",
        check=system.check,
    )


def await_verified(system: System, rows: int) -> None:
    """Have verify compare, and find no difference."""
    ((subscription,),) = system.at_target.execute(
        "SELECT id FROM public.replicator_subscription"
    ).fetchall()
    run = begin_verification(system.at_target, subscription)
    until(
        lambda: look_at_verification(system.at_target, run).ended,
        lambda: "verify does not finish",
        check=system.check,
    )
    found = look_at_verification(system.at_target, run)
    assert (found.rows_checked, found.differences) == (rows, 0), found


def test_values_of_every_type_arrive_unchanged(pair: tuple[str, str], tmp_path: Path) -> None:
    with session(pair[0]) as connection:
        values = {
            kind: found
            for kind in TYPES
            if (found := supported(connection, spelled(kind), TYPES[kind]))
        }
    columns = {f"c{n}": spelled(kind) for n, kind in enumerate(values)}
    depth = max(map(len, values.values())) + 1
    rows = [[each[n] if n < len(each) else None for each in values.values()] for n in range(depth)]
    with (
        any_model("Anything", columns) as model,
        replicated([model], pair, f"sqlite:///{tmp_path}/log") as system,
    ):

        def insert(first: int) -> None:
            for n, row in enumerate(rows):
                places = ", ".join(f"%s::{kind}" for kind in columns.values())
                system.at_source.execute(
                    f"INSERT INTO public.kinds_anything ({', '.join(columns)}, id) "
                    f"VALUES ({places}, %s)",
                    [*row, first + n],
                )

        insert(100)
        system.start("capture")
        system.start("apply")
        await_backfill(system)
        await_equal(system, [model])
        insert(200)
        await_equal(system, [model])
        # Every row takes the values of the next one, in one statement.
        assignments = ", ".join(f"{name} = n.{name}" for name in columns)
        system.at_source.execute(
            f"UPDATE public.kinds_anything t SET {assignments} FROM public.kinds_anything n "
            f"WHERE n.id = CASE WHEN t.id %% 100 = {depth - 1} THEN t.id - {depth - 1} "
            "ELSE t.id + 1 END".replace("%%", "%")
        )
        await_equal(system, [model])
        system.at_source.execute("UPDATE public.kinds_anything SET id = id + 1000")
        await_equal(system, [model])
        await_verified(system, 2 * depth)
        covered = sum(map(len, values.values()))
        print(f"{len(values)} types, {covered} values; not here: {sorted(TYPES.keys() - values)}")


def test_keys_of_many_types_are_told_apart(pair: tuple[str, str], tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack, session(pair[0]) as connection:
        kinds = [kind for kind in KEYS if supported(connection, spelled(kind), KEYS[kind])]
        models = [
            stack.enter_context(any_model(f"Keyed{n}", {"k": spelled(kind), "v": "text"}, "k"))
            for n, kind in enumerate(kinds)
        ]
        system = stack.enter_context(replicated(models, pair, f"sqlite:///{tmp_path}/log"))
        execute = system.at_source.execute

        def for_each(statement: str, *, at: int = 0) -> None:
            for n, kind in enumerate(kinds):
                text = statement.format(t=f"public.kinds_keyed{n}", k=f"%(k)s::{spelled(kind)}")
                execute(text, {"k": KEYS[kind][at]})

        for_each("INSERT INTO {t} VALUES ({k}, 'a')")
        system.start("capture")
        system.start("apply")
        await_backfill(system)
        await_equal(system, models)
        for_each("INSERT INTO {t} VALUES ({k}, 'b')", at=1)
        await_equal(system, models)
        for_each("UPDATE {t} SET v = 'c' WHERE k = {k}")
        await_equal(system, models)
        for_each("DELETE FROM {t} WHERE k = {k}")
        await_equal(system, models)
        for_each("UPDATE {t} SET k = {k}", at=2)
        await_equal(system, models)
        await_verified(system, len(kinds))
        print(f"{len(kinds)} types of keys")


def test_verify_cuts_text_keys_alike_under_any_collation(
    pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with session(pair[0]) as connection:
        icu = connection.execute(
            "SELECT FROM pg_collation WHERE collname = 'en-x-icu' AND collencoding IN (-1, 6)"
        ).fetchall()
        kinds = ["text", "varchar(9)"]
        kinds += [each for each in ("kinds.citext",) if supported(connection, each, [""])]
    if not icu:
        pytest.skip("this Postgres is built without ICU")
    monkeypatch.setattr(verify, "PAGE", 2)
    with contextlib.ExitStack() as stack:
        models = [
            stack.enter_context(any_model(f"Sorted{n}", {"k": kind}, "k"))
            for n, kind in enumerate(kinds)
        ]
        system = stack.enter_context(replicated(models, pair, f"sqlite:///{tmp_path}/log"))
        for n, kind in enumerate(kinds):
            (system.at_source, system.at_target)[n % 2].execute(
                f'ALTER TABLE public.kinds_sorted{n} ALTER k TYPE {kind} COLLATE "en-x-icu"'
            )
            system.at_source.execute(
                f"INSERT INTO public.kinds_sorted{n} VALUES "
                "('a'), ('B'), ('c'), ('Z'), ('ä'), ('a b'), ('a-a'), ('É')"
            )
        system.start("capture")
        system.start("apply")
        await_backfill(system)
        await_equal(system, models)
        await_verified(system, 8 * len(kinds))


def test_a_key_may_change_into_one_that_is_equal_to_it(
    pair: tuple[str, str], tmp_path: Path
) -> None:
    """The scale of a numeric, say: the row must stay, and look as it does on the source."""
    spellings = {
        "numeric": ("1.0", "1.00", "1"),
        "interval": ("1 day", "24:00:00", "24:00:00"),
    }
    with contextlib.ExitStack() as stack:
        kinds = list(spellings)
        models = [
            stack.enter_context(any_model(f"Equal{n}", {"k": kind, "v": "text"}, "k"))
            for n, kind in enumerate(kinds)
        ]
        system = stack.enter_context(replicated(models, pair, f"sqlite:///{tmp_path}/log"))
        execute = system.at_source.execute
        for n, kind in enumerate(kinds):
            execute(f"INSERT INTO public.kinds_equal{n} VALUES ('{spellings[kind][0]}', 'a')")
        system.start("capture")
        system.start("apply")
        await_backfill(system)
        for at in (1, 2):
            for n, kind in enumerate(kinds):
                execute(f"UPDATE public.kinds_equal{n} SET k = '{spellings[kind][at]}'")
            await_equal(system, models)
        await_verified(system, len(kinds))
