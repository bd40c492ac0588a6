"""Fixtures of the tests on a real kernel: they fail on a kernel without IPVS, and share one cluster per module."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.echo import PROTOCOLS, EchoServers, Listener
from lab.namespace import Namespace, new_namespace
from lab.namespace_users import describe_users, namespace_users
from lab.network import PODS, Cluster
from tests.apiserver.certificates import Authority
from tests.e2e.agent_process import wait_until
from tests.e2e.manifests import Folder, service_with_slice

PORTS = (8080, 5353, 9000, 8091)
TEST_TIMEOUT_S = 400.0  # several waits of a minute and more, so that a test fails with what it waited for
_LEFT_TIMEOUT_S = 60.0  # threads of a server that was stopped may end a little later


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test on the kernel TEST_TIMEOUT_S, unless it asks for another time."""
    for item in items:
        if item.get_closest_marker("kernel") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_S))


@pytest.fixture(scope="session", autouse=True)
def _kernel_with_ipvs() -> bool:
    # A failure, not a skip: a run without the kernel must not look like one with it.
    if os.geteuid() != 0 or not Path("/proc/net/ip_vs").exists():
        pytest.fail(
            "this kernel has no IPVS, or this user is not root; "
            "hint: python3 -m lab run -- .venv/bin/python -m pytest -m kernel tests",
            pytrace=False,
        )
    return True


@pytest.fixture(scope="module", autouse=True)
def _no_namespace_left(_kernel_with_ipvs: bool | None) -> Iterator[None]:
    """Fail if a test file leaves a network namespace in use: its sets keep modules that tests of other files unload."""
    if not _kernel_with_ipvs:  # the file needs no such kernel, so it may run beside others' namespaces
        yield
        return
    before = namespace_users().keys()
    yield
    wait_until(
        lambda: namespace_users().keys() <= before,
        lambda: f"network namespaces are still in use:\n{describe_users()}",
        timeout_s=_LEFT_TIMEOUT_S,
    )


@pytest.fixture(scope="module")
def cluster(_kernel_with_ipvs: bool) -> Iterator[Cluster]:
    """Yield a cluster whose node A has its own namespace and forwards, with echo servers on all pods and PORTS."""
    with Cluster(ipv4_forward=True) as built:
        listeners = [
            Listener(pod.name, built[pod.name], protocol, port)
            for pod in PODS
            for protocol in PROTOCOLS
            for port in PORTS
        ]
        with EchoServers(listeners):
            yield built


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return what signs the certificates of the API server's stand-in."""
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """Yield a network namespace in which nothing is configured."""
    with new_namespace("empty") as namespace:
        yield namespace


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Return a folder with one Service, at 10.96.0.10:80."""
    folder = Folder(tmp_path)
    folder.write("all", service_with_slice("web", "10.96.0.10", ["pod-a1"]))
    return folder
