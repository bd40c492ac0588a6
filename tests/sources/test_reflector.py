"""ListWatch: what it asks for, and what it makes of the answers, without any connection."""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeproxy_py.backoff import Backoff
from kubeproxy_py.model.events import (
    Event,
    ObjectProblem,
    ServiceDeleted,
    ServiceUpserted,
    SliceDeleted,
    SliceUpserted,
    Synced,
)
from kubeproxy_py.model.services import ObjectName
from kubeproxy_py.sources.kubernetes.reflector import ListWatch, Request
from kubeproxy_py.sources.kubernetes.resources import SERVICES, SLICES, node

Json = dict[str, Any]


def service(name: str, version: int = 1, port: object = 80) -> Json:
    meta = {"name": name, "namespace": "shop", "resourceVersion": str(version)}
    return {"metadata": meta, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": port}]}}


def page(*items: Json, version: int = 10, rest: str = "") -> bytes:
    meta = {"resourceVersion": str(version), **({"continue": rest} if rest else {})}
    return json.dumps({"metadata": meta, "items": items}).encode()


def line(event: str, body: Json) -> bytes:
    return json.dumps({"type": event, "object": body}).encode()


def bookmark(version: int) -> bytes:
    return line("BOOKMARK", {"kind": "Service", "metadata": {"resourceVersion": str(version)}})


def status(code: int, message: str = "no") -> Json:
    return {"kind": "Status", "code": code, "message": message}


def refusal(code: int, message: str = "no") -> bytes:
    return json.dumps(status(code, message)).encode()


def listwatch(resource: Any = SERVICES, random: float = 0.0) -> ListWatch:
    return ListWatch(resource, lambda: random)


def watching(*items: Json, version: int = 10) -> ListWatch:
    """One that has listed *items*, and watches."""
    machine = listwatch()
    machine.answered(200, page(*items, version=version))
    machine.request()
    assert machine.watching
    return machine


def query(request: Request) -> dict[str, str]:
    return {key: values[0] for key, values in parse_qs(urlsplit(request.target).query).items()}


def brief(events: list[Event]) -> list[str]:
    words = []
    for event in events:
        match event:
            case ServiceUpserted(found):
                words.append(f"+{found.name.name}:{found.ports[0].port}")
            case SliceUpserted(found):
                words.append(f"+{found.name.name}")
            case ServiceDeleted(name) | SliceDeleted(name):
                words.append(f"-{name.name}")
            case Synced(feed):
                words.append(f"synced {feed}")
            case ObjectProblem():
                words.append(f"! {event}")
            case _:
                raise AssertionError(event)
    return words


# What is asked for -----------------------------------------------------------------------------------------------


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
        (node("node-a"), "/api/v1/nodes", {"fieldSelector": "metadata.name=node-a"}),
    ],
)
def test_lists_and_watches_have_kube_proxys_selectors(resource: Any, path: str, selectors: dict[str, str]) -> None:
    machine = listwatch(resource)
    assert urlsplit(machine.request().target).path == path
    assert query(machine.request()) == {"limit": "500", **selectors}
    machine.answered(200, page())
    assert query(machine.request()).items() >= selectors.items()


def test_a_watch_starts_from_the_lists_version_and_takes_bookmarks() -> None:
    request = watching(version=42).request()
    wanted = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": "42"}
    assert request.is_watch
    assert query(request).items() >= wanted.items()


@pytest.mark.parametrize(("random", "timeout_s"), [(0.0, "300"), (0.5, "450"), (0.999, "599")])
def test_a_watch_lasts_5_to_10_minutes(random: float, timeout_s: str) -> None:
    machine = listwatch(random=random)
    machine.answered(200, page())
    assert query(machine.request())["timeoutSeconds"] == timeout_s


# Lists -----------------------------------------------------------------------------------------------------------


def test_a_list_is_read_page_by_page_and_synced_after_the_last() -> None:
    machine = listwatch()
    assert brief(machine.answered(200, page(service("a"), rest="next"))) == ["+a:80"]
    assert query(machine.request())["continue"] == "next"
    assert brief(machine.answered(200, page(service("b")))) == ["+b:80", "synced services"]


def test_synced_is_told_once() -> None:
    machine = watching(service("a"))
    machine.line(line("ERROR", status(410)))
    assert brief(machine.answered(200, page(service("a")))) == []


def test_a_list_anew_tells_only_what_changed() -> None:
    machine = watching(service("a"), service("b"), service("c"))
    machine.line(line("ERROR", status(410)))
    events = machine.answered(200, page(service("a", 11), service("b", 12, port=81), service("d", 13)))
    assert sorted(brief(events)) == ["+b:81", "+d:80", "-c"]


def test_nothing_is_gone_before_the_last_page() -> None:
    machine = watching(service("a"), service("b"))
    machine.line(line("ERROR", status(410)))
    assert machine.answered(200, page(service("a"), rest="next")) == []
    assert brief(machine.answered(200, page())) == ["-b"]


def test_a_list_that_breaks_off_starts_anew_and_forgets_what_it_saw() -> None:
    machine = watching(service("a"))
    machine.line(line("ERROR", status(410)))
    machine.answered(200, page(service("a"), rest="next"))
    machine.failed(ObjectProblem("x", "y", "z"))
    assert "continue" not in query(machine.request())
    assert brief(machine.answered(200, page())) == ["-a"]


def test_a_continuation_that_expired_is_listed_anew_in_one() -> None:
    machine = listwatch()
    machine.answered(200, page(service("a"), rest="next"))
    assert machine.answered(410, refusal(410)) == []
    request = machine.request()
    assert not {"limit", "continue"} & query(request).keys()
    assert request.wait_s == 0
    assert brief(machine.answered(200, page(service("a"), service("b")))) == ["+b:80", "synced services"]


def test_a_broken_object_of_a_list_spoils_no_other_and_keeps_its_last_good_version() -> None:
    machine = watching(service("a"), service("b"))
    machine.line(line("ERROR", status(410)))
    problem, *rest = brief(machine.answered(200, page(service("a", port=0), service("b", port=81))))
    assert problem.startswith("! Service shop/a: spec.ports[0].port: 0 is not a port")
    assert rest == ["+b:81"]


# Watches ---------------------------------------------------------------------------------------------------------


def test_a_watch_tells_what_changes() -> None:
    machine = watching(service("a"))
    assert brief(machine.line(line("ADDED", service("b", 11)))) == ["+b:80"]
    assert brief(machine.line(line("MODIFIED", service("b", 12, port=81)))) == ["+b:81"]
    assert brief(machine.line(line("DELETED", service("a", 13)))) == ["-a"]


def test_a_change_of_nothing_that_we_use_is_not_told() -> None:
    machine = watching(service("a"))
    assert machine.line(line("MODIFIED", {**service("a", 11), "status": {"conditions": []}})) == []


@pytest.mark.parametrize("said", [bookmark(77), line("MODIFIED", service("a", 77)), line("DELETED", service("a", 77))])
def test_the_next_watch_starts_after_what_the_last_one_said(said: bytes) -> None:
    machine = watching(service("a"))
    machine.line(said)
    machine.ended(400)
    request = machine.request()
    assert (query(request)["resourceVersion"], request.wait_s) == ("77", 0)


def test_a_broken_object_of_a_watch_moves_the_version_on() -> None:
    machine = watching()
    (problem,) = brief(machine.line(line("ADDED", service("a", 77, port="80"))))
    assert problem.startswith("! Service shop/a: spec.ports[0].port: expected int")
    machine.ended(400)
    assert query(machine.request())["resourceVersion"] == "77"


def test_an_expired_watch_is_listed_anew_at_once() -> None:
    machine = watching(service("a"))
    assert machine.line(line("ERROR", status(410))) == []
    assert not machine.watching
    request = machine.request()
    assert (request.is_watch, request.wait_s) == (False, 0)


def test_a_watch_that_expires_again_and_again_is_waited_for() -> None:
    machine = watching()
    waits_s = []
    for _ in range(4):
        machine.line(line("ERROR", status(410)))
        waits_s.append(machine.request().wait_s)
        machine.answered(200, page())
        machine.request()
    assert waits_s == [0, 0.8, 1.6, 3.2]


def test_a_watch_that_is_refused_with_410_is_listed_anew() -> None:
    machine = watching()
    machine.answered(410, refusal(410))
    assert not machine.request().is_watch


def test_a_watch_that_ends_with_another_error_is_listed_anew_later() -> None:
    machine = watching()
    (problem,) = brief(machine.line(line("ERROR", status(500, "etcd is gone"))))
    assert problem == "! Kubernetes API /api/v1/services: HTTP 500: etcd is gone"
    request = machine.request()
    assert (request.is_watch, request.wait_s) == (False, 0.8)


def test_a_line_that_is_no_event_ends_the_watch_and_it_is_resumed() -> None:
    machine = watching(version=42)
    (problem,) = brief(machine.line(b"<html>"))
    assert "a line is no watch event" in problem
    assert not machine.watching
    machine.ended(400)
    request = machine.request()
    assert (request.is_watch, query(request)["resourceVersion"], request.wait_s) == (True, "42", 0.8)


def test_a_watch_that_ends_at_once_is_waited_for() -> None:
    machine = watching()
    waits_s = []
    for _ in range(3):
        machine.ended(0.1)
        waits_s.append(machine.request().wait_s)
    assert waits_s == [0.8, 1.6, 3.2]
    machine.ended(100)
    assert machine.request().wait_s == 0
    machine.ended(0.1)
    assert machine.request().wait_s == 0.8


# Servers that differ ---------------------------------------------------------------------------------------------


def test_a_server_that_does_not_know_the_field_selector_is_asked_without_it() -> None:
    machine = listwatch()
    assert machine.answered(400, refusal(400, "field label not supported: spec.clusterIP")) == []
    assert query(machine.request()).keys() == {"limit", "labelSelector"}
    machine.answered(200, page())
    assert "fieldSelector" not in query(machine.request())


def endpoints(name: str) -> Json:
    meta = {"name": name, "namespace": "shop", "resourceVersion": "5"}
    return {"metadata": meta, "subsets": [{"addresses": [{"ip": "10.1.0.5"}], "ports": [{"port": 80}]}]}


def test_a_server_without_slices_is_asked_for_endpoints() -> None:
    machine = listwatch(SLICES)
    assert machine.answered(404, refusal(404)) == []
    assert urlsplit(machine.request().target).path == "/api/v1/endpoints"
    assert brief(machine.answered(200, page(endpoints("web")))) == ["+endpoints/web/0/IPv4", "synced slices"]


def test_slices_are_tried_again_when_a_watch_of_endpoints_ends() -> None:
    machine = listwatch(SLICES)
    machine.answered(404, refusal(404))
    machine.answered(200, page(endpoints("web")))
    machine.request()
    machine.ended(400)
    assert urlsplit(machine.request().target).path == SLICES.path
    assert brief(machine.answered(200, page())) == ["-endpoints/web/0/IPv4"]


# Failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (401, "the credentials are missing, wrong or expired"),
        (403, "the role needs list and watch on services, endpointslices and nodes"),
        (404, "is this a Kubernetes API server?"),
        (503, ""),
    ],
)
def test_a_refusal_is_told_once_with_a_hint_until_something_succeeds(code: int, hint: str) -> None:
    machine = listwatch()
    (problem,) = machine.answered(code, refusal(code, "no way"))
    assert problem == ObjectProblem("Kubernetes API /api/v1/services", f"HTTP {code}", "no way", hint)
    assert machine.answered(code, refusal(code, "no way")) == []
    machine.answered(200, page())
    machine.request()
    machine.line(bookmark(11))
    assert len(machine.answered(code, refusal(code, "no way"))) == 1


def test_retry_after_is_honoured() -> None:
    machine = listwatch()
    machine.answered(429, refusal(429), retry_after_s=17.0)
    assert machine.request().wait_s == 17


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"\xff", b'{"items": 5}'])
def test_an_answer_that_is_no_list_is_a_problem_and_waited_for(body: bytes) -> None:
    machine = listwatch()
    (problem,) = brief(machine.answered(200, body))
    assert "the answer is no list" in problem
    assert machine.request().wait_s == 0.8


def test_waits_double_from_800_ms_to_30_s_and_start_over_after_a_success() -> None:
    backoff = Backoff(lambda: 0.0)
    assert [backoff.failed() for _ in range(8)] == [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]
    backoff.succeeded()
    assert backoff.failed() == 0.8


@given(st.floats(0, 0.999), st.integers(0, 5))
def test_waits_are_spread_over_twice_their_length(random: float, failures: int) -> None:
    backoff = Backoff(lambda: random)
    for _ in range(failures):
        backoff.failed()
    base_s = 0.8 * 2**failures
    assert base_s <= backoff.failed() <= min(30, 2 * base_s)


# The law ---------------------------------------------------------------------------------------------------------

names = st.sampled_from("abcd")
ports = st.integers(80, 82)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_happens_the_events_add_up_to_what_the_server_has(data: st.DataObject) -> None:
    """A server changes, breaks lists and watches, and forgets; a client that applies the events is never misled."""
    cluster: dict[str, int] = {}
    told: dict[str, int] = {}
    version = 10
    machine = listwatch()

    def apply(events: list[Event]) -> None:
        for event in events:
            match event:
                case ServiceUpserted(found):
                    told[found.name.name] = found.ports[0].port
                case ServiceDeleted(ObjectName(_, name)):
                    del told[name]

    for _ in range(data.draw(st.integers(1, 12))):
        if machine.request().is_watch:
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
                apply(machine.line(body))
            assert told == cluster
            end = data.draw(st.sampled_from(["ended", "expired", "cut"]))
            if end == "expired":
                apply(machine.line(line("ERROR", status(410))))
                cluster = data.draw(st.dictionaries(names, ports))  # what we missed
            elif end == "cut":
                apply(machine.failed(ObjectProblem("x", "y", "z")))
            else:
                machine.ended(400)
        elif data.draw(st.booleans()):
            items = [service(name, version, port) for name, port in sorted(cluster.items())]
            half = data.draw(st.integers(0, len(items)))
            apply(machine.answered(200, page(*items[:half], version=version, rest="next")))
            if data.draw(st.booleans()):
                apply(machine.answered(200, page(*items[half:], version=version)))
                assert told == cluster
        else:
            apply(machine.answered(data.draw(st.sampled_from([410, 500, 403])), b""))
