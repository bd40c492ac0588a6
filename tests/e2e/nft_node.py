"""A node with iptables-nft: its sets and rules by the adapters, and the agent on Debian's kernel in qemu."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kubeproxy_py.kernel import Scope
from kubeproxy_py.kernel.dispatch import Adapter, dispatch
from kubeproxy_py.kernel.ipset.adapter import IpsetAdapter
from kubeproxy_py.kernel.iptables.adapter import IptablesAdapter
from kubeproxy_py.kernel.iptables.backend import find_commands
from kubeproxy_py.model import kube_names as tables
from kubeproxy_py.model.rows import Chain, Ipset, IpsetEntry, Jump, Key, Rows
from kubeproxy_py.model.steps import Outcome
from kubeproxy_py.net import FAMILIES
from kubeproxy_py.plan.plan import make_plan
from tests.e2e.agent_process import SYNCED, AgentProcess, wait_until
from tests.host_tools.recorded_tables import recorded_rows


class Nft:
    """Sets and rules of one node, by the adapters that LinuxKernel uses."""

    def __init__(self) -> None:
        commands = [found for family in FAMILIES if (found := find_commands("nft", family))]
        sets, rules = IpsetAdapter(FAMILIES), IptablesAdapter(commands)
        self._adapters: dict[type[Key], Adapter] = {Ipset: sets, IpsetEntry: sets, Chain: rules, Jump: rules}
        self._readers: dict[Scope, Adapter] = {
            scope: adapter for adapter in (sets, rules) for scope in adapter.scopes()
        }

    def bring_to(self, rows: Rows) -> Outcome:
        """Plan from the current state to *rows* and apply the plan."""
        return dispatch(make_plan(rows, self.read()), self._adapters)

    def read(self) -> Rows:
        return {key: spec for scope, adapter in self._readers.items() for key, spec in adapter.read(scope).items()}


def node_rows() -> Rows:
    """Return the rows of all sets, some with entries, and of the recorded tables of a node."""
    rows: Rows = {**recorded_rows()}
    for family in FAMILIES:
        rows |= tables.ipsets(family)  # type: ignore[arg-type]  # a dict of some keys is one of all
    entries = ("10.96.0.10,tcp:80", "10.96.0.10,udp:53", "203.0.113.9,sctp:65535")
    rows |= {IpsetEntry("KUBE-CLUSTER-IP", entry): None for entry in entries}
    return rows | {IpsetEntry("KUBE-6-CLUSTER-IP", "fd00:10:96::a,tcp:80"): None}


PATIENCE_S = 100.0  # what takes 1 s elsewhere takes 15 s in qemu, and more on a busy machine


def on_qemu(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test for qemu's kernel, with the timeout that it needs there."""
    marked: Callable[..., None] = pytest.mark.qemu(pytest.mark.timeout(300)(test))
    return marked


def first_sync(agent: AgentProcess) -> str:
    """Wait for the first sync and return its log line."""

    def synced() -> list[str]:
        return [line for line in agent.lines() if SYNCED in line]

    def log() -> str:
        return "\n".join(agent.lines())

    wait_until(lambda: bool(synced()) or not agent.is_running(), log, timeout_s=PATIENCE_S)
    assert synced(), log()
    return synced()[0]
