"""The image as a node runs it: by runc, with what deploy/daemonset.yaml says, against an API server.

Node A is this kernel's own network, where all that the init container sets can be set.
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
from lab.ask import ask
from lab.echo import EchoServers, Listener
from lab.network import BY_NAME, NODE_NAME, PODS, Cluster
from lab.pristine import reset_host_state
from lab.stage import UML_MODULES
from tests.apiserver import ApiServer
from tests.apiserver.certificates import Authority
from tests.e2e.agent_process import wait_until
from tests.e2e.kernel_state import run
from tests.e2e.manifests import Port, backed, endpoint_slice
from tests.e2e.test_api_server import NODE, answerers
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
    """The node, and what the manifest has for it."""

    cluster: Cluster
    server: ApiServer
    pod: dict[str, Any]
    machine: Machine
    folder: Path

    def container(self, kind: str, name: str, **security: object) -> Container:
        """The first of the pod's *kind*; *security* changes its securityContext, None takes a field away."""
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
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def server(cluster: Cluster, authority: Authority) -> Iterator[ApiServer]:
    with cluster.node_a.inside():
        made = ApiServer(tls=authority.server_context())
    made.faults.tokens = {TOKEN}
    made.start()
    for each in (NODE_A, *backed("web", WEB, ["pod-a1", "pod-b1"], [WEB_PORT])):
        made.apply(each)
    yield made
    made.stop()


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
            host_paths={"/lib/modules": UML_MODULES},
            seccomp=json.loads(SECCOMP.read_text()),
        )
        yield Node(cluster, server, pod, machine, folder)


def _config_maps(objects: dict[tuple[str, str], Any], server: ApiServer, folder: Path) -> Iterator[tuple[str, Path]]:
    """Each of the manifest, with the one thing filled in that it asks for: where the API server is."""
    for (kind, name), each in objects.items():
        if kind == "ConfigMap":
            kubeconfig = yaml.safe_load(each["data"]["kubeconfig.conf"])
            kubeconfig["clusters"][0]["cluster"]["server"] = server.url
            each["data"]["kubeconfig.conf"] = yaml.safe_dump(kubeconfig)
            yield name, write_config_map(each, folder / name)


def _service_account(authority: Authority, folder: Path) -> Path:
    folder.mkdir()
    shutil.copy(authority.file, folder / "ca.crt")
    (folder / "token").write_text(TOKEN)
    return folder


@pytest.fixture(scope="module")
def prepared(node: Node) -> str:
    """What the init container said; it has done its work."""
    with node.container("initContainers", "prepare-node") as container:
        assert container.wait(60) == 0, "\n".join(container.lines())
        return "\n".join(container.lines())


@pytest.fixture
def running(node: Node, prepared: str) -> Iterator[Container]:
    """The agent's container, after its first sync."""
    with agent_of(node, "agent") as container:
        yield container


@contextmanager
def agent_of(node: Node, name: str, **security: object) -> Iterator[Container]:
    with node.container("containers", name, **security) as container:
        container.wait_synced()
        yield container


def test_the_init_container_makes_the_settings(node: Node, prepared: str) -> None:
    assert "settings and timeouts are made" in prepared
    settings = {name: Path("/proc/sys/net/ipv4", name).read_text().strip() for name in ("ip_forward", "vs/conntrack")}
    assert settings == {"ip_forward": "1", "vs/conntrack": "1"}


def test_the_container_makes_of_the_api_servers_objects_what_packets_meet(node: Node, running: Container) -> None:
    assert answerers(node.cluster, WEB) == {"pod-a1", "pod-b1"}
    assert ask(node.cluster["outside"], "tcp", BY_NAME["node-a"].ipv4, 30080).name in {"pod-a1", "pod-b1"}
    with running.syncing():
        node.server.apply(endpoint_slice("web", ["pod-b2"], [WEB_PORT]))
    assert answerers(node.cluster, WEB) == {"pod-b2"}
    with running.syncing():
        node.server.apply(endpoint_slice("web", ["pod-a1", "pod-b1"], [WEB_PORT]))


def test_the_init_container_leaves_nothing_to_complain_of(running: Container) -> None:
    assert not [line for line in running.lines() if line[0] in "WE"]


def test_the_kubelets_probes_are_answered(node: Node, running: Container) -> None:
    container = node.pod["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        with node.cluster.node_a.inside():
            connection = http.client.HTTPConnection(BY_NAME["node-a"].ipv4, ports[asked["port"]], timeout=5)
            connection.request("GET", asked["path"])
            assert connection.getresponse().status == 200, probe


def test_the_process_has_the_rights_of_the_manifest_and_no_others(running: Container) -> None:
    status = running.status()
    for which in ("CapPrm", "CapEff", "CapBnd"):
        assert int(status[which], 16) == NET_ADMIN | NET_RAW, which
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"  # SECCOMP_MODE_FILTER, linux/seccomp.h


def test_its_memory_is_limited_as_the_manifest_says(node: Node, running: Container) -> None:
    limit = node.pod["containers"][0]["resources"]["limits"]["memory"]
    group = Path(f"/proc/{running.first_pid}/cgroup").read_text().strip().removeprefix("0::/")
    assert Path("/sys/fs/cgroup", group, "memory.max").read_text() == f"{memory_bytes(limit)}\n"


def test_nothing_can_be_written(running: Container) -> None:
    for path in ("/x", "/tmp/x", "/var/lib/kube-proxy/x", "/lib/modules/x", "/proc/sys/net/ipv4/ip_forward"):
        tried = running.execute("/opt/kubeproxy-py/bin/python", "-c", f"open({path!r}, 'w')")
        assert f"[Errno {errno.EROFS}]" in tried.stderr, (path, tried.stderr)


def test_there_is_no_shell_to_execute(running: Container) -> None:
    assert "no such file" in running.execute("/bin/sh", "-c", "true").stderr


def test_a_container_that_is_replaced_finds_nothing_to_do_and_traffic_goes_on(node: Node, prepared: str) -> None:
    with agent_of(node, "old") as old:
        status, took_s = old.end(signal.SIGTERM)
    assert status == 0
    assert took_s < 5  # the manifest's terminationGracePeriodSeconds
    assert answerers(node.cluster, WEB) == {"pod-a1", "pod-b1"}
    with node.container("containers", "new") as new:
        assert "nothing to do" in new.wait_synced()


def test_as_the_images_own_user_it_does_the_main_job_from_nothing(node: Node, prepared: str) -> None:
    with node.cluster.node_a.inside():
        subprocess.run([sys.executable, "-m", "kubeproxy_py", "cleanup"], check=True, capture_output=True)
    assert "KUBE-SERVICES" not in run(node.cluster.node_a, "iptables-save")
    shutil.chown(LOCK, NOBODY)  # iptables-legacy opens it for writing
    try:
        with agent_of(node, "nobody", runAsUser=None, runAsGroup=None) as container:
            status = container.status()
            assert status["Uid"].split() == [str(NOBODY)] * 4
            assert [int(status[which], 16) for which in ("CapEff", "CapAmb")] == [NET_ADMIN | NET_RAW] * 2
            assert answerers(node.cluster, WEB) == {"pod-a1", "pod-b1"}
            assert ask(node.cluster["outside"], "tcp", BY_NAME["node-a"].ipv4, 30080).name in {"pod-a1", "pod-b1"}
            with container.syncing():
                for each in backed("late", LATE, ["pod-a1"]):
                    node.server.apply(each)
            wait_until(lambda: answerers(node.cluster, LATE) == {"pod-a1"})
            assert not [line for line in container.lines() if line.startswith("E")]
    finally:
        shutil.chown(LOCK, 0)


def test_as_the_images_own_user_without_any_right_it_still_tells_its_version(node: Node) -> None:
    container = json.loads(json.dumps(node.pod["containers"][0]))
    container["securityContext"] = {"capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": False}
    container["args"] = ["--version"]
    with Container(
        node.cluster.node_a, "rightless", oci_config(node.pod, container, node.machine), node.folder
    ) as each:
        assert (each.wait(20), each.lines()) == (0, [f"kubeproxy-py {__version__}"])
