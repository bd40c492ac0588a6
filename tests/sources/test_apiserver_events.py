"""What kube-apiserver does with Events, in the stand-in and, where its programs are, in the real one."""

import itertools
import json
from typing import Any

import pytest

from kubeproxy_py.events.kube_events import KubeEvent, Regarding
from kubeproxy_py.events.recorder import Recorder
from tests.apiserver.client import Client

Json = dict[str, Any]
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"

_numbers = itertools.count(1)


def event(**fields: Any) -> Json:
    """An Event that is as it should be, but for *fields* (None: left out)."""
    body: Json = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"node-a.{next(_numbers):x}", "namespace": "default"},
        "eventTime": "2026-01-02T03:04:05.000006Z",
        "reportingController": "kube-proxy",
        "reportingInstance": "kube-proxy-node-a",
        "action": "StartKubeProxy",
        "reason": "Starting",
        "regarding": {"kind": "Node", "name": "node-a", "uid": "node-a"},
        "note": "",
        "type": "Normal",
    }
    return {key: value for key, value in {**body, **fields}.items() if value is not None}


def series(count: int) -> Json:
    return {"series": {"count": count, "lastObservedTime": "2026-01-02T03:05:05.000006Z"}}


def patch(cluster: Client, path: str, body: Json, content_type: str = "application/merge-patch+json") -> int:
    """The status of the answer to a PATCH."""
    request = cluster.request("PATCH", path, body)
    request.add_header("Content-Type", content_type)
    status: int = cluster.open(request).status
    return status


def test_an_event_is_created_and_listed_in_its_namespace(cluster: Client) -> None:
    body = event()
    status, made = cluster.ask("POST", EVENTS, body)
    assert (status, made["kind"]) == (201, "Event")
    _, found = cluster.ask("GET", EVENTS)
    assert body["metadata"]["name"] in [each["metadata"]["name"] for each in found["items"]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"reason": None},
        {"action": ""},
        {"action": "a" * 129},
        {"reportingController": None},
        {"reportingInstance": "i" * 129},
        {"type": "Error"},
        {"note": "ä" * 513},
        {"eventTime": None},
        {"series": {"count": 1, "lastObservedTime": "2026-01-02T03:05:05.000006Z"}},
        {"regarding": {"kind": "Service", "name": "web", "namespace": "shop"}},
        {"metadata": {"name": "Not_A_Name", "namespace": "default"}},
    ],
    ids=str,
)
def test_an_event_that_breaks_a_rule_is_refused(cluster: Client, wrong: Json) -> None:
    status, answer = cluster.ask("POST", EVENTS, event(**wrong))
    assert (status, answer["reason"]) == (422, "Invalid")


def test_what_the_recorder_makes_of_the_longest_names_and_notes_is_accepted(cluster: Client) -> None:
    recorder = Recorder("h" * 253)
    notice = KubeEvent("Warning", "r" * 128, "a" * 128, Regarding("Service", "s" * 63, "default"), "ä" * 2000)
    node = KubeEvent("Normal", "Starting", "StartKubeProxy", Regarding("Node", "n" * 253))
    for each in (notice, node):
        (write,) = recorder.take(each, 1_800_000_000_000_000_000)
        status, answer = cluster.ask("POST", EVENTS, json.loads(write.whole))
        assert status == 201, answer


def test_a_patch_changes_the_series_and_nothing_else(cluster: Client) -> None:
    body = event()
    path = f"{EVENTS}/{body['metadata']['name']}"
    cluster.ask("POST", EVENTS, body)
    assert patch(cluster, path, series(2)) == 200
    assert patch(cluster, path, {"note": "other"}) == 422
    _, now = cluster.ask("GET", path)
    assert (now["series"]["count"], now.get("note", "")) == (2, "")


def test_a_patch_of_an_event_that_is_gone_finds_nothing(cluster: Client) -> None:
    assert patch(cluster, f"{EVENTS}/none", series(2)) == 404


def test_a_patch_of_an_unknown_sort_is_refused(cluster: Client) -> None:
    body = event()
    cluster.ask("POST", EVENTS, body)
    assert patch(cluster, f"{EVENTS}/{body['metadata']['name']}", series(2), "application/json") == 415
