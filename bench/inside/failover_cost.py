"""What failover costs: the CPU share of the agent with N Services of 10 endpoints, all of which clients use.

Each way is a process of its own in a namespace of its own, and all run during the same seconds of one boot.  Clients on
the node use each Service once, as fast as they can, then begin RATE connections a second, to one Service after the
other, so that at 10,000 Services each goes on counting as used, which lasts three minutes.  Every address of a pod is
one of the namespace itself, with one program that answers for all.  Endpoints are being connected to for the first
time, as often as the budget permits: nothing costs more, but failures.
"""

import json
import select
import socket
import struct
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from bench import objects
from bench.inside.network import fresh_namespace
from bench.inside.process import agent_words, cpu_s, running, sleep_until, wait_first_sync
from lab.namespace import Namespace
from tests.e2e.kernel_state import shell

RATE = 60
_FIRST_TURN_S = 200.0
_POD_NETWORK, _TARGET_PORT = "10.128.0.0/9", 8080
_ANSWER_S = 1.0
_CLOSE_BY_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: else ports run out


class Way(NamedTuple):
    """How the agent is run, and what each Service asks for."""

    annotations: Mapping[str, str] = {}
    flags: tuple[str, ...] = ()


WAYS: Mapping[str, Way] = {
    "without": Way(),
    "--watch-nodes": Way(flags=("--watch-nodes",)),
    "health-check: tcp": Way({"kubeproxy-py.io/health-check": "tcp"}),
}


def measure(n: int, seconds: int) -> dict[str, dict[str, float]]:
    """Return for each way the CPU share of a core within *seconds*, and how many connections were answered."""
    with ExitStack() as stack:
        agents = {name: _Agent(n, way, stack) for name, way in WAYS.items()}
        began_s = time.monotonic()
        before = {name: agent.counts() for name, agent in agents.items()}
        sleep_until(began_s + seconds)
        took_s = time.monotonic() - began_s
        return {
            name: {key: (count - before[name][key]) / took_s for key, count in agent.counts().items()}
            for name, agent in agents.items()
        }


class _Agent:
    def __init__(self, n: int, way: Way, stack: ExitStack) -> None:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        objects.write_manifests(folder, n)
        for file in folder.iterdir() if way.annotations else ():
            _annotate(file, way.annotations)
        namespace = stack.enter_context(fresh_namespace(wait=False))
        shell(namespace, f"ip link set lo up; ip route add local {_POD_NETWORK} dev lo")
        process = stack.enter_context(running([*agent_words("--manifests", str(folder)), *way.flags], namespace))
        wait_first_sync(process)
        threading.Thread(target=_drain, args=(process.stderr,), daemon=True).start()
        self._pid = process.pid
        self._clients = _Clients(namespace, n)

    def counts(self) -> dict[str, float]:
        clients = self._clients
        return {"own_share": cpu_s(self._pid)[0], "answered": clients.answered, "failed": clients.failed}


def _drain(lines: Any) -> None:
    for _ in lines:
        pass


def _annotate(file: Path, annotations: Mapping[str, str]) -> None:
    content = json.loads(file.read_bytes())
    for item in content["items"]:
        if item["kind"] == "Service":
            item["metadata"].setdefault("annotations", {}).update(annotations)
    file.write_text(json.dumps(content))


class _Clients:
    """Begins connections in *namespace*, to one of *n* Services after the other, and answers them.

    When it is made, each Service was used once.
    """

    def __init__(self, namespace: Namespace, n: int) -> None:
        self.answered = self.failed = 0
        self._has_used_all = threading.Event()
        self._namespace = namespace
        self._addresses = [str(IPv4Address(objects.service(number).cluster_ips[0])) for number in range(n)]
        for run in (self._serve, self._connect):
            threading.Thread(target=run, daemon=True).start()
        if not self._has_used_all.wait(_FIRST_TURN_S):
            raise TimeoutError(f"only {self.answered} of {n} Services answered")

    def _serve(self) -> None:
        self._namespace.enter()
        with socket.create_server(("0.0.0.0", _TARGET_PORT), backlog=1000) as server:
            while True:
                accepted, _ = server.accept()
                accepted.sendall(b"here\n")
                accepted.close()

    def _connect(self) -> None:
        self._namespace.enter()
        while True:
            for address in self._addresses:
                began_s = time.monotonic()
                if self._is_answered(address):
                    self.answered += 1
                else:
                    self.failed += 1
                if self._has_used_all.is_set():
                    sleep_until(began_s + 1 / RATE)
            self._has_used_all.set()

    def _is_answered(self, address: str) -> bool:
        with socket.socket() as connection:
            connection.settimeout(_ANSWER_S)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _CLOSE_BY_RESET)
            try:
                connection.connect((address, 80))
                select.select([connection], [], [], _ANSWER_S)
                return bool(connection.recv(100))
            except OSError:
                return False
