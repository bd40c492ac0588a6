"""A node dies while clients connect: how many connections fail, and for how long, without failover and with it.

Two of the four endpoints of a Service are on the node whose cable is cut.  Nothing withdraws them, as Kubernetes would
after 40 s and more (node-monitor-grace-period).  A client begins RATE connections a second, and waits for none of those
before; one that has no answer after TIMEOUT_S has failed.  The same is tried without the setting, with
``health-check: tcp`` of the Service, and with ``--watch-nodes`` of the node.
"""

import re
import selectors
import socket
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.namespace import Namespace
from tests.e2e.agent_process import AgentProcess
from tests.e2e.kernel_state import run, shell
from tests.e2e.manifests import Folder, endpoint_slice, service
from tests.e2e.serving import serving_cluster

VIPS = {4: "10.96.0.40", 6: "fd00:10:96::40"}
PODS = ("pod-a1", "pod-a2", "pod-b1", "pod-b2")
TIMEOUT_S = 2.0
_BEFORE_S = 15.0  # of traffic, until endpoints have been reached
_DEAD_S = 25.0

_CHECKED = {"kubeproxy-py.io/health-check": "tcp"}
_WAYS: Mapping[str, tuple[dict[str, str], tuple[str, ...], int]] = {
    # annotations, flags, and the IP version of clients
    "without": ({}, (), 4),
    "health-check: tcp": (_CHECKED, (), 4),
    "health-check: tcp (IPv6)": (_CHECKED, (), 6),
    "--watch-nodes": ({}, ("--watch-nodes",), 4),
}


def measure(rates: Sequence[int], repeats: int) -> dict[str, Any]:
    """Return for each rate, in connections per second, and each way the figures of *repeats* deaths."""
    return {
        str(rate): {way: [_death(rate, way) for _ in range(repeats)] for way in _WAYS}  # a new agent each time
        for rate in rates
    }


def _death(rate: int, way: str) -> dict[str, float]:
    """Cut the cable of node B under *rate* connections a second, and return what clients saw."""
    annotations, flags, version = _WAYS[way]
    web = [service("web", VIPS[version]), endpoint_slice("web", PODS, version=version)]
    web[0]["metadata"]["annotations"] = annotations
    with serving_cluster() as cluster, tempfile.TemporaryDirectory() as path:
        folder = Folder(Path(path))
        folder.write("web", web)
        with AgentProcess(cluster.node_a, folder.path, *flags) as agent:
            agent.wait_synced()
            with _Clients(cluster["outside"], rate, version) as clients:
                time.sleep(_BEFORE_S)
                cpu_s = _cpu_s(agent.pid)
                before = clients.ended_since(0.0)
                dead_s = time.monotonic()
                shell(cluster["router"], "ip link set to-node-b down")
                time.sleep(_DEAD_S)
                used_s = _cpu_s(agent.pid) - cpu_s
                listed = run(cluster.node_a, "ipvsadm", "-Ln")
                shell(cluster["router"], "ip link set to-node-b up")
                time.sleep(TIMEOUT_S)
            during = [one for one in clients.ended_since(dead_s) if one[0] < dead_s + _DEAD_S]
            failed = [began_s for began_s, is_answered in during if not is_answered]
    return {
        "failed before": sum(not is_answered for _, is_answered in before),
        "connections": len(during),
        "failed": len(failed),
        "last failed after s": max(failed, default=dead_s) - dead_s,
        "rate": len(during) / _DEAD_S,
        "agent CPU of a core": used_s / _DEAD_S,
        "set aside": len(re.findall(r"Masq +0 ", listed)),
    }


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


class _Clients:
    """Begins *rate* connections a second from *namespace*, within the `with`; in one thread, by readiness."""

    def __init__(self, namespace: Namespace, rate: int, version: int) -> None:
        self._namespace = namespace
        self._family = socket.AF_INET6 if version == 6 else socket.AF_INET
        self._vip = VIPS[version]
        self._pause_s = 1.0 / rate
        self._ended: list[tuple[float, bool]] = []  # when each began, and whether it was answered
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clients", daemon=True)

    def __enter__(self) -> "_Clients":
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopping.set()
        self._thread.join(TIMEOUT_S + 10)

    def ended_since(self, since_s: float) -> list[tuple[float, bool]]:
        """Return the connections that began since *since_s* and have ended: when each began, and its success."""
        return [one for one in list(self._ended) if one[0] >= since_s]

    def _run(self) -> None:
        self._namespace.enter()
        selector = selectors.DefaultSelector()
        under_way: dict[socket.socket, float] = {}
        next_s = time.monotonic()
        while under_way or not self._stopping.is_set():
            now_s = time.monotonic()
            if now_s >= next_s and not self._stopping.is_set():
                connection = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                connection.connect_ex((self._vip, 80))
                under_way[connection] = now_s
                selector.register(connection, selectors.EVENT_READ)
                next_s = max(next_s + self._pause_s, now_s)  # what a busy machine misses is not made up for
            for key, _ in selector.select(max(0.0, min(next_s - now_s, 0.05))):
                self._end(selector, under_way, key.fileobj, is_answered=_is_answered(key.fileobj))
            now_s = time.monotonic()
            for connection, began_s in list(under_way.items()):
                if now_s < began_s + TIMEOUT_S:
                    break  # they are in order
                self._end(selector, under_way, connection, is_answered=False)

    def _end(
        self,
        selector: selectors.BaseSelector,
        under_way: dict[socket.socket, float],
        connection: Any,
        *,
        is_answered: bool,
    ) -> None:
        selector.unregister(connection)
        self._ended.append((under_way.pop(connection), is_answered))
        connection.close()


def _is_answered(connection: Any) -> bool:
    """Return whether the endpoint sent its name."""
    try:
        return bool(connection.recv(100))
    except OSError:
        return False
