"""Reading recorded cases: a case that cannot be judged is malformed, never skipped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conformance.__main__ import main
from tests.conformance.case import MalformedCaseError
from tests.conformance.case_files import find_cases, read_case

CASES = Path(__file__).resolve().parents[1] / "recorded_cases"


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A copy of a case with a step, to be damaged."""
    return Path(shutil.copytree(CASES / "affinity", tmp_path / "recorded_cases" / "affinity"))


@pytest.mark.parametrize("folder", find_cases(CASES), ids=lambda path: path.name)
def test_each_recorded_case_can_be_read(folder: Path) -> None:
    stages = read_case(folder).stages
    assert all(stage.expected["ipset-save.txt"] for stage in stages)


def test_steps_are_in_order_of_their_numbers(case: Path) -> None:
    for name in ("step-10-last", "step-9-before"):
        shutil.copytree(case / "step-1-affinity-off", case / name)
    assert [stage.name for stage in read_case(case).stages] == [
        "start",
        "step-1-affinity-off",
        "step-9-before",
        "step-10-last",
    ]


@pytest.mark.parametrize(
    "missing",
    [
        "objects.yaml",
        "config.yaml",
        "expected/ipvsadm-save.txt",
        "expected/sysctls.txt",
        "step-1-affinity-off/objects.yaml",
        "step-1-affinity-off/expected/ip6tables-save.txt",
    ],
)
def test_error_names_the_missing_file(case: Path, missing: str) -> None:
    (case / missing).unlink()
    with pytest.raises(MalformedCaseError, match=missing):
        read_case(case)


@pytest.mark.parametrize("text", ["", "---\n---\n", "a: [", "a: {b"])
def test_invalid_objects_are_malformed(case: Path, text: str) -> None:
    (case / "objects.yaml").write_text(text)
    with pytest.raises(MalformedCaseError, match=r"objects\.yaml"):
        read_case(case)


@pytest.mark.parametrize("name", ["step-one", "steps", "step-"])
def test_step_without_a_number_is_malformed(case: Path, name: str) -> None:
    (case / "step-1-affinity-off").rename(case / name)
    with pytest.raises(MalformedCaseError, match="step-NUMBER-NAME"):
        read_case(case)


def test_two_steps_with_one_number_are_malformed(case: Path) -> None:
    shutil.copytree(case / "step-1-affinity-off", case / "step-1-again")
    with pytest.raises(MalformedCaseError, match="two steps 1"):
        read_case(case)


def test_folder_that_is_a_case_is_found_itself(case: Path) -> None:
    assert find_cases(case) == [case]


def test_only_selects_one_case_by_its_name(case: Path) -> None:
    shutil.copytree(case, case.with_name("affinity-2"))
    assert find_cases(case.parent, "affinity") == [case]


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
