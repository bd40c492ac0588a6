"""`python -m bench.list_cost [--slices N]`: what a list costs a real kube-apiserver, by this agent and by client-go.

It prints the CPU time of kube-apiserver and the bytes that came over TCP, for the list of all EndpointSlices that a
start makes: the agent's, with its own client, and those of client-go, which are sent here as kube-proxy sends them.
It runs on this machine; KUBEBUILDER_ASSETS names kube-apiserver and etcd.

Invariants:
  - The kinds of lists are measured alternately, and each figure is the median of its repeats.
"""

import argparse
import http.client
import os
import socket
import ssl
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from bench import objects
from bench.figures import MEGA
from bench.inside.beside import kubeconfig
from bench.inside.process import cpu_s
from bench.rows import Row, table_text
from kubeproxy_py.sources.kubernetes.reflector import ListWatch
from kubeproxy_py.sources.kubernetes.resources import SLICES, Resource
from kubeproxy_py.sources.kubernetes.source import connect
from tests.apiserver.client import Client
from tests.apiserver.real import RealServer, binaries, real_server

_REPEATS, _IN_A_ROW = 6, 5  # CPU time has a resolution of 10 ms
_TIMEOUT_S = 60.0
_BYTES_RECEIVED = 128  # its place in struct tcp_info; linux/tcp.h
_READ_BYTES = 1 << 16
_PROTOBUF = "application/vnd.kubernetes.protobuf"
# Source: client-go 1.20 and 1.36, tools/cache/reflector.go; 1.35 and later list by a watch where the server can.
_SELECTOR = "labelSelector=%21service.kubernetes.io%2Fheadless%2C%21service.kubernetes.io%2Fservice-proxy-name"
_LIST = f"{_SELECTOR}&limit=500&resourceVersion=0"
_WATCH_LIST = (
    f"{_SELECTOR}&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&sendInitialEvents=true"
    "&timeoutSeconds=300&watch=true"
)
_WATCH_LIST_SINCE = 34  # of Kubernetes 1.
_LAST_OF_WATCH_LIST = b"k8s.io/initial-events-end"


class Cost(NamedTuple):
    """What one list cost."""

    cpu_s: float
    received_bytes: float


_List = Callable[[], int]
"""Lists all, and returns the bytes that came over TCP."""


def main() -> int:
    """Measure, print the table and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.list_cost")
    parser.add_argument("--slices", type=int, default=5000, help="EndpointSlices of 10 endpoints (default: 5000)")
    n = parser.parse_args().slices
    if not (assets := binaries()):
        print("bench: KUBEBUILDER_ASSETS names no folder with kube-apiserver and etcd", file=sys.stderr)
        return 1
    with TemporaryDirectory() as folder, real_server(assets, Path(folder)) as server:
        _fill(server, n)
        costs = _measure(server, Path(folder))
    sys.stdout.write(table_text(_rows(n, costs)))
    return 0


def _fill(client: Client, n: int) -> None:
    for body in objects.creations(n):
        if body["kind"] in ("Namespace", "EndpointSlice"):
            client.create(body)


def _measure(server: RealServer, folder: Path) -> dict[str, list[Cost]]:
    costs: dict[str, list[Cost]] = {}
    for repeat in range(_REPEATS + 1):
        for name, list_all in _kinds(server, folder).items():
            before_s = sum(cpu_s(server.pid))
            received = [list_all() for _ in range(_IN_A_ROW)]
            if repeat:  # the first ones warm up
                took_s = sum(cpu_s(server.pid)) - before_s
                costs.setdefault(name, []).append(Cost(took_s / _IN_A_ROW, median(received)))
    return costs


def _kinds(server: RealServer, folder: Path) -> dict[str, _List]:
    path = SLICES.path if server.has_slices else SLICES.path.replace("/v1/", "/v1beta1/")
    resource = SLICES if server.has_slices else SLICES.fallback
    assert resource
    kinds: dict[str, _List] = {
        "this agent": lambda: _list_as_agent(server, folder, resource),
        "client-go, list": lambda: _list_as_client_go(server, f"{path}?{_LIST}", ""),
    }
    if server.minor >= _WATCH_LIST_SINCE:
        by_a_watch = f"{path}?{_WATCH_LIST}"
        kinds["client-go, list by a watch"] = lambda: _list_as_client_go(server, by_a_watch, ";stream=watch")
    return kinds


def _list_as_agent(server: RealServer, folder: Path, resource: Resource) -> int:
    """List as the agent does at its start on a node that serves nothing yet."""
    sockets: list[socket.socket] = []
    connection = connect(str(kubeconfig(folder, server)), None, on_connected=lambda used: sockets.append(used.dup()))
    list_watch = ListWatch(resource, lambda: 0.0)
    response = connection.get(list_watch.next_request().target, _TIMEOUT_S, compressed=True)
    for part in response.parts():
        list_watch.on_list_part(part)
    list_watch.on_list_end()
    assert list_watch.is_watching, "the list is not complete"
    received = _received_bytes(sockets[0])
    response.close()
    sockets[0].close()
    connection.close()
    return received


def _list_as_client_go(server: RealServer, target: str, parameter: str) -> int:
    """Send the request of client-go for *target*, and read the answer to its end, or to that of the list by a watch."""
    accept = f"{_PROTOBUF}{parameter},application/json"
    headers = {"Accept": accept, "Accept-Encoding": "gzip", "Authorization": f"Bearer {server.token}"}
    host, port = server.url.removeprefix("https://").split(":")
    tls = ssl.create_default_context(cafile=server.ca_file)
    connection = http.client.HTTPSConnection(host, int(port), timeout=_TIMEOUT_S, context=tls)
    connection.request("GET", target, headers=headers)
    kept = socket.socket(fileno=os.dup(connection.sock.fileno()))  # the answer closes its own
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    end = b""
    while part := answer.read1(_READ_BYTES):
        end = end[-len(_LAST_OF_WATCH_LIST) :] + part
        if parameter and _LAST_OF_WATCH_LIST in end:
            break
    received = _received_bytes(kept)
    kept.close()
    connection.close()
    return received


def _received_bytes(connected: socket.socket) -> int:
    info = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED + 8)
    return int(struct.unpack_from("=Q", info, _BYTES_RECEIVED)[0])


def _rows(n: int, costs: dict[str, list[Cost]]) -> list[Row]:
    rows = []
    for name, measured in costs.items():
        rows.append(Row(f"{name}: CPU of kube-apiserver", n, median(cost.cpu_s for cost in measured), "s"))
        rows.append(Row("  received", n, median(cost.received_bytes for cost in measured) / MEGA, "MB"))
    return rows


if __name__ == "__main__":
    sys.exit(main())
