"""Recorder: what the API server is asked to keep, and how little, whatever happens."""

import json
from typing import Any

import pytest

from kubeproxy_py.events.kube_events import (
    EventWrite,
    KubeEvent,
    Regarding,
    external_ips_on_node,
    health_check_port_failed,
    health_server_failed,
    metrics_server_failed,
    started_event,
)
from kubeproxy_py.events.recorder import BURST, KNOWN_MAX, NEVER_NS, REFRESH_NS, SERIES_NS, TOKEN_NS, Recorder
from tests.builders import name

S = 10**9
NOW = 1_767_323_045 * S + 6_789  # 2026-01-02T03:04:05.000006Z, and 789 ns
WEB = health_check_port_failed(name("shop/web"), 30_000, "node-a", "address already in use")


class Bench:
    """A recorder with a clock that the test turns."""

    def __init__(self) -> None:
        self.now_ns = NOW
        self.recorder = Recorder("host-1")

    def tell(self, notice: KubeEvent = WEB, times: int = 1) -> list[EventWrite]:
        return [write for _ in range(times) for write in self.recorder.take(notice, self.now_ns)]

    def after(self, elapsed_ns: int) -> list[EventWrite]:
        self.now_ns += elapsed_ns
        return self.recorder.turn(self.now_ns)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def about(number: int) -> KubeEvent:
    """A notice about a Service of its own."""
    return KubeEvent("Warning", "Why", "Do", Regarding("Service", f"s-{number}", "shop"))


def noting(number: int) -> KubeEvent:
    """A notice of its own about one Service."""
    return KubeEvent("Warning", "Why", "Do", Regarding("Service", "web", "shop"), f"note {number}")


def count(write: EventWrite) -> Any:
    return json.loads(write.patch)["series"]["count"]


def test_a_notice_becomes_an_event_as_kube_proxys(bench: Bench) -> None:
    (write,) = bench.tell(started_event("node-a"))
    assert json.loads(write.whole) == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"node-a.{NOW:x}", "namespace": "default"},
        "eventTime": "2026-01-02T03:04:05.000006Z",
        "reportingController": "kube-proxy",
        "reportingInstance": "kube-proxy-host-1",
        "action": "StartKubeProxy",
        "reason": "Starting",
        "regarding": {"kind": "Node", "name": "node-a", "uid": "node-a"},
        "note": "",
        "type": "Normal",
    }


def test_an_event_of_a_service_lives_in_its_namespace(bench: Bench) -> None:
    (write,) = bench.tell(WEB)
    body = json.loads(write.whole)
    assert write.namespace == body["metadata"]["namespace"] == "shop"
    assert body["regarding"] == {"kind": "Service", "name": "web", "namespace": "shop", "uid": "shop/web"}


@pytest.mark.parametrize(
    ("notice", "reason", "action"),
    [
        (started_event("n"), "Starting", "StartKubeProxy"),
        (health_server_failed("n", "in use"), "FailedToStartProxierHealthcheck", "StartKubeProxy"),
        (metrics_server_failed("n", "in use"), "FailedToStartMetricServer", "StartKubeProxy"),
        (WEB, "FailedToStartServiceHealthcheck", "Listen"),
        (external_ips_on_node(name("shop/web"), "n", ["192.0.2.1"]), "ExternalIPOnNode", "SyncProxyRules"),
    ],
)
def test_reasons_and_actions_are_what_people_alert_by(notice: KubeEvent, reason: str, action: str) -> None:
    assert (notice.reason, notice.action) == (reason, action)
    assert notice.type == ("Normal" if reason == "Starting" else "Warning")


def test_two_events_of_one_moment_have_two_names(bench: Bench) -> None:
    names = [bench.tell(noting(n))[0].name for n in range(3)]
    assert len(set(names)) == 3


def test_a_note_is_cut_where_a_character_ends(bench: Bench) -> None:
    (write,) = bench.tell(KubeEvent("Warning", "Why", "Do", Regarding("Node", "n"), "x" + "ä" * 600))
    assert json.loads(write.whole)["note"] == "x" + "ä" * 511


# Series ----------------------------------------------------------------------------------------------------------


def test_the_second_of_its_kind_makes_the_first_a_series(bench: Bench) -> None:
    (first,) = bench.tell()
    bench.now_ns += S
    (second,) = bench.tell()
    assert (second.namespace, second.name) == (first.namespace, first.name)
    assert json.loads(second.patch) == {"series": {"count": 2, "lastObservedTime": "2026-01-02T03:04:06.000006Z"}}


def test_a_series_can_be_created_whole_should_its_event_be_gone(bench: Bench) -> None:
    (first,) = bench.tell()
    (second,) = bench.tell()
    assert json.loads(second.whole) == {**json.loads(first.whole), **json.loads(second.patch)}


def test_those_after_the_second_are_counted_and_written_when_the_series_is_over(bench: Bench) -> None:
    bench.tell(times=2)
    assert bench.tell(times=1000) == []
    assert bench.after(SERIES_NS - 1) == []
    (last,) = bench.after(1)
    assert count(last) == 1002


def test_a_series_of_two_says_nothing_more_at_its_end(bench: Bench) -> None:
    bench.tell(times=2)
    assert bench.after(SERIES_NS) == []


def test_after_six_minutes_the_same_is_a_new_event(bench: Bench) -> None:
    (first,) = bench.tell()
    bench.now_ns += SERIES_NS
    (again,) = bench.tell()
    assert (again.name != first.name, again.patch) == (True, b"")


def test_a_series_that_goes_on_is_refreshed_half_hourly(bench: Bench) -> None:
    bench.tell(times=2)
    written = []
    for _ in range(REFRESH_NS // (60 * S)):
        written += [*bench.after(60 * S), *bench.tell()]
    assert [count(write) for write in written] == [REFRESH_NS // (60 * S) + 1]


def test_another_note_is_another_event(bench: Bench) -> None:
    bench.tell(noting(1))
    (write,) = bench.tell(noting(2))
    assert write.patch == b""


def test_it_is_due_when_there_is_something_to_finish_and_never_else(bench: Bench) -> None:
    assert bench.recorder.due_ns == NEVER_NS
    bench.tell()
    assert bench.recorder.due_ns == NOW + SERIES_NS
    bench.after(SERIES_NS)
    assert bench.recorder.due_ns == NEVER_NS


# Bounds ----------------------------------------------------------------------------------------------------------


def test_an_object_has_a_burst_of_writes_and_then_one_in_five_minutes(bench: Bench) -> None:
    assert sum(len(bench.tell(noting(n))) for n in range(100)) == BURST
    bench.now_ns += TOKEN_NS
    assert [len(bench.tell(noting(n))) for n in (200, 201)] == [1, 0]


def test_one_objects_burst_is_not_anothers(bench: Bench) -> None:
    for n in range(100):
        bench.tell(noting(n))
    assert len(bench.tell(about(1))) == 1


def test_a_clock_that_is_set_back_gives_and_takes_nothing(bench: Bench) -> None:
    for n in range(BURST):
        bench.tell(noting(n))
    bench.now_ns -= 3600 * S
    assert bench.tell(noting(99)) == []


def test_what_is_remembered_is_bounded(bench: Bench) -> None:
    for n in range(KNOWN_MAX + 100):
        bench.tell(about(n), times=2)
    recorder = bench.recorder
    assert (len(recorder._known), len(recorder._allowances)) == (KNOWN_MAX, KNOWN_MAX)


def test_a_series_that_makes_room_for_another_says_its_last_count(bench: Bench) -> None:
    bench.tell(about(0), times=5)
    for n in range(1, KNOWN_MAX):
        bench.tell(about(n))
    last, new = bench.tell(about(KNOWN_MAX))
    assert (count(last), new.patch) == (5, b"")
