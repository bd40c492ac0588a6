"""One service proxy takes a node over from the other, and gives it back, under traffic.

With the programs of bench/peers.py they are kube-proxy and the agent, with a real API server; else the agent takes over
from an agent, with the stand-in.  Both directions are measured in one run: one program ends by SIGTERM, then the other
starts.

Invariants:
  - Only packets and the kernel's state count; neither program is queried.  A take-over is complete once the other
    program has followed a change that was written after its start.
  - Connections are from outside to a NodePort, and from a pod to a ClusterIP.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from bench import objects, peers
from bench.inside import agent, beside
from bench.inside.standin import stand_in
from kubeproxy_py.kernel import Kernel, read_all
from kubeproxy_py.model.rows import Address, RealServer, Rows, VirtualServer
from lab.client import QueryError, connect, query, read_answer
from lab.namespace import Namespace
from lab.network import Cluster
from tests.apiserver.client import Client
from tests.e2e.manifests import NAMESPACE, Object, Port, service_with_slice
from tests.e2e.serving import serving_cluster

_PER_SECOND, _LONG = 50, 7  # new connections, and connections that stay open
_CLUSTER_IP, _NODE_PORT, _NODE_IP = "10.96.0.80", 30080, "192.168.3.10"
_SETTLED_S, _LOOK_S, _LINE_S = 5.0, 0.05, 0.2
_FLAGS = ("--cluster-cidr=10.128.0.0/10",)  # one for both: another one would change the rules

Figures = dict[str, float]


def measure(n: int, _repeats: int) -> dict[str, Figures]:
    """Return the figures of each take-over at *n* Services, by its direction.

    Raises:
        MissingProgramError: A program that a variable names is not there.
    """
    if peers.is_set():
        kube_proxy, assets = peers.programs()
        return _measure(
            n, {"kube-proxy": kube_proxy, "kubeproxy-py": None}, lambda _node: beside.real_api_server(assets, n)
        )
    return _measure(n, {"kubeproxy-py": None, "kubeproxy-py again": None}, lambda node: _stand_in(n, node))


_MakeServer = Callable[[Namespace], AbstractContextManager[Client]]


def _measure(n: int, programs: dict[str, Path | None], make_server: _MakeServer) -> dict[str, Figures]:
    (one, own), (other, others) = programs.items()
    with ExitStack() as stack:
        cluster, folder = stack.enter_context(serving_cluster()), stack.enter_context(TemporaryDirectory())
        stack.enter_context(cluster.node_a.inside())
        kernel = stack.enter_context(closing(agent.make_parts().kernel))  # its sockets keep the node's namespace
        node = _Node(cluster, kernel, Path(folder), n)
        with make_server(cluster.node_a) as client:
            node.client = client
            for document in _served():
                client.apply(document)
            with ExitStack() as running:
                check = running.enter_context(node.program(own))
                node.wait_programmed(check)
                with _Traffic(cluster) as traffic:
                    figures = {f"{one} to {other}": node.take_over(running, others, traffic)}
                    figures[f"{other} to {one}"] = node.take_over(running, own, traffic)
        return figures


class _Node:
    """The node that is taken over, with its API server's *client* and *n* Services besides the one that is asked."""

    client: Client

    def __init__(self, cluster: Cluster, kernel: Kernel, folder: Path, n: int) -> None:
        self._cluster = cluster
        self._kernel = kernel
        self._folder = folder
        self._n = n
        self._changes = 0

    def program(self, kube_proxy: Path | None) -> AbstractContextManager[Callable[[], None]]:
        """Run kube-proxy, or the agent, within the `with`; yield a check that it runs."""
        words = [*beside.command(kube_proxy, beside.kubeconfig(self._folder, self.client))]
        flags = _FLAGS if kube_proxy is None else ()
        return beside.running([*words, *flags], self._cluster.node_a, self._folder / "log")

    def wait_programmed(self, check: Callable[[], None]) -> None:
        """Wait until all Services are programmed."""
        beside.seconds_until(self._is_programmed, _LOOK_S, check)

    def _is_programmed(self) -> bool:
        """Return whether there are as many rows as the Services need, and the last Service."""
        if sum(map(len, self._kernel.virtual_servers())) < self._n:
            return False
        counts: Counter[type] = Counter(type(key) for key in read_all(self._kernel))
        expected: dict[type, int] = {VirtualServer: self._n, RealServer: self._n * objects.ENDPOINTS, Address: self._n}
        enough = all(counts[kind] > count for kind, count in expected.items())
        return enough and beside.is_added(self._kernel, self._n - 1)

    def take_over(self, running: ExitStack, program: Path | None, traffic: _Traffic) -> Figures:
        """End the program that *running* holds, start *program*, and return what that did to kernel and connections."""
        self._follow_change(lambda: None)
        before = self._settled()
        begun, began_s = traffic.counted(), time.monotonic()
        running.close()
        check = running.enter_context(self.program(program))
        self._follow_change(check)
        took_s = time.monotonic() - began_s
        after = self._settled()
        ended = traffic.counted()
        changed = [key for key in before.keys() | after.keys() if before.get(key, after) != after.get(key, before)]
        connections = {name: count - begun[name] for name, count in ended.items()}
        return {**connections, "objects": len(before), "changed": len(changed), "followed_s": took_s}

    def _settled(self) -> Rows:
        """Return the rows once nothing has changed for a while: kube-proxy changes IPVS first and iptables last."""
        before: Rows | None = None
        while (now := _compared(read_all(self._kernel))) != before:
            before = now
            time.sleep(_SETTLED_S)
        return now

    def _follow_change(self, check: Callable[[], None]) -> None:
        """Replace an endpoint of the first Service, and wait until the kernel has the new one."""
        self._changes += 1
        self.client.apply(objects.bare(objects.slice_json(0, replaced=self._changes % 2)))
        beside.seconds_until(lambda: beside.is_replaced(self._kernel, 0, self._changes % 2), _LOOK_S, check)


def _served() -> list[Object]:
    port = Port(80, "TCP", 8080, _NODE_PORT)
    asked = service_with_slice("asked", _CLUSTER_IP, ["pod-a1", "pod-a2", "pod-b1", "pod-b2"], [port])
    return [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}, *asked]


def _compared(rows: Rows) -> Rows:
    """Return *rows* without those of the Service whose endpoint is replaced meanwhile."""
    changing = objects.service(0).cluster_ips[0]
    return {key: spec for key, spec in rows.items() if agent.served_address(key) != changing}


class _Traffic:
    """New connections at a steady rate and connections that stay open, within the `with`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stop = threading.Event()
        self._counts = {"connections": 0, "failed": 0, "long_broken": 0}
        self._lock = threading.Lock()
        threads = [self._open_new, *[self._keep_open] * _LONG]
        self._threads = [threading.Thread(target=target, daemon=True) for target in threads]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10.0)

    def counted(self) -> dict[str, int]:
        """Return what happened so far."""
        with self._lock:
            return dict(self._counts)

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    def _open_new(self) -> None:
        due_s = time.monotonic()
        while not self._stop.wait(max(0.0, due_s - time.monotonic())):
            due_s += 1 / _PER_SECOND
            outside = self._counts["connections"] % 2
            target = ("outside", _NODE_IP, _NODE_PORT) if outside else ("pod-a1", _CLUSTER_IP, 80)
            self._count("connections")
            try:
                query(self._cluster[target[0]], "tcp", *target[1:])
            except (QueryError, OSError):
                self._count("failed")

    def _keep_open(self) -> None:
        try:
            with connect(self._cluster["outside"], "tcp", _NODE_IP, _NODE_PORT) as sock:
                read_answer(sock)
                intact = True
                while intact and not self._stop.wait(_LINE_S):
                    sock.sendall(b"line")
                    intact = sock.recv(4) == b"line"
        except (QueryError, OSError):
            intact = False
        if not intact:
            self._count("long_broken")


@contextmanager
def _stand_in(n: int, node: Namespace) -> Iterator[Client]:
    with TemporaryDirectory() as folder:
        path = Path(folder, "objects.json")
        objects.write_list(path, n)
        with stand_in(path, node) as server:
            yield Client(server.url)
