"""Find and read cases: a folder is a recorded case, a YAML file is a spec case."""

from __future__ import annotations

from pathlib import Path

from tests.conformance.case import Case
from tests.conformance.recorded_case import read_recorded_case
from tests.conformance.spec_case import read_spec_case


def find_cases(folder: Path, only: str | None = None) -> list[Path]:
    """The cases in *folder* by name: all folders and YAML files in it, or itself if it is a case; with *only*, one."""
    if folder.is_file() or (folder / "objects.yaml").exists():
        cases = [folder]
    else:
        visible = [path for path in folder.iterdir() if not path.name.startswith((".", "__"))]
        cases = sorted(path for path in visible if path.is_dir() or path.suffix == ".yaml")
    return [path for path in cases if only in (None, path.stem)]


def read_case(path: Path) -> Case:
    """The case at *path*.  Raises MalformedCaseError."""
    return read_recorded_case(path) if path.is_dir() else read_spec_case(path)
