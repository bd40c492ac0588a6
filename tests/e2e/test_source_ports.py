"""A client that asks from one source port again and again, while pods are replaced one by one, is always answered.

What IPVS has of the client's last connection decides where its next SYN goes.  With conn_reuse_mode 1, the kernel's
default, and expire_nodest_conn 1, which is set, Linux schedules a SYN anew if that connection is over (TIME_WAIT,
CLOSE) or if its real server drains or is gone.  Where conntrack still has the old connection open, as after a client
that ended without a word, it drops the SYN that finds this out, and serves the client's next one, a second later.

What older kernels do not permit, and this lab's 6.1 does not show.  Before 5.9 mode 1 drops such a SYN whenever
conntrack has an entry of the old connection, so that a client waits a second each time (f0a5e4d7a594); so kube-proxy
sets conn_reuse_mode 0 there, and so do we.  In mode 0 a SYN goes where the last connection from its port went, be that
real server draining: until 5.16 and the stable kernels of December 2021 (c95c07836fa4).  On a kernel without that, a
client may be refused for as long as IPVS remembers its last connection to a pod that is gone.

Source: ip_vs_in and is_new_conn_expected in net/netfilter/ipvs/ip_vs_core.c.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from types import TracebackType
from typing import NamedTuple, Self

import pytest

from lab.ask import AskError, connect, read_answer
from lab.namespace import Namespace
from lab.network import PODS, Cluster
from tests.e2e.agent_process import EVENT, AgentProcess, wait_until
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder, Port, backed
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

HASTY_PORT = 7070  # where pods close first
ROLLOUT = ("pod-b1", "pod-b2", "pod-b3", "pod-a1", "pod-b1")  # one at a time, so it's always the last one's that goes
PATIENCE_S = 10.0  # a SYN is sent again after 1, 3, 7 s
SYN_AGAIN_S = 0.9

_numbers = count(1)


class HastyServers:
    """On each pod, a server that says the pod's name and closes before its client does."""

    def __init__(self, cluster: Cluster) -> None:
        self._stop = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._listeners = {}
        for pod in PODS:
            with cluster[pod.name].inside():
                self._listeners[pod.name] = socket.create_server(("", HASTY_PORT))
            self._selector.register(self._listeners[pod.name], selectors.EVENT_READ, pod.name)
        self._thread = threading.Thread(target=self._serve, name="hasty", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._selector.close()
        for listener in self._listeners.values():
            listener.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            for key, _ in self._selector.select(0.1):
                with self._listeners[key.data].accept()[0] as client:
                    client.sendall(f"{key.data} -:0\n".encode())


class Ending(NamedTuple):
    """How each connection ends: at which port of the pods, what the client does before it closes, its pause then."""

    port: int
    end: Callable[[socket.socket], None]
    pause_s: float = 0.002  # a breath, for the one CPU is the agent's as well


def by_reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def by_peer(sock: socket.socket) -> None:
    assert sock.recv(1) == b""


def by_client(_: socket.socket) -> None:
    pass


RESET, SERVER_FIRST = Ending(8080, by_reset), Ending(HASTY_PORT, by_peer)
# Its own port in TIME_WAIT Linux gives a client again after a second, if it may (tcp_tw_reuse=1).
CLIENT_FIRST = Ending(8080, by_client, pause_s=1.05)


class Asker:
    """A client that asks at *vip* from one port, again and again, within the `with`."""

    def __init__(self, client: Namespace, vip: str, source_port: int, ending: Ending) -> None:
        self._client, self._vip, self._source_port, self._ending = client, vip, source_port, ending
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asker", daemon=True)
        self.failures: list[str] = []
        self.answers: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def who_answers(self) -> set[str]:
        """Who answers from now on: those whom connections reach that begin after this was called."""
        begun = len(self.answers) + 1  # one may be under way
        wait_until(lambda: len(self.answers) >= begun + 1 or bool(self.failures), within_s=2 * PATIENCE_S)
        return set(self.answers[begun:])

    def _run(self) -> None:
        while not self._stop.wait(self._ending.pause_s):
            try:
                self.answers.append(ask_from(self._client, self._vip, self._source_port, self._ending))
            except (AskError, OSError) as error:
                self.failures.append(f"after {len(self.answers)} answers: {error!r}")


def ask_from(client: Namespace, vip: str, source_port: int, ending: Ending) -> str:
    """The name of the pod that answers a new connection."""
    with connect(client, "tcp", vip, 80, PATIENCE_S, source_port) as sock:
        name = read_answer(sock).name
        ending.end(sock)
    return name


class Served(NamedTuple):
    """A Service of a test's own, at *vip*; *source_port* is the test's own as well."""

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

    def back(self, pod: str, ending: Ending) -> None:
        """Have *pod*, and no other, behind it."""
        name = f"web-{self.number}"
        with self.agent.syncing(EVENT):
            self.folder.put(name, backed(name, self.vip, [pod], [Port(80, "TCP", ending.port)]))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, AgentProcess, Folder]]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.put("first", backed("first", "10.96.0.10", ["pod-a1"]))
    with serving_cluster() as cluster, HastyServers(cluster), AgentProcess(cluster.node_a, folder.path) as agent:
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
def test_a_client_that_uses_its_port_again_is_served_throughout_a_rollout(
    served: Served, client: str, ending: Ending
) -> None:
    served.back(ROLLOUT[0], ending)
    answered = []
    with Asker(served.cluster[client], served.vip, served.source_port, ending) as asker:
        asker.who_answers()
        for pod in ROLLOUT[1:]:
            served.back(pod, ending)
            answered.append(asker.who_answers())
    assert (asker.failures, answered) == ([], [{pod} for pod in ROLLOUT[1:]])


def test_a_client_that_ended_without_a_word_is_served_at_its_second_syn(served: Served) -> None:
    outside = served.cluster["outside"]
    resets = f"OUTPUT -p tcp --sport {served.source_port} --tcp-flags RST RST -j DROP"
    served.back("pod-b1", RESET)
    shell(outside, f"iptables -A {resets}")
    assert ask_from(outside, served.vip, served.source_port, RESET) == "pod-b1"
    shell(outside, f"iptables -D {resets}")
    served.back("pod-b2", RESET)
    began_s = time.monotonic()
    assert ask_from(outside, served.vip, served.source_port, RESET) == "pod-b2"
    assert time.monotonic() - began_s >= SYN_AGAIN_S


@contextmanager
def conn_reuse_mode(node: Namespace, mode: int) -> Iterator[None]:
    """The mode is another within the `with`."""
    node.set_sysctl("ipv4/vs/conn_reuse_mode", mode)
    try:
        yield
    finally:
        node.set_sysctl("ipv4/vs/conn_reuse_mode", 1)


def test_in_the_mode_that_older_kernels_are_set_to_a_draining_real_server_gets_no_new_connection_either(
    served: Served,
) -> None:
    served.back("pod-b1", SERVER_FIRST)
    asker = Asker(served.cluster["outside"], served.vip, served.source_port, SERVER_FIRST)
    with conn_reuse_mode(served.cluster.node_a, 0), asker:
        before = asker.who_answers()
        served.back("pod-b2", SERVER_FIRST)
        after = asker.who_answers()
    assert (before, after, asker.failures) == ({"pod-b1"}, {"pod-b2"}, [])
