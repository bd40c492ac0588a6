"""A pytest plugin with which several lab kernels share the kernel tests, one file or part of a file at a time.

Each kernel runs a pytest process of its own with `-p tests.kernel_queue --queue=DIR` on the same tests.  A process
claims a file by creating a directory in DIR, runs its tests and claims the next one, the slowest files first.  Files
of many independent cases are claimed in parts.  So all kernels finish at nearly the same time.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

# Files that take longest, in this order (make test prints the slowest tests); all others come after them.
SLOWEST = (
    "test_complaints.py",  # first on a kernel, because it unloads a module that most tests use
    "test_soak.py",
    "test_recorded_cases.py",
    "test_spec_cases.py",
    "test_faults_that_reset.py",
    "test_drift_marks.py",
    "test_trace_settings.py",
    "test_same_source_port.py",
    "test_deb.py",
    "test_crash.py",
    "test_many_restarts.py",
    "test_alerts.py",
    "test_systemd.py",
    "test_trace_policies.py",
    "test_netlink_adapters.py",
    "test_draining.py",
    "test_debug_socket.py",
    "test_trace_changes.py",
    "test_trace.py",
    "test_g2_iptables_waits.py",
    "test_drift.py",
    "test_large_sets.py",
    "test_policies.py",
    "test_image.py",
    "test_source_ports.py",
    "test_offline_start.py",
    "test_doctor.py",
    "test_d2_policy_change_under_traffic.py",
    "test_f1_malformed_list_responses.py",
    "test_flows.py",
    "test_api_server.py",
)

# Files of many cases that need nothing of each other, and into how many parts they are divided.
PARTS = {
    "test_recorded_cases.py": 4,
    "test_spec_cases.py": 8,
    "test_drift_marks.py": 2,
    "test_trace_settings.py": 2,
    "test_same_source_port.py": 2,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--queue", type=Path, help="directory in which several pytest processes claim their test files")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run the tests of the files that this process claims; without --queue pytest's own loop runs all of them."""
    queue: Path | None = session.config.getoption("--queue")
    if queue is None or session.testsfailed:  # testsfailed: errors of collection, which pytest reports
        return None
    queue.mkdir(parents=True, exist_ok=True)
    items = _claimed_items(session, queue)
    item = next(items, None)
    while item is not None:
        following = next(items, None)  # claims the next file before the last test of this one, which pytest has to know
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = following
    return True


def _claimed_items(session: pytest.Session, queue: Path) -> Iterator[pytest.Item]:
    files = {path: list(items) for path, items in groupby(session.items, key=lambda item: item.path)}
    for path in sorted(files, key=_place):
        name = str(path.relative_to(session.config.rootpath)).replace("/", "-")
        for number, part in enumerate(_parts(files[path], PARTS.get(path.name, 1))):
            if _claim(queue / f"{name}-{number}"):
                yield from part


def _parts(items: list[pytest.Item], number: int) -> Iterator[list[pytest.Item]]:
    """Yield *items* in up to *number* parts of the same length, but for the last one."""
    size = -(-len(items) // number)
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _place(path: Path) -> int:
    return SLOWEST.index(path.name) if path.name in SLOWEST else len(SLOWEST)


def _claim(claimed: Path) -> bool:
    try:
        claimed.mkdir()  # atomic, also among kernels that share the host's file system
    except FileExistsError:
        return False
    return True
