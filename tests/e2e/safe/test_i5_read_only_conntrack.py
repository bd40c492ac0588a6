"""Limits and timeouts of connection tracking that are read-only do not keep the agent from starting.

Only the initial network namespace may write the limit; the tests run in another.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lab.namespace import Namespace
from tests.e2e.agent_process import AgentProcess, command_line
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder

pytestmark = pytest.mark.kernel

LIMIT = Path("/proc/sys/net/netfilter/nf_conntrack_max")
OPTIONAL = "Failed to set an optional sysctl, continuing without it"


def warnings(agent: AgentProcess) -> list[str]:
    return [line for line in agent.lines() if OPTIONAL in line]


def test_a_limit_that_cannot_be_raised_is_a_warning(namespace: Namespace, folder: Folder) -> None:
    wanted = int(LIMIT.read_text()) + 1
    flags = ("--conntrack-max-per-core=1", f"--conntrack-min={wanted}")
    with AgentProcess(namespace, folder.path, *flags) as agent:
        agent.wait_synced()
        (line,) = [line for line in warnings(agent) if "nf_conntrack_max" in line]
        assert f"net/netfilter/nf_conntrack_max could not be set to {wanted}: Permission denied" in line
        assert line.startswith("W")
        assert "-A -t 10.96.0.10:80" in shell(namespace, "ipvsadm -Sn")


def test_a_limit_that_cannot_be_lowered_is_not_worth_a_warning(namespace: Namespace, folder: Folder) -> None:
    with AgentProcess(namespace, folder.path, "--conntrack-max-per-core=1", "--conntrack-min=1000") as agent:
        agent.wait_synced()
        assert warnings(agent) == []


def test_read_only_timeouts_are_warnings(namespace: Namespace, folder: Folder) -> None:
    script = (
        "mount --bind /proc/sys/net/netfilter /proc/sys/net/netfilter; "
        'mount -o remount,bind,ro /proc/sys/net/netfilter; exec "$@"'
    )
    flags = ("--conntrack-tcp-timeout-established=1h", "--conntrack-udp-timeout=33s", "--conntrack-tcp-be-liberal=true")
    argv = ["unshare", "-m", "sh", "-ec", script, "sh", *command_line(folder.path, "run", "--init-only", *flags)]
    completed = subprocess.run(namespace.wrap(argv), capture_output=True, text=True, timeout=60, check=False)
    assert completed.returncode == 0, completed.stderr
    for text in (
        "tcp_timeout_established could not be set to 3600",
        "udp_timeout could not be set to 33",
        "be_liberal",
    ):
        assert text in completed.stderr
    assert shell(namespace, "cat /proc/sys/net/ipv4/vs/conntrack") == "1\n"
