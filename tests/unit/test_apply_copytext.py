"""COPY text: chunks against the plain form, value by value, for every character."""

from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from replicator_apply.copytext import (
    DELIMITER,
    NULL,
    OPTIONS,
    chunk,
    escaped,
    escaped_line,
    is_clean,
    line_function,
    picked,
)
from replicator_apply.decode import Cell

texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))
special = st.text(st.sampled_from("\x01\x02\t\n\r\\.N'\"ab\x0b\x0c\x85\u2028{}"), max_size=6)
cell: st.SearchStrategy[Cell] = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), texts, special
)
FIELDS = ["c0", "c1", "c2"]
rows = st.lists(st.tuples(cell, cell, cell), max_size=6)
Cells = tuple[Cell, Cell, Cell]


def written(rows: list[Cells], fields: list[str], start: str = "") -> str:
    structs = [SimpleNamespace(**dict(zip(FIELDS, row, strict=True))) for row in rows]
    return chunk(structs, fields, line_function(fields), start).decode()


def plain(rows: list[Cells], places: list[int], start: str = "") -> str:
    return "".join(start + escaped_line([row[i] for i in places]) for row in rows)


@given(rows)
@example([("\\", "", None)])
@example([("a\x01b", "\n", "\r")])
@example([("\\.", None, 1)])
def test_a_chunk_is_what_the_plain_form_writes(rows: list[Cells]) -> None:
    assert written(rows, FIELDS) == plain(rows, [0, 1, 2])


@given(rows, special)
def test_a_chunk_may_have_cells_before_and_fields_chosen(rows: list[Cells], text: str) -> None:
    start = f"{escaped(text)}{DELIMITER}7{DELIMITER}"
    assert written(rows, ["c2", "c0"], start) == plain(rows, [2, 0], start)


def unescaped(line: str) -> list[str | None]:
    """Read a line as COPY does: a twin of the server's reader, for what is written here."""
    back = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "v": "\v"}
    cells: list[str] = [""]
    raw: list[str] = [""]
    characters = iter(line)
    for character in characters:
        if character == DELIMITER:
            cells.append("")
            raw.append("")
            continue
        raw[-1] += character
        if character == "\\":
            following = next(characters)
            raw[-1] += following
            cells[-1] += back.get(following, following)
        else:
            cells[-1] += character
    return [None if r == NULL else c for c, r in zip(cells, raw, strict=True)]


@given(rows)
def test_every_value_can_be_read_again(rows: list[Cells]) -> None:
    lines = written(rows, FIELDS).split("\n")
    assert lines.pop() == ""
    expected = [[None if c is None else str(c) for c in row] for row in rows]
    assert [unescaped(line) for line in lines] == expected


@given(texts | special)
def test_clean_text_needs_no_escape(text: str) -> None:
    if is_clean(f"{text}\n", 1, 0):
        assert escaped(text) == text


@pytest.mark.parametrize("text", ["\\", "\n", "\r", DELIMITER])
def test_what_copy_takes_for_its_own_is_not_clean(text: str) -> None:
    assert not is_clean(f"a{text}b\n", 1, 0)


def test_the_options_name_delimiter_and_null() -> None:
    assert DELIMITER in OPTIONS.as_string()
    assert NULL in OPTIONS.as_string()


@given(st.lists(st.tuples(cell, cell), min_size=1, max_size=6), st.data())
def test_some_lines_are_those_of_some_rows(
    rows: list[tuple[Cell, Cell]], data: st.DataObject
) -> None:
    fields = ["c0", "c1"]
    structs = [SimpleNamespace(c0=a, c1=b) for a, b in rows]
    numbers = data.draw(st.lists(st.sampled_from(range(len(rows))), unique=True))
    line = line_function(fields)
    some = picked(chunk(structs, fields, line), numbers)
    assert some == chunk([structs[number] for number in numbers], fields, line)
