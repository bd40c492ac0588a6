"""What is said about inputs that are valid and serve nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.namespace import Namespace
from lab.network import BY_NAME
from tests.e2e.agent_process import AgentProcess, command_line
from tests.e2e.kernel_state import run
from tests.e2e.manifests import Folder, Port, endpoint_slice, service, service_with_slice

pytestmark = pytest.mark.kernel


def test_reason_why_nobody_serves_is_logged_and_shown_by_status(namespace: Namespace, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("lone", [service("lone", "10.96.0.80")])
    folder.write("unready", [service("unready", "10.96.0.81"), endpoint_slice("unready", [], unready=["pod-a1"])])
    folder.write("misnamed", [service("misnamed", "10.96.0.82"), endpoint_slice("misnamed", ["pod-a1"], [Port(81)])])
    reasons = {
        "lone": "no EndpointSlice",
        "unready": "1 endpoint, 0 ready",
        "misnamed": 'no port "tcp-80" in its slices (they have: tcp-81)',
    }
    with AgentProcess(namespace, folder.path) as agent:
        for name, reason in reasons.items():
            line = agent.wait_for(f"No endpoint serves these Service ports.*shop/{name}")
            assert reason in line.replace('\\"', '"')
        table = run(namespace, *command_line(folder.path, "status"))
    for reason in reasons.values():
        assert f"unserved: {reason}" in table


def test_second_address_of_an_endpoint_is_reported(namespace: Namespace, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    objects = service_with_slice("twin", "10.96.0.83", ["pod-a1"])
    objects[1]["endpoints"][0]["addresses"].append(BY_NAME["pod-a2"].ipv4)
    folder.write("twin", objects)
    with AgentProcess(namespace, folder.path) as agent:
        line = agent.wait_for("2 addresses in one endpoint, the first is used")
        assert "EndpointSlice shop/twin-4" in line
        agent.wait_synced()
        assert "10.244.1.5:8080" in run(namespace, "ipvsadm", "-Ln")


def test_loopback_network_for_node_ports_is_reported(namespace: Namespace, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with AgentProcess(namespace, folder.path, "--nodeport-addresses=127.0.0.0/8,192.168.3.0/24") as agent:
        agent.wait_for("nodePortAddresses: 127.0.0.0/8 adds no address: IPVS serves NodePorts on loopback only")
