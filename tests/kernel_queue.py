"""A pytest plugin with which several lab kernels share the kernel tests, one file or part of a file at a time.

Each kernel runs a pytest process of its own with `-p tests.kernel_queue --queue=DIR` on the same tests.  A process
claims a file by creating a directory in DIR, imports it, runs its tests and claims the next one, the slowest files
first.  Files of many independent cases are claimed in parts.  So all kernels finish at nearly the same time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

# Files that take longest, in this order (make test prints the slowest tests); all others come after them.
SLOWEST = (
    "test_complaints.py",  # first on a kernel, because it unloads a module that most tests use
    "test_soak.py",
    "test_g2_iptables_waits.py",
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
    "test_node_labels.py",
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
def pytest_collection(session: pytest.Session) -> bool | None:
    """With --queue find the files only: to import all of them would take each kernel as long as some of the tests."""
    if _queue(session) is None:
        return None
    session.perform_collect(genitems=False)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(
    session: pytest.Session, items: list[pytest.Item | pytest.Collector]
) -> Iterator[None]:
    """Note the files in folders, which other plugins take for tests, so that -m deselects them, as they have no marker.

    This is the last moment at which pytest gives the fixtures of a conftest.py to its folder.
    """
    folders = [node for node in items if isinstance(node, pytest.Collector)]
    if folders:
        items[:] = [node for node in items if isinstance(node, pytest.Item)]
        session.stash[_FILES] = list(_files(folders))
    yield


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run the tests of the files that this process claims; without --queue pytest's own loop runs all of them."""
    queue = _queue(session)
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
    session.testscollected = session.testscollected or len(session.stash.get(_FILES, []))  # others have claimed all
    return True


_FILES = pytest.StashKey[Sequence[pytest.Collector]]()


def _queue(session: pytest.Session) -> Path | None:
    queue: Path | None = session.config.getoption("--queue")
    return queue


def _files(nodes: Iterable[pytest.Item | pytest.Collector]) -> Iterator[pytest.Collector]:
    """Yield the test files in the folders among *nodes*, and those among them; report folders that cannot be read."""
    for node in nodes:
        if isinstance(node, pytest.Directory):
            report = node.ihook.pytest_make_collect_report(collector=node)
            node.ihook.pytest_collectreport(report=report)
            yield from _files(report.result or ())
        elif isinstance(node, pytest.Collector):
            yield node


def _claimed_items(session: pytest.Session, queue: Path) -> Iterator[pytest.Item]:
    files = session.stash.get(_FILES, [])
    items_of = cache(lambda file: _items(session, file))
    for file in sorted(files, key=lambda file: _place(file.path)):
        name = str(file.path.relative_to(session.config.rootpath)).replace("/", "-")
        parts = PARTS.get(file.path.name, 1)
        for number in range(parts):
            if _claim(queue / f"{name}-{number}"):
                part = _part(items_of(file), number, parts)
                session.testscollected += len(part)
                yield from part


def _items(session: pytest.Session, file: pytest.Collector) -> list[pytest.Item]:
    """Import *file* and return the tests that -m and -k select."""
    items = list(session.genitems(file))
    session.config.hook.pytest_collection_modifyitems(session=session, config=session.config, items=items)
    return items


def _part(items: list[pytest.Item], number: int, parts: int) -> list[pytest.Item]:
    """Return part *number* of *items*; all have the same length, but for the last ones."""
    size = -(-len(items) // parts)
    return items[number * size : (number + 1) * size]


def _place(path: Path) -> int:
    return SLOWEST.index(path.name) if path.name in SLOWEST else len(SLOWEST)


def _claim(claimed: Path) -> bool:
    try:
        claimed.mkdir()  # atomic, also among kernels that share the host's file system
    except FileExistsError:
        return False
    return True
