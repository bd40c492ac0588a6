"""Events in kube-apiserver: in the stand-in and, where it is installed, in the real one."""

import itertools
import json
from typing import Any

import pytest

from kubeproxy_py.events.kube_events import KubeEvent, Regarding
from kubeproxy_py.events.recorder import Recorder
from tests.apiserver.client import Client
from tests.sources.conftest import require_version

Json = dict[str, Any]
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"
SINCE = (23, "before 1.21.6 and 1.22.3, refuses an Event about a Node, which is in the namespace default")

_numbers = itertools.count(1)


def event(**fields: Any) -> Json:
    """Return a valid Event with *fields* replaced (None: removed)."""
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
    """Send a PATCH and return the HTTP status."""
    request = cluster.request("PATCH", path, body)
    request.add_header("Content-Type", content_type)
    status: int = cluster.open(request).status
    return status


def test_event_is_created_and_listed_in_its_namespace(cluster: Client) -> None:
    require_version(cluster, *SINCE)
    body = event()
    status, created = cluster.request_json("POST", EVENTS, body)
    assert (status, created["kind"]) == (201, "Event")
    _, listed = cluster.request_json("GET", EVENTS)
    assert body["metadata"]["name"] in [item["metadata"]["name"] for item in listed["items"]]


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
        {"metadata": {"name": "Not_A_Name", "namespace": "default"}},
    ],
    ids=str,
)
def test_invalid_event_is_rejected(cluster: Client, wrong: Json) -> None:
    status, answer = cluster.request_json("POST", EVENTS, event(**wrong))
    assert (status, answer["reason"]) == (422, "Invalid")


def test_event_about_an_object_of_another_namespace_is_accepted(cluster: Client) -> None:
    body = event(regarding={"kind": "Service", "name": "web", "namespace": "shop"})
    status, answer = cluster.request_json("POST", EVENTS, body)
    assert (status, answer["kind"]) == (201, "Event")


def test_recorder_events_with_the_longest_names_and_notes_are_accepted(cluster: Client) -> None:
    require_version(cluster, *SINCE)
    recorder = Recorder("h" * 253)
    kube_event = KubeEvent("Warning", "r" * 128, "a" * 128, Regarding("Service", "s" * 63, "default"), "ä" * 2000)
    node = KubeEvent("Normal", "Starting", "StartKubeProxy", Regarding("Node", "n" * 253))
    for item in (kube_event, node):
        (write,) = recorder.record(item, 1_800_000_000_000_000_000)
        status, answer = cluster.request_json("POST", EVENTS, json.loads(write.body))
        assert status == 201, answer


def test_patch_changes_the_series(cluster: Client) -> None:
    require_version(cluster, *SINCE)
    body = event()
    path = f"{EVENTS}/{body['metadata']['name']}"
    cluster.request_json("POST", EVENTS, body)
    assert patch(cluster, path, series(2)) == 200
    assert cluster.request_json("GET", path)[1]["series"]["count"] == 2


def test_patch_of_anything_but_the_series_is_rejected(cluster: Client) -> None:
    require_version(cluster, 24, "compares an Event with itself when it is changed, so everything may change")
    body = event()
    path = f"{EVENTS}/{body['metadata']['name']}"
    cluster.request_json("POST", EVENTS, body)
    assert patch(cluster, path, {"note": "other"}) == 422
    assert cluster.request_json("GET", path)[1].get("note", "") == ""


def test_patch_of_a_deleted_event_is_not_found(cluster: Client) -> None:
    assert patch(cluster, f"{EVENTS}/none", series(2)) == 404


def test_patch_of_another_content_type_is_rejected(cluster: Client) -> None:
    body = event()
    cluster.request_json("POST", EVENTS, body)
    assert patch(cluster, f"{EVENTS}/{body['metadata']['name']}", series(2), "application/json") == 415
