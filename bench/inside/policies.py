"""Exact policies beside kube-proxy's: changes, cold starts and connections, each measured alternately in one boot.

Every fifth Service has externalTrafficPolicy Local, an address of a load balancer and a NodePort.  With exact policies
such a Service has another virtual server, by firewall mark, with its real servers and entries of sets: a third more
rows.  All others have the same rows with both.

Invariants:
  - Both agents have the same objects, each in a network namespace of its own, and every measurement is of both in turn.
"""

import socket
import struct
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench import objects
from bench.inside import agent, cold
from bench.inside.change import RUN_LENGTH, Figures, Worker
from bench.inside.network import add_node_address, fresh_namespace
from bench.inside.process import agent_words, running, wait_first_sync
from lab.namespace import Namespace
from lab.network import Cluster
from tests.e2e.manifests import Folder, Object, Port, service_with_slice
from tests.e2e.serving import serving_cluster

MODES = ("kube-proxy", "exact")
_BATCH = 100  # connections of one mode to one frontend, before the next one's turn
_PORT, _NODE_PORT = 80, 32767
# From a pod of the node, which is led by mark to a load balancer's address, and never to a ClusterIP.
_FRONTENDS = {"load balancer": ("203.0.113.80", _PORT), "ClusterIP": ("10.96.0.80", _PORT)}
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: no TIME_WAIT, so ports and connection entries do not run out


def measure_changes(n: int, repeats: int) -> dict[str, Figures]:
    """Return milliseconds of *repeats* endpoints replaced of Services of each policy, and of Services, by mode."""
    workers = {mode: Worker(n, mode, objects.LOCAL_EVERY) for mode in MODES}
    endpoints = ["replace_endpoints", "replace_local_endpoints"] * (repeats // RUN_LENGTH)
    services = ["change_service", "change_local_service"] * max(2, repeats // 4)
    # Each mode is as often the first as the second: the kernel still works on what the one before deleted.
    methods = [*endpoints, *services, "count_rows", "close"]
    for turn, method in enumerate(methods):
        for mode in MODES if turn // 2 % 2 else reversed(MODES):
            workers[mode].run(method)
    return {mode: worker.figures for mode, worker in workers.items()}


def measure_starts(n: int, repeats: int) -> dict[str, list[cold.Start]]:
    """Return *repeats* cold starts of each mode, as cold.measure."""
    with TemporaryDirectory() as folder:
        objects.write_manifests(Path(folder), n, objects.LOCAL_EVERY)
        cold.prime(folder)
        starts: dict[str, list[cold.Start]] = {mode: [] for mode in MODES}
        for _ in range(repeats):
            for mode in MODES:
                starts[mode].append(_start(folder, n, mode))
        return starts


def _start(folder: str, n: int, mode: str) -> cold.Start:
    with fresh_namespace() as namespace:
        add_node_address()
        started = cold.start(agent_words("--manifests", folder, "--policies", mode), namespace)
        kernel = agent.make_parts(mode).kernel
        started["rows"] = agent.check_programmed(kernel, n, local_every=objects.LOCAL_EVERY, policies=mode)
        kernel.close()
        return started


def measure_connections(n: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Return new connections a second of a pod to each frontend, in *repeats* batches, by mode.

    There are *n* Services besides.
    """
    with ExitStack() as stack:
        clusters = {mode: _serving(n, mode, stack) for mode in MODES}
        rates: dict[str, dict[str, list[float]]] = {mode: {name: [] for name in _FRONTENDS} for mode in MODES}
        for _ in range(repeats):
            for name, place in _FRONTENDS.items():
                for mode, cluster in clusters.items():
                    rates[mode][name].append(_connections_a_second(cluster["pod-a2"], place))
        by_mark = {mode: _connections_by_mark(cluster.node_a) for mode, cluster in clusters.items()}
        # A connection from a port that was used within the last 10 s has the entry of that one, and is not counted.
        assert by_mark["kube-proxy"] == 0 and by_mark["exact"] > repeats * _BATCH / 2, by_mark
        return rates


def _connections_by_mark(node: Namespace) -> int:
    """Return how many connections came to the node's virtual servers by mark."""
    words = node.wrap(["ipvsadm", "-Ln", "--stats", "--exact"])
    printed = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
    return sum(int(line.split()[2]) for line in printed.splitlines() if line.startswith("FWM"))


def _serving(n: int, mode: str, stack: ExitStack) -> Cluster:
    """Have an agent serve one Service more than *n* in a cluster of its own, until *stack* ends."""
    cluster = stack.enter_context(serving_cluster())
    folder = Folder(Path(stack.enter_context(TemporaryDirectory())))
    objects.write_manifests(folder.path, n, objects.LOCAL_EVERY)
    folder.write("asked", _asked())
    flags = ("--policies", mode, "--detect-local-mode", "InterfaceNamePrefix", "--pod-interface-name-prefix", "cni")
    process = stack.enter_context(running(agent_words("--manifests", str(folder.path), *flags), cluster.node_a))
    wait_first_sync(process)
    return cluster


def _asked() -> list[Object]:
    """Return a Service whose endpoint is on the node, so that both modes lead a pod to the same one."""
    port = Port(_PORT, "TCP", 8080, _NODE_PORT)
    policy: Mapping[str, Any] = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
    service, part = service_with_slice("asked", _FRONTENDS["ClusterIP"][0], ["pod-a1"], [port], **policy)
    service["status"] = {"loadBalancer": {"ingress": [{"ip": _FRONTENDS["load balancer"][0]}]}}
    for endpoint in part["endpoints"]:
        endpoint["nodeName"] = objects.NODE_NAME
    return [service, part]


def _connections_a_second(client: Namespace, place: tuple[str, int]) -> float:
    with client.inside():
        began_s = time.perf_counter()
        for _ in range(_BATCH):
            with socket.create_connection(place, timeout=10.0) as connection:
                assert connection.recv(100)  # the pod's name
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        return _BATCH / (time.perf_counter() - began_s)
