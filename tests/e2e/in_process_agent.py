"""An agent within this process, on the real kernel, whose steps are recorded.

Its parts are those of `run`, but the test sets its time and has it read its folder; each plan is recorded before the
real LinuxKernel applies it, and there are no full compares.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from kubeproxy_py.commands.parts import real_parts
from kubeproxy_py.config.load import load
from kubeproxy_py.kernel import read_all
from kubeproxy_py.model.rows import Rows
from kubeproxy_py.model.steps import Step
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.reconcile.agent import Agent, Timing
from kubeproxy_py.reconcile.drain_queue import FIRST_CHECK_S
from kubeproxy_py.reconcile.report import StaleFlowReport
from kubeproxy_py.sources.manifests.source import ManifestSource
from tests.e2e.recording_kernel import RecordingKernel

_FLAGS = {
    "hostname-override": "node-a",
    "cluster-cidr": "10.244.0.0/16,fd00:10:244::/56",
    "conntrack-max-per-core": "0",
    "nodeport-addresses": "192.168.3.0/24",  # one address, so that plans are short to read
}

_started: list[str] = []


def _record_process(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        _started.append(Path(arguments[0]).name)


sys.addaudithook(_record_process)  # the interpreter reports every way to start a process


class InProcessAgent:
    """An agent for the manifests in *folder*, in the network namespace of the thread."""

    def __init__(self, folder: Path, *, marks_period_s: float = NEVER, **flags: str) -> None:
        """Start one with *flags*, named with _ for -, which reads the marks of the kernel each *marks_period_s*."""
        given = {name.replace("_", "-"): value for name, value in flags.items()}
        loaded = load({**_FLAGS, "manifests": str(folder), **given})
        parts = real_parts(loaded)
        assert isinstance(parts.source, ManifestSource)
        self._source = parts.source
        self._kernel = RecordingKernel(parts.kernel)
        self._now_s = 0.0
        timing = Timing(NEVER, drain_deadline_s=loaded.agent.drain_deadline_s, marks_period_s=marks_period_s)
        self._agent = Agent(self._kernel, parts.compiler, lambda: self._now_s, timing=timing, on_problem=_fail)

    def sync_folder(self) -> list[str]:
        """Read what changed in the folder, sync at once, and return the steps."""
        for event in self._source.poll():
            self._agent.handle_event(event, self._now_s)
        return self._run_due()

    def run_drain_check(self) -> list[str]:
        """Let the time until the first check of draining real servers pass, and return the steps."""
        self._now_s += FIRST_CHECK_S
        return self._run_due()

    def advance(self, seconds: float) -> list[str]:
        """Let *seconds* pass, and return the steps of what is due then."""
        self._now_s += seconds
        return self._run_due()

    def kernel_rows(self) -> Rows:
        """Read and return all rows of the kernel."""
        return read_all(self._kernel)

    def desired_rows(self) -> Rows:
        return self._agent.compiler.desired.rows

    def close(self) -> None:
        self._kernel.close()

    def _run_due(self) -> list[str]:
        self._kernel.steps.clear()
        for report in self._agent.run_due(self._now_s):
            assert isinstance(report, StaleFlowReport) or not report.failures
        return [step_text(step) for step in self._kernel.steps]


def step_text(step: Step) -> str:
    """`add RealServer 10.96.0.10:80/TCP -> 10.244.1.5:8080`; an update with its spec."""
    text = f"{step.verb} {type(step.key).__name__} {step.key}"
    return f"{text} to {step.spec}" if step.verb == "update" else text


def processes_started() -> list[str]:
    """Return the names of all programs that this process has started so far."""
    return list(_started)


def _fail(problem: object) -> None:
    raise AssertionError(problem)
