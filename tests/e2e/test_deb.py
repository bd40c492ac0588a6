"""The Debian package on a fresh Debian 12 machine: installed, upgraded, removed and purged by dpkg, under traffic.

`make deb` builds the package, `make deb-machine` the machine.  The steps build on each other, in this order.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from image.build import own_processor
from image.deb import package_path
from lab.network import NODE_NAME, Cluster
from tests.deploy.debian_host import MACHINE, DebianHost
from tests.deploy.systemd_host import NODE_FOLDER, UNIT
from tests.e2e.agent_process import wait_until
from tests.e2e.control_plane import responders
from tests.e2e.kernel_state import run
from tests.e2e.manifests import Port, service_with_slice
from tests.e2e.serving import cluster_fixture
from tests.e2e.traffic import Targets, Traffic

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]

WEB = "10.96.81.1"
PORTS = [Port(80, node_port=30081), Port(53, "UDP")]
EXAMPLES = "/usr/share/doc/kubeproxy-py/examples"
UPGRADE = "0.1.0+upgrade"

cluster = cluster_fixture


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the package, and with the same one as a later version."""
    package = package_path(own_processor())
    assert MACHINE.is_dir(), "hint: make deb-machine"
    folder = tmp_path_factory.mktemp("node")
    (folder / "first.deb").write_bytes(package.read_bytes())
    tree = folder / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", str(package), str(tree)], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"(?m)^Version: .*", f"Version: {UPGRADE}", control.read_text()))
    (tree / "usr/share/doc/kubeproxy-py/upgraded").touch()
    subprocess.run(["dpkg-deb", "--build", "-Zgzip", "-z1", str(tree), str(folder / "second.deb")], check=True)
    return folder


@pytest.fixture(scope="module")
def host(cluster: Cluster, packages: Path) -> Iterator[DebianHost]:
    with DebianHost(cluster.node_a, packages) as up:
        yield up


def traffic(cluster: Cluster) -> Traffic:
    return Traffic(cluster, Targets(("192.168.3.10", 30081), (WEB, 80), (WEB, 53)))


def served_without_loss(cluster: Cluster, flowing: Traffic) -> bool:
    seen = flowing.rounds
    wait_until(lambda: flowing.rounds > seen + 2 or bool(flowing.failures))
    return flowing.failures == [] and responders(cluster, WEB) == {"pod-a1", "pod-b1"}


def main_pid(host: DebianHost) -> int:
    return int(host.show("MainPID")[0])


def test_installation_neither_enables_nor_starts_the_unit(host: DebianHost) -> None:
    host.do("dpkg", "--install", f"{NODE_FOLDER}/first.deb")
    assert host.do("dpkg-query", "--show", "--showformat=${db:Status-Status}", "kubeproxy-py") == "installed"
    assert host.show("ActiveState", "UnitFileState") == ("inactive", "disabled")
    assert host.do("kubeproxy-py", "--version").startswith("kubeproxy-py")


def test_examples_are_served_after_the_unit_is_enabled(host: DebianHost, cluster: Cluster) -> None:
    for number, document in enumerate(service_with_slice("web", WEB, ["pod-a1", "pod-b1"], PORTS)):
        host.do("sh", "-c", f"cat > {EXAMPLES}/web-{number}.json <<'END'\n{json.dumps(document)}\nEND\n")
    options = f"--manifests={EXAMPLES} --hostname-override={NODE_NAME} --conntrack-max-per-core=0"
    host.do("sh", "-c", f"echo 'KUBEPROXY_PY_OPTIONS={options}' > /etc/default/kubeproxy-py")
    host.do("systemctl", "restart", "systemd-modules-load", "systemd-sysctl")
    host.do("systemd-tmpfiles", "--create")
    host.do("systemctl", "enable", "--now", UNIT)
    assert responders(cluster, WEB) == {"pod-a1", "pod-b1"}
    assert "10.96.0.10:53" in run(cluster.node_a, "ipvsadm", "-Ln")  # of deploy/examples/system.yaml


def test_upgrade_restarts_the_agent_without_losing_a_packet(host: DebianHost, cluster: Cluster) -> None:
    before = main_pid(host)
    with traffic(cluster) as flowing:
        host.do("dpkg", "--install", "--force-confold", f"{NODE_FOLDER}/second.deb")
        wait_until(lambda: host.show("ActiveState") == ("active",) and main_pid(host) not in (0, before), host.journal,
                   timeout_s=60, poll_s=0.5)  # fmt: skip
        assert served_without_loss(cluster, flowing), flowing.failures
    assert host.do("dpkg-query", "--show", "--showformat=${Version}", "kubeproxy-py") == UPGRADE
    assert host.show("UnitFileState") == ("enabled",)
    assert "--manifests" in host.do("cat", "/etc/default/kubeproxy-py")


def test_upgrade_ends_while_the_agent_waits_for_an_api_server(host: DebianHost, cluster: Cluster) -> None:
    served = host.do("cat", "/etc/default/kubeproxy-py")
    options = f"--master=http://192.0.2.1:9 --hostname-override={NODE_NAME} --conntrack-max-per-core=0"
    host.do("sh", "-c", f"echo 'KUBEPROXY_PY_OPTIONS={options}' > /etc/default/kubeproxy-py")
    host.do("systemctl", "restart", "--no-block", UNIT)
    wait_until(lambda: host.show("ActiveState") == ("activating",) and main_pid(host) > 0, host.journal, timeout_s=30)
    before = main_pid(host)
    host.do("dpkg", "--install", "--force-confold", f"{NODE_FOLDER}/second.deb")
    assert host.do("dpkg-query", "--show", "--showformat=${db:Status-Status}", "kubeproxy-py") == "installed"
    wait_until(lambda: host.show("ActiveState") == ("activating",) and main_pid(host) not in (0, before), host.journal,
               timeout_s=30, poll_s=0.5)  # fmt: skip
    host.do("sh", "-c", f"printf %s '{served}' > /etc/default/kubeproxy-py")
    host.do("systemctl", "restart", UNIT)
    assert responders(cluster, WEB) == {"pod-a1", "pod-b1"}


def test_removal_leaves_the_kernel_state_and_the_traffic(host: DebianHost, cluster: Cluster) -> None:
    state = run(cluster.node_a, "ipvsadm", "-Sn")
    with traffic(cluster) as flowing:
        host.do("dpkg", "--remove", "kubeproxy-py")
        assert served_without_loss(cluster, flowing), flowing.failures
    assert run(cluster.node_a, "ipvsadm", "-Sn") == state
    assert host.run("test", "-e", "/usr/sbin/kubeproxy-py").returncode == 1
    assert host.run("pgrep", "--full", "kubeproxy").stdout == ""
    assert host.do("cat", "/etc/kubeproxy-py/config.yaml").startswith("#")


def test_purge_deletes_the_configuration_and_leaves_the_traffic(host: DebianHost, cluster: Cluster) -> None:
    with traffic(cluster) as flowing:
        host.do("dpkg", "--purge", "kubeproxy-py")
        assert served_without_loss(cluster, flowing), flowing.failures
    for path in ("/etc/kubeproxy-py", "/etc/default/kubeproxy-py", "/usr/lib/kubeproxy-py", "/var/lib/kubeproxy-py"):
        assert host.run("test", "-e", path).returncode == 1, path
