"""find: which cases there are, and how each is read: a folder was recorded, a YAML file was written."""

from __future__ import annotations

from pathlib import Path

from tests.conformance.case import Case
from tests.conformance.recorded import read_recorded
from tests.conformance.spec_case import read_written


def find_cases(folder: Path, only: str | None = None) -> list[Path]:
    """The cases in *folder*, by name: all folders and YAML files in it, or itself if it is a case; with *only*, one."""
    if folder.is_file() or (folder / "objects.yaml").exists():
        found = [folder]
    else:
        inside = [path for path in folder.iterdir() if not path.name.startswith((".", "__"))]
        found = sorted(path for path in inside if path.is_dir() or path.suffix == ".yaml")
    return [path for path in found if only in (None, path.stem)]


def read_case(path: Path) -> Case:
    """The case at *path*.  Raises Malformed."""
    return read_recorded(path) if path.is_dir() else read_written(path)
