"""Startup on a real kernel: scheduler check, sysctls, IPVS timeouts, and errors that end the process."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.ipvs.adapter import IpvsAdapter
from kubeproxy_py.kernel.ipvs.scheduler_probe import check_scheduler
from kubeproxy_py.model.settings import SCHEDULERS
from lab.namespace import Namespace, this_namespace
from lab.pristine import reset_host_state
from tests.e2e.agent_process import AgentProcess, command_line
from tests.e2e.kernel_state import kernel_state, shell
from tests.e2e.manifests import Folder
from tests.e2e.module_loading import restored, without_module_loading

pytestmark = pytest.mark.kernel

CONNTRACK_MAX = Path("/proc/sys/net/netfilter/nf_conntrack_max")
HASHSIZE = Path("/sys/module/nf_conntrack/parameters/hashsize")


def run_until_exit(namespace: Namespace, folder: Folder, *flags: str) -> tuple[int, str]:
    """Run the agent until it exits by itself, and return its exit status and log."""
    words = namespace.wrap(command_line(folder.path, "run", *flags))
    completed = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    return completed.returncode, completed.stderr


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_scheduler_check_agrees_with_ipvsadm_and_leaves_nothing_behind(
    namespace: Namespace, scheduler: str
) -> None:
    with namespace.inside():
        ipvsadm = subprocess.run(["ipvsadm", "-A", "-t", "203.0.113.1:1", "-s", scheduler], capture_output=True)
        subprocess.run(["ipvsadm", "-C"], check=True)
        ipvs, refused = IpvsAdapter(), ""
        try:
            check_scheduler(ipvs, scheduler)
        except KernelError as error:
            refused = str(error)
        ipvs.close()
        assert (refused == "") == (ipvsadm.returncode == 0), refused or ipvsadm.stderr
        assert subprocess.check_output(["ipvsadm", "-Sn"]) == b""


def test_a_missing_scheduler_is_fatal_and_kernel_state_is_left_in_place(namespace: Namespace, folder: Folder) -> None:
    shell(namespace, "ipvsadm -A -t 10.96.0.10:80 -s rr; ipset create KUBE-CLUSTER-IP hash:ip,port")
    # Everything that a start loads, except the scheduler.
    shell(namespace, "for tool in iptables ip6tables; do $tool -t nat -S; $tool -S; done; modprobe -a dummy ip_vs")
    shell(namespace, "rmmod ip_vs_ovf 2>/dev/null || true")
    before = kernel_state(namespace)
    with without_module_loading():
        status, log = run_until_exit(namespace, folder, "--ipvs-scheduler=ovf")
    assert status == 1
    assert "can't use IPVS with the scheduler ovf" in log, log
    assert "(modprobe ip_vs_ovf)" in log
    assert "choose another ipvs.scheduler" in log
    assert kernel_state(namespace) == before


@pytest.mark.parametrize("scheduler", ["mh", "sh", "lc"])
def test_every_virtual_server_has_the_scheduler_and_only_mh_hashes_the_port(
    namespace: Namespace, folder: Folder, scheduler: str
) -> None:
    with AgentProcess(namespace, folder.path, f"--ipvs-scheduler={scheduler}") as agent:
        agent.wait_synced()
        written = shell(namespace, "ipvsadm -Sn").splitlines()[0]
    assert written == f"-A -t 10.96.0.10:80 -s {scheduler}{' -b mh-port' if scheduler == 'mh' else ''}"


def test_an_unknown_scheduler_is_rejected_with_a_list_of_the_known_ones(namespace: Namespace, folder: Folder) -> None:
    status, log = run_until_exit(namespace, folder, "--ipvs-scheduler=rrr")
    assert status == 2
    assert "--ipvs-scheduler: unknown scheduler 'rrr' (one of rr, wrr, lc, wlc, lblc, lblcr, sh, dh, sed, nq" in log


def test_a_scheduler_that_is_in_use_needs_no_check(namespace: Namespace) -> None:
    with namespace.inside():
        subprocess.run(["ipvsadm", "-A", "-t", "10.96.0.10:80", "-s", "rr"], check=True)
        subprocess.run(["ipset", "create", "x", "hash:ip"], check=True)
        ipvs = IpvsAdapter()
        check_scheduler(ipvs, "rr")
        ipvs.close()
        assert subprocess.check_output(["ipvsadm", "-Sn"]).count(b"-A") == 1


def test_init_only_applies_sysctls_and_timeouts_and_nothing_else(namespace: Namespace, folder: Folder) -> None:
    status, log = run_until_exit(
        namespace, folder, "--init-only", "--ipvs-tcp-timeout=17m", "--ipvs-udp-timeout=7s", "--ipvs-strict-arp"
    )
    assert status == 0, log
    settings = "cd /proc/sys/net/ipv4; cat vs/conntrack vs/expire_nodest_conn vs/expire_quiescent_template ip_forward"
    assert shell(namespace, f"{settings} conf/all/arp_ignore conf/all/arp_announce").split() == [*"111112"]
    assert "Timeout (tcp tcpfin udp): 1020 120 7" in shell(namespace, "ipvsadm -Ln --timeout")
    assert shell(namespace, "ipvsadm -Sn; ipset list -n; (ip link show; iptables-save) | grep -i kube || true") == ""


def test_a_sysctl_that_cannot_be_set_is_fatal_and_named_with_its_value_and_the_remedy(
    namespace: Namespace, folder: Folder
) -> None:
    shell(namespace, "ipvsadm -A -t 10.96.0.10:80 -s rr")
    completed = with_read_only_sysctls(namespace, folder)
    assert completed.returncode == 1
    log = completed.stderr
    assert "net/ipv4/vs/conntrack could not be set to 1: Read-only file system" in log
    assert "sysctl -w net/ipv4/vs/conntrack=1" in log
    assert "--init-only" in log
    assert "-A -t 10.96.0.10:80" in shell(namespace, "ipvsadm -Sn")
    assert shell(namespace, "ipset list -n") == ""


def test_a_sysctl_that_is_right_need_not_be_writable_and_a_small_hash_table_is_only_warned_of(
    namespace: Namespace, folder: Folder
) -> None:
    with restored(CONNTRACK_MAX, HASHSIZE):
        HASHSIZE.write_text("1024")
        CONNTRACK_MAX.write_text("77777")
        flags = ("--conntrack-max-per-core=77777", "--conntrack-min=0")
        with AgentProcess(namespace, folder.path, *flags) as agent:
            agent.wait_synced()
            assert HASHSIZE.read_text().strip() == "1024"
            warnings = [line for line in agent.lines() if "hashsize could not be set" in line]
            assert len(warnings) == 1
            assert warnings[0].startswith("W")


def with_read_only_sysctls(namespace: Namespace, folder: Folder, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run the agent until it exits by itself where /proc/sys is read-only, as in a container that is not privileged."""
    script = 'mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; exec "$@"'
    argv = ["unshare", "-m", "sh", "-ec", script, "sh", *command_line(folder.path, "run", *flags)]
    return subprocess.run(namespace.wrap(argv), capture_output=True, text=True, timeout=60, check=False)


def test_read_only_sysctls_that_are_right_are_accepted(namespace: Namespace, folder: Folder) -> None:
    assert run_until_exit(namespace, folder, "--init-only", "--ipvs-strict-arp")[0] == 0
    completed = with_read_only_sysctls(namespace, folder, "--init-only", "--ipvs-strict-arp")
    assert (completed.returncode, [line for line in completed.stderr.splitlines() if line.startswith(("W", "E"))]) == (
        0,
        [],
    )


def test_an_error_names_every_read_only_sysctl_that_is_wrong(namespace: Namespace, folder: Folder) -> None:
    shell(namespace, "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.vs.conntrack=0 net.ipv4.conf.all.arp_ignore=0")
    completed = with_read_only_sysctls(namespace, folder, "--init-only", "--ipvs-strict-arp")
    assert completed.returncode == 1
    for name, value in (("vs/conntrack", 1), ("conf/all/arp_ignore", 1), ("conf/all/arp_announce", 2)):
        assert f"net/ipv4/{name} could not be set to {value}: Read-only file system" in completed.stderr
    assert "ip_forward" not in completed.stderr


def test_the_conntrack_limit_is_lowered_only_if_it_is_configured(folder: Folder) -> None:
    with this_namespace("initial-start") as initial, restored(CONNTRACK_MAX, HASHSIZE):
        CONNTRACK_MAX.write_text("3000000")
        assert run_until_exit(initial, folder, "--init-only", "--conntrack-max-per-core=", "--conntrack-min=")[0] == 0
        assert CONNTRACK_MAX.read_text().strip() == "3000000"
        assert (
            run_until_exit(initial, folder, "--init-only", "--conntrack-max-per-core=90000", "--conntrack-min=0")[0]
            == 0
        )
        assert int(CONNTRACK_MAX.read_text()) % 90000 == 0


def test_a_hash_table_size_that_the_kernel_rounds_is_not_drift(folder: Folder) -> None:
    flags = ("--conntrack-max-per-core=1", "--conntrack-min=400004", "--ipvs-sync-period=300ms")
    with (
        this_namespace("initial-start") as initial,
        restored(CONNTRACK_MAX, HASHSIZE),
        AgentProcess(initial, folder.path, *flags) as agent,
    ):
        agent.wait_synced()
        assert int(HASHSIZE.read_text()) > 100001
        with agent.syncing("drift in 1 rows"):  # a later comparison than the first, which would have found the rounding
            subprocess.run(["ipset", "flush", "KUBE-CLUSTER-IP"], check=True)
        assert len([line for line in agent.lines() if "drift" in line]) == 1
    reset_host_state()


def test_a_restart_does_not_rewrite_a_service_inside_exclude_cidrs(namespace: Namespace, folder: Folder) -> None:
    shell(namespace, "ipvsadm -A -t 10.96.0.99:80 -s rr")
    for work in ("added", "nothing to do"):
        with AgentProcess(namespace, folder.path, "--ipvs-exclude-cidrs=10.96.0.0/16") as agent:
            assert work in agent.wait_synced()
    assert "-A -t 10.96.0.99:80" in shell(namespace, "ipvsadm -Sn")


def test_the_process_sets_its_oom_score(namespace: Namespace, folder: Folder) -> None:
    with AgentProcess(namespace, folder.path, "--oom-score-adj=-500") as agent:
        agent.wait_synced()
        pid = int(agent.wait_synced().split()[2])  # the third field of klog's line
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "-500"


def test_pod_cidrs_of_the_node_are_applied_when_they_are_set_and_when_they_change(
    namespace: Namespace, folder: Folder
) -> None:
    folder.write("node", [node_with([])])
    with AgentProcess(namespace, folder.path, "--detect-local-mode=NodeCIDR") as agent:
        agent.wait_for("has no podCIDRs yet")
        agent.wait_synced()
        assert "--match-set KUBE-CLUSTER-IP src,dst -j KUBE-MARK-MASQ" in shell(namespace, "iptables-save -t nat")
        for network in ("10.244.1.0/24", "10.244.7.0/24"):
            with agent.settling():
                folder.write("node", [node_with([network])])
            assert f"! -s {network} " in shell(namespace, "iptables-save -t nat")


def node_with(pod_cidrs: list[str]) -> dict[str, object]:
    """Return the Node object of this node."""
    addresses = [{"type": "InternalIP", "address": "192.168.3.10"}]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node-a"},
        "spec": {"podCIDRs": pod_cidrs},
        "status": {"addresses": addresses},
    }
