"""A client that reuses one source port, while pods are replaced one by one, always gets an answer.

The IPVS entry of the client's last connection decides where its next SYN is sent.  With conn_reuse_mode 1, the kernel's
default, and expire_nodest_conn 1, which the agent sets, Linux schedules a SYN again if that connection ended
(TIME_WAIT, CLOSE) or if its real server drains or was deleted.  Where conntrack still has the old connection open, as
after a client that ended without FIN or RST, it drops the first SYN, and serves the client's next one, a second later.

Older kernels behave otherwise, which the lab's 6.1 cannot show.  Before 5.9 mode 1 drops such a SYN whenever conntrack
has an entry of the old connection, so a client waits a second each time (f0a5e4d7a594); so kube-proxy and the agent set
conn_reuse_mode 0 there.  In mode 0, until 5.16 and the stable kernels of December 2021 (c95c07836fa4), a SYN is sent to
the real server of the last connection from its port, even if that drains.  On such a kernel a client may be rejected
for as long as IPVS has the entry of its last connection to a deleted pod.

Source: ip_vs_in and is_new_conn_expected in net/netfilter/ipvs/ip_vs_core.c.
"""

from __future__ import annotations

import errno
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import NamedTuple

import pytest

from lab.client import QueryError, connect, read_answer
from lab.namespace import Namespace
from lab.network import PODS, Cluster
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.background import Background
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder, Port, service_with_slice
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

CLOSING_PORT = 7070  # where pods close the connection first
ROLLOUT = ("pod-b1", "pod-b2", "pod-b3", "pod-a1", "pod-b1")  # one at a time, so the previous one is always removed
TIMEOUT_S = 10.0  # a SYN is sent again after 1, 3, 7 s
SYN_RETRY_S = 0.9

_numbers = count(1)


class ClosingServers(Background):
    """On each pod, a server that sends the pod's name and closes before its client does."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self._selector = selectors.DefaultSelector()
        self._listeners = {}
        for pod in PODS:
            with cluster[pod.name].inside():
                self._listeners[pod.name] = socket.create_server(("", CLOSING_PORT))
            self._selector.register(self._listeners[pod.name], selectors.EVENT_READ, pod.name)

    def _run(self) -> None:
        with self._selector, ExitStack() as stack:
            for listener in self._listeners.values():
                stack.enter_context(listener)
            while not self._stop.is_set():
                for key, _ in self._selector.select(0.1):
                    with self._listeners[key.data].accept()[0] as client:
                        client.sendall(f"{key.data} -:0\n".encode())


class Ending(NamedTuple):
    """How each connection ends: the port of the pods, what the client does before it closes, and its pause."""

    port: int
    end: Callable[[socket.socket], None]
    pause_s: float = 0.002  # the agent uses the same CPU


def by_reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def by_peer(sock: socket.socket) -> None:
    assert sock.recv(1) == b""


def by_client(_: socket.socket) -> None:
    pass


RESET, SERVER_FIRST = Ending(8080, by_reset), Ending(CLOSING_PORT, by_peer)
# Linux lets a client reuse its own port in TIME_WAIT after a second, with tcp_tw_reuse=1.
CLIENT_FIRST = Ending(8080, by_client, pause_s=1.05)


class RepeatingClient(Background):
    """A client that connects to *vip* from one port repeatedly, within the `with`."""

    def __init__(self, client: Namespace, vip: str, source_port: int, ending: Ending) -> None:
        super().__init__()
        self._client, self._vip, self._source_port, self._ending = client, vip, source_port, ending
        self.failures: list[str] = []
        self.answers: list[str] = []

    def who_answers(self) -> set[str]:
        """The pods that answer connections that begin after this call."""
        begun = len(self.answers) + 1  # one may be under way
        wait_until(lambda: len(self.answers) >= begun + 1 or bool(self.failures), timeout_s=6 * TIMEOUT_S)
        return set(self.answers[begun:])

    def _run(self) -> None:
        while not self._stop.wait(self._ending.pause_s):
            try:
                self.answers.append(request_from(self._client, self._vip, self._source_port, self._ending))
            except (QueryError, OSError) as error:
                if getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
                    # The client's own TCP has not ended the last connection (LAST_ACK until the pod's ACK is handled, a
                    # few ms on a busy machine), and has sent nothing.  If that lasts, who_answers fails.
                    continue
                self.failures.append(f"after {len(self.answers)} answers: {error!r}")


def request_from(client: Namespace, vip: str, source_port: int, ending: Ending) -> str:
    """The name of the pod that answers a new connection."""
    with connect(client, "tcp", vip, 80, TIMEOUT_S, source_port) as sock:
        name = read_answer(sock).name
        ending.end(sock)
    return name


class Served(NamedTuple):
    """The Service of one test, at *vip*, with a *source_port* of its own."""

    cluster: Cluster
    agent: AgentProcess
    folder: Folder
    number: int

    @property
    def vip(self) -> str:
        return f"10.96.7.{self.number}"

    @property
    def source_port(self) -> int:
        return 40000 + self.number

    def set_endpoint(self, pod: str, ending: Ending) -> None:
        """Make *pod* its only endpoint."""
        name = f"web-{self.number}"
        with self.agent.syncing():
            self.folder.write(name, service_with_slice(name, self.vip, [pod], [Port(80, "TCP", ending.port)]))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, AgentProcess, Folder]]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("first", service_with_slice("first", "10.96.0.10", ["pod-a1"]))
    with serving_cluster() as cluster, ClosingServers(cluster), AgentProcess(cluster.node_a, folder.path) as agent:
        cluster["outside"].set_sysctl("ipv4/tcp_tw_reuse", 1)
        agent.wait_synced()
        yield cluster, agent, folder


@pytest.fixture
def served(running: tuple[Cluster, AgentProcess, Folder]) -> Served:
    return Served(*running, next(_numbers))


@pytest.mark.parametrize(
    ("client", "ending"),
    [
        pytest.param("outside", RESET, id="outside, the client resets"),
        pytest.param("outside", SERVER_FIRST, id="outside, the server closes first"),
        pytest.param("outside", CLIENT_FIRST, id="outside, the client closes first"),
        pytest.param("pod-a2", RESET, id="pod, the client resets"),
        pytest.param("pod-a2", SERVER_FIRST, id="pod, the server closes first"),
    ],
)
def test_client_that_reuses_its_port_is_served_throughout_a_rollout(
    served: Served, client: str, ending: Ending
) -> None:
    served.set_endpoint(ROLLOUT[0], ending)
    answered = []
    with RepeatingClient(served.cluster[client], served.vip, served.source_port, ending) as client_loop:
        client_loop.who_answers()
        for pod in ROLLOUT[1:]:
            served.set_endpoint(pod, ending)
            answered.append(client_loop.who_answers())
    assert (client_loop.failures, answered) == ([], [{pod} for pod in ROLLOUT[1:]])


def test_client_that_ended_without_fin_or_rst_is_served_at_its_second_syn(served: Served) -> None:
    outside = served.cluster["outside"]
    resets = f"OUTPUT -p tcp --sport {served.source_port} --tcp-flags RST RST -j DROP"
    served.set_endpoint("pod-b1", RESET)
    shell(outside, f"iptables -A {resets}")
    assert request_from(outside, served.vip, served.source_port, RESET) == "pod-b1"
    shell(outside, f"iptables -D {resets}")
    served.set_endpoint("pod-b2", RESET)
    began_s = time.monotonic()
    assert request_from(outside, served.vip, served.source_port, RESET) == "pod-b2"
    assert time.monotonic() - began_s >= SYN_RETRY_S


@contextmanager
def conn_reuse_mode(node: Namespace, mode: int) -> Iterator[None]:
    """Set the mode within the `with`."""
    node.set_sysctl("ipv4/vs/conn_reuse_mode", mode)
    try:
        yield
    finally:
        node.set_sysctl("ipv4/vs/conn_reuse_mode", 1)


def test_draining_real_server_gets_no_new_connection_in_conn_reuse_mode_0(
    served: Served,
) -> None:
    served.set_endpoint("pod-b1", SERVER_FIRST)
    client_loop = RepeatingClient(served.cluster["outside"], served.vip, served.source_port, SERVER_FIRST)
    with conn_reuse_mode(served.cluster.node_a, 0), client_loop:
        before = client_loop.who_answers()
        served.set_endpoint("pod-b2", SERVER_FIRST)
        after = client_loop.who_answers()
    assert (before, after, client_loop.failures) == ({"pod-b1"}, {"pod-b2"}, [])
