"""The command `python -m tests.benchmark`."""

import argparse
import os
import platform
import sys
from pathlib import Path

import django
import msgspec

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
leave; a reader counts torn trees. W9 500,000 rows that nothing hangs on enter by one UPDATE while
another table changes 50 times a second, W9T the same of rows with a child each; for `related` only,
`--scale 0.1` is 50,000: requests, the largest answer, how late the other table's changes come, the
size of the state tables. L latency at 200 transactions/s of 5 rows, 20 s after 15 s
unmeasured. W1, W2, W3, W5, W6: written while the system stands (SIGSTOP), the clock runs from
SIGCONT until the target has all of it. W4, W9: from COMMIT. Needs Linux (/proc), and root or the
servers' user for the signals.
"""


def main() -> int:
    """Run the benchmark; 0 if every workload ended with equal rows."""
    options = _arguments()
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.benchmark.project.settings"
    django.setup()
    # These need Django's settings.
    from tests.benchmark.entries import KINDS
    from tests.benchmark.report import table
    from tests.benchmark.run import Options, Result, run_entries, run_latency, run_workload
    from tests.benchmark.sites import services
    from tests.benchmark.systems import SYSTEMS, Related
    from tests.benchmark.workloads import WORKLOADS

    how = Options(options.scale, options.profile)
    results: list[Result] = []
    with services(kafka=set(options.systems) != {"native"}) as shared:
        systems = [SYSTEMS[name](shared) for name in options.systems]
        for turn in range(options.repeat):
            for name in options.workloads:
                for system in systems:
                    if name == "L":
                        result = run_latency(system, turn, how)
                    elif kind := next((k for k in KINDS if k.name == name), None):
                        if not isinstance(system, Related):
                            continue
                        result = run_entries(kind, system, turn, how)
                    else:
                        workload = next(w for w in WORKLOADS if w.name == name)
                        result = run_workload(workload, system, turn, how)
                    results.append(result)
                    print(table([result]).splitlines()[-1], file=sys.stderr, flush=True)
    print(f"\n{_machine()}, scale {options.scale}, {options.repeat} repetition(s), medians")
    print(table(results))
    if options.json:
        content = {"machine": _machine(), "scale": options.scale, "results": results}
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(content)))
    return 0


def _machine() -> str:
    return f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmark", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument(
        "--workloads",
        type=_names("W1", "W2", "W3", "W4", "W5", "W6", "W9", "W9T", "L"),
        default="W1,W2,W3,W4,W5,W6,L",
        metavar="W1,W2,…",
        help="which, in this order (default: all)",
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
        "--profile", action="store_true", help="sample the daemons with py-spy, which must be there"
    )
    return parser.parse_args()


def _names(*allowed: str) -> object:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in allowed]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {allowed}")
        return names

    return parse


if __name__ == "__main__":
    sys.exit(main())
