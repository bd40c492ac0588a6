"""The image as a node runs it: by runc, with the pod of deploy/daemonset.yaml, against an API server.

Node A is this kernel's initial network namespace, where all sysctls of the init container can be set.
"""

from __future__ import annotations

import errno
import http.client
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubeproxy_py import __version__
from lab.client import query
from lab.echo import EchoServers, Listener
from lab.network import BY_NAME, NODE_NAME, PODS, Cluster
from lab.pristine import LAB, reset_host_state
from tests.apiserver import ApiServer
from tests.apiserver.certificates import Authority
from tests.e2e.agent_process import wait_until
from tests.e2e.control_plane import NODE, responders
from tests.e2e.kernel_state import run
from tests.e2e.manifests import Port, endpoint_slice, service_with_slice
from tests.image.container import SECCOMP, Container, built_image, control_groups, unpacked
from tests.image.modprobe import usual_modprobe
from tests.image.pod import Machine, memory_bytes, oci_config, write_config_map

pytestmark = pytest.mark.kernel

MANIFEST = Path(__file__).resolve().parents[2] / "deploy/daemonset.yaml"
WEB, LATE = "10.96.80.1", "10.96.80.2"
WEB_PORT = Port(80, node_port=30080)
NODE_A = {**NODE, "status": {"addresses": [{"type": "InternalIP", "address": BY_NAME["node-a"].ipv4}]}}
NET_ADMIN, NET_RAW = 1 << 12, 1 << 13  # linux/capability.h
TOKEN = "of-the-service-account"
NOBODY = 65532
LOCK = Path("/run/xtables.lock")


@dataclass(frozen=True)
class Node:
    """The node, and the pod of the manifest."""

    cluster: Cluster
    server: ApiServer
    pod: dict[str, Any]
    machine: Machine
    folder: Path

    def container(self, kind: str, name: str, **security: object) -> Container:
        """Return the pod's first container of *kind*; *security* changes its securityContext, None deletes a field."""
        container = json.loads(json.dumps(self.pod[kind][0]))
        changed = {**container["securityContext"], **security}
        container["securityContext"] = {field: value for field, value in changed.items() if value is not None}
        config = oci_config(self.pod, container, self.machine)
        return Container(self.cluster.node_a, name, config, self.folder)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    reset_host_state()
    with Cluster(node_a="initial") as built:
        try:
            with EchoServers(Listener(pod.name, built[pod.name], "tcp", 8080) for pod in PODS):
                yield built
        finally:
            reset_host_state()


@pytest.fixture(scope="module")
def server(cluster: Cluster, authority: Authority) -> Iterator[ApiServer]:
    with cluster.node_a.inside():
        server = ApiServer(tls=authority.server_context())
    server.faults.tokens = {TOKEN}
    server.start()
    for document in (NODE_A, *service_with_slice("web", WEB, ["pod-a1", "pod-b1"], [WEB_PORT])):
        server.apply(document)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def node(
    cluster: Cluster, server: ApiServer, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("kubelet")
    archive = built_image()
    objects = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(MANIFEST.read_text())}
    (pod,) = (each["spec"]["template"]["spec"] for (kind, _), each in objects.items() if kind == "DaemonSet")
    with ExitStack() as stack:
        stack.enter_context(control_groups())
        stack.enter_context(usual_modprobe(folder))
        machine = Machine(
            node_name=NODE_NAME,
            root=stack.enter_context(unpacked(archive, folder / "root")),
            image=archive.config["config"],
            config_maps=dict(_config_maps(objects, server, folder)),
            service_account=_service_account(authority, folder / "service-account"),
            host_paths={
                "/lib/modules": (LAB / "lib/modules").resolve(),
                "/var/lib/kubeproxy-py": folder / "state",
            },
            seccomp=json.loads(SECCOMP.read_text()),
        )
        yield Node(cluster, server, pod, machine, folder)


def _config_maps(objects: dict[tuple[str, str], Any], server: ApiServer, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the manifest's ConfigMaps with the address of the API server, the one value that a user must fill in."""
    for (kind, name), document in objects.items():
        if kind == "ConfigMap":
            kubeconfig = yaml.safe_load(document["data"]["kubeconfig.conf"])
            kubeconfig["clusters"][0]["cluster"]["server"] = server.url
            document["data"]["kubeconfig.conf"] = yaml.safe_dump(kubeconfig)
            yield name, write_config_map(document, folder / name)


def _service_account(authority: Authority, folder: Path) -> Path:
    folder.mkdir()
    shutil.copy(authority.file, folder / "ca.crt")
    (folder / "token").write_text(TOKEN)
    return folder


@pytest.fixture(scope="module")
def prepared(node: Node) -> str:
    """Run the init container and return its output."""
    with node.container("initContainers", "prepare-node") as container:
        assert container.wait(60) == 0, "\n".join(container.lines())
        return "\n".join(container.lines())


@pytest.fixture
def running(node: Node, prepared: str) -> Iterator[Container]:
    """Yield the agent's container after its first sync."""
    with agent_of(node, "agent") as container:
        yield container


@contextmanager
def agent_of(node: Node, name: str, **security: object) -> Iterator[Container]:
    with node.container("containers", name, **security) as container:
        container.wait_synced()
        yield container


def test_init_container_applies_the_sysctls(node: Node, prepared: str) -> None:
    assert "Applied sysctls and IPVS timeouts; exiting (--init-only)" in prepared
    settings = {name: Path("/proc/sys/net/ipv4", name).read_text().strip() for name in ("ip_forward", "vs/conntrack")}
    assert settings == {"ip_forward": "1", "vs/conntrack": "1"}


def test_container_serves_the_services_of_the_api_server(node: Node, running: Container) -> None:
    assert responders(node.cluster, WEB) == {"pod-a1", "pod-b1"}
    assert query(node.cluster["outside"], "tcp", BY_NAME["node-a"].ipv4, 30080).name in {"pod-a1", "pod-b1"}
    with running.syncing():
        node.server.apply(endpoint_slice("web", ["pod-b2"], [WEB_PORT]))
    assert responders(node.cluster, WEB) == {"pod-b2"}
    with running.syncing():
        node.server.apply(endpoint_slice("web", ["pod-a1", "pod-b1"], [WEB_PORT]))


def test_agent_logs_no_warning_after_the_init_container(running: Container) -> None:
    assert not [line for line in running.lines() if line[0] in "WE"]


@pytest.mark.parametrize("probe", ["startupProbe", "livenessProbe", "readinessProbe"])
def test_probes_of_the_manifest_are_answered(node: Node, running: Container, probe: str) -> None:
    container = node.pod["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    request = container[probe]["httpGet"]

    def status() -> int:
        with node.cluster.node_a.inside():
            connection = http.client.HTTPConnection(BY_NAME["node-a"].ipv4, ports[request["port"]], timeout=5)
            connection.request("GET", request["path"])
            return connection.getresponse().status

    wait_until(lambda: status() == 200)  # the state is published at the end of the cycle that logs the first sync


def test_process_has_only_the_capabilities_of_the_manifest(running: Container) -> None:
    status = running.status()
    for which in ("CapPrm", "CapEff", "CapBnd"):
        assert int(status[which], 16) == NET_ADMIN | NET_RAW, which
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"  # SECCOMP_MODE_FILTER, linux/seccomp.h


def test_memory_limit_is_that_of_the_manifest(node: Node, running: Container) -> None:
    limit = node.pod["containers"][0]["resources"]["limits"]["memory"]
    group = Path(f"/proc/{running.first_pid}/cgroup").read_text().strip().removeprefix("0::/")
    assert Path("/sys/fs/cgroup", group, "memory.max").read_text() == f"{memory_bytes(limit)}\n"


def test_file_system_is_read_only(running: Container) -> None:
    for path in ("/x", "/tmp/x", "/var/lib/kube-proxy/x", "/lib/modules/x", "/proc/sys/net/ipv4/ip_forward"):
        tried = running.execute("/opt/kubeproxy-py/bin/python", "-c", f"open({path!r}, 'w')")
        assert f"[Errno {errno.EROFS}]" in tried.stderr, (path, tried.stderr)


def test_image_has_no_shell(running: Container) -> None:
    assert "no such file" in running.execute("/bin/sh", "-c", "true").stderr


def test_replaced_container_has_nothing_to_do_and_traffic_continues(node: Node, prepared: str) -> None:
    with agent_of(node, "old") as old:
        status, took_s = old.stop(signal.SIGTERM)
    assert status == 0
    assert took_s < 5  # the manifest's terminationGracePeriodSeconds
    assert responders(node.cluster, WEB) == {"pod-a1", "pod-b1"}
    with node.container("containers", "new") as new:
        assert "nothing to do" in new.wait_synced()


def test_agent_works_as_the_images_own_user_on_a_clean_node(node: Node, prepared: str) -> None:
    with node.cluster.node_a.inside():
        subprocess.run([sys.executable, "-m", "kubeproxy_py", "cleanup"], check=True, capture_output=True)
    assert "KUBE-SERVICES" not in run(node.cluster.node_a, "iptables-save")
    shutil.chown(LOCK, NOBODY)  # iptables-legacy opens it for writing
    try:
        with agent_of(node, "nobody", runAsUser=None, runAsGroup=None) as container:
            status = container.status()
            assert status["Uid"].split() == [str(NOBODY)] * 4
            assert [int(status[which], 16) for which in ("CapEff", "CapAmb")] == [NET_ADMIN | NET_RAW] * 2
            assert responders(node.cluster, WEB) == {"pod-a1", "pod-b1"}
            assert query(node.cluster["outside"], "tcp", BY_NAME["node-a"].ipv4, 30080).name in {"pod-a1", "pod-b1"}
            with container.syncing():
                for document in service_with_slice("late", LATE, ["pod-a1"]):
                    node.server.apply(document)
            wait_until(lambda: responders(node.cluster, LATE) == {"pod-a1"})
            assert not [line for line in container.lines() if line.startswith("E")]
    finally:
        shutil.chown(LOCK, 0)


def test_version_works_as_the_images_own_user_without_capabilities(node: Node) -> None:
    container = json.loads(json.dumps(node.pod["containers"][0]))
    container["securityContext"] = {"capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": False}
    container["args"] = ["--version"]
    config = oci_config(node.pod, container, node.machine)
    with Container(node.cluster.node_a, "no-capabilities", config, node.folder) as version:
        assert (version.wait(20), version.lines()) == (0, [f"kubeproxy-py {__version__}"])
