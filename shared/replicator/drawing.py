"""An explained dataset as text and as a Mermaid flowchart. Pure.

Source: https://mermaid.js.org/syntax/flowchart.html
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

from replicator.explain import Explanation, Leaving, Node

_ESCAPES = {"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "`": "#96;", "\\": "#92;"}


def text_of(explanation: Explanation) -> str:
    """Draw the rules as a tree, and list tables and what leaves."""
    parts = [
        f"Dataset {explanation.dataset}, stream {explanation.stream}, "
        f"rules {explanation.fingerprint}{_every(explanation.every)}",
        "\n".join(line for node in explanation.rules for line in _branch(node)),
        "\n".join(_tables(explanation)),
        "\n".join(_leaving(explanation.leaving)),
    ]
    if explanation.note:
        parts.append(f"Rows were not counted: {explanation.note}")
    return "\n\n".join(parts) + "\n"


def _every(seconds: float | None) -> str:
    return "" if seconds is None else f"; rows are chosen every {timedelta(seconds=seconds)}"


def _branch(node: Node) -> Iterator[str]:
    yield sentence(node)
    for number, each in enumerate(node.hanging, 1):
        last = number == len(node.hanging)
        first, *rest = _branch(each)
        yield ("└── " if last else "├── ") + first
        yield from (("    " if last else "│   ") + line for line in rest)


def sentence(node: Node) -> str:
    """Write a rule in one line."""
    parts = [f"{node.rule} {node.model}"]
    if node.by:
        parts.append(f"by {' and '.join(node.by)}")
    if node.where:
        parts.append(f"where {node.where}")
    if node.select:
        parts.append(f"({node.select})")
    if node.policies:
        parts.append(f"[{'; '.join(node.policies)}]")
    if node.again:
        parts.append("(and what hangs on it, as drawn above)")
    return " ".join(parts)


def _tables(explanation: Explanation) -> Iterator[str]:
    head = ["model", "table", "key", "columns", *(count.of for count in explanation.counts)]
    rows = [
        [
            table.model,
            table.table,
            ", ".join(table.key),
            f"{table.released} of {table.columns}",
            *(f"{count.rows.get(table.model, 0):,}" for count in explanation.counts),
        ]
        for table in explanation.tables
    ]
    if explanation.counts:
        sums = (f"{sum(count.rows.values()):,}" for count in explanation.counts)
        rows.append(["all", "", "", "", *sums])
    yield from _aligned([head, *rows])


def _leaving(leaving: Sequence[Leaving]) -> Iterator[str]:
    if not leaving:
        yield "No foreign key leads out of the dataset."
        return
    yield "Foreign keys that may lead out of the dataset:"
    rows = [[f"{e.model}.{', '.join(e.columns)}", f"→ {e.to}", e.policy] for e in leaving]
    yield from (f"  {line}" for line in _aligned(rows))


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def mermaid_of(explanation: Explanation) -> str:
    """Draw the rules as a flowchart: solid arrows to children, dotted ones to what is referenced.

    Dashed boxes are tables outside, with the policy of the foreign key that leads there.
    """
    models = [table.model for table in explanation.tables]
    outside = [e for e in explanation.leaving if e.policy != "referenced"]
    strangers = sorted({e.to for e in outside} - set(models))
    names = {label: f"n{number}" for number, label in enumerate((*models, *strangers))}
    lines = ["flowchart TD"]
    nodes = list(_all(explanation.rules))
    for label in models:
        rows = [_rows(n) for n in nodes if (n.rule, n.model) == ("Rows", label)]
        shown = "<br/>".join(map(_escaped, (label, *(f"Rows: {where}" for where in rows))))
        lines.append(f'    {names[label]}["{shown}"]')
    for label in strangers:
        lines.append(f'    {names[label]}(["{_escaped(label)}"])')
        lines.append(f"    style {names[label]} stroke-dasharray: 4")
    lines += dict.fromkeys(_arrows(nodes, names))
    for each in outside:
        text = _escaped(f"{', '.join(each.columns)}: {each.policy}")
        lines.append(f'    {names[each.model]} -.-x|"{text}"| {names[each.to]}')
    return "\n".join(lines) + "\n"


def _rows(node: Node) -> str:
    return ", ".join(filter(None, (node.where, node.select))) or "all rows"


def _all(nodes: Iterable[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        yield from _all(node.hanging)


def _arrows(nodes: Iterable[Node], names: dict[str, str]) -> Iterator[str]:
    for node in nodes:
        where = f" where {node.where}" if node.where else ""
        arrow = "-->" if node.rule == "Children" else "-.->"
        for by, on in zip(node.by, node.on, strict=True):
            yield f'    {names[on]} {arrow}|"{_escaped(by + where)}"| {names[node.model]}'


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(letter, letter) for letter in " ".join(text.split()))
