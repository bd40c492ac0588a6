"""Recorder: the writes that follow from Events, series, and bounds."""

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
PORT_FAILED = health_check_port_failed(name("shop/web"), 30_000, "node-a", "address already in use")


class RecorderHarness:
    """A recorder with a clock that the test sets."""

    def __init__(self) -> None:
        self.now_ns = NOW
        self.recorder = Recorder("host-1")

    def record(self, event: KubeEvent = PORT_FAILED, times: int = 1) -> list[EventWrite]:
        return [write for _ in range(times) for write in self.recorder.record(event, self.now_ns)]

    def advance(self, elapsed_ns: int) -> list[EventWrite]:
        self.now_ns += elapsed_ns
        return self.recorder.due_writes(self.now_ns)


@pytest.fixture
def harness() -> RecorderHarness:
    return RecorderHarness()


def event_of_object(number: int) -> KubeEvent:
    """Return an Event about a separate Service."""
    return KubeEvent("Warning", "Why", "Do", Regarding("Service", f"s-{number}", "shop"))


def event_with_note(number: int) -> KubeEvent:
    """Return an Event with a separate note about one Service."""
    return KubeEvent("Warning", "Why", "Do", Regarding("Service", "web", "shop"), f"note {number}")


def count(write: EventWrite) -> Any:
    return json.loads(write.patch)["series"]["count"]


def test_event_has_the_fields_of_kube_proxys_events(harness: RecorderHarness) -> None:
    (write,) = harness.record(started_event("node-a"))
    assert json.loads(write.body) == {
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


def test_event_of_a_service_is_in_its_namespace(harness: RecorderHarness) -> None:
    (write,) = harness.record(PORT_FAILED)
    body = json.loads(write.body)
    assert write.namespace == body["metadata"]["namespace"] == "shop"
    assert body["regarding"] == {"kind": "Service", "name": "web", "namespace": "shop", "uid": "shop/web"}


@pytest.mark.parametrize(
    ("event", "reason", "action"),
    [
        (started_event("n"), "Starting", "StartKubeProxy"),
        (health_server_failed("n", "in use"), "FailedToStartProxierHealthcheck", "StartKubeProxy"),
        (metrics_server_failed("n", "in use"), "FailedToStartMetricServer", "StartKubeProxy"),
        (PORT_FAILED, "FailedToStartServiceHealthcheck", "Listen"),
        (external_ips_on_node(name("shop/web"), "n", ["192.0.2.1"]), "ExternalIPOnNode", "SyncProxyRules"),
    ],
)
def test_reasons_and_actions_are_stable(event: KubeEvent, reason: str, action: str) -> None:
    assert (event.reason, event.action) == (reason, action)
    assert event.type == ("Normal" if reason == "Starting" else "Warning")


def test_events_of_the_same_time_have_different_names(harness: RecorderHarness) -> None:
    names = [harness.record(event_with_note(n))[0].name for n in range(3)]
    assert len(set(names)) == 3


def test_long_note_is_truncated_between_characters(harness: RecorderHarness) -> None:
    (write,) = harness.record(KubeEvent("Warning", "Why", "Do", Regarding("Node", "n"), "x" + "ä" * 600))
    assert json.loads(write.body)["note"] == "x" + "ä" * 511


# Series


def test_second_occurrence_makes_the_event_a_series(harness: RecorderHarness) -> None:
    (first,) = harness.record()
    harness.now_ns += S
    (second,) = harness.record()
    assert (second.namespace, second.name) == (first.namespace, first.name)
    assert json.loads(second.patch) == {"series": {"count": 2, "lastObservedTime": "2026-01-02T03:04:06.000006Z"}}


def test_series_has_a_body_to_create_a_deleted_event_again(harness: RecorderHarness) -> None:
    (first,) = harness.record()
    (second,) = harness.record()
    assert json.loads(second.body) == {**json.loads(first.body), **json.loads(second.patch)}


def test_later_occurrences_are_counted_and_written_when_the_series_ends(harness: RecorderHarness) -> None:
    harness.record(times=2)
    assert harness.record(times=1000) == []
    assert harness.advance(SERIES_NS - 1) == []
    (last,) = harness.advance(1)
    assert count(last) == 1002


def test_series_of_two_writes_nothing_at_its_end(harness: RecorderHarness) -> None:
    harness.record(times=2)
    assert harness.advance(SERIES_NS) == []


def test_same_event_after_six_minutes_is_a_new_event(harness: RecorderHarness) -> None:
    (first,) = harness.record()
    harness.now_ns += SERIES_NS
    (second,) = harness.record()
    assert (second.name != first.name, second.patch) == (True, b"")


def test_continuing_series_is_refreshed_every_half_hour(harness: RecorderHarness) -> None:
    harness.record(times=2)
    writes = []
    for _ in range(REFRESH_NS // (60 * S)):
        writes += [*harness.advance(60 * S), *harness.record()]
    assert [count(write) for write in writes] == [REFRESH_NS // (60 * S) + 1]


def test_event_with_another_note_is_another_event(harness: RecorderHarness) -> None:
    harness.record(event_with_note(1))
    (write,) = harness.record(event_with_note(2))
    assert write.patch == b""


def test_due_time_is_the_end_of_the_series_or_never(harness: RecorderHarness) -> None:
    assert harness.recorder.due_ns == NEVER_NS
    harness.record()
    assert harness.recorder.due_ns == NOW + SERIES_NS
    harness.advance(SERIES_NS)
    assert harness.recorder.due_ns == NEVER_NS


# Bounds


def test_object_has_a_burst_of_writes_and_then_one_in_five_minutes(harness: RecorderHarness) -> None:
    assert sum(len(harness.record(event_with_note(n))) for n in range(100)) == BURST
    harness.now_ns += TOKEN_NS
    assert [len(harness.record(event_with_note(n))) for n in (200, 201)] == [1, 0]


def test_objects_have_separate_limits(harness: RecorderHarness) -> None:
    for n in range(100):
        harness.record(event_with_note(n))
    assert len(harness.record(event_of_object(1))) == 1


def test_clock_set_back_adds_no_writes(harness: RecorderHarness) -> None:
    for n in range(BURST):
        harness.record(event_with_note(n))
    harness.now_ns -= 3600 * S
    assert harness.record(event_with_note(99)) == []


def test_memory_is_bounded(harness: RecorderHarness) -> None:
    for n in range(KNOWN_MAX + 100):
        harness.record(event_of_object(n), times=2)
    recorder = harness.recorder
    assert (len(recorder._series), len(recorder._allowances)) == (KNOWN_MAX, KNOWN_MAX)


def test_evicted_series_writes_its_final_count(harness: RecorderHarness) -> None:
    harness.record(event_of_object(0), times=5)
    for n in range(1, KNOWN_MAX):
        harness.record(event_of_object(n))
    last, new = harness.record(event_of_object(KNOWN_MAX))
    assert (count(last), new.patch) == (5, b"")
