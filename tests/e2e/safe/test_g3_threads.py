"""What is sent to the address monitor, or goes wrong in a thread, never leaves an agent that lacks the thread."""

from __future__ import annotations

import socket

import pytest

from lab.namespace import Namespace
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder
from tests.e2e.safe.patched_agent import PatchedAgent

pytestmark = pytest.mark.kernel

ADDRESS = "10.96.0.10"
REPAIRED_WITHIN_S = 25.0  # on notification; the full compare comes after 30 s
_GROUPS = "00000111"  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR


def monitor_ports(namespace: Namespace) -> list[int]:
    """Return the netlink ports of the address monitors in *namespace*."""
    lines = shell(namespace, "cat /proc/net/netlink").splitlines()[1:]
    return [int(fields[2]) for fields in map(str.split, lines) if (fields[1], fields[3]) == ("0", _GROUPS)]


def send_to_monitor(namespace: Namespace, data: bytes) -> None:
    (port,) = monitor_ports(namespace)
    with namespace.inside(), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sender:
        sender.sendto(data, (port, 0))


def has_address(namespace: Namespace) -> bool:
    return f"{ADDRESS}/32" in shell(namespace, "ip -o address show dev kube-ipvs0")


def assert_notices_changes(namespace: Namespace) -> None:
    shell(namespace, f"ip address del {ADDRESS}/32 dev kube-ipvs0")
    wait_until(lambda: has_address(namespace), timeout_s=REPAIRED_WITHIN_S)


@pytest.mark.parametrize("data", [b"abcd", b"\x20\0\0\0\x14\0\0\0" + bytes(8), b"\xff" * 64])
def test_a_malformed_notification_leads_to_reading_all_addresses(
    namespace: Namespace, folder: Folder, data: bytes
) -> None:
    with AgentProcess(namespace, folder.path) as agent:
        agent.wait_synced()
        send_to_monitor(namespace, data)
        agent.wait_for("Dropped malformed notifications of address changes")
        assert_notices_changes(namespace)
        assert not [line for line in agent.lines() if line.startswith("E")]


MONITOR_FAILS = """exec('''
import kubeproxy_py.kernel.address.monitor as monitor
drain, failures = monitor.AddressMonitor._drain, []
def fail(self):
    failures.append(1)
    if len(failures) <= {times}:
        raise RuntimeError("a bug")
    return drain(self)
monitor.AddressMonitor._drain = fail
''')"""


def test_a_thread_that_fails_is_started_again(namespace: Namespace, folder: Folder) -> None:
    with PatchedAgent(namespace, folder.path, MONITOR_FAILS.format(times=1)) as agent:
        agent.wait_synced()
        line = agent.wait_for("Internal error in a thread")
        assert 'thread="address-monitor"' in line
        assert "RuntimeError" in line
        wait_until(lambda: len(monitor_ports(namespace)) == 1)
        assert_notices_changes(namespace)


def test_a_process_that_cannot_go_on_without_a_thread_ends_with_status_1(namespace: Namespace, folder: Folder) -> None:
    quick = "import kubeproxy_py.threads as threads; threads.RESTART = threads.Backoff(first_s=0.05, longest_s=0.05)"
    with PatchedAgent(namespace, folder.path, f"{quick}; {MONITOR_FAILS.format(times=1000)}") as agent:
        agent.wait_synced()

        def is_gone() -> bool:
            shell(namespace, "ip address add 192.0.2.1/32 dev lo; ip address del 192.0.2.1/32 dev lo")
            return not agent.is_running()

        wait_until(is_gone, poll_s=0.05)
        assert agent._started.returncode == 1
        last = [line for line in agent.lines() if "it cannot go on, exiting" in line]
        assert len(last) == 1
        assert 'thread="address-monitor"' in last[0]
        assert has_address(namespace)
