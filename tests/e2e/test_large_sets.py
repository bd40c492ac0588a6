"""More entries than kube-proxy's sets hold, and sets that stood there with another type, under rules on them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from time import monotonic

import pytest

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.kernel.iptables.backend import programs
from kubeproxy_py.kernel.linux import LinuxKernel
from kubeproxy_py.model.events import Feed, ServiceUpserted, Synced
from kubeproxy_py.model.rows import Ipset, IpsetEntry
from kubeproxy_py.reconcile.reconciler import Reconciler
from kubeproxy_py.reconcile.report import SyncReport
from lab.namespace import Namespace, new_namespace
from tests.builders import service, site
from tests.e2e.kernel_state import run, shell

pytestmark = pytest.mark.kernel

RANGES = "KUBE-LOAD-BALANCER-SOURCE-CIDR"
ADDRESS = "203.0.113.9"
TOOK_AT_MOST_S = 30.0  # 2 s on an idle machine


class Node:
    """An agent of IPv4 on the real kernel of *namespace*, that serves one load balancer with so many source ranges."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        words = programs("legacy", "IPv4")
        assert words
        self.kernel = LinuxKernel([words])
        compiler = Compiler(lambda _node, _addresses: site(families=("IPv4",)))
        self.agent = Reconciler(self.kernel, compiler, monotonic)
        feeds: tuple[Feed, ...] = ("services", "slices", "node")
        for feed in feeds:
            self.agent.handle_event(Synced(feed), 0.0)

    def serve(self, ranges: int) -> SyncReport:
        """Have so many ranges; the sync that brought them."""
        cidrs = tuple(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}/32" for n in range(ranges))
        made = service(type="LoadBalancer", load_balancer_ips=(ADDRESS,), source_ranges=cidrs)
        self.agent.handle_event(ServiceUpserted(made), monotonic())
        (report,) = self.agent.step()
        return report

    def header(self, name: str = RANGES) -> tuple[str, int, int, int]:
        """Type, maxelem, how many entries, and how many rules look at the set, as ipset tells."""
        told = run(self.namespace, "ipset", "list", "-t", name)
        kind = re.search(r"Type: (.*)", told)
        numbers = [re.search(rf"{word}:? (\d+)", told) for word in ("maxelem", "Number of entries", "References")]
        assert kind
        maxelem, entries, references = (int(found[1]) if found else 0 for found in numbers)
        return kind[1], maxelem, entries, references


@pytest.fixture
def node() -> Iterator[Node]:
    namespace = new_namespace("large-sets")
    with namespace.inside():
        made = Node(namespace)
        try:
            yield made
        finally:
            made.kernel.close()
    namespace.close()


def test_a_set_holds_what_is_asked_for_and_is_kube_proxys_own_where_that_is_enough(node: Node) -> None:
    sizes = []
    for ranges in (10, 65_536, 70_000, 65_530):
        began_s = monotonic()
        report = node.serve(ranges)
        assert not report.failed
        assert monotonic() - began_s < TOOK_AT_MOST_S
        sizes.append(node.header())
    kind = "hash:ip,port,net"
    assert sizes == [
        (kind, 65_536, 10, 1),
        (kind, 65_536, 65_536, 1),
        (kind, 131_072, 70_000, 1),
        (kind, 65_536, 65_530, 1),
    ]


def test_a_restart_adopts_a_large_set(node: Node) -> None:
    node.serve(70_000)
    reborn = Node(node.namespace)
    report = reborn.serve(70_000)
    reborn.kernel.close()
    assert report.steps == ()


def test_sets_of_another_type_or_header_are_made_anew_under_the_rules_that_look_at_them(node: Node) -> None:
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
    reborn = Node(node.namespace)
    report = reborn.serve(10)
    reborn.kernel.close()
    assert not report.failed
    assert node.header() == ("hash:ip,port,net", 65_536, 10, 1)
    assert node.header("KUBE-LOAD-BALANCER-FW") == ("hash:ip,port", 65_536, 1, 1)
    run(node.namespace, "ipset", "destroy", "smaller")
    assert comparable(shell(node.namespace, "iptables-save -t filter; ipset list -n | sort")) == comparable(before)


def comparable(saved: str) -> list[str]:
    return [line for line in saved.splitlines() if not line.startswith("#")]


def test_a_set_of_another_type_that_somebody_else_looks_at_is_told_with_what_to_do(node: Node) -> None:
    shell(
        node.namespace,
        f"""
        ipset create {RANGES} hash:ip
        iptables-legacy -A FORWARD -m set --match-set {RANGES} src -j ACCEPT
        """,
    )
    failed = {failure.step.key: failure.message for failure in node.serve(10).failed}
    assert failed[Ipset(RANGES)] == "the set is in use, with another type (remove the rules that name it)"
    assert {type(key) for key in failed} == {Ipset, IpsetEntry}
    assert "-A KUBE-SOURCE-RANGES-FIREWALL -j DROP" in shell(node.namespace, "iptables-legacy-save -t filter")
    assert subprocess.run(["ipset", "test", "KUBE-LOAD-BALANCER-FW", f"{ADDRESS},tcp:80"], check=False).returncode == 0
