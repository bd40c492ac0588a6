"""doctor on the lab kernel: each wrong state, made for real, is named with its cause and remedy."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from signal import SIGTERM
from typing import Any, NamedTuple

import pytest

from kubeproxy_py.kernel.iptables import nf_tables
from kubeproxy_py.kernel.iptables.backend import find_commands
from lab.namespace import Namespace
from lab.network import BY_NAME, NODE_NAME, Cluster
from tests.apiserver.certificates import Authority
from tests.e2e.agent_process import FLAGS, AgentProcess, command_line
from tests.e2e.control_plane import KUBECONFIG, ControlPlane, running_control_plane
from tests.e2e.kernel_state import shell
from tests.e2e.least_rights import PLACE, LeastRights
from tests.e2e.manifests import Folder, Port, service_with_slice
from tests.e2e.serving import cluster_fixture
from tests.e2e.this_kernel import IPTABLES

pytestmark = pytest.mark.kernel

CLUSTER_IP = "10.96.0.60"
NODE_PORT = 30060
CONNTRACK_MAX = Path("/proc/sys/net/netfilter/nf_conntrack_max")
FLOWS = 40
NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": NODE_NAME},
    "status": {"addresses": [{"type": "InternalIP", "address": BY_NAME[NODE_NAME].ipv4}]},
}

cluster = cluster_fixture


class Entry(NamedTuple):
    """An entry of the report."""

    check: str
    state: str
    reason: str
    cause: str
    effect: str
    remedy: str
    evidence: str


class Examined(NamedTuple):
    """What doctor printed as JSON, and its exit status."""

    status: int
    entries: list[Entry]
    took_s: float

    def of(self, reason: str) -> Entry:
        """Return the first entry with *reason*."""
        found = [entry for entry in self.entries if entry.reason == reason]
        assert found, f"no {reason} in {[entry for entry in self.entries if entry.state != 'ok']}"
        return found[0]

    def states(self, *states: str) -> list[Entry]:
        """Return the entries that have one of *states*."""
        return [entry for entry in self.entries if entry.state in states]


def run_doctor(namespace: Namespace, argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(namespace.wrap(argv), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def examine(namespace: Namespace, argv: list[str]) -> Examined:
    """Return what ``doctor -o json`` prints in *namespace*."""
    began_s = time.monotonic()
    done = run_doctor(namespace, [*argv, "-o", "json"])
    took_s = time.monotonic() - began_s
    assert done.stdout, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert (document["version"], document["exitStatus"]) == (1, done.returncode)
    return Examined(done.returncode, [Entry(**entry) for entry in document["checks"]], took_s)


@pytest.fixture(scope="module")
def folder(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Return a folder whose Service an agent has programmed, which has ended, so that nothing is repaired."""
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("web", service_with_slice("web", CLUSTER_IP, ["pod-a2"], [Port(80, node_port=NODE_PORT)]))
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        agent.stop(SIGTERM)
    return folder


def on_manifests(folder: Folder, *flags: str) -> list[str]:
    return command_line(folder.path, "doctor", *flags)


# A well node


def test_well_node_exits_with_0_and_says_what_was_seen(cluster: Cluster, folder: Folder) -> None:
    examined = examine(cluster.node_a, on_manifests(folder))
    assert examined.states("error", "unknown") == []
    assert examined.status == 0
    seen = {entry.check: entry.evidence for entry in examined.entries}
    assert "NET_ADMIN and NET_RAW" in seen["rights"]
    assert "connections are tracked" in seen["conntrack"]
    assert seen["hairpin"] == "bridges with pods: cni0"
    assert "sysctls have the required values" in seen["sysctls"]


def test_running_agent_is_not_another_proxy(cluster: Cluster, folder: Folder) -> None:
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        examined = examine(cluster.node_a, on_manifests(folder))
        agent.stop(SIGTERM)
    assert examined.states("error", "unknown") == []


def test_text_has_the_rights_first_and_a_summary_last(cluster: Cluster, folder: Folder) -> None:
    with changed(cluster, "iptables -P INPUT DROP", "iptables -P INPUT ACCEPT"):
        done = run_doctor(cluster.node_a, on_manifests(folder))
    lines = done.stdout.splitlines()
    assert lines[0].split()[:2] == ["ok", "rights"]
    (found,) = (number for number, line in enumerate(lines) if "InputDropsServices" in line)
    assert [line.split()[0] for line in lines[found + 1 : found + 4]] == ["cause", "effect", "remedy"]
    assert "policy DROP of INPUT" in lines[found + 1]
    assert " checks: " in lines[-1]
    assert "1 error" in lines[-1]
    assert done.returncode == 2


# Wrong states


class Fault(NamedTuple):
    """A wrong state: how it is made and undone, and what is said about it."""

    reason: str
    change: str
    undo: str
    cause: str
    remedy: str
    state: str = "error"


_VS = "net.ipv4.vs"
_ROUTER_SET = "kube-router-ipvs-services"
_STALE = "KUBE-SVC-ABCDEFGHIJKLMNOP"
_REDIRECT = "-p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8091"
_LB_ENTRY = "KUBE-LOAD-BALANCER 192.168.3.200,tcp:80"
_FOREIGN = "172.16.5.10:6443"
_RANGE = "sysctl -qw net.ipv4.ip_local_port_range"
FAULTS = (
    Fault(
        "SysctlWrong", f"sysctl -qw {_VS}.conntrack=0", f"sysctl -qw {_VS}.conntrack=1", "it is 0, not 1", "sysctl -w"
    ),
    Fault(
        "SysctlWrong",
        f"sysctl -qw {_VS}.expire_nodest_conn=0",
        f"sysctl -qw {_VS}.expire_nodest_conn=1",
        "expire_nodest_conn",
        "expire_nodest_conn=1",
    ),
    Fault(
        "ReversePathStrict",
        "sysctl -qw net.ipv4.conf.eth1.rp_filter=1",
        "sysctl -qw net.ipv4.conf.eth1.rp_filter=0",
        "interface eth1",
        "net.ipv4.conf.eth1.rp_filter=2",
        "warning",
    ),
    Fault(
        "ArpAnswersForLoadBalancers",
        f"ipset add {_LB_ENTRY}",
        f"ipset del {_LB_ENTRY}",
        "192.168.3.200: it is of a network of this host, and arp_ignore is 0",
        "ipvs.strictARP: true",
    ),
    Fault(
        "NodePortsAreLocalPorts",
        f"{_RANGE}='20000 60999'",
        f"{_RANGE}='32768 60999'",
        f"NodePort {NODE_PORT}: this host opens its own connections from ports 20000 to 60999",
        "net.ipv4.ip_local_reserved_ports",
    ),
    Fault(
        "NatRuleBeforeServices",
        f"iptables -t nat -I PREROUTING {_REDIRECT}",
        f"iptables -t nat -D PREROUTING {_REDIRECT}",
        "--to-ports 8091",
        "iptables -t nat -D PREROUTING",
    ),
    Fault(
        "NatRuleBeforeServices",
        "iptables -t nat -I OUTPUT -j ACCEPT",
        "iptables -t nat -D OUTPUT -j ACCEPT",
        "IPv4 nat OUTPUT: this rule comes before the jump to KUBE-SERVICES: -j ACCEPT",
        "iptables -t nat -D OUTPUT RULE",
    ),
    Fault(
        "FilterRuleBeforeServices",
        "iptables -I INPUT -p tcp -j ACCEPT",
        "iptables -D INPUT -p tcp -j ACCEPT",
        "IPv4 filter INPUT: this rule comes before the jump to KUBE-IPVS-FILTER: -p tcp -j ACCEPT",
        "iptables -t filter -D INPUT RULE",
        "warning",
    ),
    Fault(
        "InputDropsServices",
        "iptables -P INPUT DROP",
        "iptables -P INPUT ACCEPT",
        "policy DROP of INPUT",
        "iptables -I",
    ),
    Fault(
        "ForwardDropsServices",
        "iptables -I FORWARD -j DROP",
        "iptables -D FORWARD -j DROP",
        "-A FORWARD -j DROP",
        "iptables -I FORWARD -m conntrack",
    ),
    Fault(
        "RulesOfAnotherMode",
        f"iptables -t nat -N {_STALE}",
        f"iptables -t nat -X {_STALE}",
        "1 chains and 0 rules of iptables mode",
        "kubeproxy-py cleanup",
    ),
    Fault(
        "AnotherServiceProxy",
        f"ipset create {_ROUTER_SET} hash:ip; iptables -N KUBE-ROUTER-SERVICES",
        f"ipset destroy {_ROUTER_SET}; iptables -X KUBE-ROUTER-SERVICES",
        f"kube-router: it left set {_ROUTER_SET}, chain KUBE-ROUTER-SERVICES (IPv4 filter) here",
        "--run-service-proxy=false",
    ),
    Fault(
        "AnotherServiceProxy",
        "ip link add cilium_host type dummy",
        "ip link delete cilium_host",
        "Cilium: it left interface cilium_host",
        "kubeProxyReplacement: false",
        "warning",
    ),
    Fault(
        "ForeignVirtualServers",
        f"ipvsadm -A -t {_FOREIGN}",
        f"ipvsadm -D -t {_FOREIGN}",
        f"virtual server {_FOREIGN}/TCP: no Service has them",
        "--keep-foreign-virtual-servers",
    ),
    Fault(
        "ServiceAddressOnInterface",
        f"ip address add {CLUSTER_IP}/32 dev eth1",
        f"ip address delete {CLUSTER_IP}/32 dev eth1",
        f"ClusterIP {CLUSTER_IP}: interface eth1 has it, too",
        f"ip address del {CLUSTER_IP} dev eth1",
    ),
    Fault(
        "NodeLocalDnsBypassed",
        f"ip link add nodelocaldns type dummy; ip address add {CLUSTER_IP}/32 dev nodelocaldns",
        "ip link delete nodelocaldns",
        f"NodeLocal DNSCache at {CLUSTER_IP}",
        "-localip 169.254.20.10",
    ),
    Fault(
        "BridgeNetfilterOff",
        "sysctl -qw net.bridge.bridge-nf-call-iptables=0",
        "sysctl -qw net.bridge.bridge-nf-call-iptables=1",
        "bridge cni0, IPv4",
        "net.bridge.bridge-nf-call-iptables=1",
    ),
    Fault(
        "HairpinOff",
        "bridge link set dev vpod1 hairpin off",
        "bridge link set dev vpod1 hairpin on",
        "bridge cni0: hairpin mode is off on 1 of its ports: vpod1",
        "bridge link set dev $port hairpin on",
    ),
    Fault(
        "AffinityProlonged",
        f"ipvsadm -E -t {CLUSTER_IP}:80 -s rr -p 10",
        f"ipvsadm -E -t {CLUSTER_IP}:80 -s rr",
        f"session affinity of {CLUSTER_IP}:80/TCP (10 s)",
        "timeoutSeconds to 120",
        "warning",
    ),
)


@contextmanager
def changed(cluster: Cluster, change: str, undo: str) -> Iterator[None]:
    """Run *change* on node A, and *undo* at the end of the `with`."""
    shell(cluster.node_a, change)
    try:
        yield
    finally:
        shell(cluster.node_a, undo)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.reason}-{fault.state}")
def test_wrong_state_is_named_with_cause_effect_and_remedy(cluster: Cluster, folder: Folder, fault: Fault) -> None:
    with changed(cluster, fault.change, fault.undo):
        examined = examine(cluster.node_a, on_manifests(folder))
    entry = examined.of(fault.reason)
    assert (entry.state, bool(entry.effect)) == (fault.state, True)
    assert fault.cause in entry.cause
    assert fault.remedy in entry.remedy
    assert {each.reason for each in examined.states("error")} == ({fault.reason} if fault.state == "error" else set())
    assert examined.status == (2 if fault.state == "error" else 0)


def test_timeouts_are_compared_with_keepalive(cluster: Cluster, folder: Folder) -> None:
    entry = examine(cluster.node_a, on_manifests(folder)).of("IdleConnectionsForgotten")
    assert (entry.state, "it is 900 s, and TCP keepalive begins after 7200 s" in entry.cause) == ("warning", True)
    with changed(cluster, "ipvsadm --set 7500 120 300", "ipvsadm --set 900 120 300"):
        examined = examine(cluster.node_a, on_manifests(folder))
    assert "IdleConnectionsForgotten" not in {each.reason for each in examined.entries}


@contextmanager
def process_called(namespace: Namespace, *argv: str) -> Iterator[int]:
    """Run a process with the command line *argv*, which sleeps, and yield its pid."""
    with namespace.inside():
        process = subprocess.Popen(argv, executable=sys.executable, stdin=subprocess.PIPE)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


_SLEEP = ("-c", "import sys; sys.stdin.read()")


@pytest.mark.parametrize(
    ("program", "reason", "status", "remedy"),
    [
        ("/usr/local/bin/kube-proxy", "AnotherServiceProxy", 2, "docs/migrate.md"),
        ("/usr/sbin/keepalived", "OtherIpvsUser", 0, "ipvs.excludeCIDRs"),
        ("/usr/sbin/firewalld", "FirewallService", 0, "systemctl disable --now firewalld"),
    ],
)
def test_process_is_named_with_its_pid(
    cluster: Cluster, folder: Folder, program: str, reason: str, status: int, remedy: str
) -> None:
    with process_called(cluster.node_a, program, *_SLEEP) as pid:
        examined = examine(cluster.node_a, on_manifests(folder))
    entry = examined.of(reason)
    assert entry.cause.startswith(f"{Path(program).name} (pid {pid})")
    assert remedy in entry.remedy
    assert examined.status == status


def test_process_of_another_network_namespace_is_left_out(cluster: Cluster, folder: Folder) -> None:
    with process_called(cluster["node-b"], "/usr/local/bin/kube-proxy", *_SLEEP):
        assert examine(cluster.node_a, on_manifests(folder)).status == 0


def test_small_conntrack_limit_is_named(cluster: Cluster, folder: Folder) -> None:
    before = CONNTRACK_MAX.read_text()  # only the initial network namespace may write it
    with cluster.node_a.inside():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        for port in range(40000, 40000 + FLOWS):
            sender.sendto(b"x", (BY_NAME["outside"].ipv4, port))
    try:
        CONNTRACK_MAX.write_text(str(FLOWS))
        examined = examine(cluster.node_a, on_manifests(folder))
    finally:
        CONNTRACK_MAX.write_text(before)
    entry = examined.of("ConntrackTableFull")
    assert f"of {FLOWS} connections are tracked" in entry.cause
    assert "sysctl -w net.netfilter.nf_conntrack_max" in entry.remedy
    assert examined.status == 2


@pytest.mark.skipif(
    IPTABLES != "legacy" or not nf_tables.works("IPv4") or not find_commands("nft", "IPv4"),
    reason="needs both kinds of iptables, and rules of ours in legacy tables",
)
def test_kubelet_with_the_other_iptables_is_named(cluster: Cluster, folder: Folder) -> None:
    chain = "iptables-nft -t mangle {} KUBE-KUBELET-CANARY"
    with changed(cluster, chain.format("-N"), chain.format("-X")):
        examined = examine(cluster.node_a, on_manifests(folder, "--iptables-flavour=legacy"))
    entry = examined.of("OtherIptablesBackend")
    assert "kubelet uses iptables-nft" in entry.cause
    assert "--iptables-flavour=auto" in entry.remedy
    assert examined.status == 2


def test_user_without_rights_is_told_so_first_and_is_not_told_that_the_node_is_wrong(
    cluster: Cluster, folder: Folder
) -> None:
    namespace = LeastRights(cluster.node_a, ())
    place = PLACE / "doctor"
    place.mkdir(parents=True, exist_ok=True)  # this user cannot read pytest's own folders
    argv = command_line(place, "doctor")
    done = run_doctor(namespace, argv)
    assert done.stdout, done.stderr
    first = done.stdout.splitlines()[:4]
    assert first[0].split() == ["unknown", "rights", "RightsMissing"]
    assert "it lacks NET_ADMIN and NET_RAW, and it is not root" in first[1]
    assert "sudo kubeproxy-py doctor" in first[3]
    examined = examine(namespace, argv)
    entry = examined.entries[0]
    assert (entry.check, entry.state) == ("rights", "unknown")
    unread = {each.check for each in examined.states("unknown")}
    assert {"rights", "kernel-features", "ipvs-users", "input", "other-proxies"} <= unread
    assert "KernelLacks" not in {each.reason for each in examined.entries}
    assert examined.status in (1, 2)


# API server


@pytest.fixture
def control_plane(cluster: Cluster, folder: Folder, tmp_path: Path) -> Iterator[ControlPlane]:
    with running_control_plane(cluster, Authority(tmp_path / "authority"), tmp_path) as running:
        running.apply(NODE)
        yield running


def on_api_server(kubeconfig: Path) -> list[str]:
    return [sys.executable, "-m", "kubeproxy_py", "doctor", "--kubeconfig", str(kubeconfig), *FLAGS]


def test_api_server_that_answers_is_well(cluster: Cluster, control_plane: ControlPlane) -> None:
    examined = examine(cluster.node_a, on_api_server(control_plane.kubeconfig))
    # The CA of these tests is valid for an hour.
    assert [each.reason for each in examined.states("error", "unknown")] == []
    assert examined.of("CertificateExpiresSoon").cause.startswith("certificate authority of")
    seen = {entry.check: entry.evidence for entry in examined.entries}
    assert seen["api-server"] == f"{control_plane.server.url} answers"
    assert "against the API server" in seen["clock"]
    assert BY_NAME[NODE_NAME].ipv4 in seen["node-name"]
    assert examined.status == 0


@pytest.mark.parametrize(("skew_s", "words"), [(3600, "3600 s behind"), (-3600, "3600 s ahead of")])
def test_clock_skew_is_seen_by_the_date_of_a_response(
    cluster: Cluster, control_plane: ControlPlane, skew_s: int, words: str
) -> None:
    control_plane.server.faults.clock_skew_s = skew_s
    examined = examine(cluster.node_a, on_api_server(control_plane.kubeconfig))
    entry = examined.of("ClockSkewed")
    cause = entry.cause
    seconds = int(cause.split("it is ")[1].split()[0])
    assert abs(seconds - 3600) <= 10
    assert words.split()[2] in cause
    assert "timedatectl set-ntp true" in entry.remedy
    assert examined.status == 2


@pytest.mark.parametrize("as_data", [False, True])
def test_expired_client_certificate_is_named(
    cluster: Cluster, control_plane: ControlPlane, tmp_path: Path, as_data: bool
) -> None:
    authority = Authority(tmp_path / "clients", "client-ca")
    certificate, key = authority.issue("agent", valid=timedelta(hours=-3))
    kubeconfig = tmp_path / "expired"
    kubeconfig.write_text(_with_client(control_plane, certificate, key, as_data=as_data))
    examined = examine(cluster.node_a, on_api_server(kubeconfig))
    entry = examined.of("CertificateExpired")
    assert entry.cause.startswith("client certificate of ")
    assert "it expired 3.0 hours ago" in entry.cause
    assert "kubeadm certs renew" in entry.remedy
    assert examined.status == 2


def _with_client(control_plane: ControlPlane, certificate: Path, key: Path, *, as_data: bool) -> str:
    import base64

    text = control_plane.kubeconfig.read_text()
    if as_data:
        data = [base64.b64encode(path.read_bytes()).decode() for path in (certificate, key)]
        user = f'client-certificate-data: "{data[0]}", client-key-data: "{data[1]}"'
    else:
        user = f'client-certificate: "{certificate}", client-key: "{key}"'
    return text.replace("user: {tokenFile:", f"user: {{{user}, tokenFile:")


def _refuse(control_plane: ControlPlane) -> None:
    control_plane.server.faults.tokens = {"another"}


def _hang(control_plane: ControlPlane) -> None:
    control_plane.server.faults.dead = True


@pytest.mark.parametrize(("break_it", "cause"), [(_refuse, "401"), (_hang, "connection: ")])
def test_api_server_that_does_not_serve_us_is_named_after_the_rest(
    cluster: Cluster, control_plane: ControlPlane, break_it: Callable[[ControlPlane], None], cause: str
) -> None:
    break_it(control_plane)
    examined = examine(cluster.node_a, on_api_server(control_plane.kubeconfig))
    entry = examined.of("ApiServerUnreachable")
    assert control_plane.server.url in entry.cause or str(control_plane.kubeconfig) in entry.cause
    assert cause in entry.cause or "did not answer within 5 s" in entry.cause
    assert entry.remedy
    assert "connections are tracked" in {each.check: each.evidence for each in examined.entries}["conntrack"]
    assert examined.status == 2


def test_server_that_does_not_listen_is_named(cluster: Cluster, folder: Folder, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    (tmp_path / "token").write_text("first")
    kubeconfig = tmp_path / "kubeconfig"
    nobody = KUBECONFIG.format(url="https://127.0.0.1:1", authority=authority.file, token=tmp_path / "token")
    kubeconfig.write_text(nobody)
    examined = examine(cluster.node_a, on_api_server(kubeconfig))
    entry = examined.of("ApiServerUnreachable")
    assert "https://127.0.0.1:1: connection: " in entry.cause
    assert examined.status == 2


def test_without_a_configuration_the_host_is_looked_at_all_the_same(cluster: Cluster, folder: Folder) -> None:
    examined = examine(cluster.node_a, [sys.executable, "-m", "kubeproxy_py", "doctor", *FLAGS])
    unknown = {each.check: each.cause for each in examined.states("unknown")}
    assert "set --kubeconfig or --manifests" in unknown["api-server"]
    assert "pass --kubeconfig or --config" in unknown["certificates"]
    assert examined.states("error") == []
    assert examined.status == 1
