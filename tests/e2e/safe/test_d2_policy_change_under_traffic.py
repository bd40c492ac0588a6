"""D2: externalTrafficPolicy changes between Local and Cluster: no request is lost after any step of the plan.

A connection to a pod of another node that is not masqueraded gets no answer, so requests are sent after every single
step, to every frontend, as often as it has endpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from kubeproxy_py.commands.parts import real_parts
from kubeproxy_py.config.load import load
from kubeproxy_py.kernel import Kernel
from kubeproxy_py.model.steps import Outcome, Plan, StepFailure
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.reconcile.agent import Agent, Timing
from kubeproxy_py.sources.manifests.source import ManifestSource
from lab.network import Cluster
from tests.e2e.manifests import Folder
from tests.e2e.recording_kernel import RecordingKernel
from tests.e2e.safe.guarded import PODS, LoadBalancer, answer
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

SERVICE = LoadBalancer(25, node_port=30925)
EXTERNAL_IPS = ("198.51.100.25", "2001:db8:e::25")
TARGETS = (
    *((address, 80) for address in (*SERVICE.addresses, *EXTERNAL_IPS)),
    *((address, SERVICE.node_port) for address in ("192.168.3.10", "fd00:3::10")),
)
CHANGES = 12
_FLAGS = {
    "hostname-override": "node-a",
    "cluster-cidr": "10.244.0.0/16,fd00:10:244::/56",
    "conntrack-max-per-core": "0",
    "nodeport-addresses": "192.168.3.0/24,fd00:3::/64",
}


class ProbedKernel(RecordingKernel):
    """Applies one step after the other, and sends requests after each once *probing* is set."""

    def __init__(self, kernel: Kernel, cluster: Cluster, threads: ThreadPoolExecutor) -> None:
        super().__init__(kernel)
        self.probing = False
        self.requests = 0
        self.lost: list[str] = []
        self._cluster = cluster
        self._threads = threads

    def apply(self, plan: Plan) -> Outcome:
        failures: list[StepFailure] = []
        for step in plan:
            failures += super().apply(Plan((step,))).failures
            if self.probing:
                self._probe(str(step))
        return Outcome(tuple(failures))

    def _probe(self, after: str) -> None:
        # In a thread of its own, because this one is in the namespace of node A.
        requests = [target for target in TARGETS for _ in PODS]
        for target, name in zip(requests, self._threads.map(self._ask, requests), strict=True):
            self.requests += 1
            if not name:
                self.lost.append(f"{target} after {after}")

    def _ask(self, target: tuple[str, int]) -> str:
        return answer(self._cluster, "outside", *target)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with serving_cluster() as built:
        yield built


def test_no_request_is_lost_when_the_policy_changes(cluster: Cluster, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with cluster.node_a.inside(), ThreadPoolExecutor(4) as threads:
        parts = real_parts(load({**_FLAGS, "manifests": str(tmp_path)}))
        assert isinstance(parts.source, ManifestSource)
        with closing(ProbedKernel(parts.kernel, cluster, threads)) as kernel:
            agent = Agent(kernel, parts.compiler, lambda: 0.0, timing=Timing(sync_period_s=NEVER))
            for number in range(CHANGES + 1):
                policy = "Local" if number % 2 else "Cluster"
                folder.write("all", SERVICE.objects(externalTrafficPolicy=policy, externalIPs=list(EXTERNAL_IPS)))
                for event in parts.source.poll():
                    agent.handle_event(event, 0.0)
                for report in agent.run_due(0.0):
                    assert not getattr(report, "failures", ())
                kernel.probing = True
    assert kernel.lost == []
    assert kernel.requests >= 3000
