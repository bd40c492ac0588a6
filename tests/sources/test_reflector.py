"""ListWatch: its requests and the events that follow from responses, without a connection."""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeproxy_py.model.events import Event, ServiceDeleted, ServiceUpserted, SliceDeleted, SliceUpserted, Synced
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.model.services import ObjectName
from kubeproxy_py.sources.kubernetes.reflector import ListWatch, Request
from kubeproxy_py.sources.kubernetes.resources import SERVICES, SLICES, node_resource

Json = dict[str, Any]


def service(name: str, version: int = 1, port: object = 80) -> Json:
    meta = {"name": name, "namespace": "shop", "resourceVersion": str(version)}
    return {"metadata": meta, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": port}]}}


def page(*items: Json, version: int = 10, continuation: str = "") -> bytes:
    meta = {"resourceVersion": str(version), **({"continue": continuation} if continuation else {})}
    return json.dumps({"metadata": meta, "items": items}).encode()


def line(event: str, body: Json) -> bytes:
    return json.dumps({"type": event, "object": body}).encode()


def bookmark(version: int) -> bytes:
    return line("BOOKMARK", {"kind": "Service", "metadata": {"resourceVersion": str(version)}})


def status(code: int, message: str = "no") -> Json:
    return {"kind": "Status", "code": code, "message": message}


def error_body(code: int, message: str = "no") -> bytes:
    return json.dumps(status(code, message)).encode()


def listwatch(resource: Any = SERVICES, random: float = 0.0) -> ListWatch:
    return ListWatch(resource, lambda: random)


def watching(*items: Json, version: int = 10) -> ListWatch:
    """Return a ListWatch that has listed *items* and is watching."""
    list_watch = listwatch()
    list_watch.on_response(200, page(*items, version=version))
    list_watch.next_request()
    assert list_watch.is_watching
    return list_watch


def query(request: Request) -> dict[str, str]:
    return {key: values[0] for key, values in parse_qs(urlsplit(request.target).query).items()}


def summary(events: list[Event]) -> list[str]:
    lines = []
    for event in events:
        match event:
            case ServiceUpserted(service):
                lines.append(f"+{service.name.name}:{service.ports[0].port}")
            case SliceUpserted(slice_):
                lines.append(f"+{slice_.name.name}")
            case ServiceDeleted(name) | SliceDeleted(name):
                lines.append(f"-{name.name}")
            case Synced(feed):
                lines.append(f"synced {feed}")
            case Problem():
                lines.append(f"! {event}")
            case _:
                raise AssertionError(event)
    return lines


# Requests


@pytest.mark.parametrize(
    ("resource", "path", "selectors"),
    [
        (
            SERVICES,
            "/api/v1/services",
            {
                "labelSelector": "!service.kubernetes.io/service-proxy-name",
                "fieldSelector": "spec.clusterIP!=None",
            },
        ),
        (
            SLICES,
            "/apis/discovery.k8s.io/v1/endpointslices",
            {"labelSelector": "!service.kubernetes.io/headless"},
        ),
        (node_resource("node-a"), "/api/v1/nodes", {"fieldSelector": "metadata.name=node-a"}),
    ],
)
def test_lists_and_watches_use_kube_proxys_selectors(resource: Any, path: str, selectors: dict[str, str]) -> None:
    list_watch = listwatch(resource)
    assert urlsplit(list_watch.next_request().target).path == path
    assert query(list_watch.next_request()) == {"limit": "500", **selectors}
    list_watch.on_response(200, page())
    assert query(list_watch.next_request()).items() >= selectors.items()


def test_watch_starts_from_the_version_of_the_list_and_allows_bookmarks() -> None:
    request = watching(version=42).next_request()
    wanted = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": "42"}
    assert request.is_watch
    assert query(request).items() >= wanted.items()


@pytest.mark.parametrize(("random", "timeout_s"), [(0.0, "300"), (0.5, "450"), (0.999, "599")])
def test_watch_timeout_is_5_to_10_minutes(random: float, timeout_s: str) -> None:
    list_watch = listwatch(random=random)
    list_watch.on_response(200, page())
    assert query(list_watch.next_request())["timeoutSeconds"] == timeout_s


# Lists


def test_list_is_read_by_pages_and_synced_after_the_last() -> None:
    list_watch = listwatch()
    assert summary(list_watch.on_response(200, page(service("a"), continuation="next"))) == ["+a:80"]
    assert query(list_watch.next_request())["continue"] == "next"
    assert summary(list_watch.on_response(200, page(service("b")))) == ["+b:80", "synced services"]


def test_synced_is_emitted_once() -> None:
    list_watch = watching(service("a"))
    list_watch.on_line(line("ERROR", status(410)))
    assert summary(list_watch.on_response(200, page(service("a")))) == []


def test_relist_emits_only_differences() -> None:
    list_watch = watching(service("a"), service("b"), service("c"))
    list_watch.on_line(line("ERROR", status(410)))
    events = list_watch.on_response(200, page(service("a", 11), service("b", 12, port=81), service("d", 13)))
    assert sorted(summary(events)) == ["+b:81", "+d:80", "-c"]


def test_relist_deletes_nothing_before_the_last_page() -> None:
    list_watch = watching(service("a"), service("b"))
    list_watch.on_line(line("ERROR", status(410)))
    assert list_watch.on_response(200, page(service("a"), continuation="next")) == []
    assert summary(list_watch.on_response(200, page())) == ["-b"]


def test_interrupted_list_starts_again_from_the_first_page() -> None:
    list_watch = watching(service("a"))
    list_watch.on_line(line("ERROR", status(410)))
    list_watch.on_response(200, page(service("a"), continuation="next"))
    list_watch.on_failure(Problem("x", "y", "z"))
    assert "continue" not in query(list_watch.next_request())
    assert summary(list_watch.on_response(200, page())) == ["-a"]


def test_expired_continuation_leads_to_a_list_without_pages() -> None:
    list_watch = listwatch()
    list_watch.on_response(200, page(service("a"), continuation="next"))
    assert list_watch.on_response(410, error_body(410)) == []
    request = list_watch.next_request()
    assert not {"limit", "continue"} & query(request).keys()
    assert request.wait_s == 0
    assert summary(list_watch.on_response(200, page(service("a"), service("b")))) == ["+b:80", "synced services"]


def test_invalid_object_in_a_list_keeps_its_last_valid_version() -> None:
    list_watch = watching(service("a"), service("b"))
    list_watch.on_line(line("ERROR", status(410)))
    problem, *others = summary(list_watch.on_response(200, page(service("a", port=0), service("b", port=81))))
    assert problem.startswith("! Service shop/a: spec.ports[0].port: 0 is not a port")
    assert others == ["+b:81"]


# Watches


def test_watch_emits_changes() -> None:
    list_watch = watching(service("a"))
    assert summary(list_watch.on_line(line("ADDED", service("b", 11)))) == ["+b:80"]
    assert summary(list_watch.on_line(line("MODIFIED", service("b", 12, port=81)))) == ["+b:81"]
    assert summary(list_watch.on_line(line("DELETED", service("a", 13)))) == ["-a"]


def test_change_of_an_unused_field_emits_nothing() -> None:
    list_watch = watching(service("a"))
    assert list_watch.on_line(line("MODIFIED", {**service("a", 11), "status": {"conditions": []}})) == []


@pytest.mark.parametrize(
    "line_sent", [bookmark(77), line("MODIFIED", service("a", 77)), line("DELETED", service("a", 77))]
)
def test_next_watch_resumes_from_the_last_version_received(line_sent: bytes) -> None:
    list_watch = watching(service("a"))
    list_watch.on_line(line_sent)
    list_watch.on_watch_end(400)
    request = list_watch.next_request()
    assert (query(request)["resourceVersion"], request.wait_s) == ("77", 0)


def test_invalid_object_in_a_watch_advances_the_version() -> None:
    list_watch = watching()
    (problem,) = summary(list_watch.on_line(line("ADDED", service("a", 77, port="80"))))
    assert problem.startswith("! Service shop/a: spec.ports[0].port: expected int")
    list_watch.on_watch_end(400)
    assert query(list_watch.next_request())["resourceVersion"] == "77"


def test_expired_watch_leads_to_an_immediate_list() -> None:
    list_watch = watching(service("a"))
    assert list_watch.on_line(line("ERROR", status(410))) == []
    assert not list_watch.is_watching
    request = list_watch.next_request()
    assert (request.is_watch, request.wait_s) == (False, 0)


def test_repeatedly_expired_watch_backs_off() -> None:
    list_watch = watching()
    waits_s = []
    for _ in range(4):
        list_watch.on_line(line("ERROR", status(410)))
        waits_s.append(list_watch.next_request().wait_s)
        list_watch.on_response(200, page())
        list_watch.next_request()
    assert waits_s == [0, 0.8, 1.6, 3.2]


def test_watch_rejected_with_410_leads_to_a_list() -> None:
    list_watch = watching()
    list_watch.on_response(410, error_body(410))
    assert not list_watch.next_request().is_watch


def test_watch_ended_by_another_error_leads_to_a_delayed_list() -> None:
    list_watch = watching()
    (problem,) = summary(list_watch.on_line(line("ERROR", status(500, "etcd is unavailable"))))
    assert problem == "! Kubernetes API /api/v1/services: HTTP 500: etcd is unavailable"
    request = list_watch.next_request()
    assert (request.is_watch, request.wait_s) == (False, 0.8)


def test_line_that_is_not_an_event_ends_the_watch_which_is_resumed() -> None:
    list_watch = watching(version=42)
    (problem,) = summary(list_watch.on_line(b"<html>"))
    assert "a line is not a watch event" in problem
    assert not list_watch.is_watching
    list_watch.on_watch_end(400)
    request = list_watch.next_request()
    assert (request.is_watch, query(request)["resourceVersion"], request.wait_s) == (True, "42", 0.8)


def test_watch_that_ends_immediately_backs_off() -> None:
    list_watch = watching()
    waits_s = []
    for _ in range(3):
        list_watch.on_watch_end(0.1)
        waits_s.append(list_watch.next_request().wait_s)
    assert waits_s == [0.8, 1.6, 3.2]
    list_watch.on_watch_end(100)
    assert list_watch.next_request().wait_s == 0
    list_watch.on_watch_end(0.1)
    assert list_watch.next_request().wait_s == 0.8


# Other server versions


def test_unsupported_field_selector_is_omitted() -> None:
    list_watch = listwatch()
    assert list_watch.on_response(400, error_body(400, "field label not supported: spec.clusterIP")) == []
    assert query(list_watch.next_request()).keys() == {"limit", "labelSelector"}
    list_watch.on_response(200, page())
    assert "fieldSelector" not in query(list_watch.next_request())


def endpoints(name: str) -> Json:
    meta = {"name": name, "namespace": "shop", "resourceVersion": "5"}
    return {"metadata": meta, "subsets": [{"addresses": [{"ip": "10.1.0.5"}], "ports": [{"port": 80}]}]}


def test_endpoints_are_listed_where_the_server_has_no_slices() -> None:
    list_watch = listwatch(SLICES)
    assert list_watch.on_response(404, error_body(404)) == []
    assert urlsplit(list_watch.next_request().target).path == "/api/v1/endpoints"
    assert summary(list_watch.on_response(200, page(endpoints("web")))) == ["+endpoints/web/0/IPv4", "synced slices"]


def test_slices_are_requested_again_when_a_watch_of_endpoints_ends() -> None:
    list_watch = listwatch(SLICES)
    list_watch.on_response(404, error_body(404))
    list_watch.on_response(200, page(endpoints("web")))
    list_watch.next_request()
    list_watch.on_watch_end(400)
    assert urlsplit(list_watch.next_request().target).path == SLICES.path
    assert summary(list_watch.on_response(200, page())) == ["-endpoints/web/0/IPv4"]


# Failures


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (401, "the credentials are missing, wrong or expired"),
        (403, "the role needs list and watch on services, endpointslices and nodes"),
        (404, "is this a Kubernetes API server?"),
        (503, ""),
    ],
)
def test_error_response_is_reported_once_with_a_hint_until_a_success(code: int, hint: str) -> None:
    list_watch = listwatch()
    (problem,) = list_watch.on_response(code, error_body(code, "no way"))
    assert problem == Problem("Kubernetes API /api/v1/services", f"HTTP {code}", "no way", hint)
    assert list_watch.on_response(code, error_body(code, "no way")) == []
    list_watch.on_response(200, page())
    list_watch.next_request()
    list_watch.on_line(bookmark(11))
    assert len(list_watch.on_response(code, error_body(code, "no way"))) == 1


def test_retry_after_is_honoured() -> None:
    list_watch = listwatch()
    list_watch.on_response(429, error_body(429), retry_after_s=17.0)
    assert list_watch.next_request().wait_s == 17


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"\xff", b'{"items": 5}'])
def test_response_that_is_not_a_list_is_a_problem_and_backs_off(body: bytes) -> None:
    list_watch = listwatch()
    (problem,) = summary(list_watch.on_response(200, body))
    assert "the response is not a list" in problem
    assert list_watch.next_request().wait_s == 0.8


def test_delay_doubles_from_800_ms_to_30_s_and_is_reset_by_a_success() -> None:
    list_watch = listwatch()
    waits_s = []
    for _ in range(8):
        list_watch.on_response(503, error_body(503))
        waits_s.append(list_watch.next_request().wait_s)
    assert waits_s == [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]
    list_watch.on_response(200, page())
    list_watch.next_request()
    list_watch.on_line(bookmark(11))
    list_watch.on_failure(Problem("x", "y", "z"))
    assert list_watch.next_request().wait_s == 0.8


@given(st.floats(0, 0.999), st.integers(0, 5))
def test_jitter_at_most_doubles_the_delay(random: float, failures: int) -> None:
    list_watch = listwatch(random=random)
    for _ in range(failures + 1):
        list_watch.on_response(503, error_body(503))
    base_s = 0.8 * 2**failures
    assert base_s <= list_watch.next_request().wait_s <= min(30, 2 * base_s)


# Invariant

names = st.sampled_from("abcd")
ports = st.integers(80, 82)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_events_always_add_up_to_the_state_of_the_server(data: st.DataObject) -> None:
    """The server changes objects, interrupts lists and watches, and expires versions."""
    cluster: dict[str, int] = {}
    emitted: dict[str, int] = {}
    version = 10
    list_watch = listwatch()

    def apply(events: list[Event]) -> None:
        for event in events:
            match event:
                case ServiceUpserted(upserted):
                    emitted[upserted.name.name] = upserted.ports[0].port
                case ServiceDeleted(ObjectName(_, name)):
                    del emitted[name]

    for _ in range(data.draw(st.integers(1, 12))):
        if list_watch.next_request().is_watch:
            for _ in range(data.draw(st.integers(0, 3))):
                version += 1
                name, port = data.draw(names), data.draw(st.none() | ports)
                before = cluster.pop(name, None)
                if port is not None:
                    cluster[name] = port
                    body = line("ADDED" if before is None else "MODIFIED", service(name, version, port))
                elif before is not None:
                    body = line("DELETED", service(name, version, before))
                else:
                    body = bookmark(version)
                apply(list_watch.on_line(body))
            assert emitted == cluster
            end = data.draw(st.sampled_from(["ended", "expired", "broken"]))
            if end == "expired":
                apply(list_watch.on_line(line("ERROR", status(410))))
                cluster = data.draw(st.dictionaries(names, ports))  # changes that the watch did not see
            elif end == "broken":
                apply(list_watch.on_failure(Problem("x", "y", "z")))
            else:
                list_watch.on_watch_end(400)
        elif data.draw(st.booleans()):
            items = [service(name, version, port) for name, port in sorted(cluster.items())]
            half = data.draw(st.integers(0, len(items)))
            apply(list_watch.on_response(200, page(*items[:half], version=version, continuation="next")))
            if data.draw(st.booleans()):
                apply(list_watch.on_response(200, page(*items[half:], version=version)))
                assert emitted == cluster
        else:
            apply(list_watch.on_response(data.draw(st.sampled_from([410, 500, 403])), b""))
