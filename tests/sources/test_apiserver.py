"""The behaviour of kube-apiserver: of the stand-in and, where it is installed, of the real one."""

import gzip
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.apiserver import ApiServer
from tests.apiserver.client import Client
from tests.apiserver.objects import Json, endpoint_slice, service
from tests.sources.conftest import require_version

SERVICES = "/api/v1/services"


def labelled(name: str, **labels: str) -> Json:
    return service(name, labels=labels)


@pytest.fixture
def apply(cluster: Client) -> Iterator[Any]:
    """Apply Services that are deleted after the test."""
    bodies: dict[str, Json] = {}

    def apply_object(body: Json) -> Json:
        bodies[body["metadata"]["name"]] = body
        return cluster.apply(body)

    yield apply_object
    for body in bodies.values():
        cluster.request_json("DELETE", f"/api/v1/namespaces/default/services/{body['metadata']['name']}")


def list_of(cluster: Client, query: str = "") -> Json:
    status, answer = cluster.request_json("GET", f"{SERVICES}?{query}")
    assert status == 200, answer
    return answer


def names_of(answer: Json) -> list[str]:
    return [item["metadata"]["name"] for item in answer["items"] if item["metadata"]["name"] != "kubernetes"]


def watch_path(version: str, **query: str) -> str:
    terms = {"watch": "true", "resourceVersion": version, "timeoutSeconds": "1", **query}
    return f"{SERVICES}?" + "&".join(f"{name}={quote(value)}" for name, value in terms.items())


def test_list_has_a_version_and_items_without_kind(cluster: Client, apply: Any) -> None:
    apply(service("a"))
    answer = list_of(cluster)
    assert (answer["kind"], answer["apiVersion"]) == ("ServiceList", "v1")
    assert int(answer["metadata"]["resourceVersion"]) > 0
    assert not {"kind", "apiVersion"} & answer["items"][0].keys()


def test_pages_of_a_list_have_one_version(cluster: Client, apply: Any) -> None:
    for name in "abc":
        apply(labelled(f"page-{name}", paged="yes"))
    first = list_of(cluster, "limit=2&labelSelector=paged%3Dyes")
    apply(labelled("page-d", paged="yes"))
    token = quote(first["metadata"]["continue"])
    second = list_of(cluster, f"limit=2&labelSelector=paged%3Dyes&continue={token}")
    assert (names_of(first), names_of(second)) == (["page-a", "page-b"], ["page-c"])
    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]
    assert not second["metadata"].get("continue")


def test_list_not_older_than_a_version_is_not_older_and_one_of_the_future_is_refused(
    cluster: Client, apply: Any
) -> None:
    version = int(apply(service("newest"))["metadata"]["resourceVersion"])
    answer = list_of(cluster, f"resourceVersion={version}&resourceVersionMatch=NotOlderThan")
    assert "newest" in names_of(answer)
    assert int(answer["metadata"]["resourceVersion"]) >= version
    query = f"resourceVersion={version + 10**9}&resourceVersionMatch=NotOlderThan"
    status, refusal = cluster.request_json("GET", f"{SERVICES}?{query}")
    assert (status, "Too large resource version" in refusal["message"]) == (504, True)


@pytest.mark.parametrize(
    "query", ["resourceVersionMatch=NotOlderThan", "resourceVersion=1&resourceVersionMatch=Newest"]
)
def test_match_of_versions_that_makes_no_sense_is_rejected(cluster: Client, query: str) -> None:
    status, answer = cluster.request_json("GET", f"{SERVICES}?{query}")
    assert (status, answer["reason"]) == (422, "Invalid")


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_large_list_is_compressed_and_a_watch_never(cluster: Client, apply: Any, encoding: str) -> None:
    large = {"x": "y" * 200_000}
    version = list_of(cluster)["metadata"]["resourceVersion"]
    apply(service("large", annotations=large))
    for path, is_list in ((SERVICES, True), (watch_path(version), False)):
        request = cluster.request("GET", path)
        request.add_header("Accept-Encoding", encoding)
        with cluster.open(request) as response:
            body = response.read()
            is_compressed = response.headers.get("Content-Encoding") == "gzip"
        assert is_compressed == (is_list and encoding == "gzip")
        assert b"y" * 200_000 in (gzip.decompress(body) if is_compressed else body)


def test_watch_sends_each_change_with_kind_and_version(cluster: Client, apply: Any) -> None:
    version = list_of(cluster)["metadata"]["resourceVersion"]
    body = service("w")
    apply(body)
    apply({**body, "metadata": {**body["metadata"], "labels": {"x": "y"}}})
    cluster.delete(body)
    with cluster.watch(watch_path(version)) as lines:
        events = [line for line in lines if line["object"]["metadata"]["name"] == "w"]
    assert [event["type"] for event in events] == ["ADDED", "MODIFIED", "DELETED"]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(set(versions))
    assert {(event["object"]["kind"], event["object"]["apiVersion"]) for event in events} == {("Service", "v1")}


def test_object_that_no_longer_matches_the_selector_is_deleted_for_the_watch(cluster: Client, apply: Any) -> None:
    version = list_of(cluster)["metadata"]["resourceVersion"]
    body = service("leaves")
    apply(body)
    apply({**body, "metadata": {**body["metadata"], "labels": {"service.kubernetes.io/service-proxy-name": "other"}}})
    apply(body)
    with cluster.watch(watch_path(version, labelSelector="!service.kubernetes.io/service-proxy-name")) as lines:
        events = [line["type"] for line in lines if line["object"]["metadata"]["name"] == "leaves"]
    assert events == ["ADDED", "DELETED", "ADDED"]


def test_field_selector_excludes_headless_services(cluster: Client, apply: Any) -> None:
    require_version(cluster, 31, "rejects this selector, without which the agent lists then")
    body = service("headless")
    apply({**body, "spec": {**body["spec"], "clusterIP": "None"}})
    apply(service("headed"))
    names = names_of(list_of(cluster, "fieldSelector=" + quote("spec.clusterIP!=None")))
    assert ("headed" in names, "headless" in names) == (True, False)


def test_watch_from_an_expired_version_ends_with_410(cluster: Client, apply: Any) -> None:
    version = apply(service("before"))["metadata"]["resourceVersion"]
    apply(service("since"))
    cluster.expire_versions()
    with cluster.watch(watch_path(version, timeoutSeconds="60")) as lines:
        first = next(lines)
    answer = first.get("object", first)  # some servers reject the request itself
    assert (answer["kind"], answer["code"]) == ("Status", 410)


def test_fresh_server_remembers_its_first_versions(server: ApiServer) -> None:
    body = service("first")
    client = Client(server.url)
    client.apply(body)
    client.delete(body)
    with client.watch(watch_path("1")) as lines:
        assert [line["type"] for line in lines] == ["ADDED", "DELETED"]


def test_watch_of_an_idle_type_is_silent_until_it_changes(server: ApiServer) -> None:
    server.faults.bookmark_period_s = 0.05
    client = Client(server.url)
    client.apply(endpoint_slice("of-another-type"))
    version = str(server.store.version)
    with client.watch(watch_path(version, allowWatchBookmarks="true")) as lines:
        assert list(lines) == []
    with client.watch(watch_path(version, allowWatchBookmarks="true", timeoutSeconds="60")) as lines:
        client.apply(service("changes"))
        assert [next(lines)["type"] for _ in range(3)] == ["ADDED", "BOOKMARK", "BOOKMARK"]


def test_progress_notices_of_etcd_lead_to_bookmarks_of_idle_types(server: ApiServer) -> None:
    server.faults.bookmark_period_s, server.faults.progress_notices = 0.05, True
    client = Client(server.url)
    version = server.store.version
    client.apply(endpoint_slice("of-another-type"))
    with client.watch(watch_path(str(version), allowWatchBookmarks="true", timeoutSeconds="60")) as lines:
        first = next(lines)
    assert (first["type"], first["object"]["metadata"]["resourceVersion"]) == ("BOOKMARK", str(version + 1))


@pytest.mark.parametrize(
    ("method", "path", "code", "reason"),
    [
        ("GET", "/api/v1/namespaces/default/services/none", 404, "NotFound"),
        ("GET", "/apis/discovery.k8s.io/v9/endpointslices", 404, None),
        ("GET", f"{SERVICES}?fieldSelector=spec.nothing%3Dx", 400, "BadRequest"),
        ("GET", f"{SERVICES}?limit=1&continue=nonsense", 400, "BadRequest"),
        ("DELETE", "/api/v1/namespaces/default/services/none", 404, "NotFound"),
    ],
)
def test_invalid_request_is_rejected(cluster: Client, method: str, path: str, code: int, reason: str | None) -> None:
    status, answer = cluster.request_json(method, path)
    assert status == code
    assert reason is None or (answer["kind"], answer["code"], answer["reason"]) == ("Status", code, reason)


def test_object_is_created_only_once(cluster: Client) -> None:
    path, body = "/api/v1/namespaces/default/services", service("once")
    del body["spec"]["clusterIP"]  # which could be allocated only once
    first, _ = cluster.request_json("POST", path, body)
    status, answer = cluster.request_json("POST", path, body)
    cluster.delete(body)
    assert (first, status, answer["reason"]) == (201, 409, "AlreadyExists")


@pytest.mark.parametrize("name", ["once", "another"])
def test_cluster_ip_is_allocated_only_once(cluster: Client, apply: Any, name: str) -> None:
    body = apply(service("once"))
    again = {**service(name), "spec": {"clusterIP": body["spec"]["clusterIP"], "ports": [{"port": 80}]}}
    status, answer = cluster.request_json("POST", "/api/v1/namespaces/default/services", again)
    assert (status, answer["reason"]) == (422, "Invalid")
    assert "provided IP is already allocated" in answer["message"]


def test_update_of_an_old_version_is_rejected(cluster: Client, apply: Any) -> None:
    body = service("old")
    old = apply(body)
    apply({**body, "metadata": {**body["metadata"], "labels": {"x": "y"}}})
    status, answer = cluster.request_json("PUT", "/api/v1/namespaces/default/services/old", old)
    assert (status, answer["reason"]) == (409, "Conflict")


@pytest.mark.parametrize("token", ["", "wrong"])
def test_request_without_a_valid_token_is_unauthorized(cluster: Client, token: str) -> None:
    status, answer = Client(cluster.url, token, cluster.ca_file).request_json("GET", SERVICES)
    assert (status, answer["reason"]) == (401, "Unauthorized")


def test_status_is_updated_by_its_subresource(cluster: Client, apply: Any) -> None:
    body = service("lb")
    body["spec"]["type"] = "LoadBalancer"
    now = apply(body)
    now["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
    status, after = cluster.request_json("PUT", "/api/v1/namespaces/default/services/lb/status", now)
    assert status == 200
    assert after["status"]["loadBalancer"]["ingress"][0]["ip"] == "192.0.2.1"
