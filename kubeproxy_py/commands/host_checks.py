"""HostChecks: run the checks of this host in a thread of its own, and report what they find.

Invariants:
- No sync waits for a check: the loop's thread only hands over the Node and the number of servers.
- A Finding is reported when it begins and when it ends, not each time that it is found.
- The checks use at most MAX_CPU_SHARE of a core, and run no more often than full compares, except soon after a table of
  iptables has changed: what stands before our jumps now is not ours to change, but is to be reported.  Then they run
  at once, unless they took CPU_BURST_S more than their share before.
"""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from time import monotonic, sleep

from kubeproxy_py import threads
from kubeproxy_py.checks.all_checks import REASONS, run_checks
from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.commands.finding_reporter import FindingReporter
from kubeproxy_py.config.load import LoadedConfig
from kubeproxy_py.config.types import KubeProxyConfiguration
from kubeproxy_py.events.kube_events import Publish
from kubeproxy_py.kernel import TABLE_KIND, Scope
from kubeproxy_py.kernel.host.cpu_time import cpu_s
from kubeproxy_py.metrics.registry import MetricsRegistry
from kubeproxy_py.model.finding import Finding
from kubeproxy_py.model.host_facts import HostFacts
from kubeproxy_py.model.node import Node
from kubeproxy_py.net import CIDR
from kubeproxy_py.reconcile.containment import contained
from kubeproxy_py.reconcile.cpu_budget import CpuBudget
from kubeproxy_py.reconcile.report import Report

MAX_CPU_SHARE = 0.05
CPU_BURST_S = 1.0  # some runs with iptables-save on the lab kernel


class HostChecks:
    """Checks the host of the node called *node*.

    Args:
        node: The name of the node, which Kubernetes Events are about.
        gather: Returns the facts of this host.
        config: Returns the configuration in use.
        publish: Publishes a Kubernetes Event, which also logs it.
        registry: Gets the number of Findings by reason.
    """

    def __init__(
        self,
        node: str,
        gather: Callable[[], HostFacts],
        config: Callable[[], LoadedConfig],
        publish: Publish,
        registry: MetricsRegistry,
    ) -> None:
        self._reporter = FindingReporter(node, publish)
        self._gather = gather
        self._config = config
        self._registry = registry
        self._node: Node | None = None  # replaced as values by the loop's thread
        self._servers = 0
        self._started = False
        self._woken = threading.Event()
        self._budget = CpuBudget(MAX_CPU_SHARE, CPU_BURST_S)
        self._before: HostFacts | None = None
        for reason in REASONS:
            registry.set("kubeproxy_ipvs_findings", 0, reason)

    def callback(self, node: Callable[[], Node | None], servers: Callable[[], int]) -> Callable[[Report], None]:
        """Return what is called with each report: it takes values over, and starts the thread after the first.

        Args:
            node: Returns the Node; called in the loop's thread.
            servers: Returns the number of virtual and real servers; called in the loop's thread.
        """

        def on_report(_report: Report) -> None:
            self._node, self._servers = node(), servers()
            if not self._started:
                self._started = True
                threads.start("host checks", self._run)

        return on_report

    def on_suspects(self, scopes: Iterable[Scope]) -> None:
        """Check soon if a table of iptables is among *scopes*, which have changed; in the loop's thread."""
        if any(scope.kind == TABLE_KIND for scope in scopes):
            self._woken.set()

    def check(self) -> None:
        """Run all checks once, and report what changed since the last run."""
        facts = self._gather()
        situation = Situation(
            facts=facts,
            before=self._before,
            node=self._node,
            pod_networks=_pod_networks(self._config().config, self._node),
            servers=self._servers,
        )
        self._before = facts
        self._report(run_checks(situation))

    def _run(self) -> None:
        while True:
            self._woken.clear()
            began_cpu_s = cpu_s()
            contained("checks of the host", self.check)
            now_s = monotonic()
            self._budget.spend(cpu_s() - began_cpu_s, now_s)
            pause_s = max(0.0, self._budget.due_s - now_s)
            sleep(pause_s)
            self._woken.wait(max(0.0, self._config().config.ipvs.sync_period_s - pause_s))

    def _report(self, findings: Collection[Finding]) -> None:
        self._reporter.replace(findings)
        counts = Counter(finding.reason for finding in findings)
        with self._registry.batch():
            for reason in REASONS:
                self._registry.set("kubeproxy_ipvs_findings", counts[reason], reason)


def _pod_networks(config: KubeProxyConfiguration, node: Node | None) -> tuple[CIDR, ...]:
    return (*config.cluster_cidr, *(node.pod_cidrs if node else ()))
