"""What a start does to a real kernel before it serves, and how it ends where it can't."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kubeproxy_py.config.kube_fields import SCHEDULERS
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.ipvs.adapter import IpvsAdapter
from kubeproxy_py.kernel.ipvs.scheduler_probe import check_scheduler
from lab.namespace import Namespace, new_namespace, this_namespace
from lab.pristine import reset_host_state
from tests.e2e.agent_process import AgentProcess, command
from tests.e2e.kernel_state import kernel_state, shell
from tests.e2e.manifests import Folder, backed

pytestmark = pytest.mark.kernel

CONNTRACK_MAX = Path("/proc/sys/net/netfilter/nf_conntrack_max")
HASHSIZE = Path("/sys/module/nf_conntrack/parameters/hashsize")
MODPROBE = Path("/proc/sys/kernel/modprobe")


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = new_namespace("start")
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path)
    made.put("all", backed("web", "10.96.0.10", ["pod-a1"]))
    return made


@contextmanager
def put_back(*paths: Path) -> Iterator[None]:
    """The settings at *paths* are afterwards as before."""
    before = {path: path.read_text() for path in paths}
    try:
        yield
    finally:
        for path, value in before.items():
            path.write_text(value)


@contextmanager
def no_module_can_be_loaded() -> Iterator[None]:
    with put_back(MODPROBE):
        MODPROBE.write_text("/bin/false")
        yield


def ended(namespace: Namespace, folder: Folder, *flags: str) -> tuple[int, str]:
    """Exit status and log of a run that ends by itself."""
    words = namespace.wrap(command(folder.path, "run", *flags))
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_scheduler_passes_if_and_only_if_the_kernel_has_it_and_leaves_no_trace(
    namespace: Namespace, scheduler: str
) -> None:
    with namespace.inside():
        theirs = subprocess.run(["ipvsadm", "-A", "-t", "203.0.113.1:1", "-s", scheduler], capture_output=True)
        subprocess.run(["ipvsadm", "-C"], check=True)
        ipvs, refused = IpvsAdapter(), ""
        try:
            check_scheduler(ipvs, scheduler)
        except KernelError as error:
            refused = str(error)
        ipvs.close()
        assert (refused == "") == (theirs.returncode == 0), refused or theirs.stderr
        assert subprocess.check_output(["ipvsadm", "-Sn"]) == b""


def test_a_kernel_without_the_scheduler_ends_the_start_and_what_serves_stays(
    namespace: Namespace, folder: Folder
) -> None:
    shell(namespace, "ipvsadm -A -t 10.96.0.10:80 -s rr; ipset create KUBE-CLUSTER-IP hash:ip,port")
    # All that a start loads but for the scheduler.
    shell(namespace, "for tool in iptables ip6tables; do $tool -t nat -S; $tool -S; done; modprobe -a dummy ip_vs")
    shell(namespace, "rmmod ip_vs_ovf 2>/dev/null || true")
    before = kernel_state(namespace)
    with no_module_can_be_loaded():
        status, log = ended(namespace, folder, "--ipvs-scheduler=ovf")
    assert status == 1
    assert "can't use IPVS with the scheduler ovf" in log, log
    assert "(modprobe ip_vs_ovf)" in log
    assert "choose another ipvs.scheduler" in log
    assert kernel_state(namespace) == before


@pytest.mark.parametrize("scheduler", ["mh", "sh", "lc"])
def test_a_scheduler_is_given_to_every_virtual_server_and_mh_alone_spreads_by_port(
    namespace: Namespace, folder: Folder, scheduler: str
) -> None:
    with AgentProcess(namespace, folder.path, f"--ipvs-scheduler={scheduler}") as agent:
        agent.wait_synced()
        written = shell(namespace, "ipvsadm -Sn").splitlines()[0]
    assert written == f"-A -t 10.96.0.10:80 -s {scheduler}{' -b mh-port' if scheduler == 'mh' else ''}"


def test_an_unknown_scheduler_is_refused_with_those_that_there_are(namespace: Namespace, folder: Folder) -> None:
    status, log = ended(namespace, folder, "--ipvs-scheduler=rrr")
    assert status == 2
    assert "--ipvs-scheduler: unknown scheduler 'rrr' (one of rr, wrr, lc, wlc, lblc, lblcr, sh, dh, sed, nq" in log


def test_a_scheduler_in_use_needs_no_proof(namespace: Namespace) -> None:
    with namespace.inside():
        subprocess.run(["ipvsadm", "-A", "-t", "10.96.0.10:80", "-s", "rr"], check=True)
        subprocess.run(["ipset", "create", "x", "hash:ip"], check=True)
        ipvs = IpvsAdapter()
        check_scheduler(ipvs, "rr")
        ipvs.close()
        assert subprocess.check_output(["ipvsadm", "-Sn"]).count(b"-A") == 1


def test_init_only_makes_settings_and_timeouts_and_nothing_else(namespace: Namespace, folder: Folder) -> None:
    status, log = ended(
        namespace, folder, "--init-only", "--ipvs-tcp-timeout=17m", "--ipvs-udp-timeout=7s", "--ipvs-strict-arp"
    )
    assert status == 0, log
    settings = "cd /proc/sys/net/ipv4; cat vs/conntrack vs/expire_nodest_conn vs/expire_quiescent_template ip_forward"
    assert shell(namespace, f"{settings} conf/all/arp_ignore conf/all/arp_announce").split() == [*"111112"]
    assert "Timeout (tcp tcpfin udp): 1020 120 7" in shell(namespace, "ipvsadm -Ln --timeout")
    assert shell(namespace, "ipvsadm -Sn; ipset list -n; (ip link show; iptables-save) | grep -i kube || true") == ""


def test_a_setting_that_cannot_be_made_ends_the_start_and_is_named_with_its_value_and_what_to_do(
    namespace: Namespace, folder: Folder
) -> None:
    shell(namespace, "ipvsadm -A -t 10.96.0.10:80 -s rr")
    status, log = ended(namespace, folder, "--conntrack-max-per-core=77777", "--conntrack-min=0")
    assert status == 1
    assert "net/netfilter/nf_conntrack_max could not be set to 77777: Permission denied" in log
    assert "sysctl -w net/netfilter/nf_conntrack_max=77777" in log
    assert "--init-only" in log
    assert "-A -t 10.96.0.10:80" in shell(namespace, "ipvsadm -Sn")
    assert shell(namespace, "ipset list -n") == ""


def test_a_setting_that_cannot_be_written_but_is_right_is_fine_and_a_small_hash_table_is_told(
    namespace: Namespace, folder: Folder
) -> None:
    with put_back(CONNTRACK_MAX, HASHSIZE):
        HASHSIZE.write_text("1024")
        CONNTRACK_MAX.write_text("77777")
        flags = ("--conntrack-max-per-core=77777", "--conntrack-min=0")
        with AgentProcess(namespace, folder.path, *flags) as agent:
            agent.wait_synced()
            assert HASHSIZE.read_text().strip() == "1024"
            told = [line for line in agent.lines() if "hashsize could not be set" in line]
            assert len(told) == 1
            assert told[0].startswith("W")


def on_read_only_settings(namespace: Namespace, folder: Folder, *flags: str) -> subprocess.CompletedProcess[str]:
    """--init-only where /proc/sys can't be written, as in a container that is not privileged."""
    script = 'mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; exec "$@"'
    argv = ["unshare", "-m", "sh", "-ec", script, "sh", *command(folder.path, "run", "--init-only", *flags)]
    return subprocess.run(namespace.wrap(argv), capture_output=True, text=True, timeout=60, check=False)


def test_read_only_settings_that_are_right_are_no_reason_to_end(namespace: Namespace, folder: Folder) -> None:
    assert ended(namespace, folder, "--init-only", "--ipvs-strict-arp")[0] == 0
    done = on_read_only_settings(namespace, folder, "--ipvs-strict-arp")
    assert (done.returncode, [line for line in done.stderr.splitlines() if line.startswith(("W", "E"))]) == (0, [])


def test_read_only_settings_that_are_not_right_are_all_named(namespace: Namespace, folder: Folder) -> None:
    shell(namespace, "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.vs.conntrack=0 net.ipv4.conf.all.arp_ignore=0")
    done = on_read_only_settings(namespace, folder, "--ipvs-strict-arp")
    assert done.returncode == 1
    for name, value in (("vs/conntrack", 1), ("conf/all/arp_ignore", 1), ("conf/all/arp_announce", 2)):
        assert f"net/ipv4/{name} could not be set to {value}: Read-only file system" in done.stderr
    assert "ip_forward" not in done.stderr


def test_a_limit_is_lowered_for_who_configured_it_and_for_nobody_else(folder: Folder) -> None:
    initial = this_namespace("initial-start")
    with put_back(CONNTRACK_MAX, HASHSIZE):
        CONNTRACK_MAX.write_text("3000000")
        assert ended(initial, folder, "--init-only", "--conntrack-max-per-core=", "--conntrack-min=")[0] == 0
        assert CONNTRACK_MAX.read_text().strip() == "3000000"
        assert ended(initial, folder, "--init-only", "--conntrack-max-per-core=90000", "--conntrack-min=0")[0] == 0
        assert int(CONNTRACK_MAX.read_text()) % 90000 == 0
    initial.close()


def test_a_hash_table_that_the_kernel_rounds_is_not_taken_for_drift(folder: Folder) -> None:
    initial = this_namespace("initial-start")
    flags = ("--conntrack-max-per-core=1", "--conntrack-min=400004", "--ipvs-sync-period=300ms")
    with put_back(CONNTRACK_MAX, HASHSIZE), AgentProcess(initial, folder.path, *flags) as agent:
        agent.wait_synced()
        assert int(HASHSIZE.read_text()) > 100001
        with agent.syncing("drift in 1 rows"):  # a later compare than one that would have seen the rounding
            subprocess.run(["ipset", "flush", "KUBE-CLUSTER-IP"], check=True)
        assert len([line for line in agent.lines() if "drift" in line]) == 1
    reset_host_state()
    initial.close()


def test_a_restart_writes_nothing_anew_of_what_a_service_wants_inside_exclude_cidrs(
    namespace: Namespace, folder: Folder
) -> None:
    shell(namespace, "ipvsadm -A -t 10.96.0.99:80 -s rr")
    for work in ("added", "nothing to do"):
        with AgentProcess(namespace, folder.path, "--ipvs-exclude-cidrs=10.96.0.0/16") as agent:
            assert work in agent.wait_synced()
    assert "-A -t 10.96.0.99:80" in shell(namespace, "ipvsadm -Sn")


def test_the_process_tells_the_kernel_its_oom_score(namespace: Namespace, folder: Folder) -> None:
    with AgentProcess(namespace, folder.path, "--oom-score-adj=-500") as agent:
        agent.wait_synced()
        pid = int(agent.wait_synced().split()[2])  # klog's line has it there
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "-500"


def test_pod_networks_of_the_node_are_followed_when_they_come_and_when_they_change(
    namespace: Namespace, folder: Folder
) -> None:
    folder.put("node", [node_with([])])
    with AgentProcess(namespace, folder.path, "--detect-local-mode=NodeCIDR") as agent:
        agent.wait_for("has no podCIDRs yet")
        agent.wait_synced()
        assert "--match-set KUBE-CLUSTER-IP src,dst -j KUBE-MARK-MASQ" in shell(namespace, "iptables-save -t nat")
        for network in ("10.244.1.0/24", "10.244.7.0/24"):
            with agent.syncing():
                folder.put("node", [node_with([network])])
            assert f"! -s {network} " in shell(namespace, "iptables-save -t nat")


def node_with(pod_cidrs: list[str]) -> dict[str, object]:
    """The Node that we are on."""
    addresses = [{"type": "InternalIP", "address": "192.168.3.10"}]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node-a"},
        "spec": {"podCIDRs": pod_cidrs},
        "status": {"addresses": addresses},
    }
