"""The debug socket: who may use it, what it answers, and what it survives."""

from __future__ import annotations

import queue
import socket
import stat
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from kubeproxy_py.commands.agent_client import NoAgentError, RefusedError, ask
from kubeproxy_py.diagnose.document import ErrorDocument, Explanation, State
from kubeproxy_py.diagnose.snapshot import About, Snapshot
from kubeproxy_py.model.events import ServiceUpserted, SliceUpserted
from kubeproxy_py.model.rows import Connections, RealServer, RealServerCounters, Traffic, VirtualServer
from kubeproxy_py.server.debug_socket import CLIENTS_MAX, DebugServer, listening_unix_socket
from kubeproxy_py.server.documents import PAGES, SOCKET_PAGES, Documents, Page
from kubeproxy_py.server.http import HttpServer
from kubeproxy_py.server.http_messages import Request
from kubeproxy_py.server.snapshots import AgentBusyError, Snapshots
from tests.builders import endpoint_slice, service
from tests.debug_servers import serving
from tests.reconcile.harness import POD, AgentHarness

PATIENCE_S = 60.0


class Reader:
    def connections(self, virtual_servers: Collection[VirtualServer]) -> dict[RealServer, Connections]:
        return {POD: Connections(3, 1)} if POD.virtual_server in virtual_servers else {}

    def real_server_counters(self, virtual_servers: Collection[VirtualServer]) -> dict[RealServer, RealServerCounters]:
        counters = RealServerCounters(1, Connections(3, 1), Traffic(10, 20, 30, 400, 500))
        return {POD: counters} if POD.virtual_server in virtual_servers else {}


def documents(pages: Mapping[str, Page] = PAGES) -> Documents:
    harness = AgentHarness()
    harness.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))

    def answer(reply: object) -> None:
        reply(harness.agent.snapshot(harness.now_s, 1_700_000_000.0 - harness.now_s))  # type: ignore[operator]

    return Documents(Snapshots(answer, lambda: About("1.2.3", 1_600_000_000.0, "tests")), Reader, pages)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    """Yield the socket of a running server."""
    file = tmp_path / "run" / "debug.sock"
    with serving(DebugServer(str(file), documents().answer)):
        yield str(file)


@pytest.fixture
def busy_path(tmp_path: Path) -> Iterator[str]:
    """Yield the socket of a server whose loop never answers."""
    file = tmp_path / "run" / "busy.sock"
    snapshots = Snapshots(lambda _reply: None, About)
    with serving(DebugServer(str(file), Documents(snapshots, Reader, wait_s=0.01).answer)):
        yield str(file)


def connect(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    client.settimeout(PATIENCE_S)
    return client


def test_state_is_served_as_a_versioned_document(path: str) -> None:
    state = msgspec.json.decode(ask(path, "/v1/state", {}), type=State)
    assert (state.api_version, state.kind, state.time) == ("kubeproxy-py/v1", "State", "2023-11-14T22:13:20.000Z")
    assert state.agent.version == "1.2.3"
    ((server,),) = (one.virtual_servers for one in state.services)
    assert (server.kind, server.status, server.serving, server.active) == ("ClusterIP", "serving", 1, 3)
    (real,) = server.real_servers or ()
    assert (real.address, real.node, real.weight, real.active, real.inactive) == ("10.244.1.5", "node-a", 1, 3, 1)


def test_explanation_is_served(path: str) -> None:
    explanation = msgspec.json.decode(ask(path, "/v1/explain", {"target": "shop/web"}), type=Explanation)
    assert (explanation.verdict, explanation.summary) == ("well", "Service shop/web")


@pytest.mark.parametrize(
    ("page", "parameters", "status", "text"),
    [
        ("/v1/explain", {"target": "shop/wbe"}, 404, "no Service shop/wbe is known"),
        ("/v1/explain", {}, 400, "target: is missing"),
        ("/v1/explain", {"target": "10.96.0"}, 400, "'10.96.0' is not an address"),
        ("/v1/explain", {"target": "30004"}, 404, "no endpoint has the port 30004"),
        ("/v1/explain", {"goal": "x"}, 400, "unknown parameter 'goal'"),
        ("/v1/traffic", {}, 400, "service: is missing"),
        ("/v1/traffic", {"service": "a/b/c"}, 400, "'a/b/c' names nothing"),
        ("/v1/traffic", {"service": "shop/wbe"}, 404, "no Service shop/wbe is known"),
        ("/v1/trace", {"to": "shop/web"}, 400, "from: is missing"),
        ("/v1/trace", {"from": "pod"}, 400, "to: is missing"),
        ("/v1/trace", {"from": "pod", "to": "shop/wbe"}, 400, "there is no Service shop/wbe"),
        ("/v1/config", {"x": "y"}, 400, "unknown parameter 'x'; there are none"),
        ("/v1/status", {"service": "shop/web", "namespace": "other"}, 400, "not in the namespace 'other'"),
        ("/v1/status", {"service": "a/b/c"}, 400, r"is not \[NAMESPACE/\]SERVICE"),
        ("/v1/status", {"port": "70000"}, 400, "port: '70000' is not a port"),
        ("/v1/status", {"address": "10.0.0"}, 400, "address: "),
        ("/v1/status", {"realServers": "maybe"}, 400, "neither true nor false"),
        ("/v2/state", {}, 404, "older version"),
    ],
)
def test_what_cannot_be_answered_is_an_error_document(
    path: str, page: str, parameters: dict[str, str], status: int, text: str
) -> None:
    with pytest.raises(RefusedError, match=text) as refused:
        ask(path, page, parameters)
    assert refused.value.status == status


@pytest.mark.parametrize("page", SOCKET_PAGES)
@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("target=a&target=a", "a parameter is given twice"),
        ("target", "the query cannot be read"),
        ("&".join(f"p{number}=1" for number in range(30)), "the query cannot be read"),
        ("nonsense=1", "unknown parameter 'nonsense'"),
        ("%00=1", r"unknown parameter '\x00'"),
    ],
)
def test_query_that_cannot_be_meant_is_refused_by_every_page(page: str, query: str, text: str) -> None:
    response = documents(SOCKET_PAGES).answer(Request("GET", page, query))
    assert response.status == 400
    assert text in msgspec.json.decode(response.body, type=ErrorDocument).error


def test_only_get_is_answered() -> None:
    response = documents().answer(Request("POST", "/v1/state"))
    assert (response.status, dict(response.headers)["Allow"]) == (405, "GET, HEAD")


def test_socket_and_directory_are_private(path: str) -> None:
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700


def test_directory_with_other_files_keeps_its_rights(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "other").touch()
    listening_unix_socket(str(tmp_path / "debug.sock")).close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_client_that_is_not_admitted_is_disconnected(tmp_path: Path) -> None:
    denied = listening_unix_socket(str(tmp_path / "denied.sock"))
    server = HttpServer("denied")
    server.add(denied, documents().answer, lambda _client: False)
    server.start()
    with pytest.raises(NoAgentError):
        ask(str(tmp_path / "denied.sock"), "/v1/state", {})
    server.call_soon_threadsafe(lambda: server.close(denied))


def test_garbage_is_answered_with_400_and_the_next_client_is_served(path: str) -> None:
    for garbage in (b"\x00\xff\x00\r\n\r\n", b"GET\r\n\r\n", b"\r\n" * 50 + b"x y z\r\n\r\n"):
        with connect(path) as client:
            client.sendall(garbage)
            assert b" 400 " in client.recv(4096)
    assert ask(path, "/v1/state", {})


def test_of_too_many_clients_the_longest_silent_is_disconnected(path: str) -> None:
    clients = [connect(path) for _ in range(CLIENTS_MAX + 5)]
    assert ask(path, "/v1/state", {})
    assert clients[0].recv(1) == b""
    for client in clients:
        client.close()


def test_stale_socket_file_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    file = str(tmp_path / "debug.sock")
    listening_unix_socket(file).close()  # the file stays
    live = listening_unix_socket(file)
    with pytest.raises(OSError, match="another process listens there"):
        listening_unix_socket(file)
    live.close()


def test_file_that_is_no_socket_is_left_in_place(tmp_path: Path) -> None:
    file = tmp_path / "debug.sock"
    file.write_text("important")
    with pytest.raises(OSError, match="no socket"):
        listening_unix_socket(str(file))
    assert file.read_text() == "important"


def test_socket_file_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    file = tmp_path / "debug.sock"
    server = DebugServer(str(file), documents().answer)
    server._check()
    file.unlink()
    server._check_due_s = 0.0
    server._check()
    assert stat.S_ISSOCK(file.stat().st_mode)


def test_without_an_agent_the_reason_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoAgentError, match="no agent listens at"):
        ask(str(tmp_path / "none.sock"), "/v1/state", {})
    listening_unix_socket(str(tmp_path / "gone.sock")).close()
    with pytest.raises(NoAgentError, match="is not running"):
        ask(str(tmp_path / "gone.sock"), "/v1/state", {})


def test_agent_in_a_long_sync_is_one_that_does_not_answer(busy_path: str) -> None:
    with pytest.raises(NoAgentError, match=r"does not answer: the agent's loop has not answered within 0\.01 s"):
        ask(busy_path, "/v1/state", {})


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_file_that_is_no_socket_is_not_taken_for_an_agent_that_ended(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / "debug.sock")
    with pytest.raises(NoAgentError, match=r"no agent listens at .*, which is not a socket"):
        ask(str(tmp_path / "debug.sock"), "/v1/state", {})


def test_snapshot_is_requested_at_most_once_a_second_and_dropped_when_unused() -> None:
    now_s, requests = [100.0], 0
    harness = AgentHarness()

    def request(reply: object) -> None:
        nonlocal requests
        requests += 1
        reply(harness.agent.snapshot(now_s[0], 0.0))  # type: ignore[operator]

    snapshots = Snapshots(request, About, lambda: now_s[0])
    first = snapshots.get()
    assert snapshots.get().actual is first.actual
    assert requests == 1
    now_s[0] += 1.0
    snapshots.get()
    assert requests == 2
    now_s[0] += 10.0
    snapshots.drop_unused()
    assert snapshots._latest is None


def test_loop_that_does_not_answer_is_reported() -> None:
    snapshots = Snapshots(lambda _reply: None, About)
    with pytest.raises(AgentBusyError, match="has not answered"):
        snapshots.get(0.01)


def test_request_that_is_never_answered_is_made_again_for_the_next_client() -> None:
    harness, replies = AgentHarness(), list[object]()
    snapshots = Snapshots(replies.append, About)
    with pytest.raises(AgentBusyError):
        snapshots.get(0.01)
    snapshots._request = lambda reply: reply(harness.agent.snapshot(1.0, 1.0))
    assert snapshots.get(0.01).taken_s == 1.0
    assert len(replies) == 1


def test_clients_that_ask_at_the_same_time_share_a_snapshot() -> None:
    harness, replies, got = AgentHarness(), queue.Queue[object](), list[Snapshot]()
    snapshots = Snapshots(replies.put, About, lambda: 1.0)  # the time at which all of them ask, however late they start
    threads = [threading.Thread(target=lambda: got.append(snapshots.get(PATIENCE_S))) for _ in range(3)]
    for thread in threads:
        thread.start()
    replies.get(timeout=PATIENCE_S)(harness.agent.snapshot(1.0, 1.0))  # type: ignore[operator]
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(got) == 3
    assert replies.empty()
