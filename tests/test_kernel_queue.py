"""Several pytest processes share the kernel tests by a queue: each file runs once, and no kernel test is left out."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lab.job import REPOSITORY
from tests.kernel_queue import PARTS, SLOWEST

_TESTS = REPOSITORY / "tests"


def run(folder: Path, *words: str, arguments: Sequence[str] = (".",)) -> subprocess.CompletedProcess[str]:
    """Run pytest in *folder* with the queue `queue`, its record of executed tests in the file `ran`."""
    argv = [sys.executable, "-m", "pytest", "-p", "tests.kernel_queue", "-p", "no:cacheprovider", *words, *arguments]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"}
    return subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return a folder with three test files of two tests each, which record that they ran."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "conftest.py").write_text(
        "import pytest\n"
        "@pytest.fixture(autouse=True)\n"
        "def record(request):\n"
        "    with open('ran', 'a') as ran: print(request.node.nodeid, file=ran)\n"
    )
    for name in ("a", "b", "c"):
        (tmp_path / f"test_{name}.py").write_text("def test_one(): pass\ndef test_two(): pass\n")
    return tmp_path


def test_each_file_is_run_by_one_process(files: Path) -> None:
    (files / "queue").mkdir()
    (files / "queue/test_b.py-0").mkdir()  # another process has claimed it
    first, second = run(files, "--queue=queue"), run(files, "--queue=queue")
    assert (first.returncode, second.returncode) == (0, 0), first.stdout + second.stdout
    ran = [f"test_{name}.py::test_{test}" for name in "ac" for test in ("one", "two")]
    assert (files / "ran").read_text().split() == ran


def test_part_of_a_large_file_is_run_by_one_process(files: Path) -> None:
    name, parts = next(iter(PARTS.items()))
    tests = [f"test_{number}" for number in range(2 * parts - 1)]
    (files / name).write_text("".join(f"def {test}(): pass\n" for test in tests))
    (files / "queue").mkdir()
    (files / f"queue/{name}-1").mkdir()  # another process has claimed it
    assert run(files, "--queue=queue").returncode == 0
    ran = [line for line in (files / "ran").read_text().split() if line.startswith(name)]
    assert ran == [f"{name}::{test}" for test in tests[:2] + tests[4:]]


def test_without_a_queue_all_files_are_run(files: Path) -> None:
    assert run(files).returncode == 0
    assert len((files / "ran").read_text().split()) == 6


def test_failing_test_fails_the_process_that_ran_it(files: Path) -> None:
    (files / "test_b.py").write_text("def test_one(): assert False\n")
    first, second = run(files, "--queue=queue"), run(files, "--queue=queue")
    assert (first.returncode, second.returncode) == (1, 0), first.stdout + second.stdout
    assert len((files / "ran").read_text().split()) == 5


def test_process_that_claims_no_file_succeeds_and_imports_none(files: Path) -> None:
    for name in "abc":
        (files / f"queue/test_{name}.py-0").mkdir(parents=True)
        (files / f"test_{name}.py").write_text("assert False\n")
    result = run(files, "--queue=queue")
    assert (result.returncode, "no tests ran" in result.stdout) == (0, True), result.stdout


def test_file_that_cannot_be_imported_fails_its_process_and_the_others_run(files: Path) -> None:
    (files / "test_a.py").write_text("import nothing_of_this_name\n")
    result = run(files, "--queue=queue")
    assert (result.returncode, "nothing_of_this_name" in result.stdout) == (1, True), result.stdout
    assert len((files / "ran").read_text().split()) == 4


def test_markers_and_fixtures_of_folders_apply(files: Path) -> None:
    (files / "pytest.ini").write_text("[pytest]\nmarkers = kernel\n")
    inner = files / "inner"
    inner.mkdir()
    (inner / "conftest.py").write_text("import pytest\n@pytest.fixture\ndef given(): return 5\n")
    for name in "de":
        (inner / f"test_{name}.py").write_text(
            "import pytest\n@pytest.mark.kernel\ndef test_one(given): assert given == 5\ndef test_two(): pass\n"
        )
    result = run(files, "--queue=queue", "-m", "kernel", arguments=("inner", "test_a.py"))
    assert (result.returncode, "2 passed, 4 deselected" in result.stdout) == (0, True), result.stdout
    assert (files / "ran").read_text().split() == [f"inner/test_{name}.py::test_one" for name in "de"]


def test_no_test_file_is_an_error(tmp_path: Path) -> None:
    assert run(tmp_path, "--queue=queue").returncode == pytest.ExitCode.NO_TESTS_COLLECTED


def test_make_test_covers_every_folder_with_kernel_tests() -> None:
    folders = re.search(r"^KERNEL_TESTS := (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert folders
    covered = {REPOSITORY / folder for folder in folders[1].split()}
    marked = {
        path.parent for path in _TESTS.rglob("*.py") if "mark.kernel" in path.read_text() and path != Path(__file__)
    }
    assert covered <= marked
    assert {folder for folder in marked if not covered & {folder, *folder.parents}} == set()


def test_slowest_files_exist() -> None:
    assert {name for name in (*SLOWEST, *PARTS) if not list(_TESTS.rglob(name))} == set()
