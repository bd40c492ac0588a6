"""HostChecks: what is reported, and when."""

from __future__ import annotations

import logging
import queue

import pytest

from kubeproxy_py.checks.all_checks import REASONS
from kubeproxy_py.commands.host_checks import HostChecks
from kubeproxy_py.config.load import load
from kubeproxy_py.events.kube_events import KubeEvent
from kubeproxy_py.kernel import VIRTUAL_SERVERS, table_scope
from kubeproxy_py.metrics.registry import MetricsRegistry
from kubeproxy_py.model.host_facts import ConntrackFacts, HostFacts, KernelFacts
from kubeproxy_py.reconcile.report import DrainReport

FULL = HostFacts(conntrack=ConntrackFacts(95, 100, 0))
FULLER = HostFacts(conntrack=ConntrackFacts(99, 100, 0))
EMPTY = HostFacts(conntrack=ConntrackFacts(1, 100, 0))


class Harness:
    def __init__(self) -> None:
        self.facts = EMPTY
        self.published: list[KubeEvent] = []
        self.registry = MetricsRegistry()
        self._checks = HostChecks("node-a", lambda: self.facts, lambda: load({}), self.published.append, self.registry)

    def check(self, facts: HostFacts) -> list[str]:
        """Check *facts* and return the reasons of the Events that were published."""
        self.facts = facts
        self.published.clear()
        self._checks.check()
        return [event.reason for event in self.published]

    def take_over(self, servers: int) -> None:
        """Report a sync after which there are so many servers."""
        self._checks.callback(lambda: None, lambda: servers)(
            DrainReport(steps=(), failures=(), rows=0, pending=0, apply_s=0.0)
        )

    def counts(self) -> dict[str, float]:
        (family,) = [f for f in self.registry.collect() if f.metric.name == "kubeproxy_ipvs_findings"]
        return {labels[0]: value for labels, value in family.samples if isinstance(value, int | float)}


def test_finding_is_reported_when_it_begins_and_not_again_while_it_lasts() -> None:
    harness = Harness()
    assert harness.check(FULL) == ["ConntrackTableFull"]
    assert harness.check(FULLER) == []
    assert harness.check(EMPTY) == []
    assert harness.check(FULL) == ["ConntrackTableFull"]


def test_event_is_about_the_node_and_has_the_remedy() -> None:
    harness = Harness()
    harness.check(FULL)
    (event,) = harness.published
    assert (str(event.regarding), event.type) == ("Node node-a", "Warning")
    assert "95 of 100" in event.note
    assert "nf_conntrack_max" in event.note


def test_end_of_a_finding_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    harness = Harness()
    harness.check(FULL)
    with caplog.at_level(logging.INFO):
        harness.check(EMPTY)
    assert [record.message for record in caplog.records] == ["Host finding resolved"]


def test_metric_counts_findings_by_reason_and_shows_zeros() -> None:
    harness = Harness()
    assert harness.counts() == dict.fromkeys(REASONS, 0)
    harness.check(FULL)
    assert harness.counts()["ConntrackTableFull"] == 1
    harness.check(EMPTY)
    assert harness.counts() == dict.fromkeys(REASONS, 0)


def test_number_of_servers_is_taken_over_from_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubeproxy_py.threads.start", lambda *_: None)
    harness = Harness()
    harness.facts = HostFacts(kernel=KernelFacts(version=(5, 10, 0), cpus=104))
    harness.take_over(servers=50_000)
    assert harness.check(harness.facts) == ["EstimationStalls"]
    harness.take_over(servers=10)
    assert harness.check(harness.facts) == []
    assert harness.counts()["EstimationStalls"] == 0


def test_checks_run_soon_after_a_table_of_iptables_has_changed() -> None:
    gathered: queue.Queue[None] = queue.Queue()

    def gather() -> HostFacts:
        gathered.put(None)
        return EMPTY

    loaded = load({"ipvs-sync-period": "1h"})
    checks = HostChecks("node-a", gather, lambda: loaded, lambda _event: None, MetricsRegistry())
    on_report = checks.callback(lambda: None, lambda: 0)
    on_report(DrainReport(steps=(), failures=(), rows=0, pending=0, apply_s=0.0))
    gathered.get(timeout=60.0)
    checks.on_suspects([VIRTUAL_SERVERS])
    with pytest.raises(queue.Empty):
        gathered.get(timeout=0.2)
    checks.on_suspects([VIRTUAL_SERVERS, table_scope("IPv4", "nat")])
    gathered.get(timeout=60.0)
