"""The command `python -m tests.benchmark`."""

import argparse
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import django
import msgspec

from replicator.speed import COMPILED

_DESCRIPTION = """
Measures Replicator against Postgres' own logical replication: two clusters of the newest Postgres
here, a real Kafka broker, the daemons as processes. Every repetition runs each workload on each
system in turn. Figures of different runs, or machines, cannot be compared; the ratios within a
run can.
"""
_EPILOG = """
W1 300,000 inserts, 100 rows a transaction; W2 200,000 updates; W3 200,000 rows, 60 % inserts, 25 %
updates, 15 % deletes, 10 rows a transaction; W4 one transaction of 500,000 rows; W5 50,000
transactions of one row; W6 200,000 rows of question, choice, vote and voter, 10 a transaction: for
`related`, 20 % of the questions belong with all below them, and 1 % of the changes let one enter or
leave; a reader counts torn trees. W7 200,000 deletes of rows that a foreign key may point at, 100 a
transaction; W8 200,000 updates of 100 rows, 10 a transaction. W9 500,000 rows that nothing hangs on
enter by one UPDATE while another table changes 50 times a second, W9T the same of rows with a child
each; for `related` only, `--scale 0.1` is 50,000: requests, the largest answer, how late the other
table's changes come, the size of the state tables. L latency at 200 transactions/s of 5 rows, 20 s
after 15 s unmeasured. B 1,000,000 rows, and those that the workloads before have left, are brought
to a new target while L's traffic streams, for `replicator` only. S5, S60: rows of 5 and of 60
columns; S1k, S100k: rows of 1 and of 100 kB; ST: rows of as many tables as --tables says. W1-W3,
W5-W8, S: written while the system stands (SIGSTOP), the clock runs from SIGCONT until the target
has all of it. W4, W9: from COMMIT. Needs Linux, and root or the servers' user for the signals.
"""


_ALL = [
    "W1",
    "W2",
    "W3",
    "W4",
    "W5",
    "W6",
    "W7",
    "W8",
    "W9",
    "W9T",
    "L",
    "B",
    "S5",
    "S60",
    "S1k",
    "S100k",
    "ST",
]


def main() -> int:
    """Run the benchmark; 0 if every workload ended with equal rows."""
    options = _arguments()
    os.environ["BENCHMARK_TABLES"] = str(options.tables)
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.benchmark.project.settings"
    django.setup()
    # These need Django's settings.
    from tests.benchmark.report import table
    from tests.benchmark.run import Options, Result, run_one
    from tests.benchmark.sites import services
    from tests.benchmark.systems import SYSTEMS

    how = Options(options.scale, options.profile, options.held)
    results: list[Result] = []
    with services(kafka=set(options.systems) != {"native"}) as shared:
        systems = [SYSTEMS[name](shared) for name in options.systems]
        for turn in range(options.repeat):
            for name in options.workloads:
                for system in systems:
                    result = run_one(name, system, turn, how)
                    if result is None:
                        continue
                    results.append(result)
                    print(table([result]).splitlines()[-1], file=sys.stderr, flush=True)
    print(f"\n{_machine()}, {_conditions(options)}, medians of {options.repeat}")
    print(table(results))
    if options.json:
        content = {
            "machine": _machine(), "conditions": _conditions(options), "results": results
        }  # fmt: skip
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(content)))
    return 0


def _conditions(options: argparse.Namespace) -> str:
    twins = "with compiled twins" if COMPILED else "without compiled twins"
    return (
        f"{twins}, scale {options.scale}, {options.held:,} rows held before, "
        f"{options.tables} more tables"
    )


def _machine() -> str:
    return f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmark", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument(
        "--workloads",
        type=_names(*_ALL),
        default="W1,W2,W3,W4,W5,W7,W8,L,B",
        metavar="W1,W2,…",
        help=f"which of {', '.join(_ALL)}, in this order (default: %(default)s)",
    )
    parser.add_argument(
        "--systems",
        type=_names("replicator", "related", "native"),
        default="replicator,native",
        metavar="NAME,…",
        help="replicator, related (with rules over relations), native (default: first and last)",
    )
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="repetitions")
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="S", help="share of the rows, or of L's time"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results there")
    parser.add_argument(
        "--held", type=int, default=0, metavar="N", help="rows that the table has before, at least"
    )
    parser.add_argument(
        "--tables", type=int, default=0, metavar="N", help="more tables that are opted in (for ST)"
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FOLDER",
        help="sample the daemons with py-spy, which must be there; flame graphs are written there",
    )
    return parser.parse_args()


def _names(*allowed: str) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in allowed]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {allowed}")
        return names

    return parse


if __name__ == "__main__":
    sys.exit(main())
