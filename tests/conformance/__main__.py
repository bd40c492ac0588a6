"""python -m tests.conformance DIR [--only NAME]: run the cases in DIR, inside the lab kernel."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.conformance.case_files import find_cases
from tests.conformance.runner import run_case


def main(argv: list[str]) -> int:
    """Print the result of each case and a summary; return 0 if there are cases and all are equal."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("cases", type=Path, metavar="DIR", help="folder of recorded or spec cases, or one case")
    parser.add_argument("--only", metavar="NAME", help="run only the case of this name")
    options = parser.parse_args(argv)
    if obstacle := _obstacle(options.cases):
        print(obstacle, file=sys.stderr)
        return 2
    paths = find_cases(options.cases.resolve(), options.only)
    if not paths:
        which = f"no case named {options.only}" if options.only else "no case"
        print(f"{which} in {options.cases}; hint: a case is a YAML file, or a folder with objects.yaml and expected/")
        return 2
    verdicts = []
    for path in paths:
        verdicts.append(run_case(path))
        print("\n".join(verdicts[-1].lines()), flush=True)
    equal = sum(verdict.is_equal for verdict in verdicts)
    print(f"{equal} equal, {len(verdicts) - equal} differ")
    return 0 if equal == len(verdicts) else 1


def _obstacle(cases: Path) -> str | None:
    if not Path("/proc/net/ip_vs").exists():
        return "this kernel has no IPVS; hint: make conformance CASES=DIR"
    if not cases.exists():
        return f"{cases} does not exist; hint: give the folder of the cases"
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
