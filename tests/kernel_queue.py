"""A pytest plugin with which several lab kernels share the kernel tests, one file at a time.

Each kernel runs a pytest process of its own with `-p tests.kernel_queue --queue=DIR` on the same tests.  A process
claims a file by creating a directory in DIR, runs its tests and claims the next one, the slowest files first.  So all
kernels finish at nearly the same time, however long each file takes.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest

# Files that take longest, in this order (make test prints the slowest tests); all others come after them.
SLOWEST = (
    "test_systemd.py",
    "test_recorded_cases.py",
    "test_spec_cases.py",
    "test_draining.py",
    "test_alerts.py",
    "test_many_restarts.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--queue", type=Path, help="directory in which several pytest processes claim their test files")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run the tests of the files that this process claims; without --queue pytest's own loop runs all of them."""
    queue: Path | None = session.config.getoption("--queue")
    if queue is None or session.testsfailed:  # testsfailed: errors of collection, which pytest reports
        return None
    queue.mkdir(parents=True, exist_ok=True)
    files = {path: list(items) for path, items in groupby(session.items, key=lambda item: item.path)}
    for path in sorted(files, key=_place):
        if _claim(queue / str(path.relative_to(session.config.rootpath)).replace("/", "-")):
            _run(session, files[path], next((items[0] for other, items in files.items() if other != path), None))
    return True


def _place(path: Path) -> int:
    return SLOWEST.index(path.name) if path.name in SLOWEST else len(SLOWEST)


def _claim(claimed: Path) -> bool:
    try:
        claimed.mkdir()  # atomic, also among kernels that share the host's file system
    except FileExistsError:
        return False
    return True


def _run(session: pytest.Session, items: list[pytest.Item], outside: pytest.Item | None) -> None:
    """Run the tests of one file; *outside* is a test of another file, so that fixtures of the session are kept."""
    for item, following in zip(items, [*items[1:], outside], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
