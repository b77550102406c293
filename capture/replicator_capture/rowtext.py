"""A row's values, from Postgres' text to JSON text: what is written for each type. Pure.

The generated readers are straight-line code, one block per column, because this is the hottest
step of capture: everything that can be decided once per table is decided here, once.
"""

import re
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

import msgspec

from replicator.errors import BadMessage

BOOL: Final = 16
NUMBERS: Final = frozenset({20, 21, 23})
"""int8, int2, int4: written as JSON numbers. A domain over one of them is a string: its own type
stands in the stream."""

Texts = list[bytes | None]
"""A row's values as Postgres' text."""

JsonTexts = tuple[bytes, ...]
"""JSON text of each released column, in the relation's order; b"" for one that was not sent."""

ReadRow = Callable[[bytes, int], tuple[int, int, JsonTexts]]
"""(padded message, offset of a tuple) → (offset after it, bit set of unsent columns, values)."""

PADDING: Final = b"\0" * 4
"""A null at the end of a message is one byte; the generated code reads five at a time."""

_dumps = msgspec.json.Encoder().encode
_TRUTH = {b"t": b"true", b"f": b"false"}

NameOf = Callable[[bytes], bytes]
"""Gives the name of a row by its key, as JSON text; b"": it is not known."""

_NULL = rb"\N"
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPES = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_EVEN = b"\t" + bytes(set(range(0x20, 0x100)) - {*b'"\\'})
"""The bytes that neither COPY nor JSON escapes, and COPY's delimiter."""
_FIELDS = {"number": "f{n}", "bool": "TRUTH[f{n}]", "text": "b'\"%b\"' % f{n}"}

_EXPRESSIONS = {
    "number": "m[start:p]",
    "bool": "TRUTH[m[start:p]]",
    "text": "dumps(m[start:p].decode())",
}

_RELEASED = """
    kind, size = value_head(m, p)
    if kind == 116:  # t
        start = p + 5
        p = start + size
        v{n} = {expression}{check}
    elif kind == 110:  # n
        v{n} = b"null"
        p += 1
    elif kind == 117:  # u
        v{n} = b""
        unsent |= {bit}
        p += 1
    else:
        raise unknown_kind(kind)
"""
_NAMED = """
        if not v{n}:
            unsent |= {bit}"""
_SKIPPED = """
    kind, size = value_head(m, p)
    if kind == 116:
        p += 5 + size
    elif kind == 110 or kind == 117:
        p += 1
    else:
        raise unknown_kind(kind)
"""


def json_kind(type_oid: int) -> str:
    """Say how a type is written: as "number", "bool" or "text".

    To quote dates and the like without escaping saves nothing over msgspec's encoder (measured).
    """
    if type_oid == BOOL:
        return "bool"
    return "number" if type_oid in NUMBERS else "text"


def json_text(type_oid: int, text: bytes | None) -> bytes:
    """Write one value as JSON.

    Raises:
        BadMessage: `text` is not UTF-8, or no boolean where the type is bool.
    """
    if text is None:
        return b"null"
    kind = json_kind(type_oid)
    if kind == "number":
        return text
    try:
        return _TRUTH[text] if kind == "bool" else _dumps(text.decode())
    except (KeyError, UnicodeDecodeError) as error:
        raise BadMessage("A value read from Postgres is not of its column's type.") from error


def parse_line(line: bytes) -> Texts:
    """Read a line of COPY's text format, without its newline.

    Source: https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS
    """
    fields: list[bytes] = line.split(b"\t")
    if b"\\" not in line:
        return list(fields)
    return [None if field == _NULL else _unescape(field) for field in fields]


def _unescape(field: bytes) -> bytes:
    return _ESCAPED.sub(lambda found: _ESCAPES.get(found[1], found[1]), field)


def _quoted(field: bytes) -> bytes:
    if b"\\" in field:
        field = _unescape(field)
    return _dumps(field.decode())


def plain_line(types: Sequence[int], line: bytes) -> JsonTexts:
    """Read a line of COPY's text format as JSON texts; the slow twin of `generate_line_reader`.

    Raises:
        BadMessage: the line does not fit the types.
    """
    texts = parse_line(line)
    if len(texts) != len(types):
        raise BadMessage("A row read from Postgres does not have its table's columns.")
    return tuple(map(json_text, types, texts))


@lru_cache(maxsize=128)
def generate_line_reader(types: tuple[int, ...]) -> Callable[[bytes], JsonTexts]:
    """Compile a function that reads lines of COPY's text format, UTF-8, as `plain_line` does.

    Most lines have no character that COPY or JSON escapes, or no other one than that of null.
    """
    kinds = [json_kind(oid) for oid in types]
    names = ", ".join(f"f{n}" for n in range(len(types)))
    even = ", ".join(_FIELDS[kind].format(n=n) for n, kind in enumerate(kinds))
    null = "b'null' if f{n} == NULL else "
    nullable = ", ".join((null + _FIELDS[kind]).format(n=n) for n, kind in enumerate(kinds))
    odd = {**_FIELDS, "text": "quoted(f{n})"}
    at_length = ", ".join((null + odd[kind]).format(n=n) for n, kind in enumerate(kinds))
    lines = [
        "def read(line):",
        "    fields = line.split(TAB)",
        "    odd = line.translate(None, EVEN)",
        "    try:",
        f"        {names}, = fields",
        "        if not odd:",
        f"            return {even},",
        "        if odd == BACKSLASH * fields.count(NULL):",
        f"            return {nullable},",
        f"        return {at_length},",
        "    except (ValueError, KeyError):",
        "        return plain_line(types, line)  # It says what is wrong.",
    ]
    namespace = {
        "TAB": b"\t",
        "BACKSLASH": b"\\",
        "NULL": _NULL,
        "EVEN": _EVEN,
        "TRUTH": _TRUTH,
        "quoted": _quoted,
        "plain_line": plain_line,
        "types": types,
    }
    # Nothing from outside is in the text: positions, and expressions chosen above.
    exec("\n".join(lines), namespace)  # noqa: S102
    read: Callable[[bytes], JsonTexts] = namespace["read"]  # type: ignore[assignment]
    return read


def generate_reader(types: Sequence[int | NameOf | None]) -> ReadRow:
    """Compile a function that reads the tuples of one relation.

    Args:
        types: type oid of each of the relation's columns; what names a row, if the column holds
            its key and its name travels; None if the column is not released. One of which the
            name is not known counts as unsent.

    The function raises struct.error, KeyError or UnicodeDecodeError on garbage; the caller turns
    them into BadMessage.
    """
    lines = [
        "def read(m, p):",
        f"    if count_of(m, p) != ({len(types)},):",
        "        raise BadMessage('A row of pgoutput does not have the columns of its relation.')",
        "    p += 2",
        "    unsent = 0",
    ]
    released = 0
    namers: dict[str, NameOf] = {}
    for kind in types:
        if kind is None:
            lines.append(_SKIPPED)
            continue
        place = {"n": released, "bit": 1 << released}
        if isinstance(kind, int):
            expression, check = _EXPRESSIONS[json_kind(kind)], ""
        else:
            namers[f"name{released}"] = kind
            expression, check = f"name{released}(m[start:p])", _NAMED.format(**place)
        lines.append(_RELEASED.format(**place, expression=expression, check=check))
        released += 1
    values = "".join(f"v{n}, " for n in range(released))
    lines.append(f"    return p, unsent, ({values})")
    namespace = {
        "count_of": struct.Struct("!H").unpack_from,
        "value_head": struct.Struct("!BI").unpack_from,
        "TRUTH": _TRUTH,
        "dumps": _dumps,
        "unknown_kind": _unknown_kind,
        "BadMessage": BadMessage,
        **namers,
    }
    # Nothing from outside is in the text: positions, and expressions chosen above.
    exec("\n".join(lines), namespace)  # noqa: S102
    read: ReadRow = namespace["read"]  # type: ignore[assignment]
    return read


def _unknown_kind(kind: int) -> BadMessage:
    return BadMessage(f"A value of pgoutput is of unknown kind {chr(kind)!r}.")
