"""KubeSource: a cluster's state arrives, whatever the connection and the credentials go through."""

import base64
import json
import logging
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubeproxy_py import backoff
from kubeproxy_py.model.events import (
    Event,
    NodeUpserted,
    ObjectProblem,
    ServiceDeleted,
    ServiceUpserted,
    SliceDeleted,
    SliceUpserted,
    Synced,
)
from kubeproxy_py.sources import SourceError
from kubeproxy_py.sources.initial_snapshot import collect
from kubeproxy_py.sources.kubernetes.source import KubeSource
from tests.apiserver import ApiServer
from tests.apiserver.certificates import Authority
from tests.apiserver.client import Client
from tests.sources.conftest import Heard
from tests.sources.test_apiserver import Json, service

SECRET = "s3cr3t-token"


def endpoint_slice(name: str, address: str = "10.1.0.5", **labels: str) -> Json:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": "web", **labels}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]}],
        "ports": [{"port": 8080}],
    }


def node(name: str) -> Json:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}


def is_service(name: str) -> Any:
    return lambda event: isinstance(event, ServiceUpserted) and event.service.name.name == name


def is_problem(text: str) -> Any:
    return lambda event: isinstance(event, ObjectProblem) and text in str(event)


def is_synced(feed: str) -> Any:
    return lambda event: event == Synced(feed)  # type: ignore[arg-type]


def kubeconfig(
    directory: Path, client: Client | ApiServer, user: Json | None = None, cluster: Json | None = None
) -> str:
    """The path of a kubeconfig for *client*'s server."""
    ca = {"certificate-authority": str(client.ca_file)} if isinstance(client, Client) and client.ca_file else {}
    token = {"token": client.token} if isinstance(client, Client) else {}
    body = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": client.url, **ca, **(cluster or {})}}],
        "users": [{"name": "u", "user": token if user is None else user}],
    }
    path = directory / "kubeconfig"
    path.write_text(yaml.safe_dump(body))
    return str(path)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_S", 0.02)


@pytest.fixture
def running(heard: Heard) -> Iterator[Any]:
    """Starts sources that are stopped after the test; *heard* hears them."""
    sources: list[KubeSource] = []

    def start(path: str | None = None, master: str | None = None, **options: Any) -> KubeSource:
        source = KubeSource(path, master, "node-a", **options)
        sources.append(source)
        source.start(heard)
        return source

    yield start
    for source in sources:
        source.stop()


@pytest.fixture
def on_server(server: ApiServer, running: Any, heard: Heard) -> ApiServer:
    """The stand-in, with a source that has synced with it."""
    server.faults.bookmark_period_s = 0.05
    server.apply(service("first"))
    running(master=server.url)
    for feed in ("services", "slices", "node"):
        wait_until_synced(heard, feed)
    return server


def wait_until_synced(heard: Heard, feed: str) -> None:
    """Unlike Heard.wait_for, this forgets nothing: feeds are synced in any order."""
    end_s = time.monotonic() + 5
    while time.monotonic() < end_s:
        if any(event == Synced(feed) for _, event in heard.events):  # type: ignore[arg-type]
            return
        time.sleep(0.001)
    raise AssertionError(f"{feed} not synced: {heard.events}")


# In both servers -------------------------------------------------------------------------------------------------


def test_what_is_there_is_told_before_synced_and_changes_after(
    cluster: Client, tmp_path: Path, running: Any, heard: Heard
) -> None:
    cluster.apply(node("node-a"))
    cluster.apply(node("node-b"))
    there = service("there")
    cluster.apply(there)
    running(kubeconfig(tmp_path, cluster))
    for feed in ("services", "slices", "node"):
        wait_until_synced(heard, feed)
    told = [event for _, event in heard.events]
    assert [event.node.name for event in told if isinstance(event, NodeUpserted)] == ["node-a"]
    names = [
        event.service.name.name
        for event in told[: told.index(Synced("services"))]
        if isinstance(event, ServiceUpserted)
    ]
    assert "there" in names

    cluster.apply(service("comes"))
    heard.wait_for(is_service("comes"))
    cluster.apply(endpoint_slice("comes-1"))
    heard.wait_for(lambda event: isinstance(event, SliceUpserted) and event.slice.name.name == "comes-1")
    cluster.delete(there)
    heard.wait_for(lambda event: isinstance(event, ServiceDeleted) and event.name.name == "there")
    cluster.delete(endpoint_slice("comes-1"))
    heard.wait_for(lambda event: isinstance(event, SliceDeleted) and event.name.name == "comes-1")


def test_a_service_that_gets_another_proxy_is_gone(cluster: Client, tmp_path: Path, running: Any, heard: Heard) -> None:
    body = service("changes")
    cluster.apply(body)
    running(kubeconfig(tmp_path, cluster))
    heard.wait_for(is_service("changes"))
    labels = {"service.kubernetes.io/service-proxy-name": "other"}
    cluster.apply({**body, "metadata": {**body["metadata"], "labels": labels}})
    heard.wait_for(lambda event: isinstance(event, ServiceDeleted) and event.name.name == "changes")


def test_collect_gives_all_there_is_and_ends(cluster: Client, tmp_path: Path) -> None:
    cluster.apply(service("collected"))
    events = collect(KubeSource(kubeconfig(tmp_path, cluster), None, "node-a"), timeout_s=10)
    assert any(is_service("collected")(event) for event in events)
    assert sum(isinstance(event, Synced) for event in events) == 3


def test_lists_longer_than_a_page_arrive_whole(server: ApiServer) -> None:
    server.store.create_all(service(f"s-{number}") for number in range(1201))
    events = collect(KubeSource(None, server.url, "node-a"), timeout_s=10)
    assert sum(isinstance(event, ServiceUpserted) for event in events) == 1201
    assert sum("continue=" in request for request in server.requests) == 2


# Connections -----------------------------------------------------------------------------------------------------


def test_a_change_arrives_within_50_ms(on_server: ApiServer, heard: Heard) -> None:
    latencies_s = []
    for name in ("a", "b", "c"):
        before = time.monotonic()
        on_server.apply(service(name))
        latencies_s.append(heard.wait_for(is_service(name))[0] - before)
    assert min(latencies_s) < 0.05, latencies_s


def test_a_cut_connection_is_taken_up_where_it_was(on_server: ApiServer, heard: Heard) -> None:
    lists = sum("limit=" in request for request in on_server.requests)
    on_server.cut()
    on_server.apply(service("after"))
    heard.wait_for(is_service("after"))
    assert sum("limit=" in request for request in on_server.requests) == lists


def test_a_forgotten_history_is_listed_anew(on_server: ApiServer, heard: Heard) -> None:
    with on_server.store.changed:  # nobody hears of the next changes
        on_server.store.delete("services", ("default", "first"))
        on_server.store.create("services", service("second"))
        on_server.store.compact()
    heard.wait_for(is_service("second"))
    heard.wait_for(lambda event: isinstance(event, ServiceDeleted) and event.name.name == "first")
    assert not any(isinstance(event, ObjectProblem) for _, event in heard.events)


def test_a_server_that_comes_back_is_found_again(on_server: ApiServer, heard: Heard) -> None:
    port = on_server.server_address[1]
    store = on_server.store
    on_server.stop()
    heard.wait_for(is_problem("connection"))
    store.create("services", service("meanwhile"))
    again = ApiServer(port)
    again.store = store
    again.start()
    try:
        heard.wait_for(is_service("meanwhile"))
    finally:
        again.stop()


def test_a_silent_connection_is_given_up(server: ApiServer, running: Any, heard: Heard) -> None:
    server.faults.silent = True
    running(master=server.url, silence_s=0.3)
    wait_until_synced(heard, "services")
    time.sleep(0.5)
    server.faults.silent = False
    server.apply(service("heard"))
    heard.wait_for(is_service("heard"))
    watches = [request for request in server.requests if "watch=" in request and "/services" in request]
    assert len(watches) > 1


def test_bookmarks_keep_a_quiet_watch_alive_and_up_to_date(server: ApiServer, running: Any, heard: Heard) -> None:
    server.faults.bookmark_period_s = 0.05
    running(master=server.url, silence_s=0.4)
    wait_until_synced(heard, "node")
    server.apply(service("moves-the-version"))
    heard.wait_for(is_service("moves-the-version"))
    version = server.store.version
    time.sleep(0.8)
    assert sum("watch=" in request for request in server.requests) == 3
    server.cut()
    server.apply(service("after"))
    heard.wait_for(is_service("after"))
    resumed = [request for request in server.requests if "watch=" in request][3:]
    assert all(f"resourceVersion={version}" in request for request in resumed[:3])


def test_a_slow_server_is_waited_for(server: ApiServer) -> None:
    server.faults.delay_s = 0.3
    server.apply(service("slow"))
    events = collect(KubeSource(None, server.url, "node-a"), timeout_s=10)
    assert any(is_service("slow")(event) for event in events)


def test_a_busy_server_is_asked_again_when_it_says(server: ApiServer, running: Any, heard: Heard) -> None:
    server.answer_next(429, {"Retry-After": "1"}, times=3, reason="TooManyRequests", message="busy")
    before = time.monotonic()
    running(master=server.url)
    heard.wait_for(is_problem("HTTP 429: busy"))
    wait_until_synced(heard, "services")
    assert time.monotonic() - before >= 1


def test_a_continuation_that_expires_does_not_keep_the_list_from_ending(server: ApiServer) -> None:
    server.store.create_all(service(f"s-{number}") for number in range(1201))
    server.faults.page_max = 1
    events = collect(KubeSource(None, server.url, "node-a"), timeout_s=10)
    assert len({event.service.name for event in events if isinstance(event, ServiceUpserted)}) == 1201


def test_an_old_server_gives_endpoints_and_all_services(server: ApiServer) -> None:
    server.faults.absent = {"endpointslices"}
    server.faults.refused_fields = frozenset({"spec.clusterIP"})
    server.apply(service("web"))
    subsets = [{"addresses": [{"ip": "10.1.0.5"}], "ports": [{"port": 8080}]}]
    meta = {"name": "web", "namespace": "default"}
    server.apply({"apiVersion": "v1", "kind": "Endpoints", "metadata": meta, "subsets": subsets})
    events = collect(KubeSource(None, server.url, "node-a"), timeout_s=10)
    assert any(is_service("web")(event) for event in events)
    assert any(isinstance(event, SliceUpserted) and event.slice.service.name == "web" for event in events)
    assert not any(isinstance(event, ObjectProblem) for event in events)


def test_stop_is_prompt_and_nothing_is_told_after_it(server: ApiServer, running: Any, heard: Heard) -> None:
    source = running(master=server.url)
    wait_until_synced(heard, "node")
    time.sleep(0.05)
    before = time.monotonic()
    source.stop()
    took_s = time.monotonic() - before
    heard.events.clear()
    server.apply(service("late"))
    time.sleep(0.1)
    assert took_s < 0.5
    assert heard.events == []


def test_collect_names_what_was_not_heard_and_why(server: ApiServer) -> None:
    server.answer_next(403, times=1000, reason="Forbidden", message="services is forbidden")
    with pytest.raises(SourceError, match=r"not all was heard of node, services, slices within 0.3 s .*HTTP 403"):
        collect(KubeSource(None, server.url, "node-a"), timeout_s=0.3)


# Credentials -----------------------------------------------------------------------------------------------------


def heard_through(path: str, server: ApiServer, name: str) -> list[Event]:
    server.apply(service(name))
    events = collect(KubeSource(path, None, "node-a"), timeout_s=5)
    assert any(is_service(name)(event) for event in events)
    return events


@pytest.fixture
def secured(authority: Authority) -> Iterator[ApiServer]:
    """The stand-in with TLS, where only SECRET is a good token."""
    server = ApiServer(tls=authority.server_context()).start()
    server.faults.tokens = {SECRET}
    yield server
    server.stop()


def with_ca(authority: Authority) -> Json:
    return {"certificate-authority": str(authority.file)}


def test_a_token_file_may_end_in_a_newline(secured: ApiServer, authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{SECRET}\n")
    path = kubeconfig(tmp_path, secured, {"tokenFile": "token"}, with_ca(authority))
    heard_through(path, secured, "web")


def test_a_token_file_is_read_at_each_request(
    secured: ApiServer, authority: Authority, tmp_path: Path, running: Any, heard: Heard
) -> None:
    (tmp_path / "token").write_text(SECRET)
    running(kubeconfig(tmp_path, secured, {"tokenFile": "token"}, with_ca(authority)))
    wait_until_synced(heard, "services")
    (tmp_path / "token").write_text("rotated\n")
    secured.faults.tokens = {"rotated"}
    secured.cut()
    secured.apply(service("rotated"))
    heard.wait_for(is_service("rotated"))
    assert not any(isinstance(event, ObjectProblem) for _, event in heard.events)


def test_a_kubeconfig_that_is_written_anew_is_read_anew_when_the_server_knows_us_no_longer(
    secured: ApiServer, authority: Authority, tmp_path: Path, running: Any, heard: Heard
) -> None:
    running(kubeconfig(tmp_path, secured, {"token": SECRET}, with_ca(authority)))
    wait_until_synced(heard, "services")
    kubeconfig(tmp_path, secured, {"token": "rotated"}, with_ca(authority))
    secured.faults.tokens = {"rotated"}
    secured.cut()
    secured.apply(service("rotated"))
    heard.wait_for(is_service("rotated"))


def exec_plugin(directory: Path, token: str) -> Json:
    """A credential plugin that counts its calls."""
    program = directory / "plugin"
    status = {"token": token}
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    program.write_text(
        f"#!{sys.executable}\nimport os\n"
        f"open({str(directory / 'calls')!r}, 'a').write(os.environ['MARK'])\nprint({json.dumps(answer)!r})\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(program),
            "args": ["--cluster=x"],
            "env": [{"name": "MARK", "value": "."}],
            "interactiveMode": "Never",
        }
    }


def test_credentials_come_from_an_exec_plugin_and_again_when_they_are_refused(
    secured: ApiServer, authority: Authority, tmp_path: Path, running: Any, heard: Heard
) -> None:
    running(kubeconfig(tmp_path, secured, exec_plugin(tmp_path, SECRET), with_ca(authority)))
    wait_until_synced(heard, "services")
    assert (tmp_path / "calls").read_text() == "."
    exec_plugin(tmp_path, "rotated")
    secured.faults.tokens = {"rotated"}
    secured.cut()
    secured.apply(service("rotated"))
    heard.wait_for(is_service("rotated"))


def test_an_exec_plugin_that_fails_is_an_error_with_a_hint(
    secured: ApiServer, authority: Authority, tmp_path: Path
) -> None:
    user = exec_plugin(tmp_path, SECRET)
    (tmp_path / "plugin").write_text("#!/bin/sh\nexit 1\n")
    source = KubeSource(kubeconfig(tmp_path, secured, user, with_ca(authority)), None, "node-a")
    with pytest.raises(SourceError, match=r"exec gave no credentials \(run its command by hand\)"):
        source.start(lambda *events: None)


def test_client_certificates_are_shown(authority: Authority, tmp_path: Path) -> None:
    server = ApiServer(tls=authority.server_context(client_certificates=True)).start()
    certificate, key = authority.issue("client")
    user = {"client-certificate": str(certificate), "client-key": str(key)}
    try:
        heard_through(kubeconfig(tmp_path, server, user, with_ca(authority)), server, "web")
    finally:
        server.stop()


def test_certificates_may_stand_in_the_kubeconfig(authority: Authority, tmp_path: Path) -> None:
    def inline(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    server = ApiServer(tls=authority.server_context(client_certificates=True)).start()
    certificate, key = authority.issue("inline")
    user = {"client-certificate-data": inline(certificate), "client-key-data": inline(key)}
    ca = {"certificate-authority-data": inline(authority.file)}
    try:
        heard_through(kubeconfig(tmp_path, server, user, ca), server, "web")
    finally:
        server.stop()


def test_a_missing_client_certificate_is_told_with_a_hint(
    authority: Authority, tmp_path: Path, running: Any, heard: Heard
) -> None:
    server = ApiServer(tls=authority.server_context(client_certificates=True)).start()
    running(kubeconfig(tmp_path, server, {}, with_ca(authority)))
    try:
        heard.wait_for(is_problem("TLS: tlsv13 alert certificate required (the server does not accept our client"))
    finally:
        server.stop()


def test_a_wrong_ca_is_told_with_a_hint(secured: ApiServer, tmp_path: Path, running: Any, heard: Heard) -> None:
    other = Authority(tmp_path / "other", "other-ca")
    running(kubeconfig(tmp_path, secured, {"token": SECRET}, with_ca(other)))
    _, event = heard.wait_for(lambda event: isinstance(event, ObjectProblem))
    assert str(event) == (
        f"{secured.url}: TLS: certificate verify failed: unable to get local issuer certificate "
        "(certificate-authority must be the CA that signed the server's certificate)"
    )


def test_a_ca_that_is_mended_is_used(
    secured: ApiServer, authority: Authority, tmp_path: Path, running: Any, heard: Heard
) -> None:
    other = Authority(tmp_path / "other", "other-ca")
    running(kubeconfig(tmp_path, secured, {"token": SECRET}, with_ca(other)))
    heard.wait_for(is_problem("TLS"))
    kubeconfig(tmp_path, secured, {"token": SECRET}, with_ca(authority))
    wait_until_synced(heard, "services")


def test_a_certificate_of_another_address_is_told_with_a_hint(
    authority: Authority, tmp_path: Path, running: Any, heard: Heard
) -> None:
    server = ApiServer(tls=authority.server_context(address="192.0.2.1")).start()
    running(kubeconfig(tmp_path, server, {"token": SECRET}, with_ca(authority)))
    try:
        heard.wait_for(is_problem("set server, or tls-server-name, to a name that its certificate has"))
    finally:
        server.stop()


def test_tls_server_name_and_insecure_are_honoured(authority: Authority, tmp_path: Path) -> None:
    server = ApiServer(tls=authority.server_context(address="192.0.2.1")).start()
    try:
        named = {**with_ca(authority), "tls-server-name": "localhost"}
        heard_through(kubeconfig(tmp_path, server, {}, named), server, "named")
        heard_through(kubeconfig(tmp_path, server, {}, {"insecure-skip-tls-verify": True}), server, "insecure")
    finally:
        server.stop()


def test_a_service_account_is_used_in_a_pod_and_its_token_rotates(
    secured: ApiServer,
    authority: Authority,
    tmp_path: Path,
    running: Any,
    heard: Heard,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kubernetes.config import incluster_config

    (tmp_path / "token").write_text(f"{SECRET}\n")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority.file))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(secured.server_address[1]))
    running()
    wait_until_synced(heard, "services")
    (tmp_path / "token").write_text("rotated\n")
    secured.faults.tokens = {"rotated"}
    secured.cut()
    secured.apply(service("rotated"))
    heard.wait_for(is_service("rotated"))


def test_outside_of_a_pod_a_configuration_is_asked_for() -> None:
    with pytest.raises(SourceError, match=r"no pod with a service account.*name a --kubeconfig or a --manifests"):
        KubeSource(None, None, "node-a").start(lambda *events: None)


def test_master_goes_before_the_kubeconfigs_server(server: ApiServer, tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, Client("http://127.0.0.1:9"))
    server.apply(service("web"))
    for master in (server.url, server.url.removeprefix("http://")):
        events = collect(KubeSource(path, master, "node-a"), timeout_s=5)
        assert any(is_service("web")(event) for event in events)


BROKEN_KUBECONFIGS: list[tuple[str, str]] = [
    ("", r"expected object, got null"),
    ("a: b: c", r"line 1: is not YAML"),
    ("[]", r"expected object, got array"),
    ("{}", r"current-context is missing"),
    ("current-context: x", r"current-context is 'x', which contexts does not have"),
    ("{current-context: x, contexts: [{name: x, context: {cluster: c}}]}", r"the context's cluster is 'c', which"),
    ("{current-context: x, contexts: [{name: x}]}", r"contexts\[0\]"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN_KUBECONFIGS)
def test_a_broken_kubeconfig_is_told_with_its_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(SourceError, match=message):
        KubeSource(str(path), None, "node-a").start(lambda *events: None)


@pytest.mark.parametrize("field", ["certificate-authority", "client-certificate", "client-key", "tokenFile"])
def test_a_file_that_a_kubeconfig_names_in_vain_is_told(server: ApiServer, tmp_path: Path, field: str) -> None:
    part = {field: "/none"}
    in_cluster = field == "certificate-authority"
    path = kubeconfig(tmp_path, server, {} if in_cluster else part, part if in_cluster else {})
    with pytest.raises(SourceError, match=f"{field}: there is no file /none"):
        KubeSource(path, None, "node-a").start(lambda *events: None)


def test_a_missing_kubeconfig_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file or directory"):
        KubeSource(str(tmp_path / "none"), None, "node-a").start(lambda *events: None)


SPOILED_USERS: list[Json] = [
    {"token": f"{SECRET}\nx"},
    {"token": f"{SECRET}ü"},
    {"token": SECRET, "exec": {"command": "x"}},
    {"token": [SECRET]},
    {"token": SECRET, "auth-provider": {"config": {"x": "y"}}},
    {"token": SECRET, "client-certificate-data": "!", "client-key-data": SECRET},
]


@pytest.mark.parametrize("user", SPOILED_USERS, ids=["newline", "umlaut", "exec", "list", "provider", "certificate"])
def test_no_secret_is_told_or_logged(
    secured: ApiServer,
    authority: Authority,
    tmp_path: Path,
    heard: Heard,
    caplog: pytest.LogCaptureFixture,
    user: Json,
) -> None:
    caplog.set_level(logging.DEBUG)
    secured.faults.tokens = set()
    source = KubeSource(kubeconfig(tmp_path, secured, user, with_ca(authority)), None, "node-a")
    try:
        source.start(heard)
        heard.wait_for(lambda event: isinstance(event, ObjectProblem))
        source.stop()
        said = str(heard.events)
    except SourceError as error:
        said = str(error)
    assert said
    assert SECRET not in said + caplog.text
