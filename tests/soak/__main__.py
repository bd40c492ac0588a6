"""`python -m tests.soak --minutes N --seed S`, in the lab: inject random faults under traffic, and report.

The exit status is 0 if all limits were kept, 1 if one was exceeded.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import msgspec

from tests.soak.faults import FAULTS, MAY_RESET
from tests.soak.report import text, violations
from tests.soak.run import LOG, soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="duration (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=1, help="of the sequence of faults (default: %(default)d)")
    parser.add_argument(
        "--patience", type=float, default=1.0, help="factor for the limits of recovery, on a busy machine"
    )
    parser.add_argument("--report", type=Path, help="file to write the report to, as JSON; beside it, the agents' logs")
    parser.add_argument("--only", action="append", default=[], metavar="FAULT", choices=sorted(FAULTS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = 60.0 * arguments.minutes
        report = soak(Path(folder), arguments.seed, seconds, arguments.patience, arguments.only)
        log = Path(folder, LOG).read_text()
    broken = violations(report, MAY_RESET)
    print(text(report, broken))
    if arguments.report:
        arguments.report.parent.mkdir(parents=True, exist_ok=True)
        arguments.report.write_bytes(msgspec.json.encode(report))
        arguments.report.with_suffix(".log").write_text(log)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
