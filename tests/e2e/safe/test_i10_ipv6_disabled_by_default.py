"""A host on which new interfaces have IPv6 disabled (net.ipv6.conf.default.disable_ipv6) serves IPv6 Services."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeproxy_py.kernel.address.adapter import AddressAdapter
from kubeproxy_py.model.rows import IPVS_DEVICE, Address, Link
from kubeproxy_py.model.steps import Step
from lab.client import query
from lab.namespace import Namespace, new_namespace
from lab.network import Cluster
from tests.e2e.agent_process import SYNCED, AgentProcess
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder, endpoint_slice, service
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

CLUSTER_IP, LATER = "fd00:10:96::10", "fd00:10:96::11"
SWITCH = "ipv6/conf/{}/disable_ipv6"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with serving_cluster() as created:
        created.node_a.set_sysctl(SWITCH.format("default"), 1)
        yield created


def write_service(folder: Folder, name: str, number: int) -> None:
    addresses = [f"10.96.0.{number}", f"fd00:10:96::{number}"]
    slices = [endpoint_slice(name, ["pod-a1"], version=version) for version in (4, 6)]
    folder.write(name, [service(name, addresses), *slices])


@pytest.mark.parametrize("device", ["new", "found"])
def test_ipv6_service_is_served_on_a_device_that_starts_without_ipv6(
    cluster: Cluster, tmp_path: Path, device: str
) -> None:
    folder = Folder(tmp_path)
    write_service(folder, "web", 10)
    if device == "found":
        shell(cluster.node_a, "ip link add kube-ipvs0 type dummy")
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        assert query(cluster["pod-a2"], "tcp", CLUSTER_IP, 80).name == "pod-a1"
        with agent.syncing(SYNCED):  # deleted, and created again while the agent runs
            shell(cluster.node_a, "ip link del kube-ipvs0")
        assert query(cluster["pod-a2"], "tcp", CLUSTER_IP, 80).name == "pod-a1"


@pytest.fixture
def adapter() -> Iterator[tuple[Namespace, AddressAdapter]]:
    """An adapter in a namespace of its own, where new interfaces have IPv6 disabled, with kube-ipvs0."""
    with new_namespace("i10") as namespace:
        namespace.set_sysctl(SWITCH.format("default"), 1)
        created = AddressAdapter()
        with namespace.inside():
            assert not created.apply([Step("add", Link(IPVS_DEVICE))])
        yield namespace, created
        created.close()


def test_addresses_of_both_families_are_added_on_such_a_device(adapter: tuple[Namespace, AddressAdapter]) -> None:
    namespace, kernel = adapter
    steps = [Step("add", Address(address)) for address in ("10.96.0.10", CLUSTER_IP, LATER)]
    with namespace.inside():
        assert kernel.apply(steps) == []


def test_host_without_ipv6_keeps_it_off_and_the_error_names_the_switch(
    adapter: tuple[Namespace, AddressAdapter],
) -> None:
    namespace, kernel = adapter
    namespace.set_sysctl(SWITCH.format("all"), 1)
    with namespace.inside():
        failures = kernel.apply([Step("add", Address(address)) for address in ("10.96.0.10", CLUSTER_IP)])
    assert [failure.step.key for failure in failures] == [Address(CLUSTER_IP)]
    assert "sysctl -w net.ipv6.conf.all.disable_ipv6=0" in failures[0].message
