"""`make test-kernels`: what it counts, what it writes, and what it says of kernels that cannot be run."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from kubeproxy_py.checks.all_checks import REASONS
from lab.job import REPOSITORY
from tests.support.__main__ import outcomes_on
from tests.support.outcome import GROUPS, Outcome, count_results, saved_outcomes
from tests.support.page import BEGIN, END, KERNELS, PAGE, table, write

_TESTS = """
import pytest
@pytest.fixture
def broken(): raise ValueError
def test_good(): pass
@pytest.mark.parametrize("n", [1, 2])
def test_bad(n): assert n == 1
def test_error(broken): pass
@pytest.mark.skip(reason="does not apply")
def test_skipped(): pass
"""
GOOD = Outcome("newest", "legacy", "7.2.13", "2026-11-29", {"packets": {"passed": 7, "skipped": 2}})
BAD = Outcome("6.12", "nft", "6.12.9", "2026-11-28", {"draining": {"passed": 5, "failed": 1}}, ("test_draining.py::x",))


def test_results_are_counted_by_group_and_failures_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "tests/e2e"
    folder.mkdir(parents=True)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for path in ("tests/__init__.py", "tests/e2e/__init__.py"):
        (tmp_path / path).touch()
    (folder / "test_draining.py").write_text(_TESTS)
    (folder / "test_flows.py").write_text("def test_good(): pass\n")
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--junit-xml=report.xml", "tests"]
    subprocess.run(argv, cwd=tmp_path, capture_output=True, check=False)
    counts, failed = count_results(tmp_path / "report.xml")
    assert counts == {"draining": {"passed": 2, "failed": 2, "skipped": 1}, "UDP flows": {"passed": 1}}
    assert set(failed) == {"test_draining.py::test_bad[2]", "test_draining.py::test_error"}


def test_report_that_breaks_off_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text("<testsuites><testsuite>")
    with pytest.raises(ET.ParseError):
        count_results(tmp_path / "report.xml")


@pytest.mark.parametrize("path", [path for paths in GROUPS.values() for path in paths])
def test_file_of_a_group_has_tests_for_the_kernel(path: str) -> None:
    assert re.search(r"\npytestmark = \[?pytest\.mark\.kernel[,\n]", (REPOSITORY / path).read_text())


@pytest.mark.parametrize(
    ("outcome", "is_good"),
    [(GOOD, True), (BAD, False), (Outcome("6.1", "nft", problem="not built"), False), (Outcome("6.1", "nft"), False)],
)
def test_run_is_good_only_if_tests_ran_and_none_failed(outcome: Outcome, is_good: bool) -> None:
    assert outcome.is_good is is_good


def test_last_outcome_of_each_kernel_is_kept(tmp_path: Path) -> None:
    for outcome in (Outcome("6.12", "nft", problem="not built"), BAD, GOOD):
        outcome.save(tmp_path / "results")
    assert saved_outcomes(tmp_path / "results") == [BAD, GOOD]
    assert saved_outcomes(tmp_path / "nowhere") == []


def test_table_has_a_row_for_each_kernel_and_says_which_were_not_run() -> None:
    rows = [line for line in table([GOOD, BAD]).splitlines() if line.startswith("| Linux")]
    assert len(rows) == 2 * len(KERNELS) - 1
    assert "| Linux 7.2.13 (newest of Debian sid) | legacy | 0 | 7 | 0 | 0 | 0 | 0 | 2 | 2026-11-29 |" in rows
    assert "| Linux 6.12.9 | nft | 0 | 0 | 5, **1 failed** | 0 | 0 | 0 | 0 | 2026-11-28 |" in rows
    assert sum("was not run" in row for row in rows) == len(rows) - 2


def test_failed_tests_are_listed_with_their_kernel() -> None:
    text = table([GOOD, BAD])
    assert "Failed on Linux 6.12.9 with iptables-nft:\n\n- `test_draining.py::x`\n" in text
    assert "7.2.13 with" not in text


def test_only_the_generated_part_of_the_page_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}old\n{END}after\n")
    write([GOOD], page)
    assert page.read_text() == f"before\n{BEGIN}{table([GOOD])}{END}after\n"


def test_kernel_that_cannot_be_built_is_an_outcome_for_both_kinds_of_iptables() -> None:
    outcomes = list(outcomes_on("3.2"))
    assert [(outcome.iptables, outcome.problem) for outcome in outcomes] == [
        (iptables, "not built: no Debian suite is known for 3.2") for iptables in ("legacy", "nft")
    ]


def test_findings_that_the_page_names_exist() -> None:
    named = set(re.findall(r"finds `(\w+)`", PAGE.read_text()))
    assert named
    assert named <= set(REASONS)
