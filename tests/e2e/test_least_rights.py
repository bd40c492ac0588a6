"""The least that the agent can do with where iptables is the nft one: any user, with NET_ADMIN and NET_RAW.

Law: this process has no other capability and can never gain one, may not write below /proc/sys, and can't open the lock
of iptables-legacy; it does the main job all the same, if root made the settings before.

NET_ADMIN alone is not enough, although nf_tables asks for no more: to write or print a rule that speaks of a set,
iptables asks the kernel for the set's number by a raw socket, in either flavour (iptables, extensions/libxt_set.h).

Its interpreter and this checkout may lie where only root may look (a home folder), so that the process sees them by
mounts of its own.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from lab.ask import ask
from lab.job import REPOSITORY, SYSTEM_PATH
from lab.namespace import Namespace
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess, command, wait_until
from tests.e2e.kernel_state import run
from tests.e2e.manifests import Folder, Port, backed, endpoint_slice, service
from tests.e2e.packets_table import CLUSTER_IP, CLUSTER_IP_6, NODE_PORT, PORT
from tests.e2e.serving import serving_cluster
from tests.e2e.test_iptables_backends import PATIENCE_S, first_sync, on_qemu
from tests.host_tools.tables_of_a_node import network_of_ones_own

USER = 65532  # the image's
NET_ADMIN, NET_RAW = 1 << 12, 1 << 13  # linux/capability.h
LATE = "10.96.0.11"
_PODS = ("pod-a1", "pod-b1")
_PORTS = [Port(PORT, "TCP", 8080, NODE_PORT)]

_RULES = {
    "of a set": "*nat\n:KUBE-TRIED - [0:0]\n-A KUBE-TRIED -m set --match-set KUBE-TRIED dst -j RETURN\nCOMMIT\n",
    "of none": "*nat\n:KUBE-TRIED - [0:0]\n-A KUBE-TRIED -j RETURN\nCOMMIT\n",
}
_PLACE = Path("/run/least-rights")  # in the lab's memory
_SEEN = {"python": sys.base_prefix, "packages": sysconfig.get_path("purelib"), "code": str(REPOSITORY)}
_PYTHON = _PLACE / "python" / Path(sys.executable).resolve().relative_to(sys.base_prefix)
_PATH = ":".join(SYSTEM_PATH)  # none of the folders that only root may look into
_MOUNTS = (
    *(f"mount --bind {shlex.quote(path)} {_PLACE / name}" for name, path in _SEEN.items()),
    "mount -o bind,ro /proc/sys /proc/sys",  # as in every container that is not privileged
)


def _with_rights(*capabilities: str) -> list[str]:
    """What goes before a command to run it as USER, with these capabilities and no way to any other."""
    only = ",".join(("-all", *(f"+{name}" for name in capabilities)))
    user = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"]
    return ["setpriv", *user, f"--bounding-set={only}", f"--inh-caps={only}", f"--ambient-caps={only}"]


class LeastRights(Namespace):
    """The same namespace, in which a command of this Python runs as USER with the least rights."""

    def wrap(self, argv: list[str]) -> list[str]:
        script = "; ".join((*_MOUNTS, 'exec "$@"'))
        environment = ("env", "--chdir=/", f"PATH={_PATH}", f"PYTHONPATH={_PLACE / 'code'}:{_PLACE / 'packages'}")
        mounted = ["unshare", "--mount", "--propagation=private", "sh", "-ec", script, "sh"]
        return super().wrap([*mounted, *_with_rights("net_admin", "net_raw"), *environment, str(_PYTHON), *argv[1:]])


@pytest.fixture(scope="session")
def _kernel_with_ipvs() -> None:
    """In place of the one in conftest.py: what iptables alone needs is shown on hosts without IPVS."""


@pytest.mark.lab
@pytest.mark.parametrize(
    ("capabilities", "rule", "complaint"),
    [
        (["net_admin"], "of none", ""),
        (["net_admin"], "of a set", "Can't open socket to ipset"),
        (["net_admin", "net_raw"], "of a set", ""),
    ],
)
def test_a_rule_that_speaks_of_a_set_takes_net_raw(capabilities: list[str], rule: str, complaint: str) -> None:
    with network_of_ones_own():
        subprocess.run(["ipset", "create", "KUBE-TRIED", "hash:ip"], check=True)
        words = [*_with_rights(*capabilities), "iptables-nft-restore", "--noflush"]
        done = subprocess.run(words, input=_RULES[rule], text=True, capture_output=True, check=False)
    assert (done.returncode != 0, complaint in done.stderr) == (bool(complaint), True), done.stderr


class Running(NamedTuple):
    cluster: Cluster
    folder: Folder
    agent: AgentProcess


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """The agent after its first sync, from nothing but the settings."""
    for name in _SEEN:
        (_PLACE / name).mkdir(parents=True)
    folder = Folder(_PLACE / "manifests")  # pytest's own folders are root's alone
    folder.path.mkdir()
    web = service("web", [CLUSTER_IP, CLUSTER_IP_6], _PORTS)
    folder.put("web", [web, *(endpoint_slice("web", _PODS, _PORTS, version=version) for version in (4, 6))])
    with serving_cluster() as cluster:
        run(cluster.node_a, *command(folder.path, "run", "--init-only"))
        namespace = LeastRights(cluster.node_a.name, cluster.node_a.path)
        with AgentProcess(namespace, folder.path) as agent:
            first_sync(agent)
            yield Running(cluster, folder, agent)


@on_qemu
def test_the_process_has_two_rights_and_can_gain_none(running: Running) -> None:
    lines = Path(f"/proc/{running.agent.pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines)
    assert status["Uid"].split() == status["Gid"].split() == [str(USER)] * 4
    held = {which: int(status[which], 16) for which in ("CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert held == dict.fromkeys(held, NET_ADMIN | NET_RAW)
    assert status["NoNewPrivs"] == "1"


@on_qemu
def test_it_may_not_write_settings(running: Running) -> None:
    mounts = Path(f"/proc/{running.agent.pid}/mounts").read_text().splitlines()
    (options,) = (line.split()[3] for line in mounts if line.split()[1] == "/proc/sys")
    assert "ro" in options.split(",")


@on_qemu
def test_the_first_sync_has_no_error(running: Running) -> None:
    assert [line for line in running.agent.lines() if line.startswith("E")] == []


@on_qemu
def test_its_rules_are_in_nf_tables(running: Running) -> None:
    assert "chain KUBE-SERVICES" in run(running.cluster.node_a, "nft", "list", "table", "ip", "nat")


@on_qemu
@pytest.mark.parametrize("client", ["pod-a2", "outside"])
@pytest.mark.parametrize("address", [CLUSTER_IP, CLUSTER_IP_6])
def test_a_cluster_ip_is_answered(running: Running, client: str, address: str) -> None:
    assert _answerers(running, client, address, PORT) == set(_PODS)


@on_qemu
@pytest.mark.parametrize("address", ["192.168.3.10", "fd00:3::10"])
def test_a_node_port_is_answered(running: Running, address: str) -> None:
    assert _answerers(running, "outside", address, NODE_PORT) == set(_PODS)


@on_qemu
def test_a_service_that_comes_later_is_answered(running: Running) -> None:
    since = len(running.agent.lines())
    running.folder.put("late", backed("late", LATE, _PODS))
    wait_until(
        lambda: any('"synced ' in line for line in running.agent.lines()[since:]),
        lambda: "\n".join(running.agent.lines()[since:]),
        within_s=PATIENCE_S,
    )
    assert _answerers(running, "outside", LATE, PORT) == set(_PODS)


def _answerers(running: Running, client: str, address: str, port: int) -> set[str]:
    """Who answers, asked once for each pod: with rr all do."""
    return {ask(running.cluster[client], "tcp", address, port, timeout_s=5.0).name for _ in _PODS}
