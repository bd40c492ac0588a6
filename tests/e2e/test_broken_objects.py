"""A manifest that can't be used is told by file, object and field, and spoils nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from lab.ask import ask
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.kernel_state import kernel_state, run
from tests.e2e.manifests import Folder, backed
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel


class Broken(NamedTuple):
    """An object in a file of its own, and what the log must say of it."""

    text: str
    who: str
    field: str

    @property
    def line(self) -> str:
        return rf"{self.who}: {re.escape(self.field)}: "


def _service(name: str, spec: str, metadata: str = "") -> str:
    named = f"name: {name}, " if name else ""
    return f"apiVersion: v1\nkind: Service\nmetadata: {{{named}namespace: shop{metadata}}}\nspec: {spec}\n"


def _slice(name: str, labels: str, endpoints: str) -> str:
    return (
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
        f"metadata: {{name: {name}, namespace: shop, labels: {labels}}}\naddressType: IPv4\n"
        f"ports: [{{name: tcp-80, port: 8080}}]\nendpoints: {endpoints}\n"
    )


_GOOD_LABELS = "{kubernetes.io/service-name: half}"
BROKEN = {
    "bad-ip.yaml": Broken(
        _service("bad-ip", "{clusterIP: 10.96.66.300, ports: [{port: 66}]}"), "Service shop/bad-ip", "spec.clusterIP"
    ),
    "bad-port.yaml": Broken(
        _service("bad-port", "{clusterIP: 10.96.66.1, ports: [{port: 70000}]}"),
        "Service shop/bad-port",
        "spec.ports[0].port",
    ),
    "bad-node-port.yaml": Broken(
        _service("bad-node-port", "{clusterIP: 10.96.66.2, ports: [{port: 66, nodePort: 70000}]}"),
        "Service shop/bad-node-port",
        "spec.ports[0].nodePort",
    ),
    "bad-protocol.yaml": Broken(
        _service("bad-protocol", "{clusterIP: 10.96.66.3, ports: [{port: 66, protocol: QUIC}]}"),
        "Service shop/bad-protocol",
        "spec.ports[0].protocol",
    ),
    "bad-type.yaml": Broken(
        _service("bad-type", "{clusterIP: 10.96.66.4, ports: [{port: '66'}]}"),
        "Service shop/bad-type",
        "spec.ports[0].port",
    ),
    "no-name.yaml": Broken(_service("", "{clusterIP: 10.96.66.5, ports: [{port: 66}]}"), "Service .*", "metadata.name"),
    "no-service-name.yaml": Broken(
        _slice("lost", "{}", "[{addresses: [10.244.1.5]}]"), "EndpointSlice shop/lost", "metadata.labels"
    ),
    "bad-endpoint.yaml": Broken(
        _slice("half-1", _GOOD_LABELS, "[{addresses: [10.244.1.999]}, {addresses: [10.244.2.5]}]"),
        "EndpointSlice shop/half-1",
        "endpoints[0].addresses[0]",
    ),
    "no-yaml.yaml": Broken("kind: [Service\n", "document 1", "line 2"),
    "no-json.json": Broken('{"kind": "Service",\n"apiVersion" "v1"}', "no-json.json", "line 2"),
    "no-kind.yaml": Broken("apiVersion: v1\nmetadata: {name: what}\n", "document 1", "kind"),
}


class Node(NamedTuple):
    cluster: Cluster
    agent: AgentProcess
    folder: Folder

    def answers(self, address: str) -> set[str]:
        return {ask(self.cluster["outside"], "tcp", address, 80).name for _ in range(4)}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    for name, broken in BROKEN.items():
        folder.put_text(name, broken.text)
    mixed = _service("mixed", "{clusterIP: 10.96.0.30, ports: [{name: tcp-80, port: 80}]}")
    endpoints = _slice("mixed-1", "{kubernetes.io/service-name: mixed}", "[{addresses: [10.244.2.6]}]")
    beside = _service("beside", "{clusterIP: 10.96.66.6, ports: [{port: -1}]}")
    folder.put_text("mixed.yaml", "---\n".join((mixed, beside, endpoints)))
    folder.put("good", backed("good", "10.96.0.10", ["pod-a1", "pod-b1"]))
    folder.put_text("half.yaml", _service("half", "{clusterIP: 10.96.0.40, ports: [{name: tcp-80, port: 80}]}"))
    with serving_cluster() as cluster, AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        yield Node(cluster, agent, folder)


def errors(agent: AgentProcess, file_name: str) -> list[str]:
    """The error lines (klog: E...) of the log that name the file."""
    return [line for line in agent.lines() if line.startswith("E") and file_name in line]


@pytest.mark.parametrize("file_name", BROKEN)
def test_the_log_names_file_object_and_field(node: Node, file_name: str) -> None:
    told = errors(node.agent, file_name)
    assert len(told) == 1, "once, and in one line"
    assert re.search(BROKEN[file_name].line, told[0]), told


def test_all_others_are_served(node: Node) -> None:
    assert (node.answers("10.96.0.10"), node.answers("10.96.0.30")) == ({"pod-a1", "pod-b1"}, {"pod-b2"})


def test_one_broken_endpoint_leaves_the_others_serving(node: Node) -> None:
    assert node.answers("10.96.0.40") == {"pod-b1"}


def test_nothing_of_a_broken_service_is_in_the_kernel(node: Node) -> None:
    lines = [line for lines in kernel_state(node.cluster.node_a).values() for line in lines]
    assert [line for line in lines if "10.96.66." in line or re.search(r":66\b|70000", line)] == []


def _later(name: str, address: str, port: int = 80) -> str:
    """A Service and its slice in one file."""
    labels = f"{{kubernetes.io/service-name: {name}}}"
    spec = f"{{clusterIP: {address}, ports: [{{name: tcp-80, port: {port}}}]}}"
    return "---\n".join((_slice(f"{name}-1", labels, "[{addresses: [10.244.2.5]}]"), _service(name, spec)))


@pytest.mark.parametrize(
    ("name", "address", "broken", "complaint"),
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
def test_a_file_broken_later_keeps_its_last_good_version_until_it_is_mended(
    node: Node, name: str, address: str, broken: str, complaint: str
) -> None:
    file_name, mended = f"later-{name}.yaml", address.replace("10.96.0.6", "10.96.0.7")
    with node.agent.syncing():
        node.folder.put_text(file_name, _later(name, address))
    servers = run(node.cluster.node_a, "ipvsadm", "-Sn")
    with node.agent.syncing(f"{file_name}, {complaint}"):
        node.folder.put_text(file_name, broken)
    kept = (node.answers(address), run(node.cluster.node_a, "ipvsadm", "-Sn") == servers)
    with node.agent.syncing():
        node.folder.put_text(file_name, _later(name, mended))
    assert (kept, node.answers(mended)) == (({"pod-b1"}, True), {"pod-b1"})
