"""Read a recorded case.

All that is needed to judge a case is read here, or the case is malformed, with the path that is wrong.  So no case
passes because there is nothing to compare.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tests.conformance.canonical import FILES, SYSCTLS, canonical_lines
from tests.conformance.case import START, Case, MalformedCaseError, Stage

_STEP = re.compile(r"step-(\d+)(-.*)?")


def read_recorded_case(folder: Path) -> Case:
    """The case in *folder*.  Raises Malformed."""
    script = folder / "pre.sh"
    steps = [_read_stage(path.name, path, required=FILES[:-1]) for path in _step_folders(folder)]
    return Case(
        name=folder.name,
        folder=folder,
        config=_read(folder / "config.yaml"),
        prepare=("/bin/bash", str(script)) if script.exists() else (),
        stages=(_read_stage(START, folder, required=FILES), *steps),
    )


def _step_folders(folder: Path) -> list[Path]:
    """The steps in the order of their numbers: step-10 comes after step-9."""
    numbered: dict[int, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.name.startswith("step")):
        match = _STEP.fullmatch(path.name)
        if not match or not path.is_dir():
            raise MalformedCaseError(f"{path}: a step is a folder named step-NUMBER-NAME")
        if int(match[1]) in numbered:
            raise MalformedCaseError(f"{path}: there are two steps {match[1]}")
        numbered[int(match[1])] = path
    return [numbered[number] for number in sorted(numbered)]


def _read_stage(name: str, folder: Path, required: tuple[str, ...]) -> Stage:
    """The stage in *folder*; sysctls.txt is included if it was recorded."""
    objects = _read(folder / "objects.yaml")
    try:
        documents = [document for document in yaml.load_all(objects, yaml.CSafeLoader) if document]
    except yaml.YAMLError as error:
        raise MalformedCaseError(f"{folder / 'objects.yaml'}: not YAML: {error}") from error
    if not documents:
        raise MalformedCaseError(f"{folder / 'objects.yaml'}: no objects")
    texts = {file: _read(folder / "expected" / file) for file in required}
    if SYSCTLS not in texts and (folder / "expected" / SYSCTLS).exists():
        texts[SYSCTLS] = _read(folder / "expected" / SYSCTLS)
    return Stage(name, objects, {file: canonical_lines(file, text) for file, text in texts.items()})


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MalformedCaseError(f"{path}: {error.strerror if isinstance(error, OSError) else error}") from error
