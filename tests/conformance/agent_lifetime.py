"""One lifetime of the agent within this process, from its start to its end, which leaves the kernel as it is.

The parts are those of `kubeproxy-py run`, on the real kernel; only the clock and the threads are the test's.  So a
lifetime takes a third of a second instead of three, and can end at any step of a plan, as if killed there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from socket import gethostname
from types import TracebackType
from typing import Self

from msgspec.structs import replace

from kubeproxy_py.commands.parts import HostPlatform, linux_kernel, make_parts
from kubeproxy_py.commands.startup import prepare_host
from kubeproxy_py.config.load import LoadedConfig, load, node_name
from kubeproxy_py.kernel import Kernel
from kubeproxy_py.kernel.host_probe import ProbeResult, probe
from kubeproxy_py.model.rows import Rows
from kubeproxy_py.model.steps import Outcome, Plan, Step
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.reconcile.agent import Agent, Timing
from kubeproxy_py.reconcile.report import StaleFlowReport
from kubeproxy_py.sources.manifests.source import ManifestSource
from tests.e2e.recording_kernel import RecordingKernel

_STEPS_MAX = 50  # far more than any case needs, including draining


class KilledError(Exception):
    """The agent was killed during a plan."""


class AgentLifetime:
    """The agent with the manifests in *folder* and the configuration *config*.

    *dies_at* is the part of its first plan, 0.0 to 1.0, after which it is killed; None: it is not.  *steps* are those
    that it applied, *problems* what it would have logged as a problem or failure.
    """

    def __init__(self, folder: Path, config: str, *, dies_at: float | None = None) -> None:
        loaded = load({"manifests": str(folder)}, config.encode())
        platform = _platform(loaded)
        settings = prepare_host(loaded, platform.kernel, platform.host)
        self._kernel = _KillingKernel(platform.kernel, dies_at)
        parts = make_parts(loaded, platform, settings)
        assert isinstance(parts.source, ManifestSource)
        self._source = parts.source
        self._now_s = 0.0
        self.problems: list[str] = []
        self._agent = Agent(
            self._kernel,
            parts.compiler,
            lambda: self._now_s,
            exclude=loaded.config.ipvs.exclude_cidrs,
            timing=Timing(sync_period_s=NEVER),
            on_problem=lambda problem: self.problems.append(str(problem)),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kernel.close()

    @property
    def steps(self) -> Sequence[Step]:
        return self._kernel.steps

    @property
    def desired(self) -> Rows:
        return self._agent.compiler.desired.rows

    def sync_until_idle(self) -> None:
        """Read the folder, and sync until nothing is left to do.  Raises KilledError."""
        for event in self._source.poll():
            self._agent.handle_event(event, self._now_s)
        for _ in range(_STEPS_MAX):
            if self._agent.due_s() == NEVER:
                return
            self._now_s = max(self._now_s, self._agent.due_s())
            for report in self._agent.run_due(self._now_s):
                if not isinstance(report, StaleFlowReport):
                    self.problems += [str(failure) for failure in report.failures]
        self.problems.append(f"not idle after {_STEPS_MAX} steps")


@cache
def _facts() -> ProbeResult:
    """The capabilities of this host, cached because probing starts ten processes."""
    return probe(load({}).agent.iptables_flavour)


def _platform(loaded: LoadedConfig) -> HostPlatform:
    """As `wiring.real_platform` makes it."""
    facts = _facts()
    host = replace(facts.host, node_name=node_name(loaded.config, gethostname()))
    return HostPlatform(linux_kernel(loaded, facts), host, facts.commands)


class _KillingKernel(RecordingKernel):
    """Kills the agent during its first plan; only the applied steps are recorded."""

    def __init__(self, kernel: Kernel, dies_at: float | None) -> None:
        super().__init__(kernel)
        self._dies_at = dies_at

    def apply(self, plan: Plan) -> Outcome:
        steps_applied = len(plan) if self._dies_at is None else int(len(plan) * self._dies_at)
        outcome = super().apply(Plan(plan.steps[:steps_applied]))
        if self._dies_at is not None:
            raise KilledError
        return outcome
