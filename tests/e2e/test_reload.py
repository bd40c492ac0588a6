"""A changed configuration file on a real kernel: applied at once, followed by a restart, or rejected."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lab.client import query
from lab.network import Cluster
from tests.config.build import document
from tests.e2e.agent_process import SETTLED, AgentProcess, wait_until
from tests.e2e.kernel_state import State, differences, kernel_state, shell
from tests.e2e.manifests import Folder, Port, service_with_slice
from tests.e2e.serving import cluster_fixture

pytestmark = pytest.mark.kernel

FIELDS: dict[str, Any] = {
    "hostnameOverride": "node-a",
    "clusterCIDR": "10.244.0.0/16",
    "conntrack.maxPerCore": 0,
    "nodePortAddresses": ["192.168.3.0/24"],
}
APPLIED = "Applied new configuration"
REJECTED = "Rejected new configuration, keeping the current one"
WITHIN_S = 60.0  # up to a second until the change is detected, and time for a busy machine


class Agent(AgentProcess):
    """An agent process that can be sent signals, and that may exit by itself."""

    def signal(self, number: signal.Signals) -> None:
        self._started.send_signal(number)

    def wait(self) -> int:
        """Wait until it exits, and return its exit status."""
        return self._started.wait(WITHIN_S)


class Running(NamedTuple):
    """An agent with a configuration file, on node A."""

    cluster: Cluster
    agent: Agent
    path: Path
    state: State  # of the kernel after the first sync

    def write(self, **fields: object) -> None:
        """Replace the file's content by renaming."""
        new = self.path.with_name("new")
        new.write_bytes(document({**FIELDS, **fields}))
        new.replace(self.path)

    def change(self, wait_for: str = APPLIED, /, **fields: object) -> str:
        """Replace the file, send SIGHUP, and return the log line that has *wait_for*."""
        since = len(self.agent.lines())
        self.write(**fields)
        self.agent.signal(signal.SIGHUP)
        return self.agent.wait_for(wait_for, since)

    def wait_for_output(self, script: str, text: str) -> None:
        """Wait until the output of *script* contains *text*."""
        wait_until(
            lambda: text in shell(self.cluster.node_a, script),
            lambda: f"no {text!r} in:\n{shell(self.cluster.node_a, script)}",
            timeout_s=WITHIN_S,
        )

    def wait_for_state(self) -> None:
        """Wait until the kernel has the state of the initial configuration."""
        wait_until(
            lambda: kernel_state(self.cluster.node_a) == self.state,
            lambda: "\n".join(differences(self.state, kernel_state(self.cluster.node_a))),
            timeout_s=WITHIN_S,
        )

    def serves(self) -> bool:
        return query(self.cluster["pod-a2"], "tcp", "10.96.0.10", 80).name == "pod-a1"


cluster = cluster_fixture


@contextmanager
def started(cluster: Cluster, path: Path) -> Iterator[Running]:
    """Start an agent with the configuration file *path*, and wait for its first sync."""
    folder = Folder(path.parent / "manifests")
    folder.path.mkdir()
    folder.write("all", service_with_slice("web", "10.96.0.10", ["pod-a1"], [Port(80, "TCP", 8080, 30080)]))
    with Agent(cluster.node_a, folder.path, "--config", str(path)) as agent:
        agent.wait_for(SETTLED)
        yield Running(cluster, agent, path, kernel_state(cluster.node_a))


@pytest.fixture(scope="module")
def shared(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    path = tmp_path_factory.mktemp("shared") / "config.conf"
    path.write_bytes(document(FIELDS))
    with started(cluster, path) as running:
        yield running


@pytest.fixture
def running(shared: Running) -> Running:
    """Return the agent that the tests share, with its initial configuration."""
    if shared.path.read_bytes() != document(FIELDS):
        shared.change()
        shared.wait_for_state()
    return shared


def test_a_config_map_whose_symlinks_are_swapped_is_applied(cluster: Cluster, tmp_path: Path) -> None:
    for version, scheduler in (("..1", "rr"), ("..2", "lc")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "config.conf").write_bytes(document({**FIELDS, "ipvs.scheduler": scheduler}))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "config.conf").symlink_to("..data/config.conf")
    with started(cluster, tmp_path / "config.conf") as running:
        (tmp_path / "..data_tmp").symlink_to("..2")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        running.agent.wait_for(APPLIED)
        running.wait_for_output("ipvsadm -Sn", "-A -t 10.96.0.10:80 -s lc")


LIVE: dict[str, tuple[str, Any, str, str]] = {
    "scheduler": ("ipvs.scheduler", "lc", "ipvsadm -Sn", "-A -t 10.96.0.10:80 -s lc"),
    "timeouts": ("ipvs.udpTimeout", "44s", "ipvsadm -Ln --timeout", "900 120 44"),
    "pod networks": ("clusterCIDR", "10.0.0.0/8", "iptables-save -t nat", "! -s 10.0.0.0/8"),
    "local traffic": (
        "detectLocalMode",
        "BridgeInterface",
        "iptables-save -t nat",
        "! -i cni0",
    ),
    "masquerade all": (
        "iptables.masqueradeAll",
        True,
        "iptables-save -t nat",
        '-A KUBE-SERVICES -m comment --comment "Kubernetes service cluster ip',
    ),
    "mark": ("iptables.masqueradeBit", 20, "iptables-save -t nat", "0x100000/0x100000"),
    "NodePorts": ("nodePortAddresses", ["172.16.5.0/24"], "ipvsadm -Sn", "-A -t 172.16.5.10:30080"),
}


@pytest.mark.parametrize("what", LIVE)
def test_a_live_field_is_applied_without_a_restart(running: Running, what: str) -> None:
    path, value, script, text = LIVE[what]
    assert text not in shell(running.cluster.node_a, script)
    line = running.change(**{path: value, "detectLocal.bridgeInterface": "cni0"})
    assert path in line
    running.wait_for_output(script, text)
    assert running.agent.is_running()
    assert running.serves()


def test_reverting_a_change_restores_kernel_state(running: Running) -> None:
    running.change(**{"ipvs.scheduler": "lc", "iptables.masqueradeBit": 3, "nodePortAddresses": ["172.16.5.0/24"]})
    running.wait_for_output("ipvsadm -Sn", "-s lc")
    running.change()
    running.wait_for_state()


def test_a_virtual_server_that_becomes_excluded_is_not_deleted(running: Running) -> None:
    running.change(**{"ipvs.excludeCIDRs": ["203.0.113.0/24"], "ipvs.syncPeriod": "500ms"})
    shell(running.cluster.node_a, "ipvsadm -A -t 203.0.113.1:1; ipvsadm -A -t 203.0.114.1:1")
    running.wait_for_output("ipvsadm -Sn | grep -c 203.0.114.1 || true", "0")
    assert "203.0.113.1:1" in shell(running.cluster.node_a, "ipvsadm -Sn")
    running.change()
    running.wait_for_output("ipvsadm -Sn | grep -c 203.0.113.1 || true", "0")


def test_a_scheduler_that_the_kernel_lacks_is_rejected(running: Running) -> None:
    modprobe = Path("/proc/sys/kernel/modprobe")
    before = modprobe.read_text()
    shell(running.cluster.node_a, "rmmod ip_vs_ovf 2>/dev/null || true")
    try:
        modprobe.write_text("/bin/false")
        line = running.change(REJECTED, **{"ipvs.scheduler": "ovf"})
    finally:
        modprobe.write_text(before)
    assert "scheduler ovf" in line
    assert "-s rr" in shell(running.cluster.node_a, "ipvsadm -Sn")


def test_an_invalid_file_is_rejected_with_every_reason_and_a_valid_one_is_applied_after_it(
    running: Running,
) -> None:
    since = len(running.agent.lines())
    running.change("clusterCIDR: 'x'", **{"clusterCIDR": "x", "ipvs.scheduler": "rrr"})
    running.agent.wait_for("ipvs.scheduler: unknown scheduler 'rrr'", since)
    assert running.serves()
    running.change(**{"ipvs.scheduler": "sh"})
    running.wait_for_output("ipvsadm -Sn", "-A -t 10.96.0.10:80 -s sh")


def test_sighup_reads_the_file_at_once(running: Running) -> None:
    since = len(running.agent.lines())
    running.agent.signal(signal.SIGHUP)
    running.agent.wait_for("Configuration file is unchanged", since)
    running.write(**{"ipvs.scheduler": "dh"})
    running.agent.signal(signal.SIGHUP)
    running.agent.wait_for(APPLIED, since)
    running.wait_for_output("ipvsadm -Sn", "-A -t 10.96.0.10:80 -s dh")


def test_a_changed_log_format_is_applied(running: Running) -> None:
    running.change('"msg": "Applied new configuration', **{"logging.format": "json"})


def test_a_field_that_requires_a_restart_exits_with_0_and_leaves_kernel_state_in_place(
    cluster: Cluster, running: Running
) -> None:
    before = kernel_state(cluster.node_a)
    line = running.change(
        "New configuration requires a restart, exiting", **{"ipvs.strictARP": True}
    )  # the last test: it ends the agent
    assert 'changed="ipvs.strictARP"' in line
    assert running.agent.wait() == 0
    assert kernel_state(cluster.node_a) == before
    assert running.serves()
