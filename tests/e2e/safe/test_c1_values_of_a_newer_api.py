"""A Service with values of a newer API version is served without what this agent does not know, and is followed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.network import Cluster
from tests.apiserver.certificates import Authority
from tests.e2e.agent_process import wait_until
from tests.e2e.control_plane import Agent, ControlPlane, responders, running_control_plane
from tests.e2e.kernel_state import run
from tests.e2e.manifests import Object, endpoint_slice, service
from tests.e2e.serving import cluster_fixture

pytestmark = pytest.mark.kernel

WEB = "10.96.83.1"


cluster = cluster_fixture


@pytest.fixture
def control_plane(cluster: Cluster, tmp_path: Path) -> Iterator[ControlPlane]:
    authority = Authority(tmp_path / "pki")
    with running_control_plane(cluster, authority, tmp_path) as running:
        yield running


def newer_service() -> Object:
    body = service("web", WEB)
    body["spec"] |= {"type": "LoadBalancer", "internalTrafficPolicy": "PreferLocal", "sessionAffinity": "Cookie"}
    body["spec"]["ports"].append({"name": "quic", "port": 443, "protocol": "QUIC"})
    ingress = [{"ip": "192.168.3.200", "ipMode": "VIP"}, {"ip": "192.168.3.201", "ipMode": "Tunnel"}]
    return {**body, "status": {"loadBalancer": {"ingress": ingress}}}


def test_service_with_unknown_values_is_served_and_followed(cluster: Cluster, control_plane: ControlPlane) -> None:
    control_plane.apply(newer_service(), endpoint_slice("web", ["pod-a1"]))
    with Agent(cluster, control_plane) as agent:
        agent.wait_synced()
        for field in ("internalTrafficPolicy", "sessionAffinity", "ports.*protocol", r"ingress\[1\].ipMode"):
            assert agent.wait_for(f"Service shop/web: .*{field}: unknown").startswith("W")
        assert responders(cluster, WEB) == {"pod-a1"}

        def addresses() -> str:
            return run(cluster.node_a, "ip", "-o", "address", "show", "dev", "kube-ipvs0")

        wait_until(lambda: "192.168.3.200" in addresses())  # neighbours are asked first
        assert "192.168.3.201" not in addresses()
        with agent.syncing():
            control_plane.apply(endpoint_slice("web", ["pod-b1"]))
        wait_until(lambda: responders(cluster, WEB) == {"pod-b1"})
    with Agent(cluster, control_plane) as restarted:
        assert "nothing to do" in restarted.wait_synced()
