"""plan: prints the changes of a sync, and logs what it refuses."""

import json
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from kubeproxy_py import cli
from kubeproxy_py.commands import plan as plan_module
from kubeproxy_py.kernel.address.adapter import AddressAdapter
from kubeproxy_py.model.node import HostAddress
from tests.sources import manifest_objects
from tests.sources.manifest_objects import Json

Plan = Callable[..., tuple[int, str, str]]
"""Returns exit status, output and log of plan for the objects, on a host that has no rows yet."""


@pytest.fixture
def plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Plan:
    def run(*objects: Json, flags: Sequence[str] = ()) -> tuple[int, str, str]:
        for number, content in enumerate(objects):
            (tmp_path / f"{number}.json").write_text(json.dumps(content))
        argv = ["plan", "--assume-empty", "--hostname-override=node-a", f"--manifests={tmp_path}", *flags]
        status = cli.main(argv)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def node(*addresses: str) -> Json:
    typed = [{"type": "InternalIP", "address": address} for address in addresses]
    return {**manifest_objects.node("node-a"), "status": {"addresses": typed}}


def node_port_service(name: str = "web", cluster_ip: str = "10.96.0.10", **spec: object) -> Json:
    ports = [{"port": 80, "nodePort": 30080}]
    return manifest_objects.service(name, clusterIP=cluster_ip, type="NodePort", ports=ports, **spec)


def test_plan_logs_the_refused_addresses_of_services_and_plans_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = manifest_objects.service(externalIPs=["127.0.0.1", "203.0.113.7"])
    (tmp_path / "web.json").write_text(json.dumps(service))
    argv = ["plan", "--assume-empty", "--hostname-override=node-a", f"--manifests={tmp_path}"]
    assert cli.main(argv) == 2
    printed = capsys.readouterr()
    (line,) = [line for line in printed.err.splitlines() if "ForbiddenAddress" in line]
    assert line == (
        "warning: Refused an address of a Service (service: shop/web; address: 127.0.0.1; reason: ForbiddenAddress; "
        "why: not served, because it is a loopback address)"
    )
    assert "203.0.113.7:80" in printed.out
    assert "127.0.0.1:80" not in printed.out


def test_plan_shows_settings_and_names_those_that_are_ignored(plan: Plan) -> None:
    web = manifest_objects.service()
    web["metadata"]["annotations"] = {
        "kubeproxy-py.io/scheduler": "wlc",
        "kubeproxy-py.io/max-connections": "9",
        "kubeproxy-py.io/weights": "zone=1",
    }
    _, printed, log = plan(web, manifest_objects.endpoint_slice())
    assert "VirtualServer 10.96.0.10:80/TCP  (wlc)" in printed
    assert "(weight 1 connections 9, again below 9)" in printed
    (line,) = [line for line in log.splitlines() if "setting" in line]
    assert line.startswith(
        "warning: Ignored a setting of a Service (service: shop/web; setting: kubeproxy-py.io/weights=zone=1; why: "
        "'zone=1' is no weight of endpoints; ignored (such as zone/a=3"
    )


def test_plan_of_an_empty_kernel_serves_node_ports_at_the_addresses_of_the_node(plan: Plan) -> None:
    status, printed, log = plan(node("192.168.3.10", "fd00::10"), node_port_service())
    assert "VirtualServer 192.168.3.10:30080/TCP" in printed
    assert "IpsetEntry    KUBE-NODE-PORT-TCP 30080" in printed
    assert "fd00::10" not in printed  # the Service is IPv4
    assert status == 2
    assert "NodePort" not in log


def test_plan_of_an_empty_kernel_has_the_health_check_port_of_a_local_service(plan: Plan) -> None:
    service = manifest_objects.service(
        type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=32000, ports=[{"port": 80}]
    )
    _, printed, _ = plan(node("192.168.3.10"), service)
    assert "IpsetEntry    KUBE-HEALTH-CHECK-NODE-PORT 32000" in printed


def test_plan_of_an_empty_kernel_names_a_contested_node_port_and_does_not_bind_an_address_of_the_node(
    plan: Plan,
) -> None:
    own = node_port_service("own", "10.96.0.11", externalIPs=["192.168.3.10"])
    _, printed, log = plan(node("192.168.3.10"), node_port_service("a"), own)
    (line,) = [line for line in log.splitlines() if "AddressContested" in line]
    assert "service: shop/own" in line
    assert "VirtualServer 192.168.3.10:80/TCP" in printed  # the externalIP is served
    assert [line.split()[2] for line in printed.splitlines() if line.startswith("+ Address ")] == [
        "10.96.0.10",
        "10.96.0.11",
    ]


def test_plan_of_an_empty_kernel_without_a_node_uses_the_addresses_of_this_host(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = (HostAddress("lo", "127.0.0.1", 8), HostAddress("eth0", "198.51.100.7", 24))
    monkeypatch.setattr(AddressAdapter, "host_addresses", lambda _: own)
    _, printed, log = plan(node_port_service(), flags=["-v1"])
    assert "VirtualServer 198.51.100.7:30080/TCP" in printed
    assert "No Node among the manifests; using this host's own name and addresses (node: node-a; ips: " in log
    assert "['198.51.100.7', '::1'])\n" in log


def test_plan_of_an_empty_kernel_warns_if_no_address_is_known(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AddressAdapter, "host_addresses", lambda _: (HostAddress("lo", "127.0.0.1", 8),))
    status, printed, log = plan(node_port_service())
    assert "No address of the node is known; NodePorts are not planned" in log
    assert ":30080/TCP" not in printed
    assert status == 2


# Messages and exit status


def slice_of_web(port_name: str = "", namespace: str = "shop") -> Json:
    content = manifest_objects.endpoint_slice()
    content["metadata"]["namespace"] = namespace
    content["ports"] = [{"name": port_name, "port": 8080}]
    return content


@pytest.mark.parametrize(
    ("slices", "why"),
    [
        ((), "80/TCP IPv4: no EndpointSlice"),
        ((slice_of_web(namespace="other"),), "80/TCP IPv4: no EndpointSlice"),
        ((slice_of_web("http"),), "80/TCP IPv4: no unnamed port in its slices (they have: http)"),
    ],
)
def test_plan_says_why_no_endpoint_serves_a_port(plan: Plan, slices: tuple[Json, ...], why: str) -> None:
    status, _, log = plan(node("192.168.3.10"), manifest_objects.service(), *slices)
    assert log == f"warning: No endpoint serves these Service ports (service: shop/web; ports: {why})\n"
    assert status == 2


def test_plan_warns_of_an_endpoint_that_is_the_service_itself(plan: Plan) -> None:
    loop = slice_of_web()
    loop["endpoints"] = [{"addresses": ["10.1.0.5"]}, {"addresses": ["10.96.0.10"]}]
    _, _, log = plan(node("192.168.3.10"), manifest_objects.service(), loop)
    assert log == (
        "warning: The ClusterIP of a Service is one of its endpoints; write the address of a pod "
        "(service: shop/web; addresses: 10.96.0.10)\n"
    )


def test_plan_of_served_ports_logs_nothing(plan: Plan) -> None:
    status, _, log = plan(node("192.168.3.10"), manifest_objects.service(), slice_of_web())
    assert (status, log) == (2, "")


def test_plan_with_a_rejected_object_prints_the_others_and_fails(plan: Plan) -> None:
    rejected = manifest_objects.service("broken", port=99999)
    status, printed, log = plan(node("192.168.3.10"), manifest_objects.service(), slice_of_web(), rejected)
    assert "10.96.0.10:80/TCP -> 10.1.0.5:8080" in printed
    assert "99999 is not a port" in log
    assert status == 1


def test_plan_with_a_warning_of_an_object_succeeds(plan: Plan) -> None:
    service = manifest_objects.service(sesionAffinity="ClientIP")
    status, _, log = plan(node("192.168.3.10"), service, slice_of_web())
    assert "did you mean sessionAffinity?" in log
    assert status == 2


# The API server


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Yield the URL of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_plan_gives_up_on_an_api_server_that_does_not_answer(
    silent_server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan_module.LIST_TIMEOUT_S == 5
    monkeypatch.setattr(plan_module, "LIST_TIMEOUT_S", 0.3)
    argv = ["plan", "--assume-empty", "--hostname-override=node-a", f"--master={silent_server}"]
    assert cli.main(argv) == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err.splitlines()) == (
        "",
        [
            "error: gave up on the API server: initial list of node, services, slices not received within 0.3 s "
            "(it does not answer; check its address in the kubeconfig, and firewalls)"
        ],
    )


def test_plan_names_an_api_server_that_refuses_connections_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan_module, "LIST_TIMEOUT_S", 4.0)
    assert cli.main(["plan", "--assume-empty", "--hostname-override=node-a", "--master=http://127.0.0.1:1"]) == 1
    refused, gave_up = capsys.readouterr().err.splitlines()
    assert refused.startswith("error: http://127.0.0.1:1: connection: Connection refused (check that it is running")
    assert gave_up.startswith("error: gave up on the API server: ")
