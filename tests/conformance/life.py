"""life: one life of the agent within this process, from its start to its end, which leaves the kernel as it is.

Law: its parts are those of `kubeproxy-py run`, on the real kernel; only the clock and the threads are the test's.  So a
life costs a third of a second, not three, and can end at a chosen step of a plan, as if killed there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from socket import gethostname
from types import TracebackType
from typing import Self

from kubeproxy_py.commands.app import HostPlatform, linux_kernel, make_parts
from kubeproxy_py.commands.startup import prepare
from kubeproxy_py.compile.base import Machine
from kubeproxy_py.compile.node_context import Host
from kubeproxy_py.config.load import LoadedConfig, load, node_name
from kubeproxy_py.kernel import Kernel
from kubeproxy_py.kernel.host_probe import HostFacts, probe
from kubeproxy_py.model.rows import Rows
from kubeproxy_py.model.steps import Outcome, Plan, Step
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.reconcile.reconciler import Reconciler, Timing
from kubeproxy_py.sources.manifests.source import ManifestFolder
from tests.e2e.recording_kernel import NotingKernel

_TURNS_MAX = 50  # far more than any case takes, draining included


class Killed(Exception):  # noqa: N818 - read at `except Killed`
    """The life ended in the middle of a plan."""


class Life:
    """The agent on the manifests in *folder*, with the configuration *config*.

    *dies_at* is the part of its first plan, 0.0 to 1.0, after which it is Killed; None: it lives.  *steps* are those
    that it did, *said* what it would have logged as a problem.
    """

    def __init__(self, folder: Path, config: str, *, dies_at: float | None = None) -> None:
        loaded = load({"manifests": str(folder)}, config.encode())
        platform = _platform(loaded)
        settings = prepare(loaded, platform.kernel, platform.machine, platform.host.families)
        self._kernel = _MortalKernel(platform.kernel, dies_at)
        parts = make_parts(loaded, platform, settings)
        assert isinstance(parts.source, ManifestFolder)
        self._source = parts.source
        self._now_s = 0.0
        self.said: list[str] = []
        self._agent = Reconciler(
            self._kernel,
            parts.compiler,
            lambda: self._now_s,
            exclude=loaded.config.ipvs.exclude_cidrs,
            timing=Timing(sync_period_s=NEVER),
            on_problem=lambda problem: self.said.append(str(problem)),
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

    def settle(self) -> None:
        """Read the folder, and do all that follows until nothing is left to do.  Raises Killed."""
        for event in self._source.load():
            self._agent.handle_event(event, self._now_s)
        for _ in range(_TURNS_MAX):
            if self._agent.due_s() == NEVER:
                return
            self._now_s = max(self._now_s, self._agent.due_s())
            for report in self._agent.step():
                self.said += [str(failure) for failure in report.failed]
        self.said.append(f"not at rest after {_TURNS_MAX} turns")


@cache
def _facts() -> HostFacts:
    """What this host can do; it takes ten processes to find out, and stays."""
    return probe(load({}).own.iptables_flavour)


def _platform(loaded: LoadedConfig) -> HostPlatform:
    """As `wiring.real_platform` makes it."""
    facts = _facts()
    machine = Machine((facts.kernel_version[0], facts.kernel_version[1]), facts.cpus)
    host = Host(node_name(loaded.config, gethostname()), facts.families, facts.random_fully)
    return HostPlatform(linux_kernel(loaded, facts, machine), host, machine, facts.programs)


class _MortalKernel(NotingKernel):
    """It may end amidst the first plan; the steps noted are those that it lived to do."""

    def __init__(self, kernel: Kernel, dies_at: float | None) -> None:
        super().__init__(kernel)
        self._dies_at = dies_at

    def apply(self, plan: Plan) -> Outcome:
        lives_to_do = len(plan) if self._dies_at is None else int(len(plan) * self._dies_at)
        outcome = super().apply(Plan(plan.steps[:lives_to_do]))
        if self._dies_at is not None:
            raise Killed
        return outcome
