"""Invalid manifests are reported by file, object and field, and do not affect others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from lab.client import query
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.kernel_state import kernel_state, run
from tests.e2e.manifests import Folder, service_with_slice
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel


class InvalidObject(NamedTuple):
    """An invalid object in a separate file, and what the log must contain."""

    text: str
    object_name: str
    field: str

    @property
    def line(self) -> str:
        return rf"{self.object_name}: {re.escape(self.field)}: "


def _service(name: str, spec: str, metadata: str = "") -> str:
    named = f"name: {name}, " if name else ""
    return f"apiVersion: v1\nkind: Service\nmetadata: {{{named}namespace: shop{metadata}}}\nspec: {spec}\n"


def _slice(name: str, labels: str, endpoints: str) -> str:
    return (
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
        f"metadata: {{name: {name}, namespace: shop, labels: {labels}}}\naddressType: IPv4\n"
        f"ports: [{{name: tcp-80, port: 8080}}]\nendpoints: {endpoints}\n"
    )


_VALID_LABELS = "{kubernetes.io/service-name: half}"
INVALID_OBJECTS = {
    "bad-ip.yaml": InvalidObject(
        _service("bad-ip", "{clusterIP: 10.96.66.300, ports: [{port: 66}]}"), "Service shop/bad-ip", "spec.clusterIP"
    ),
    "bad-port.yaml": InvalidObject(
        _service("bad-port", "{clusterIP: 10.96.66.1, ports: [{port: 70000}]}"),
        "Service shop/bad-port",
        "spec.ports[0].port",
    ),
    "bad-node-port.yaml": InvalidObject(
        _service("bad-node-port", "{clusterIP: 10.96.66.2, ports: [{port: 66, nodePort: 70000}]}"),
        "Service shop/bad-node-port",
        "spec.ports[0].nodePort",
    ),
    "bad-protocol.yaml": InvalidObject(
        _service("bad-protocol", "{clusterIP: 10.96.66.3, ports: [{port: 66, protocol: QUIC}]}"),
        "Service shop/bad-protocol",
        "spec.ports[0].protocol",
    ),
    "bad-type.yaml": InvalidObject(
        _service("bad-type", "{clusterIP: 10.96.66.4, ports: [{port: '66'}]}"),
        "Service shop/bad-type",
        "spec.ports[0].port",
    ),
    "no-name.yaml": InvalidObject(
        _service("", "{clusterIP: 10.96.66.5, ports: [{port: 66}]}"), "Service .*", "metadata.name"
    ),
    "no-service-name.yaml": InvalidObject(
        _slice("lost", "{}", "[{addresses: [10.244.1.5]}]"), "EndpointSlice shop/lost", "metadata.labels"
    ),
    "bad-endpoint.yaml": InvalidObject(
        _slice("half-1", _VALID_LABELS, "[{addresses: [10.244.1.999]}, {addresses: [10.244.2.5]}]"),
        "EndpointSlice shop/half-1",
        "endpoints[0].addresses[0]",
    ),
    "no-yaml.yaml": InvalidObject("kind: [Service\n", "document 1", "line 2"),
    "no-json.json": InvalidObject('{"kind": "Service",\n"apiVersion" "v1"}', "no-json.json", "line 2"),
    "no-kind.yaml": InvalidObject("apiVersion: v1\nmetadata: {name: what}\n", "document 1", "kind"),
}


class Node(NamedTuple):
    cluster: Cluster
    agent: AgentProcess
    folder: Folder

    def responders(self, address: str) -> set[str]:
        return {query(self.cluster["outside"], "tcp", address, 80).name for _ in range(4)}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    for name, broken in INVALID_OBJECTS.items():
        folder.write_text(name, broken.text)
    mixed = _service("mixed", "{clusterIP: 10.96.0.30, ports: [{name: tcp-80, port: 80}]}")
    endpoints = _slice("mixed-1", "{kubernetes.io/service-name: mixed}", "[{addresses: [10.244.2.6]}]")
    beside = _service("beside", "{clusterIP: 10.96.66.6, ports: [{port: -1}]}")
    folder.write_text("mixed.yaml", "---\n".join((mixed, beside, endpoints)))
    folder.write("good", service_with_slice("good", "10.96.0.10", ["pod-a1", "pod-b1"]))
    folder.write_text("half.yaml", _service("half", "{clusterIP: 10.96.0.40, ports: [{name: tcp-80, port: 80}]}"))
    with serving_cluster() as cluster, AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        yield Node(cluster, agent, folder)


def errors(agent: AgentProcess, file_name: str) -> list[str]:
    """Return the error lines (klog: E...) of the log that name the file."""
    return [line for line in agent.lines() if line.startswith("E") and file_name in line]


@pytest.mark.parametrize("file_name", INVALID_OBJECTS)
def test_log_names_file_object_and_field(node: Node, file_name: str) -> None:
    lines = errors(node.agent, file_name)
    assert len(lines) == 1, "once, and in one line"
    assert re.search(INVALID_OBJECTS[file_name].line, lines[0]), lines


def test_valid_objects_are_served(node: Node) -> None:
    assert (node.responders("10.96.0.10"), node.responders("10.96.0.30")) == ({"pod-a1", "pod-b1"}, {"pod-b2"})


def test_valid_endpoints_of_a_slice_with_an_invalid_one_are_served(node: Node) -> None:
    assert node.responders("10.96.0.40") == {"pod-b1"}


def test_nothing_of_an_invalid_service_is_in_the_kernel(node: Node) -> None:
    lines = [line for lines in kernel_state(node.cluster.node_a).values() for line in lines]
    assert [line for line in lines if "10.96.66." in line or re.search(r":66\b|70000", line)] == []


def _later(name: str, address: str, port: int = 80) -> str:
    """Return a Service and its slice as one file."""
    labels = f"{{kubernetes.io/service-name: {name}}}"
    spec = f"{{clusterIP: {address}, ports: [{{name: tcp-80, port: {port}}}]}}"
    return "---\n".join((_slice(f"{name}-1", labels, "[{addresses: [10.244.2.5]}]"), _service(name, spec)))


@pytest.mark.parametrize(
    ("name", "address", "broken", "problem"),
    [
        ("text", "10.96.0.60", "kind: [Service\n", "document 1: line 2: "),
        (
            "object",
            "10.96.0.61",
            _later("object", "10.96.0.61", 70000),
            r"document 2: Service shop/object: spec\.ports\[0\]\.port: ",
        ),
    ],
    ids=["no YAML", "a bad port"],
)
def test_file_that_becomes_invalid_keeps_its_last_valid_version_until_it_is_corrected(
    node: Node, name: str, address: str, broken: str, problem: str
) -> None:
    file_name, corrected = f"later-{name}.yaml", address.replace("10.96.0.6", "10.96.0.7")
    with node.agent.syncing():
        node.folder.write_text(file_name, _later(name, address))
    servers = run(node.cluster.node_a, "ipvsadm", "-Sn")
    with node.agent.syncing(f"{file_name}, {problem}"):
        node.folder.write_text(file_name, broken)
    unchanged = (node.responders(address), run(node.cluster.node_a, "ipvsadm", "-Sn") == servers)
    with node.agent.syncing():
        node.folder.write_text(file_name, _later(name, corrected))
    assert (unchanged, node.responders(corrected)) == (({"pod-b1"}, True), {"pod-b1"})
