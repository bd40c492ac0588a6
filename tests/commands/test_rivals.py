"""RivalWatch: another service proxy is reported once, by log, Event and metric; its end by log and metric."""

import logging

import pytest

from kubeproxy_py import threads
from kubeproxy_py.commands import rivals as module
from kubeproxy_py.commands.rivals import DISPUTE_PERIOD_S, RivalWatch
from kubeproxy_py.events.announcer import Announcer
from kubeproxy_py.events.kube_events import KubeEvent
from kubeproxy_py.metrics.registry import MetricsRegistry
from kubeproxy_py.model.rows import Address

PROXY = (12, ["/usr/local/bin/kube-proxy"])


class Host:
    """A host with *running* processes and *answers* at its ports."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running: list[tuple[int, list[str]]] = []
        self.answers: dict[int, str] = {}
        self.ours: set[int] = set()
        self.events: list[KubeEvent] = []
        self.registry = MetricsRegistry()
        self.now_s = 0.0
        monkeypatch.setattr(module, "processes", lambda: iter(self.running))
        monkeypatch.setattr(module, "is_in_our_network", lambda pid: pid < 100)
        monkeypatch.setattr(module, "get_local", lambda port, _path: self.answers.get(port, ""))
        monkeypatch.setattr(module, "netlink_users", lambda: [(13, "keepalived")])
        monkeypatch.setattr(module, "sleep", lambda _s: None)
        self.watch = RivalWatch("node-a", self._publish, self.registry, self.ours.__contains__, lambda: self.now_s)

    def _publish(self, event: KubeEvent) -> None:
        self.events.append(event)
        Announcer().publish(event)  # as an agent without an API server does

    def gauge(self) -> object:
        (family,) = (family for family in self.registry.collect() if "other_service_proxies" in family.metric.name)
        return family.samples[0][1]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def test_rival_is_reported_once_and_its_end_is_logged(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert not host.watch.look()
    assert host.gauge() == 0
    host.running = [PROXY]
    assert host.watch.look()
    assert host.watch.look()
    assert host.gauge() == 1
    assert [(event.reason, str(event.regarding)) for event in host.events] == [("AnotherServiceProxy", "Node node-a")]
    assert "kube-proxy (pid 12)" in host.events[0].note
    host.running = []
    assert not host.watch.look()
    assert host.gauge() == 0
    begin, end = caplog.records
    assert begin.levelname == "WARNING"
    assert begin.message.startswith("Node node-a: AnotherServiceProxy: kube-proxy (pid 12)")
    assert (end.levelname, end.message) == ("INFO", "Host finding resolved")


def test_a_proxy_in_another_network_namespace_is_no_rival(host: Host) -> None:
    host.running = [(100, PROXY[1])]
    assert not host.watch.look()


def test_our_own_answers_are_not_those_of_a_rival(host: Host) -> None:
    host.answers = {10249: "ipvs"}
    host.ours.add(10249)
    assert not host.watch.look()
    host.ours.clear()
    assert host.watch.look()


def test_disputed_rows_are_told_at_most_once_in_a_while(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "start_task", lambda _name, run: run())
    for _ in range(3):
        host.watch.on_disputed([Address("10.96.0.10")])
        host.now_s += 1
    assert [event.reason for event in host.events] == ["RepeatedDrift"]
    assert "Address 10.96.0.10" in host.events[0].note
    assert "keepalived (pid 13)" in host.events[0].note
    host.now_s += DISPUTE_PERIOD_S
    host.watch.on_disputed([Address("10.96.0.10")])
    assert [event.reason for event in host.events] == ["RepeatedDrift"] * 2
