"""probe: what the server says about a silent watch."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import urllib3

from kubeproxy_py.sources import SourceError
from kubeproxy_py.sources.kubernetes.api_connection import ApiConnection
from kubeproxy_py.sources.kubernetes.client import Connection
from kubeproxy_py.sources.kubernetes.open_watch import Answer, Verdict, WatchActivity
from kubeproxy_py.sources.kubernetes.probe import probe
from kubeproxy_py.sources.kubernetes.resources import SERVICES
from kubeproxy_py.sources.kubernetes.source import connect
from tests.apiserver import ApiServer
from tests.apiserver.client import Client
from tests.apiserver.objects import kubeconfig, service


def ask(server: ApiServer, version: int | None = None) -> Answer:
    """Return the answer about a watch of Services up to *version*; None: up to now."""
    api = ApiConnection(lambda: Connection(server.url, urllib3.PoolManager(), lambda: "", "test"))
    return probe(api, WatchActivity(SERVICES, str(server.store.version if version is None else version), 0.0), 5.0)


ALL_SERVICES = msgspec.structs.replace(SERVICES, field_selector="")  # as of servers before 1.31


def test_stand_in_and_a_real_server_answer_alike(cluster: Client, tmp_path: Path) -> None:
    api = ApiConnection(lambda: connect(kubeconfig(tmp_path, cluster), None))
    version = int(cluster.request_json("GET", SERVICES.path)[1]["metadata"]["resourceVersion"])
    asked = {
        number: probe(api, WatchActivity(ALL_SERVICES, str(number), 0.0), 10.0).verdict for number in (version, 10**12)
    }
    assert asked == {version: Verdict.IDLE, 10**12: Verdict.RESTORED}
    body = service("probed")
    cluster.apply(body)
    assert probe(api, WatchActivity(ALL_SERVICES, str(version), 0.0), 10.0).verdict is Verdict.FROZEN
    cluster.delete(body)


def refuse(server: ApiServer) -> None:
    server.faults.forbidden = {("list", "services")}


def answer_with_something_else(server: ApiServer) -> None:
    server.faults.raw_lists = {"services": b"{}"}


def be_unavailable(server: ApiServer) -> None:
    server.respond_next(503)


def test_watch_that_was_sent_everything_is_idle(server: ApiServer) -> None:
    server.apply(service("a"))
    assert ask(server).verdict is Verdict.IDLE


def test_watch_that_was_not_sent_a_change_is_frozen(server: ApiServer) -> None:
    version = server.store.version
    server.apply(service("a"))
    assert ask(server, version).verdict is Verdict.FROZEN


def test_change_of_another_resource_freezes_no_watch(server: ApiServer) -> None:
    version = server.store.version
    server.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}})
    assert ask(server, version).verdict is Verdict.IDLE


def test_version_that_the_server_does_not_know_means_that_it_was_restored(server: ApiServer) -> None:
    assert ask(server, server.store.version + 1).verdict is Verdict.RESTORED


def test_version_that_only_the_watch_cache_does_not_have_yet_is_idle(server: ApiServer) -> None:
    server.faults.cached_version = server.store.version - 1
    assert ask(server).verdict is Verdict.IDLE


def test_restored_server_is_told_from_one_whose_watch_cache_is_behind(server: ApiServer) -> None:
    server.faults.cached_version = server.store.version - 1
    assert ask(server, server.store.version + 1).verdict is Verdict.RESTORED


def test_watch_whose_version_is_too_old_to_begin_another_one_is_idle(server: ApiServer) -> None:
    version = server.store.version
    server.apply(service("a"))
    server.store.compact()
    assert ask(server, version).verdict is Verdict.IDLE


@pytest.mark.parametrize("fault", [refuse, answer_with_something_else, be_unavailable])
def test_server_that_does_not_answer_the_question_says_nothing(
    server: ApiServer, fault: Callable[[ApiServer], None]
) -> None:
    fault(server)
    assert ask(server).verdict is Verdict.UNKNOWN


def test_server_that_cannot_be_connected_to_is_unreachable(server: ApiServer) -> None:
    server.stop()
    answer = ask(server)
    assert answer.verdict is Verdict.UNREACHABLE
    assert answer.problem is not None


def test_credentials_that_cannot_be_read_say_nothing_about_a_watch() -> None:
    def connect() -> Connection:
        raise SourceError("kubeconfig cannot be read")

    assert probe(ApiConnection(connect), WatchActivity(SERVICES, "5", 0.0), 5.0).verdict is Verdict.UNKNOWN
