"""The unit of deploy/systemd, started, watched, reloaded and stopped by a real systemd."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.network import NODE_NAME, Cluster
from lab.pristine import reset_host_state
from tests.apiserver import ApiServer
from tests.deploy.role import GuardedServer
from tests.deploy.systemd_host import NODE_FOLDER, UNIT, SystemdHost
from tests.e2e.agent_process import wait_until
from tests.e2e.control_plane import KUBECONFIG, NODE, responders
from tests.e2e.kernel_state import run
from tests.e2e.manifests import Port, service_with_slice
from tests.e2e.serving import cluster_fixture
from tests.e2e.traffic import Targets, Traffic

pytestmark = pytest.mark.kernel

WEB, LATE = "10.96.80.1", "10.96.80.2"
WEB_PORT = Port(80, node_port=30080)
WATCHDOG_S = 8  # for how long a busy machine may keep the agent from running
CONFIG = """\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: ipvs
clientConnection: {{kubeconfig: {folder}/kubeconfig}}
clusterCIDR: 10.244.0.0/16
ipvs: {{scheduler: {scheduler}}}
# Only the initial network namespace may write nf_conntrack_max.
conntrack: {{maxPerCore: 0}}
"""
CAP_NET_ADMIN, CAP_NET_RAW = 12, 13
STATE = "/var/lib/kubeproxy-py"
SAVED = f"{STATE}/objects.json.gz"
KUBELET = "kubelet.service"
# What a kubelet does that needs a Service (of a webhook, of an image registry), and docs/install-vm.md's two lines.
KUBELET_UNIT = """\
[Unit]
Wants=kubeproxy-py.service
After=kubeproxy-py.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/opt/python/bin/python3 -c "import socket; socket.create_connection(('{address}', 80), 20)"
"""


cluster = cluster_fixture


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Iterator[GuardedServer]:
    """Yield an API server that allows only what the ClusterRole of deploy/ allows."""
    with cluster.node_a.inside():
        server = GuardedServer()
    server.start()
    for document in (NODE, *service_with_slice("web", WEB, ["pod-a1", "pod-b1"], [WEB_PORT, Port(53, "UDP")])):
        server.apply(document)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def folder(server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("node")
    kubeconfig = KUBECONFIG.format(url=server.url, authority="", token="").replace(', certificate-authority: ""', "")
    (folder / "kubeconfig").write_text(kubeconfig.replace('tokenFile: ""', ""))
    configure(folder, "rr")
    return folder


@pytest.fixture(scope="module")
def host(cluster: Cluster, folder: Path) -> Iterator[SystemdHost]:
    options = f"--config={NODE_FOLDER}/config.yaml --hostname-override={NODE_NAME} -v2 --state-dir={STATE}"
    with SystemdHost(cluster.node_a, folder, options, f"WatchdogSec={WATCHDOG_S}s") as up:
        yield up


def configure(folder: Path, scheduler: str) -> None:
    (folder / "config.yaml").write_text(CONFIG.format(folder=NODE_FOLDER, scheduler=scheduler))


@pytest.fixture
def running(host: SystemdHost, folder: Path) -> SystemdHost:
    """Return the machine with the unit active."""
    configure(folder, "rr")
    host.do("systemctl", "start", UNIT)
    return host


def traffic(cluster: Cluster) -> Traffic:
    return Traffic(cluster, Targets(("192.168.3.10", 30080), (WEB, 80), (WEB, 53)))


@contextmanager
def lists_withheld(server: ApiServer) -> Iterator[None]:
    """Let the API server answer no request within the `with`."""
    server.faults.delay_s = 60.0
    try:
        yield
    finally:
        server.faults.delay_s = 0.0
        server.close_connections()


@contextmanager
def silent(server: ApiServer) -> Iterator[None]:
    """Let the API server be unreachable within the `with`: it accepts connections and says nothing."""
    server.faults.dead = True
    server.close_connections()
    try:
        yield
    finally:
        server.faults.dead = False
        server.close_connections()


def wait_until_saved(host: SystemdHost) -> None:
    wait_until(lambda: host.run("test", "-s", SAVED).returncode == 0)


def lose_kernel_state(host: SystemdHost, cluster: Cluster) -> None:
    """Stop the unit and delete what it made, as a reboot does."""
    host.do("systemctl", "stop", KUBELET, UNIT)
    with cluster.node_a.inside():
        reset_host_state()
    assert responders(cluster, count=1) == set()


def add_late(server: ApiServer) -> None:
    """Add another Service, with pod-b2."""
    for document in service_with_slice("late", LATE, ["pod-b2"]):
        server.apply(document)


def delete_late(server: ApiServer) -> None:
    server.store.delete("services", ("shop", "late"))


def main_pid(host: SystemdHost) -> int:
    return int(host.show("MainPID")[0])


def test_systemd_loads_the_modules_and_applies_the_sysctls(host: SystemdHost) -> None:
    for name in ("modules-load", "sysctl", "tmpfiles-setup"):
        assert host.show("ActiveState", "Result", unit=f"systemd-{name}.service") == ("active", "success")


def test_unit_is_ready_after_the_first_sync_only(host: SystemdHost, cluster: Cluster, server: ApiServer) -> None:
    host.do("systemctl", "stop", UNIT)
    requests = len(server.requests)
    with lists_withheld(server):
        host.do("systemctl", "start", "--no-block", UNIT)
        wait_until(lambda: len(server.requests) > requests)
        time.sleep(WATCHDOG_S + 1)  # the watchdog must not run before READY
        assert host.show("ActiveState", "NRestarts") == ("activating", "0")
    host.do("systemctl", "start", UNIT)
    assert responders(cluster) == {"pod-a1", "pod-b1"}
    assert host.show("ActiveState", "SubState") == ("active", "running")


def test_status_text_is_that_of_the_last_sync(running: SystemdHost, cluster: Cluster, server: ApiServer) -> None:
    add_late(server)
    wait_until(lambda: responders(cluster, LATE) == {"pod-b2"})
    delete_late(server)
    wait_until(lambda: "deleted" in running.show("StatusText")[0], poll_s=0.2)


def test_hanging_process_is_replaced_without_losing_a_packet(
    running: SystemdHost, cluster: Cluster, server: ApiServer
) -> None:
    hung = main_pid(running)
    with traffic(cluster) as flowing:
        running.signal(signal.SIGSTOP)
        wait_until(lambda: running.show("ActiveState") == ("active",) and main_pid(running) not in (0, hung),
                   running.journal, timeout_s=60, poll_s=0.5)  # fmt: skip
        seen = flowing.rounds
        wait_until(lambda: flowing.rounds > seen + 2)
    assert flowing.failures == []
    add_late(server)
    wait_until(lambda: responders(cluster, LATE) == {"pod-b2"})
    delete_late(server)


def test_aborted_process_logs_its_stack_and_is_restarted(running: SystemdHost) -> None:
    killed = main_pid(running)
    running.signal(signal.SIGABRT)  # as the watchdog does
    wait_until(lambda: running.show("ActiveState") == ("active",) and main_pid(running) not in (0, killed), poll_s=0.3)
    journal = running.journal()
    assert "Fatal Python error: Aborted" in journal
    assert '/kubeproxy_py/reconcile/loop.py", line' in journal


def test_reload_applies_a_changed_file_in_the_same_process(
    running: SystemdHost, cluster: Cluster, folder: Path
) -> None:
    before = main_pid(running)
    configure(folder, "lc")
    running.do("systemctl", "reload", UNIT)
    wait_until(lambda: f"-A -t {WEB}:80 -s lc" in run(cluster.node_a, "ipvsadm", "-Sn"), running.journal)
    wait_until(lambda: running.show("ActiveState") == ("active",))
    assert main_pid(running) == before


def test_reload_rejects_an_invalid_file_and_logs_the_reason(running: SystemdHost, folder: Path) -> None:
    before = main_pid(running)
    configure(folder, "quickest")
    done = running.run("systemctl", "reload", UNIT)
    assert done.returncode != 0
    assert "ipvs.scheduler" in running.journal()
    assert (main_pid(running), running.show("ActiveState")) == (before, ("active",))


def test_invalid_configuration_fails_the_start_and_is_used_once_it_is_corrected(
    running: SystemdHost, folder: Path, cluster: Cluster
) -> None:
    running.do("systemctl", "stop", UNIT)
    configure(folder, "quickest")
    assert running.run("systemctl", "start", UNIT).returncode != 0
    assert "ipvs.scheduler" in running.journal()
    assert responders(cluster) == {"pod-a1", "pod-b1"}
    configure(folder, "rr")
    wait_until(lambda: running.show("ActiveState") == ("active",), running.journal, poll_s=0.3)


def test_services_are_answered_after_stop(running: SystemdHost, cluster: Cluster) -> None:
    with traffic(cluster) as flowing:
        running.do("systemctl", "stop", UNIT)
        seen = flowing.rounds
        wait_until(lambda: flowing.rounds > seen + 2)
    assert flowing.failures == []
    assert running.show("ActiveState", "Result") == ("inactive", "success")


def test_agent_has_two_capabilities_and_a_seccomp_filter(running: SystemdHost) -> None:
    text = running.do("cat", f"/proc/{main_pid(running)}/status")
    status = dict(line.split(":\t", 1) for line in text.splitlines())
    both = 1 << CAP_NET_ADMIN | 1 << CAP_NET_RAW
    assert {name: int(status[name], 16) for name in ("CapEff", "CapBnd")} == {"CapEff": both, "CapBnd": both}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


@pytest.mark.parametrize(
    "path", ["/etc/x", "/usr/x", "/opt/x", "/run/x", "/proc/sys/net/ipv4/ip_forward", "/sys/kernel/mm/ksm/run"]
)
def test_agent_cannot_write_elsewhere(running: SystemdHost, path: str) -> None:
    done = running.inside_unit("sh", "-c", f"echo 1 > {path}")
    assert done.returncode != 0
    assert "Read-only" in done.stderr or "nonexistent" in done.stderr, done.stderr


def test_cluster_role_is_sufficient(running: SystemdHost, server: GuardedServer) -> None:
    assert server.used <= server.allowed, running.journal()
    assert {right.verb for right in server.used} >= {"list", "watch"}


def test_systemd_analyze_rates_the_exposure_of_the_unit_as_ok(host: SystemdHost) -> None:
    done = host.run("systemd-analyze", "security", "--threshold=25", UNIT)  # in tenths; the worst is 100
    assert done.returncode == 0, done.stdout[-200:] + done.stderr


def test_objects_are_saved_where_only_root_may_read_them(running: SystemdHost) -> None:
    wait_until_saved(running)
    assert running.do("stat", "-c", "%a %U", STATE, SAVED).split() == ["700", "root", "600", "root"]


def test_agent_shares_the_lock_of_iptables(running: SystemdHost) -> None:
    assert running.inside_unit("sh", "-c", "echo >> /run/xtables.lock").returncode == 0


def test_agent_sees_no_home_directories_and_no_temporary_files_of_others(running: SystemdHost) -> None:
    running.do("touch", "/tmp/of-another")
    assert running.inside_unit("ls", "-A", "/root", "/home", "/tmp").stdout.split() == ["/home:", "/root:", "/tmp:"]


@pytest.fixture
def kubelet(running: SystemdHost) -> Iterator[SystemdHost]:
    """Return the machine with a kubelet that is started after the unit and needs a Service."""
    running.add_unit(KUBELET, KUBELET_UNIT.format(address=WEB))
    yield running
    running.do("systemctl", "stop", KUBELET)


def test_kubelet_that_waits_for_services_starts_although_the_api_server_is_unreachable(
    kubelet: SystemdHost, cluster: Cluster, server: ApiServer
) -> None:
    wait_until_saved(kubelet)
    with silent(server):
        lose_kernel_state(kubelet, cluster)
        kubelet.do("systemctl", "start", KUBELET)  # returns when its command has succeeded
        assert kubelet.show("ActiveState", "Result", unit=KUBELET) == ("active", "success")
        assert kubelet.show("ActiveState", "SubState") == ("active", "running")
        assert "serving objects that were saved" in kubelet.journal()
        [ready], [started] = (
            kubelet.show("ActiveEnterTimestampMonotonic"),
            kubelet.show("ExecMainStartTimestampMonotonic", unit=KUBELET),
        )
        assert int(ready) <= int(started)
        assert responders(cluster) == {"pod-a1", "pod-b1"}


def test_kubelet_waits_for_the_api_server_where_nothing_is_saved(
    kubelet: SystemdHost, cluster: Cluster, server: ApiServer
) -> None:
    with silent(server):
        lose_kernel_state(kubelet, cluster)
        kubelet.do("rm", "-f", SAVED)
        kubelet.do("systemctl", "start", "--no-block", KUBELET)
        wait_until(lambda: kubelet.show("SubState") == ("start",))
        time.sleep(2.0)
        assert kubelet.show("ActiveState", unit=KUBELET) == ("inactive",)
    wait_until(lambda: kubelet.show("ActiveState", unit=KUBELET) == ("active",), kubelet.journal, poll_s=0.2)
    assert responders(cluster) == {"pod-a1", "pod-b1"}
