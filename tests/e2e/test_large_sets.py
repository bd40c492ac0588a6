"""Sets with more entries than kube-proxy's, and sets of another type that rules refer to."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from time import monotonic

import pytest

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.kernel.iptables.backend import find_commands
from kubeproxy_py.kernel.linux import LinuxKernel
from kubeproxy_py.model.events import Feed, ServiceUpserted, Synced
from kubeproxy_py.model.rows import Ipset, IpsetEntry
from kubeproxy_py.reconcile.agent import Agent
from kubeproxy_py.reconcile.report import SyncReport
from lab.namespace import Namespace, new_namespace
from tests.builders import node_context, service
from tests.e2e.kernel_state import run, shell

pytestmark = pytest.mark.kernel

RANGES = "KUBE-LOAD-BALANCER-SOURCE-CIDR"
ADDRESS = "203.0.113.9"
SYNC_MAX_S = 90.0  # 2 s on an idle machine


class Node:
    """An agent for IPv4 on the kernel of *namespace*, with one load balancer that has many source ranges."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        commands = find_commands("legacy", "IPv4")
        assert commands
        self.kernel = LinuxKernel([commands])
        compiler = Compiler(lambda _node, _addresses: node_context(families=("IPv4",)))
        self.agent = Agent(self.kernel, compiler, monotonic)
        feeds: tuple[Feed, ...] = ("services", "slices", "node")
        for feed in feeds:
            self.agent.handle_event(Synced(feed), 0.0)

    def serve(self, ranges: int) -> SyncReport:
        """Set the number of source ranges; return the report of the sync."""
        cidrs = tuple(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}/32" for n in range(ranges))
        load_balancer = service(type="LoadBalancer", load_balancer_ips=(ADDRESS,), source_ranges=cidrs)
        self.agent.handle_event(ServiceUpserted(load_balancer), monotonic())
        (report,) = self.agent.run_due(monotonic())
        assert isinstance(report, SyncReport)
        return report

    def header(self, name: str = RANGES) -> tuple[str, int, int, int]:
        """Return type, maxelem, number of entries and number of references of a set, from ipset."""
        listing = run(self.namespace, "ipset", "list", "-t", name)
        set_type = re.search(r"Type: (.*)", listing)
        numbers = [re.search(rf"{name}:? (\d+)", listing) for name in ("maxelem", "Number of entries", "References")]
        assert set_type
        maxelem, entries, references = (int(number[1]) if number else 0 for number in numbers)
        return set_type[1], maxelem, entries, references


@pytest.fixture
def node() -> Iterator[Node]:
    with new_namespace("large-sets") as namespace, namespace.inside():
        node = Node(namespace)
        try:
            yield node
        finally:
            node.kernel.close()


def test_a_set_grows_beyond_the_size_of_kube_proxy_only_if_necessary(node: Node) -> None:
    sizes = []
    for ranges in (10, 65_536, 70_000, 65_530):
        start_s = monotonic()
        report = node.serve(ranges)
        assert not report.failures
        assert monotonic() - start_s < SYNC_MAX_S
        sizes.append(node.header())
    set_type = "hash:ip,port,net"
    assert sizes == [
        (set_type, 65_536, 10, 1),
        (set_type, 65_536, 65_536, 1),
        (set_type, 131_072, 70_000, 1),
        (set_type, 65_536, 65_530, 1),
    ]


def test_a_restart_leaves_a_large_set_unchanged(node: Node) -> None:
    node.serve(70_000)
    restarted = Node(node.namespace)
    report = restarted.serve(70_000)
    restarted.kernel.close()
    assert report.steps == ()


def test_sets_of_another_type_or_header_are_recreated_while_rules_refer_to_them(node: Node) -> None:
    node.serve(10)
    before = shell(node.namespace, "iptables-save -t filter; ipset list -n | sort")
    shell(
        node.namespace,
        f"""
        iptables-legacy -F KUBE-SOURCE-RANGES-FIREWALL
        ipset destroy {RANGES}
        ipset create {RANGES} hash:ip,port timeout 300
        ipset add {RANGES} 10.9.9.9,tcp:9
        iptables-legacy -A KUBE-SOURCE-RANGES-FIREWALL -m set --match-set {RANGES} dst,dst,src -j RETURN
        ipset create smaller hash:ip,port maxelem 64
        ipset swap smaller KUBE-LOAD-BALANCER-FW
        """,
    )
    restarted = Node(node.namespace)
    report = restarted.serve(10)
    restarted.kernel.close()
    assert not report.failures
    assert node.header() == ("hash:ip,port,net", 65_536, 10, 1)
    assert node.header("KUBE-LOAD-BALANCER-FW") == ("hash:ip,port", 65_536, 1, 1)
    run(node.namespace, "ipset", "destroy", "smaller")
    assert comparable(shell(node.namespace, "iptables-save -t filter; ipset list -n | sort")) == comparable(before)


def comparable(saved: str) -> list[str]:
    return [line for line in saved.splitlines() if not line.startswith("#")]


def test_the_failure_for_a_set_of_another_type_in_foreign_use_has_a_remedy(node: Node) -> None:
    shell(
        node.namespace,
        f"""
        ipset create {RANGES} hash:ip
        iptables-legacy -A FORWARD -m set --match-set {RANGES} src -j ACCEPT
        """,
    )
    messages = {failure.step.key: failure.message for failure in node.serve(10).failures}
    assert messages[Ipset(RANGES)] == "the set is in use, with another type (remove the rules that name it)"
    assert {type(key) for key in messages} == {Ipset, IpsetEntry}
    assert "-A KUBE-SOURCE-RANGES-FIREWALL -j DROP" in shell(node.namespace, "iptables-legacy-save -t filter")
    assert subprocess.run(["ipset", "test", "KUBE-LOAD-BALANCER-FW", f"{ADDRESS},tcp:80"], check=False).returncode == 0
