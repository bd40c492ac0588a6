"""UDP flows: both kernels list those to the requested virtual servers, and delete only the requested ones."""

import subprocess

import pytest

from kubeproxy_py.kernel import Kernel
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.flows import Flow
from kubeproxy_py.model.rows import VirtualServer

DNS, NTP = VirtualServer("10.96.0.10", 53, "UDP"), VirtualServer("10.96.0.10", 123, "UDP")
DNS_6 = VirtualServer("fd00:10:96::a", 53, "UDP")
POD, OTHER = ("10.244.1.5", 8080), ("10.244.1.6", 8080)
POD_6 = ("fd00:10:244:1::5", 8080)


@pytest.fixture
def table(kernel: Kernel) -> Kernel:
    """A kernel with one flow to each of DNS's pods, one to NTP, one to DNS_6."""
    existing = [Flow(DNS, POD), Flow(DNS, OTHER), Flow(NTP, POD), Flow(DNS_6, POD_6)]
    if isinstance(kernel, MemoryKernel):
        kernel.flows = existing
    else:
        for number, flow in enumerate(existing):
            _create(flow, 40000 + number)
    return kernel


def _create(flow: Flow, source_port: int) -> None:
    client = "fd00::9" if ":" in flow.virtual_server.address else "192.0.2.9"
    command = (
        f"conntrack -I -p udp -t 300 -s {client} --sport {source_port} "
        f"-d {flow.virtual_server.address} --dport {flow.virtual_server.port} "
        f"--reply-src {flow.destination[0]} --reply-port-src {flow.destination[1]} "
        f"--reply-dst {client} --reply-port-dst {source_port}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)


def flows(table: Kernel, *servers: VirtualServer) -> list[Flow]:
    return [flow for chunk in table.udp_flows(servers) for flow in chunk]


def destinations(listed: list[Flow]) -> set[tuple[VirtualServer, tuple[str, int]]]:
    return {(flow.virtual_server, flow.destination) for flow in listed}


def test_flows_to_the_requested_virtual_servers_are_listed(table: Kernel) -> None:
    assert destinations(flows(table, DNS)) == {(DNS, POD), (DNS, OTHER)}


def test_flows_of_both_families_are_listed(table: Kernel) -> None:
    assert destinations(flows(table, NTP, DNS_6)) == {(NTP, POD), (DNS_6, POD_6)}


def test_no_flows_are_listed_without_virtual_servers(table: Kernel) -> None:
    assert flows(table) == []


def test_deleted_flows_no_longer_exist_and_all_others_do(table: Kernel) -> None:
    to_delete = [flow for flow in flows(table, DNS, DNS_6) if flow.destination in (OTHER, POD_6)]
    assert table.delete_flows(to_delete) == (2, [])
    assert destinations(flows(table, DNS, NTP, DNS_6)) == {(DNS, POD), (NTP, POD)}


def test_deleting_a_missing_flow_is_not_counted(table: Kernel) -> None:
    listed = flows(table, DNS)
    table.delete_flows(listed[:1])
    assert table.delete_flows(listed) == (1, [])
