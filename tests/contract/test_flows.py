"""UDP flows: both kernels tell those to the virtual servers asked for, and forget just those that they are told to."""

import subprocess

import pytest

from kubeproxy_py.kernel import FlowTable, Kernel
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.flows import Flow
from kubeproxy_py.model.rows import VirtualServer

DNS, NTP = VirtualServer("10.96.0.10", 53, "UDP"), VirtualServer("10.96.0.10", 123, "UDP")
DNS_6 = VirtualServer("fd00:10:96::a", 53, "UDP")
POD, OTHER = ("10.244.1.5", 8080), ("10.244.1.6", 8080)
POD_6 = ("fd00:10:244:1::5", 8080)


@pytest.fixture
def table(kernel: Kernel) -> FlowTable:
    """A kernel with one flow to each of DNS's pods, one to NTP, one to DNS_6."""
    assert isinstance(kernel, FlowTable)
    made = [Flow(DNS, POD), Flow(DNS, OTHER), Flow(NTP, POD), Flow(DNS_6, POD_6)]
    if isinstance(kernel, MemoryKernel):
        kernel.flows = made
    else:
        for number, flow in enumerate(made):
            _make(flow, 40000 + number)
    return kernel


def _make(flow: Flow, source_port: int) -> None:
    client = "fd00::9" if ":" in flow.virtual_server.address else "192.0.2.9"
    words = (
        f"conntrack -I -p udp -t 300 -s {client} --sport {source_port} "
        f"-d {flow.virtual_server.address} --dport {flow.virtual_server.port} "
        f"--reply-src {flow.destination[0]} --reply-port-src {flow.destination[1]} "
        f"--reply-dst {client} --reply-port-dst {source_port}"
    )
    subprocess.run(words.split(), check=True, capture_output=True)


def flows(table: FlowTable, *servers: VirtualServer) -> list[Flow]:
    return [flow for part in table.udp_flows(servers) for flow in part]


def places(found: list[Flow]) -> set[tuple[VirtualServer, tuple[str, int]]]:
    return {(flow.virtual_server, flow.destination) for flow in found}


def test_flows_are_told_of_the_virtual_servers_asked_for(table: FlowTable) -> None:
    assert places(flows(table, DNS)) == {(DNS, POD), (DNS, OTHER)}


def test_flows_of_both_families_are_told(table: FlowTable) -> None:
    assert places(flows(table, NTP, DNS_6)) == {(NTP, POD), (DNS_6, POD_6)}


def test_flows_of_nothing_are_none(table: FlowTable) -> None:
    assert flows(table) == []


def test_what_is_forgotten_is_gone_and_all_else_stays(table: FlowTable) -> None:
    gone = [flow for flow in flows(table, DNS, DNS_6) if flow.destination in (OTHER, POD_6)]
    assert table.delete_flows(gone) == (2, [])
    assert places(flows(table, DNS, NTP, DNS_6)) == {(DNS, POD), (NTP, POD)}


def test_what_is_gone_already_is_not_counted(table: FlowTable) -> None:
    found = flows(table, DNS)
    table.delete_flows(found[:1])
    assert table.delete_flows(found) == (1, [])
