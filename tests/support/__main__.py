"""`python -m tests.support [KERNEL...]`: build what is missing, run the tests on each kernel, and write the page.

The exit status is 1 if a test failed, or a kernel could not be run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from lab.build_kernel import SUITES, build
from lab.job import REPOSITORY, LabError
from lab.kernels import Iptables, UmlKernel, choose_kernel
from tests.support.outcome import FAILED, FOLDER, GROUPS, PASSED, SKIPPED, Outcome, count_results, saved_outcomes
from tests.support.page import KERNELS, PAGE, write

_TIMEOUT_S = 2400  # of the tests on one kernel, which take 3 minutes on the fastest


def main(kernels: list[str]) -> int:
    """Test *kernels*, or those of the page that can be built; return the exit status."""
    all_good = True
    for kernel in kernels or [name for name in KERNELS if name in SUITES]:
        for outcome in outcomes_on(kernel):
            outcome.save()
            numbers = ", ".join(f"{outcome.total(result)} {result}" for result in (PASSED, FAILED, SKIPPED))
            print(f"{kernel}, iptables-{outcome.iptables}: {outcome.problem or numbers}", flush=True)
            all_good &= outcome.is_good
    write(saved_outcomes())
    print(f"wrote {PAGE.relative_to(REPOSITORY)}")
    return 0 if all_good else 1


def outcomes_on(name: str) -> Iterator[Outcome]:
    """Yield the outcome of the tests on the kernel *name* for each kind of iptables that it has."""
    try:
        kernel = _find_or_build(name)
    except LabError as error:
        print(error)
        for iptables in get_args(Iptables):
            yield Outcome(name, iptables, problem=f"not built: {error.reason.splitlines()[0]}")
        return
    for iptables in kernel.modules:
        yield _run(name, kernel, iptables)


def _find_or_build(name: str) -> UmlKernel:
    """Return the kernel called *name*, which is built if it is not there.  Raises LabError."""
    try:
        return choose_kernel({**os.environ, "LAB_KERNEL": name})
    except LabError:
        build([name])
    return choose_kernel({**os.environ, "LAB_KERNEL": name})


def _run(name: str, kernel: UmlKernel, iptables: Iptables) -> Outcome:
    FOLDER.mkdir(parents=True, exist_ok=True)
    stem = FOLDER / f"{name}-{iptables}"  # a version has a dot
    report, log = Path(f"{stem}.xml"), Path(f"{stem}.log")
    report.unlink(missing_ok=True)
    files = [path for paths in GROUPS.values() for path in paths]
    tests = [sys.executable, "-m", "pytest", "-m", "kernel", "--durations=20", f"--junit-xml={report}", *files]
    argv = [sys.executable, "-m", "lab", "run", "--timeout", str(_TIMEOUT_S), "--", *tests]
    env = {**os.environ, "LAB": "uml", "LAB_KERNEL": kernel.name, "LAB_IPTABLES": iptables}
    print(f"testing Linux {kernel.release} with iptables-{iptables}; log: {log.relative_to(REPOSITORY)}", flush=True)
    began_s = time.monotonic()
    with log.open("wb") as output:
        status = subprocess.run(argv, cwd=REPOSITORY, env=env, stdout=output, stderr=output, check=False).returncode
    print(f"took {time.monotonic() - began_s:.0f} s, exit status {status}", flush=True)
    release, day = kernel.release or "", f"{datetime.now(UTC):%Y-%m-%d}"
    try:
        counts, failed = count_results(report)
    except (OSError, ET.ParseError):
        return Outcome(name, iptables, release, day, problem=f"did not end: exit status {status}")
    return Outcome(name, iptables, release, day, counts, failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
