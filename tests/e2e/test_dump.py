"""dump, and plan with what it wrote: on another host the plan is the one of the host that was dumped.

The other host is an empty network namespace: nothing of the agent or of the cluster is in it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.namespace import Namespace
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess, command_line
from tests.e2e.kernel_state import kernel_state, run, shell
from tests.e2e.manifests import Folder, Port, endpoint_slice, service, service_with_slice
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

PODS = ["pod-a1", "pod-b1"]
PORTS = (Port(80, "TCP", 8080, 30080), Port(53, "UDP", 5353))

CHANGES = """
ipvsadm -d -t 10.96.0.10:80 -r 10.244.2.5:8080
ipvsadm -A -t 198.51.100.77:99 -s rr
ipvsadm -a -t 10.96.0.10:80 -r 10.99.9.9:1 -m
ipset add KUBE-CLUSTER-IP 10.96.9.9,tcp:80
ipset del KUBE-CLUSTER-IP 10.96.0.10,udp:53
iptables -t nat -D KUBE-SERVICES 1
ip6tables -t nat -A KUBE-POSTROUTING -j ACCEPT
ip addr del 10.96.0.10/32 dev kube-ipvs0
ip addr add 10.96.0.99/32 dev kube-ipvs0
echo 0 > /proc/sys/net/ipv4/vs/conntrack
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with serving_cluster() as built:
        yield built


@pytest.fixture
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a dump, outside of the folder of manifests."""
    return tmp_path_factory.mktemp("dump") / "node-a.json"


@pytest.fixture
def changed(cluster: Cluster, folder: Folder) -> Iterator[Namespace]:
    """Yield the node after an agent has run there and another program has changed what it made."""
    folder.write("all", service_with_slice("web", "10.96.0.10", PODS, PORTS))
    folder.write("v6", [service("six", "fd00:10:96::53", PORTS[1:]), endpoint_slice("six", PODS, PORTS[1:], version=6)])
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
    shell(cluster.node_a, CHANGES)
    yield cluster.node_a
    shell(cluster.node_a, "ipvsadm -C; echo 1 > /proc/sys/net/ipv4/vs/conntrack")


@pytest.mark.parametrize("output", ["text", "json", "diff"])
def test_plan_with_a_dump_elsewhere_equals_the_plan_of_the_host(
    changed: Namespace, namespace: Namespace, folder: Folder, file: Path, output: str
) -> None:
    before = kernel_state(changed)
    here = run(changed, *command_line(folder.path, "plan", f"--output={output}"), status=2)
    assert run(changed, *dump_line(str(file))) == ""
    assert kernel_state(changed) == before  # only read
    there = run(namespace, *command_line(folder.path, "plan", f"--output={output}", f"--kernel-state={file}"), status=2)
    assert there == here
    for row in ("10.244.2.5:8080", "198.51.100.77:99", "10.99.9.9:1", "10.96.9.9,tcp:80", "10.96.0.99"):
        assert row in there


def test_a_dump_of_a_synced_host_leaves_nothing_to_do(
    cluster: Cluster, namespace: Namespace, folder: Folder, file: Path
) -> None:
    folder.write("all", service_with_slice("web", "10.96.0.10", PODS, PORTS))
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        file.write_text(run(cluster.node_a, *dump_line("-")))  # beside the agent
        line = command_line(folder.path, "plan", f"--kernel-state={file}")
        assert run(namespace, *line) == "nothing to do\n"
        folder.write("all", service_with_slice("web", "10.96.0.10", ["pod-a1"], PORTS))
        planned = json.loads(run(namespace, *line, "--output=json", status=2))
        found = {(step["verb"], step["kind"], *step["services"]) for step in planned}
        # TCP drains, UDP does not.
        assert found == {("update", "RealServer", "shop/web"), ("delete", "RealServer", "shop/web")}


def test_a_host_that_cannot_be_read_is_dumped_with_the_reason(
    cluster: Cluster, namespace: Namespace, folder: Folder, file: Path
) -> None:
    argv = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *dump_line(str(file))]
    with cluster.node_a.inside():
        ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ") or "\nerror: " in ended.stderr
    assert json.loads(file.read_text())["unread"]
    with namespace.inside():
        line = command_line(folder.path, "plan", f"--kernel-state={file}")
        ended = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "could not be read there: " in ended.stderr


def dump_line(file: str) -> list[str]:
    return [sys.executable, "-m", "kubeproxy_py", "dump", file]
