"""Outcome: what came of the tests on one kernel with one kind of iptables, and where it is kept between runs.

`make test-kernels` may run one kernel today and another tomorrow; the page has what each did last in this checkout.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lab.job import REPOSITORY
from lab.kernels import Iptables

FOLDER = REPOSITORY / "build/support"

GROUPS: Mapping[str, tuple[str, ...]] = {
    "recorded cases": ("tests/e2e/test_recorded_cases.py",),
    "packets": ("tests/e2e/test_packets.py", "tests/e2e/test_policies.py", "tests/e2e/test_source_ports.py"),
    "draining": ("tests/e2e/test_draining.py",),
    "UDP flows": ("tests/e2e/test_flows.py",),
    "faults": (
        "tests/e2e/test_crash.py",
        "tests/e2e/test_drift.py",
        "tests/e2e/test_restart.py",
        "tests/e2e/safe/test_i11_host_checks.py",
    ),
    "start and settings": ("tests/e2e/test_start.py", "tests/e2e/test_kernel_versions.py"),
}
"""The test files that are run, by what the page calls them."""

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass(frozen=True)
class Outcome:
    """One run, or why there was none."""

    kernel: str  # as it was asked for: "6.12", "newest", "debian"
    iptables: Iptables
    release: str = ""  # as uname -r prints it; "" if the kernel was not run
    day: str = ""  # of the run
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # group -> PASSED, FAILED, SKIPPED -> number
    failed: tuple[str, ...] = ()  # the tests
    problem: str = ""  # why it was not run, or did not end

    @property
    def is_good(self) -> bool:
        """Return whether tests ran, and none failed."""
        return bool(self.counts) and not self.failed and not self.problem

    def total(self, result: str) -> int:
        """Return the number of tests with *result*."""
        return sum(counts.get(result, 0) for counts in self.counts.values())

    def save(self, folder: Path = FOLDER) -> None:
        """Keep this outcome instead of the last one of its kernel and kind of iptables."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.kernel}-{self.iptables}.json"
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def saved_outcomes(folder: Path = FOLDER) -> list[Outcome]:
    """Return the outcomes that were saved in *folder*."""
    texts = (path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.json")))
    return [Outcome(**{**fields, "failed": tuple(fields["failed"])}) for fields in map(json.loads, texts)]


def count_results(report: Path) -> tuple[dict[str, dict[str, int]], tuple[str, ...]]:
    """Return the numbers by group, and the tests that failed, of pytest's junit XML *report*.

    Raises:
        OSError, ET.ParseError: There is no complete report.
        KeyError: A test is in a file of no group.
    """
    groups = {_module(path): group for group, paths in GROUPS.items() for path in paths}
    counts: dict[str, Counter[str]] = {}
    failed: list[str] = []
    for case in ET.parse(report).iter("testcase"):
        module, result = case.attrib["classname"], _result(case.iter())
        counts.setdefault(groups[module], Counter())[result] += 1
        if result == FAILED:
            failed.append(f"{module.rpartition('.')[2]}.py::{case.attrib['name']}")
    return {group: dict(each) for group, each in counts.items()}, tuple(failed)


def _module(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


def _result(elements: Iterable[ET.Element]) -> str:
    tags = {element.tag for element in elements}
    if tags & {"failure", "error"}:
        return FAILED
    return SKIPPED if "skipped" in tags else PASSED
