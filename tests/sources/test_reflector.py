"""ListWatch: its requests and the events that follow from responses, without a connection."""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.model.events import Event, ServiceDeleted, ServiceUpserted, SliceDeleted, SliceUpserted, Synced
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.model.services import ObjectName
from kubeproxy_py.sources.kubernetes import page_reader
from kubeproxy_py.sources.kubernetes.listing import Request
from kubeproxy_py.sources.kubernetes.open_watch import Answer, Verdict
from kubeproxy_py.sources.kubernetes.reflector import ListWatch
from kubeproxy_py.sources.kubernetes.removal_guard import RemovalGuard
from kubeproxy_py.sources.kubernetes.resources import SERVICES, SLICES, node_resource
from tests.examples import at_most

Json = dict[str, Any]


def service(name: str, version: int = 1, port: object = 80) -> Json:
    meta = {"name": name, "namespace": "shop", "resourceVersion": str(version)}
    return {"metadata": meta, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": port}]}}


def page(*items: Json | None, version: int = 10, continuation: str = "", kind: str = "Service") -> bytes:
    meta = {"resourceVersion": str(version), **({"continue": continuation} if continuation else {})}
    return json.dumps({"kind": f"{kind}List", "metadata": meta, "items": items}).encode()


def line(event: str, body: Json) -> bytes:
    return json.dumps({"type": event, "object": body}).encode()


def bookmark(version: int) -> bytes:
    return line("BOOKMARK", {"kind": "Service", "metadata": {"resourceVersion": str(version)}})


def status(code: int, message: str = "no") -> Json:
    return {"kind": "Status", "code": code, "message": message}


def error_body(code: int, message: str = "no") -> bytes:
    return json.dumps(status(code, message)).encode()


def listwatch(resource: Any = SERVICES, random: float = 0.0, **guard: Any) -> ListWatch:
    return ListWatch(resource, lambda: random, RemovalGuard(**guard))


def watching(*items: Json, version: int = 10, **options: Any) -> ListWatch:
    """Return a ListWatch that has listed *items* and is watching."""
    list_watch = listwatch(**options)
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
    assert query(list_watch.next_request()) == {"limit": "500", "resourceVersion": "0", **selectors}
    list_watch.on_response(200, page(kind=resource.kind))
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
    listed = page(service("a", 11), service("b", 12, port=81), service("d", 13))
    events = list_watch.on_response(200, listed)
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


def in_parts(list_watch: ListWatch, body: bytes) -> list[str]:
    """Return the events of the body of a list before its end."""
    parts = [body[start : start + 50] for start in range(0, len(body), 50)]
    return [event for part in parts for event in summary(list_watch.on_list_part(part))]


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_reader, "PIECE_BYTES", 100)


@pytest.mark.usefixtures("small_pieces")
def test_first_list_is_emitted_while_it_arrives_and_synced_at_its_end() -> None:
    list_watch = listwatch()
    before_end = in_parts(list_watch, compact_page(*(service(name) for name in "abcdefgh")))
    at_end = summary(list_watch.on_list_end())
    assert len(before_end) > 3
    assert [*before_end, *at_end] == [*(f"+{name}:80" for name in "abcdefgh"), "synced services"]
    assert list_watch.next_request().is_watch


@pytest.mark.usefixtures("small_pieces")
def test_relist_emits_nothing_while_it_arrives() -> None:
    list_watch = watching(*(service(name) for name in "abcdefgh"))
    list_watch.on_line(line("ERROR", status(410)))
    assert in_parts(list_watch, compact_page(*(service(name, port=81) for name in "abcdefg"))) == []
    assert summary(list_watch.on_list_end()) == [*(f"+{name}:81" for name in "abcdefg"), "-h"]


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("failure", ["connection", "size", "end"])
def test_list_that_breaks_off_is_read_again_from_its_start(failure: str) -> None:
    list_watch = listwatch()
    body = compact_page(*(service(name) for name in "abcdefgh"))
    assert in_parts(list_watch, body[:700])
    if failure == "connection":
        list_watch.on_no_answer(Problem("https://api", "connection", "it was closed in the middle of a response"))
    elif failure == "size":
        list_watch.on_too_large(too_large())
    else:
        (problem,) = summary(list_watch.on_list_end())
        assert "the response is not a list" in problem
    assert not list_watch.next_request().is_watch
    events = [
        *in_parts(list_watch, compact_page(service("a"), service("z"))),
        *summary(list_watch.on_list_end()),
    ]
    assert events == ["+z:80", *(f"-{name}" for name in removed_of(body[:700])), "synced services"]


def removed_of(start: bytes) -> str:
    """Return the names, besides a, of the Services that the *start* of a list emits."""
    return "".join(event[1] for event in in_parts(listwatch(), start)).replace("a", "")


def compact_page(*items: Json) -> bytes:
    """Return a page as kube-apiserver writes it, without spaces."""
    return json.dumps(json.loads(page(*items)), separators=(",", ":")).encode()


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
    problem, *others = summary(list_watch.on_response(200, page(service("a", port="80"), service("b", port=81))))
    assert problem.startswith("! Service shop/a: spec.ports[0].port: expected integer, got string")
    assert others == ["+b:81"]


def test_invalid_objects_are_known_until_they_are_valid_or_deleted() -> None:
    list_watch = watching(service("a", port="80"), service("b", port="80"), service("c"))
    assert [problem.where for problem in list_watch.rejected()] == ["Service shop/a", "Service shop/b"]
    list_watch.on_line(line("MODIFIED", service("a", 11)))
    assert [problem.where for problem in list_watch.rejected()] == ["Service shop/b"]
    list_watch.on_line(line("DELETED", service("b", 12, port="80")))
    assert list_watch.rejected() == ()


# Versions of lists


def test_relist_is_not_older_than_what_is_known_and_from_the_cache() -> None:
    list_watch = watching(version=42)
    list_watch.on_line(bookmark(77))
    list_watch.on_line(line("ERROR", status(410)))
    request = query(list_watch.next_request())
    assert (request["resourceVersion"], request["resourceVersionMatch"]) == ("77", "NotOlderThan")
    assert "limit" not in request  # with which servers before 1.33 read etcd


@pytest.mark.parametrize(
    ("code", "message"), [(410, "Expired"), (504, "Too large resource version: 77, current: 5"), (422, "Invalid")]
)
def test_version_that_a_server_cannot_use_leads_to_a_list_of_the_most_recent_state(code: int, message: str) -> None:
    list_watch = watching(service("a"), version=77)
    list_watch.on_line(line("ERROR", status(410)))
    list_watch.on_response(code, error_body(code, message))
    request = list_watch.next_request()
    assert not {"resourceVersion", "resourceVersionMatch", "limit"} & query(request).keys()
    assert summary(list_watch.on_response(200, page(service("b"), version=78))) == ["+b:80", "-a"]
    list_watch.next_request()
    list_watch.on_line(line("ERROR", status(410)))
    assert query(list_watch.next_request())["resourceVersion"] == "78"


def test_cache_that_lags_behind_costs_no_delay() -> None:
    list_watch = watching(version=77)
    list_watch.on_line(line("ERROR", status(410)))
    assert list_watch.on_response(504, error_body(504, "Too large resource version: 77, current: 5")) == []
    assert list_watch.next_request().wait_s == 0


def test_watch_rejected_for_its_version_leads_to_a_list_without_it() -> None:
    list_watch = watching(version=42)
    list_watch.on_response(404, error_body(404, "no such version"))
    assert "resourceVersion" not in query(list_watch.next_request())


def test_list_that_fails_otherwise_is_asked_for_in_the_same_way() -> None:
    list_watch = watching(version=42)
    list_watch.on_line(line("ERROR", status(410)))
    for code in (500, 429, 403):
        list_watch.on_response(code, error_body(code))
        assert query(list_watch.next_request())["resourceVersion"] == "42"


def test_pages_of_a_server_that_pages_in_spite_of_the_version_are_read() -> None:
    list_watch = watching(service("a"))
    list_watch.on_line(line("ERROR", status(410)))
    list_watch.on_response(200, page(service("a"), continuation="next"))
    request = query(list_watch.next_request())
    assert (request["continue"], "resourceVersion" in request) == ("next", False)


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
    assert problem.startswith("! Service shop/a: spec.ports[0].port: expected integer")
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
    assert query(list_watch.next_request()).keys() == {"limit", "resourceVersion", "labelSelector"}
    list_watch.on_response(200, page())
    assert "fieldSelector" not in query(list_watch.next_request())


def endpoints(name: str) -> Json:
    meta = {"name": name, "namespace": "shop", "resourceVersion": "5"}
    return {"metadata": meta, "subsets": [{"addresses": [{"ip": "10.1.0.5"}], "ports": [{"port": 80}]}]}


def test_endpoints_are_listed_where_the_server_has_no_slices() -> None:
    list_watch = listwatch(SLICES)
    assert list_watch.on_response(404, error_body(404)) == []
    assert urlsplit(list_watch.next_request().target).path == "/api/v1/endpoints"
    listed = page(endpoints("web"), kind="Endpoints")
    assert summary(list_watch.on_response(200, listed)) == ["+endpoints/web/0/IPv4", "synced slices"]


def test_slices_are_requested_again_when_a_watch_of_endpoints_ends() -> None:
    list_watch = listwatch(SLICES)
    list_watch.on_response(404, error_body(404))
    list_watch.on_response(200, page(endpoints("web"), kind="Endpoints"))
    list_watch.next_request()
    list_watch.on_watch_end(400)
    assert urlsplit(list_watch.next_request().target).path == SLICES.path
    assert summary(list_watch.on_response(200, page(kind="EndpointSlice"))) == ["-endpoints/web/0/IPv4"]


# Failures


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (401, "the credentials are missing, wrong or expired"),
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


@pytest.mark.parametrize(("random", "wait_s"), [(0.0, 17.0), (0.5, 21.25), (0.999, 25.4915)])
def test_retry_after_is_honoured_and_nodes_are_spread(random: float, wait_s: float) -> None:
    list_watch = listwatch(random=random)
    list_watch.on_response(429, error_body(429), retry_after_s=17.0)
    assert list_watch.next_request().wait_s == pytest.approx(wait_s)


def test_retry_after_of_days_is_shortened() -> None:
    list_watch = listwatch(random=0.999)
    list_watch.on_response(429, error_body(429), retry_after_s=1e6)
    assert list_watch.next_request().wait_s == 300


@pytest.mark.parametrize(("broken", "wait_s"), [(True, 0.25), (False, 0.0)])
def test_watches_whose_connections_break_are_resumed_within_half_a_second(broken: bool, wait_s: float) -> None:
    list_watch = watching(service("a"), random=0.5)
    list_watch.on_line(bookmark(77))
    list_watch.on_watch_end(0.1, broken=broken)
    request = list_watch.next_request()
    assert (request.is_watch, request.wait_s) == (True, wait_s)
    assert not list_watch.is_failing


@pytest.mark.parametrize("random", [0.0, 0.999])
def test_first_list_of_a_process_is_not_delayed(random: float) -> None:
    assert listwatch(random=random).next_request().wait_s == 0


@pytest.mark.parametrize(("random", "wait_s"), [(0.0, 0.0), (0.5, 1.0)])
def test_relists_of_many_nodes_are_spread_over_two_seconds(random: float, wait_s: float) -> None:
    list_watch = watching(random=random)
    list_watch.on_line(line("ERROR", status(410)))
    assert list_watch.next_request().wait_s == wait_s


def test_refused_nodes_are_spread() -> None:
    list_watch = listwatch(random=0.5)
    list_watch.on_response(403, error_body(403))
    assert list_watch.next_request().wait_s == 0.625


META = {"resourceVersion": "10"}
NOT_LISTS: list[tuple[bytes, str]] = [
    *((body, "the response is not a list") for body in (b"", b"<html>", b"[]", b"null", b"\xff", b'{"items": 5}')),
    (b"{}", "the response is not a ServiceList: it has no kind"),
    (b'{"status":"ok"}', "the response is not a ServiceList: it has no kind"),
    (error_body(404), "the response is not a ServiceList: its kind is 'Status'"),
    (page(kind="Pod"), "the response is not a ServiceList: its kind is 'PodList'"),
    (json.dumps({"kind": "ServiceList", "items": []}).encode(), "the list has no metadata.resourceVersion"),
    (json.dumps({"kind": "ServiceList", "metadata": {}, "items": []}).encode(), "the list has no metadata.resourceVer"),
    (json.dumps({"kind": "ServiceList", "metadata": META}).encode(), "the list has no items"),
    (page(None), "1 of its items cannot be named: Service (unnamed): expected object, got null"),
    (page({}), "1 of its items cannot be named: Service (unnamed): metadata.name: is missing"),
    (page({"kind": "Pod", **service("a")}), "1 of its items cannot be named: Service (unnamed): kind: is 'Pod'"),
]


@pytest.mark.parametrize(("body", "message"), NOT_LISTS)
def test_response_that_is_not_a_list_changes_nothing_and_backs_off(body: bytes, message: str) -> None:
    for list_watch in (listwatch(), watching(service("a"), service("b"))):
        if list_watch.is_watching:
            list_watch.on_line(line("ERROR", status(410)))
        (problem,) = summary(list_watch.on_response(200, body))
        assert message in problem
        request = list_watch.next_request()
        assert (request.is_watch, request.wait_s) == (False, 0.8)
        assert summary(list_watch.on_response(200, body)) == []  # reported once
        assert "+c:80" in summary(list_watch.on_response(200, page(service("c"))))


def test_second_page_that_is_not_a_list_deletes_nothing() -> None:
    list_watch = watching(service("a"), service("b"))
    list_watch.on_line(line("ERROR", status(410)))
    list_watch.on_response(200, page(service("a"), continuation="next"))
    (problem,) = summary(list_watch.on_response(200, b"{}"))
    assert "the response is not a ServiceList" in problem
    assert "continue" not in query(list_watch.next_request())


def test_list_with_items_that_cannot_be_named_deletes_nothing_and_its_other_items_are_used() -> None:
    list_watch = watching(service("a"), service("b"))
    list_watch.on_line(line("ERROR", status(410)))
    events = summary(list_watch.on_response(200, page(service("a", 11, port=81), {}, version=11)))
    assert events[0] == "+a:81"
    assert "1 of its items cannot be named" in events[1]
    assert not list_watch.next_request().is_watch


def test_first_list_with_items_that_cannot_be_named_is_not_the_initial_list() -> None:
    list_watch = listwatch()
    assert "synced services" not in summary(list_watch.on_response(200, page(service("a"), {})))
    assert "resourceVersion" not in query(list_watch.next_request())  # not from that cache again


@pytest.mark.parametrize("kind", ["EndpointSlice", "Node"])
def test_empty_object_is_not_a_list_of_any_resource(kind: str) -> None:
    list_watch = listwatch(SLICES if kind == "EndpointSlice" else node_resource("node-a"))
    (problem,) = summary(list_watch.on_response(200, b"{}"))
    assert f"the response is not a {kind}List" in problem


def test_null_items_are_an_empty_list() -> None:
    body = json.dumps({"kind": "ServiceList", "metadata": META, "items": None}).encode()
    assert summary(listwatch().on_response(200, body)) == ["synced services"]


UNUSABLE_LINES: list[tuple[bytes, str]] = [
    (line("ADDED", {"metadata": {"resourceVersion": "11"}}), "an event of type 'ADDED' names no Service"),
    (line("DELETED", {"metadata": {"resourceVersion": "11"}}), "an event of type 'DELETED' names no Service"),
    (line("MODIFIED", {"metadata": {"name": "a", "namespace": "shop"}}), "has no metadata.resourceVersion"),
    (line("DELETED", {"metadata": {"name": "a", "namespace": "shop"}}), "has no metadata.resourceVersion"),
    (line("ADDED", status(200)), "an event of type 'ADDED' has no metadata.resourceVersion"),
    (line("DELETED", {**service("a", 11), "kind": "Status"}), "an event of type 'DELETED' names no Service"),
    (line("BOOKMARK", {"kind": "Service", "metadata": {}}), "an event of type 'BOOKMARK' has no metadata.resourceVer"),
    (line("BOOKMARK", {"kind": "Pod", "metadata": META}), "an event of type 'BOOKMARK' names no Service"),
    (line("BOOKMARK", status(200)), "an event of type 'BOOKMARK' has no metadata.resourceVersion"),
    (b'{"type":"ADDED","object":null}', "an event of type 'ADDED' has no metadata.resourceVersion"),
    (line("ERROR", {}), "the watch ended with an error that is no Status"),
]


@pytest.mark.parametrize(("sent", "message"), UNUSABLE_LINES)
def test_event_that_does_not_say_what_changed_leads_to_a_list(sent: bytes, message: str) -> None:
    list_watch = watching(service("a"))
    (problem,) = summary(list_watch.on_line(sent))
    assert message in problem
    assert not list_watch.is_watching
    request = list_watch.next_request()
    assert (request.is_watch, request.wait_s) == (False, 0.8)
    assert message in request.reason


def test_delay_doubles_from_800_ms_to_30_s_and_is_reset_by_a_success() -> None:
    list_watch = listwatch()
    waits_s = []
    for _ in range(8):
        list_watch.on_response(429, error_body(429))
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
        list_watch.on_response(429, error_body(429))
    base_s = 0.8 * 2**failures
    assert base_s <= list_watch.next_request().wait_s <= min(30, 2 * base_s)


@pytest.mark.parametrize("code", [500, 502, 503, 504])
def test_unavailable_server_is_tried_again_as_all_watches_do_together(code: int) -> None:
    for list_watch in (listwatch(), watching()):
        list_watch.on_response(code, error_body(code))
        request = list_watch.next_request()
        assert (request.wait_s, request.after_outage) == (0, True)
        list_watch.on_response(429, error_body(429))
        assert not list_watch.next_request().after_outage


def test_403_is_retried_soon_and_reported_when_it_lasts_10_s() -> None:
    for list_watch in (listwatch(), watching()):
        waits_s: list[float] = []
        while not (events := list_watch.on_response(403, error_body(403, "no role"))):
            waits_s.append(list_watch.next_request().wait_s)
        assert waits_s == [0.5, 1, 2, 4, 4]
        hint = "the role needs list and watch on services, endpointslices and nodes"
        assert events == [Problem("Kubernetes API /api/v1/services", "HTTP 403", "no role", hint)]


def test_403_that_passes_is_not_reported_and_is_retried_soon_again_later() -> None:
    list_watch = listwatch()
    for _ in range(3):
        for _ in range(4):
            assert list_watch.on_response(403, error_body(403)) == []
        list_watch.on_response(200, page())
        list_watch.next_request()
        list_watch.on_line(bookmark(11))


def test_server_that_refuses_after_an_outage_is_asked_again_soon() -> None:
    list_watch = listwatch()
    for _ in range(20):
        list_watch.on_no_answer(Problem("https://api", "connection", "refused"))
    list_watch.on_response(403, error_body(403))
    assert list_watch.next_request().wait_s == 0.5
    list_watch.on_response(429, error_body(429))
    assert list_watch.next_request().wait_s == 0.8


def test_no_answer_is_reported_once() -> None:
    list_watch = watching()
    problem = Problem("https://api", "connection", "refused")
    assert list_watch.on_no_answer(problem) == [problem]
    assert list_watch.on_no_answer(problem) == []
    assert list_watch.next_request().is_watch


# Versions that go back


@pytest.mark.parametrize("sent", [bookmark(9), line("ADDED", service("b", 9)), line("DELETED", service("a", 9))])
def test_version_that_goes_back_leads_to_a_list_of_the_most_recent_state(sent: bytes) -> None:
    list_watch = watching(service("a"), version=10, random=0.5)
    (problem,) = summary(list_watch.on_line(sent))
    assert "the resource version went back from 10 to 9; listing again (was it restored from a backup" in problem
    request = list_watch.next_request()
    assert (request.is_watch, request.wait_s) == (False, 1.0)
    assert "went back" in request.reason
    assert "resourceVersion" not in query(request)
    assert summary(list_watch.on_response(200, page(service("b", 8), version=9))) == ["+b:80", "-a"]
    assert query(list_watch.next_request())["resourceVersion"] == "9"


def test_list_whose_version_goes_back_is_used_if_a_second_one_says_the_same() -> None:
    list_watch = watching(service("a"), version=10)
    list_watch.on_line(line("ERROR", status(410)))
    (problem,) = summary(list_watch.on_response(200, page(version=5)))
    assert "went back from 10 to 5" in problem
    assert not list_watch.next_request().is_watch
    assert summary(list_watch.on_response(200, page(version=6))) == ["-a"]


@pytest.mark.parametrize("sent", [bookmark(10), line("MODIFIED", service("a", 10, port=81))])
def test_version_that_stays_is_not_one_that_goes_back(sent: bytes) -> None:
    list_watch = watching(service("a"), version=10)
    list_watch.on_line(sent)
    assert list_watch.is_watching


def test_versions_that_are_not_numbers_are_not_compared() -> None:
    list_watch = listwatch()
    for version in ("b", "a"):
        body = json.dumps({"kind": "ServiceList", "metadata": {"resourceVersion": version}, "items": []}).encode()
        list_watch.on_response(200, body)
        assert list_watch.next_request().is_watch
        list_watch.on_line(line("ERROR", status(410)))


def test_watch_from_a_version_that_the_server_does_not_know_leads_to_a_list() -> None:
    list_watch = watching(service("a"))
    assert list_watch.on_response(504, error_body(504, "Too large resource version: 10, current: 5")) == []
    assert not list_watch.next_request().is_watch


# Silent watches


def test_silent_watch_of_a_restored_server_leads_to_a_list() -> None:
    list_watch = watching(service("a"), version=10)
    (problem,) = summary(list_watch.on_mute(Answer(Verdict.RESTORED)))
    assert "the server no longer knows the resource version 10; listing again" in problem
    assert not list_watch.next_request().is_watch
    assert "went back from 10 to 5" in summary(list_watch.on_response(200, page(version=5)))[0]


def test_frozen_watch_is_resumed_at_once() -> None:
    list_watch = watching(service("a"), version=10)
    (problem,) = summary(list_watch.on_mute(Answer(Verdict.FROZEN)))
    assert "the server has changes that the open watch did not send" in problem
    request = list_watch.next_request()
    assert (request.is_watch, request.wait_s, query(request)["resourceVersion"]) == (True, 0, "10")


def test_silent_watch_of_a_server_that_does_not_answer_is_resumed_when_it_answers() -> None:
    list_watch = watching(service("a"))
    problem = Problem("https://api", "connection", "no answer")
    assert list_watch.on_mute(Answer(Verdict.UNREACHABLE, problem)) == [problem]
    assert list_watch.next_request().after_outage


# Lists that would remove much

TEN = [service(name) for name in "abcdefghij"]


def relisting(*items: Json, percent: int = 50) -> ListWatch:
    """Return a ListWatch that knows *items*, and lists again."""
    list_watch = watching(*items, percent=percent)
    list_watch.on_line(line("ERROR", status(410)))
    return list_watch


@pytest.mark.parametrize(
    ("known", "listed", "percent", "is_doubted"),
    [
        (1, 0, 50, True),
        (9, 0, 50, True),
        (9, 1, 50, False),
        (10, 4, 50, True),
        (10, 5, 50, False),
        (10, 8, 10, True),
        (10, 9, 10, False),
        (10, 1, 100, False),
        (10, 0, 100, True),
        (10, 0, 0, False),
    ],
)
def test_list_that_would_remove_much_is_doubted(known: int, listed: int, percent: int, is_doubted: bool) -> None:
    list_watch = relisting(*TEN[:known], percent=percent)
    events = summary(list_watch.on_response(200, page(*TEN[:listed])))
    request = list_watch.next_request()
    assert (not request.is_watch) is is_doubted
    if is_doubted:
        (problem,) = events
        assert f"{known - listed} of {known} known Service objects are missing" in problem
        assert request.doubt is not None
        assert 3 <= request.wait_s <= 5
        assert "resourceVersion" not in query(request)
    else:
        assert len(events) == known - listed


def test_doubted_list_changes_nothing_else_either() -> None:
    list_watch = relisting(*TEN)
    (problem,) = summary(list_watch.on_response(200, page(service("a", 11, port=81), service("new"))))
    assert "9 of 10" in problem


def test_second_list_that_says_the_same_is_accepted() -> None:
    list_watch = relisting(*TEN)
    list_watch.on_response(200, page(TEN[0]))
    *deleted, problem = summary(list_watch.on_response(200, page(TEN[0], service("new"))))
    assert deleted == ["+new:80", *(f"-{name}" for name in "bcdefghij")]
    assert "confirmed by a second list: 9 of 10 known Service objects are missing" in problem
    assert list_watch.next_request().is_watch


def test_second_list_that_is_complete_removes_nothing() -> None:
    list_watch = relisting(*TEN)
    list_watch.on_response(200, page())
    assert list_watch.on_response(200, page(*TEN)) == []
    assert list_watch.next_request().is_watch


def test_second_list_that_lacks_others_is_doubted_too() -> None:
    list_watch = relisting(*TEN)
    list_watch.on_response(200, page(*TEN[:4]))
    assert "! " in summary(list_watch.on_response(200, page(*TEN[6:])))[0]
    assert not list_watch.next_request().is_watch


def test_doubt_outlasts_a_list_that_fails() -> None:
    list_watch = relisting(*TEN)
    list_watch.on_response(200, page())
    list_watch.on_response(503, b"")
    request = list_watch.next_request()
    assert request.doubt is not None
    assert len(list_watch.on_response(200, page())) == 11


def test_objects_that_a_watch_deletes_are_not_doubted() -> None:
    list_watch = watching(*TEN, percent=50)
    events = [list_watch.on_line(line("DELETED", body)) for body in (service(name, 11) for name in "abcdefghij")]
    assert summary([event for each in events for event in each]) == [f"-{name}" for name in "abcdefghij"]


SERVED = frozenset(f"10.96.0.{number}" for number in range(1, 11))


def test_first_list_without_the_services_that_the_kernel_serves_is_doubted() -> None:
    list_watch = listwatch(percent=50, served=SERVED)
    assert "resourceVersion" not in query(list_watch.next_request())  # a cache may be older than the kernel's state
    (problem,) = summary(list_watch.on_response(200, page()))
    assert "10 of 10 Service addresses of this node would no longer be served" in problem
    request = list_watch.next_request()
    assert (request.is_watch, "resourceVersion" in query(request)) == (False, False)
    synced, problem = reversed(summary(list_watch.on_response(200, page())))
    assert (synced, "confirmed by a second list" in problem) == ("synced services", True)


def test_first_list_that_was_interrupted_does_not_hide_what_the_next_one_lacks() -> None:
    list_watch = listwatch(percent=50, served=frozenset({"10.96.0.1"}))
    list_watch.on_response(200, page(service("a"), continuation="next"))
    list_watch.on_response(503, b"")
    assert "1 of 1 Service addresses" in summary(list_watch.on_response(200, page()))[0]


def test_first_list_with_the_services_that_the_kernel_serves_is_accepted() -> None:
    list_watch = listwatch(percent=50, served=frozenset({"10.96.0.1"}))
    assert summary(list_watch.on_response(200, page(service("a")))) == ["+a:80", "synced services"]


def slice_object(name: str) -> Json:
    labels = {"kubernetes.io/service-name": "web"}
    return {
        "metadata": {"name": name, "namespace": "shop", "resourceVersion": "5", "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.0.5"]}],
    }


def test_first_list_without_any_endpoint_is_doubted_where_the_kernel_serves_services() -> None:
    list_watch = listwatch(SLICES, percent=50, served=SERVED)
    assert "10 of 10" in summary(list_watch.on_response(200, page(kind="EndpointSlice")))[0]
    list_watch = listwatch(SLICES, percent=50, served=SERVED)
    listed = page(slice_object("web-1"), kind="EndpointSlice")
    assert summary(list_watch.on_response(200, listed)) == ["+web-1", "synced slices"]


# Saved objects


def saved(*bodies: Json) -> dict[Any, Any]:
    """Return the values of the Services *bodies*, as an earlier process saved them."""
    before = listwatch()
    before.on_response(200, page(*bodies))
    return before.known_values()


def test_saved_objects_are_the_initial_list_and_the_servers_list_is_a_relist() -> None:
    list_watch = listwatch()
    events = list_watch.restore(saved(service("a"), service("b"), service("c")), 77.0)
    assert summary(events) == ["+a:80", "+b:80", "+c:80", "synced services"]
    assert events[-1] == Synced("services", 77.0)
    assert (list_watch.is_answered, list_watch.is_current) == (False, False)
    assert "resourceVersion" not in query(list_watch.next_request())  # the cache may be older than what was saved
    first = list_watch.on_response(200, page(service("a"), service("b", port=81), continuation="x"))
    assert (summary(first), list_watch.is_answered, list_watch.is_current) == ([], True, False)
    assert summary(list_watch.on_response(200, page(service("d")))) == ["+b:81", "+d:80", "-c", "synced services"]
    assert list_watch.is_current


def test_saved_objects_replace_the_rest_of_a_list_that_does_not_go_on() -> None:
    list_watch = listwatch()
    assert summary(list_watch.on_response(200, page(service("a", port=81), continuation="x"))) == ["+a:81"]
    events = list_watch.restore(saved(service("a"), service("b")), 77.0)
    assert summary(events) == ["+b:80", "synced services"]  # what the server sent is newer
    assert summary(list_watch.on_response(200, page(service("c")))) == ["+c:80", "-b", "synced services"]


def test_saved_objects_are_of_no_use_after_a_list() -> None:
    list_watch = watching(service("a"))
    assert list_watch.restore(saved(service("b")), 77.0) == []
    assert {name.name for _, name in list_watch.known_values()} == {"a"}


def test_list_that_lacks_most_saved_objects_is_doubted() -> None:
    list_watch = listwatch(percent=50)
    list_watch.restore(saved(service("a")), 77.0)
    (problem,) = list_watch.on_response(200, page())
    assert "1 of 1 known Service objects are missing" in str(problem)
    assert not list_watch.is_current
    assert summary(list_watch.on_response(200, page()))[0] == "-a"


def test_saved_object_stays_while_the_servers_version_is_broken() -> None:
    list_watch = listwatch()
    list_watch.restore(saved(service("a")), 77.0)
    lines = summary(list_watch.on_response(200, page(service("a", port="none"))))
    assert [line for line in lines if not line.startswith("!")] == ["synced services"]
    assert {name.name for _, name in list_watch.known_values()} == {"a"}


# Sizes


def too_large() -> Problem:
    return Problem("https://api", "body", "is larger than 64 MiB")


def test_too_large_list_is_asked_for_in_smaller_and_smaller_pages() -> None:
    list_watch = listwatch()
    limits = []
    for _ in range(4):
        assert list_watch.on_too_large(too_large()) == []
        limits.append(query(list_watch.next_request())["limit"])
    assert limits == ["500", "62", "7", "1"]
    assert "resourceVersion" not in query(list_watch.next_request())
    assert list_watch.on_too_large(too_large()) == [too_large()]


def test_smaller_pages_are_kept_for_later_lists() -> None:
    list_watch = watching()
    list_watch.on_line(line("ERROR", status(410)))
    list_watch.on_too_large(too_large())
    list_watch.on_too_large(too_large())
    list_watch.on_response(200, page())
    list_watch.next_request()
    list_watch.on_line(line("ERROR", status(410)))
    request = query(list_watch.next_request())
    assert (request["limit"], "resourceVersion" in request) == ("62", False)


def test_too_large_line_leads_to_a_list() -> None:
    list_watch = watching()
    assert list_watch.on_too_large(too_large()) == [too_large()]
    request = list_watch.next_request()
    assert (request.is_watch, request.wait_s) == (False, 0.8)


# Values of a newer API


def test_unknown_value_is_a_warning_that_is_emitted_once() -> None:
    list_watch = listwatch()
    odd = service("a")
    odd["spec"]["internalTrafficPolicy"] = "PreferLocal"
    problem, *others = list_watch.on_response(200, page(odd))
    assert isinstance(problem, Problem)
    assert problem.is_warning
    assert summary(others) == ["+a:80", "synced services"]
    list_watch.next_request()
    later = service("a", 11, port=81)
    later["spec"]["internalTrafficPolicy"] = "PreferLocal"
    assert summary(list_watch.on_line(line("MODIFIED", later))) == ["+a:81"]
    list_watch.on_line(line("ERROR", status(410)))
    assert list_watch.on_response(200, page(later, version=11)) == []


# Invariant

names = st.sampled_from("abcd")
ports = st.integers(80, 82)


@at_most(200)
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
