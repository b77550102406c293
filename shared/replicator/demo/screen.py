"""What a person reads during the demo; aligned for 80 columns."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from replicator.demo.processes import Daemon
from replicator.demo.watch import Difference

_DONE, _ARRIVES, _TOOK = 37, 33, 8


class Screen:
    """Writes to standard output, in colour on a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)

    def title(self, log: str) -> None:
        """Say what this is."""
        self._line("Replicator demo", "bold")
        self._line("Two environments on this machine: prod is the source, stage the target.\n")
        self._line(
            "  Postgres prod ─WAL─▶ replicator capture ─▶ log ─▶ replicator apply ─▶ Postgres stage"
        )
        self._line(f"  The log is {log}.\n", "dim")

    def ready(self, what: str, seconds: float) -> None:
        """Say that something has been set up."""
        self._row("✔", what, "", f"{seconds:.1f} s")

    def declaration(self, path: Path) -> None:
        """Show what a user writes."""
        self._line("\nWhat the project declares (polls/replication.py):\n")
        for line in path.read_text().splitlines():
            if line and not line.startswith(('"""', "from")):
                self._line(f"    {line}", "cyan")
        self._line("")

    def heading(self) -> None:
        """Begin the table of changes."""
        self._row(" ", "done in prod", "seen in stage", "after", "bold")
        self._line("  " + "─" * (_DONE + _ARRIVES + _TOOK), "dim")

    def arrived(self, done: str, arrives: str, milliseconds: float) -> None:
        """Show a change that arrived."""
        self._row("✔", done, arrives, f"{milliseconds:,.0f} ms")

    def failed(self, done: str, reason: str) -> None:
        """Show a change that did not."""
        self._row("✘", done, "", "", "red")
        self._line(f"    {reason}", "red")

    def proof(self, differences: Sequence[Difference]) -> None:
        """Show the comparison of both sides."""
        self._line("\nThe dataset in stage against its queryset on prod, every row and column:\n")
        for each in differences:
            self._row(
                "✔" if each.is_none else "✘",
                f"{each.model}: {each.rows:,} rows",
                f"missing {each.missing}, extra {each.extra}, different {each.different}",
                "equal" if each.is_none else "DIFFERS",
                "" if each.is_none else "red",
            )

    def local_row(self, untouched: bool) -> None:
        """Show what became of the target's own row."""
        mark, word = ("✔", "untouched") if untouched else ("✘", "CHANGED")
        self._row(mark, "a row that only stage has", word, "")

    def verdict(self, good: bool, seconds: float) -> None:
        """Say how it ended."""
        text = "stage equals prod" if good else "stage does not equal prod"
        self._line(f"\n{text}, {seconds:.0f} s in all.", "bold green" if good else "bold red")

    def tails(self, daemons: Sequence[Daemon]) -> None:
        """Show what the daemons said last."""
        for daemon in daemons:
            self._line(f"\nThe last lines of {daemon.name}:", "bold")
            self._line(daemon.tail())

    def invitation(self, source: str, target: str, environment: Path, metrics: list[str]) -> None:
        """Say how to try things by hand."""
        settings = "replicator.demo.environments"
        self._line("\nIt keeps running. In another terminal, begin with:\n", "bold")
        self._line(f"  . {environment}\n", "cyan")
        self._line("Look at both databases:\n")
        self._line(f"  psql {source}    # prod\n  psql {target}    # stage\n", "cyan")
        self._line("Try in prod, and look in stage:\n")
        self._line(
            "  UPDATE polls_question SET published = NOT published WHERE topic_id = 3;\n"
            "  DELETE FROM polls_question WHERE text LIKE 'Bulk 1%';\n",
            "cyan",
        )
        self._line("Ask Replicator:\n")
        self._line(
            f"  replicator --settings {settings}.target status\n"
            f"  replicator --settings {settings}.source status\n"
            f"  replicator --settings {settings}.target verify published-questions\n",
            "cyan",
        )
        self._line("Metrics:  " + "  ".join(f"http://{each}/metrics" for each in metrics))
        self._line("\nCtrl-C stops everything and removes it.", "bold")

    def _row(self, mark: str, done: str, arrives: str, took: str, style: str = "") -> None:
        width = _DONE + _ARRIVES
        text = Text(no_wrap=True)
        text.append(f"{mark} ", "green" if mark == "✔" else style)
        text.append(f"{done:<{_DONE}}{arrives}".rstrip().ljust(width), style)
        text.append(f"{took:>{_TOOK}}" if took else "", style)
        text.rstrip()
        self._console.print(text)

    def _line(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style))
