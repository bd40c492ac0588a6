"""What `trace` says is what packets meet under each setting that changes rules, not only under the usual ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from lab.echo import EchoServers, Listener
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.client_requests import Request, Series, send_series
from tests.e2e.manifests import Folder
from tests.e2e.policies_services import HOST_PORT, SERVED, VERSIONS, Front, objects, place
from tests.e2e.serving import cluster_and_servers
from tests.e2e.tracing import MODES, asked, disagreement, tracings, waits_s

pytestmark = pytest.mark.kernel

SETTINGS: dict[str, dict[str, str]] = {
    "all masqueraded": {"masquerade-all": "true"},
    "pods by their bridge": {"detect-local-mode": "BridgeInterface", "pod-bridge-interface": "cni0"},
    "pods by their interfaces": {"detect-local-mode": "InterfaceNamePrefix", "pod-interface-name-prefix": "cni"},
    "pods by the Node": {"detect-local-mode": "NodeCIDR"},
    "several pod networks": {"cluster-cidr": "10.244.1.0/24,10.244.2.0/24,fd00:10:244:1::/64,fd00:10:244:2::/64"},
    "NodePorts at one address": {"nodeport-addresses": "192.168.3.0/24,fd00:3::/64"},
    "another mark": {"iptables-masquerade-bit": "7"},
    "another scheduler": {"ipvs-scheduler": "sh"},
}
_SERVICES = ("near", "near, external Local", "nobody", "for outside", "at node A's address")
_CLIENTS = ("pod-a1", "pod-a2", "node-a", "outside")
_FRONTS: tuple[Front, ...] = ("ClusterIP", "externalIP", "LB VIP", "NodePort")


def requests() -> set[Request]:
    """Return requests by UDP, whose results distinguish what was dropped from what was lost later."""
    places = {
        place(SERVED[name], front, version) for name, front, version in itertools.product(_SERVICES, _FRONTS, VERSIONS)
    }
    made = {Request(client, "udp", address, port) for client, (address, port) in itertools.product(_CLIENTS, places)}
    second_address = {Request(client, "udp", "172.16.5.10", SERVED["near"].node_port) for client in _CLIENTS}
    return made | second_address


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Cluster, EchoServers]]:
    with (
        cluster_and_servers() as (built, servers),
        EchoServers([Listener("node-a", built.node_a, "udp", HOST_PORT)]),  # a host has some sockets to list
    ):
        yield built, servers


@pytest.mark.parametrize("name", SETTINGS)
def test_trace_says_what_packets_meet_under_a_setting(
    cluster: tuple[Cluster, EchoServers], tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("all", objects())
    flags = SETTINGS[name]
    words = [f"--{flag}={value}" for flag, value in flags.items()]
    with AgentProcess(cluster[0].node_a, folder.path, *words) as agent:
        agent.wait_synced()
        with tracings(cluster[0], folder.path, **flags) as made:
            traces = {request: {mode: made[mode].trace(asked(request)) for mode in MODES} for request in requests()}
        series = {request: Series(2, waits_s(by_mode.values())) for request, by_mode in traces.items()}
        results = send_series(*cluster, series)
        problems = [
            f"{mode}: {request}: {problem}"
            for request, by_mode in traces.items()
            for mode, trace in by_mode.items()
            if (problem := disagreement(trace, results[request]))
        ]
    assert problems == []
