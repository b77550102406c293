"""A history: what is declared, how the daemons are set, what happens, step by step. Pure."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Step = list[Any]
"""The name of a step and its arguments, as JSON has them.

["tx", [operation, …]]       a transaction on the source
["open", [operation, …]]     begin a second transaction there; ["close"] commits it
["local", [statement, …]]    a transaction of local traffic in the target
["backfill", dataset]        begin a backfill, as the command does
["pause"], ["resume"]        all runs that are under way
["restart", side]            stop a daemon and start it again
["kill", side]               cut all of its connections
["second", side]             start another one and stop the first
["subscribe", dataset]       as the command does, and so are these:
["unsubscribe", dataset, keep rows]
["pause_subscription", dataset], ["resume_subscription", dataset]
["meddle", [statement, …]]    have an operator lose, change or plant rows in the target, which a
                             backfill must mend
["rules", dataset, [rule, …]]    deploy other rules of a dataset on both sides, at a restart
["wait", seconds]
["quiet"]                    wait until everything has arrived, and compare
"""


Rule = Sequence[Any]
"""`[label, condition]`, or with class and other arguments:
`[label, condition, "Children", {"of": "question", "null": …, "soft": …}]`; a selector is Python
text: `[label, condition, "Rows", {"keys": [1, 2], "select": "sample(percent=5)"}]`."""


@dataclass
class History:
    """All that it takes to play.

    Attributes:
        seed: from which it was drawn; for the title only.
        datasets: by name, with its argument if it has one (`some:1`), the rules: label, condition
            in Python (None: every row), and for other rules than `Rows` the name of its class, with
            all of its other arguments.
        knobs: constants of the product that are set to other values, `module.NAME`.
        source: statements that prepare the source before it starts.
        target: statements that prepare the target, local rows among them.
        begins: datasets that the settings name, where others come and go; None: all of them.
    """

    seed: int
    datasets: dict[str, list[Rule]]
    knobs: dict[str, int | float]
    source: list[str]
    target: list[str]
    steps: list[Step] = field(default_factory=list)
    begins: list[str] | None = None

    def dump(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "History":
        """Read what `dump` wrote."""
        return cls(**json.loads(path.read_text()))

    @property
    def labels(self) -> list[str]:
        """The models that a rule names, each once."""
        return list(dict.fromkeys(label for rules in self.datasets.values() for label, *_ in rules))
