"""Nodes of a real API server that has no controllers and no kubelets: the pods of its DaemonSets, as objects.

It does of the DaemonSet controller, the kubelet and the controller of tokens only what commands of the pages wait for.
Pods of nodes that they do not select any more end after TERMINATION_S, in which others may start.
"""

from __future__ import annotations

import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from tests.apiserver.client import Client

NODES = ("worker-1", "worker-2")
TERMINATION_S = 1.0
_POLL_S = 0.1
_SETS = "/apis/apps/v1/namespaces/kube-system/daemonsets"
_PODS = "/api/v1/namespaces/kube-system/pods"
_SECRETS = "/api/v1/namespaces/kube-system/secrets"
_PROXIES = ("kube-proxy", "kubeproxy-py")


class SimulatedNodes:
    """The nodes, within the `with`.

    token: What a Secret for the token of a service account gets.
    beside: The nodes on which two service proxies were at one time.
    """

    def __init__(self, admin: Client, token: str) -> None:
        self._admin = admin
        self._token = b64encode(token.encode()).decode()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._end = threading.Event()
        self._leaving: dict[str, float] = {}
        self.beside: set[str] = set()
        self.errors: list[str] = []

    def __enter__(self) -> Self:
        for name in NODES:
            labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
            self._send("POST", "/api/v1/nodes", _node(name, labels))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def proxies(self) -> dict[str, set[str]]:
        """Return which service proxies are on each node."""
        found: dict[str, set[str]] = {name: set() for name in NODES}
        for pod in self._items(_PODS):
            if (owner := _owner(pod)) in _PROXIES:
                found[pod["spec"]["nodeName"]].add(owner)
        return found

    def _run(self) -> None:
        while not self._end.wait(_POLL_S):
            try:
                self._turn()
            except (OSError, AssertionError, KeyError) as error:
                self.errors.append(repr(error))

    def _turn(self) -> None:
        sets, pods = self._items(_SETS), self._items(_PODS)
        nodes = {node["metadata"]["name"]: node["metadata"]["labels"] for node in self._items("/api/v1/nodes")}
        wanted = {f"{each['metadata']['name']}-{node}": (each, node)
                  for each in sets for node, labels in nodes.items() if _selects(each, labels)}  # fmt: skip
        existing = {pod["metadata"]["name"]: pod for pod in pods}
        for name in wanted.keys() - existing.keys():
            self._send("POST", _PODS, _pod(name, *wanted[name]))
        for name, pod in existing.items():
            if _owner(pod) and name not in wanted:
                self._terminate(name)
            elif not _owner(pod) and pod["status"].get("phase") != "Succeeded":
                self._send("PUT", f"{_PODS}/{name}/status", {**pod, "status": {"phase": "Succeeded"}})
        self.beside |= {node for node, proxies in self.proxies().items() if len(proxies) > 1}
        for each in sets:
            self._observe(each, sum(owner is each for owner, _ in wanted.values()))
        for secret in self._items(_SECRETS):
            if secret.get("type") == "kubernetes.io/service-account-token" and not secret.get("data"):
                self._send(
                    "PUT", f"{_SECRETS}/{secret['metadata']['name']}", {**secret, "data": {"token": self._token}}
                )

    def _terminate(self, name: str) -> None:
        since = self._leaving.setdefault(name, time.monotonic())
        if time.monotonic() - since > TERMINATION_S:
            self._send("DELETE", f"{_PODS}/{name}", {"gracePeriodSeconds": 0})
            del self._leaving[name]

    def _observe(self, daemon_set: Any, count: int) -> None:
        names = ("currentNumberScheduled", "desiredNumberScheduled", "numberReady", "updatedNumberScheduled")
        status = {**dict.fromkeys((*names, "numberAvailable"), count), "numberMisscheduled": 0}
        status["observedGeneration"] = daemon_set["metadata"]["generation"]
        if daemon_set["status"] != status:
            path = f"{_SETS}/{daemon_set['metadata']['name']}/status"
            self._send("PUT", path, {**daemon_set, "status": status})

    def _items(self, path: str) -> list[Any]:
        _, answer = self._admin.request_json("GET", path)
        return list(answer["items"])

    def _send(self, method: str, path: str, body: Any) -> None:
        status, answer = self._admin.request_json(method, path, body)
        # What a command changed or deleted meanwhile is seen in the next turn.
        assert status in (200, 201, 202, 404, 409), answer


def _node(name: str, labels: dict[str, str]) -> Any:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}


def _pod(name: str, daemon_set: Any, node: str) -> Any:
    owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": daemon_set["metadata"]["name"],
             "uid": daemon_set["metadata"]["uid"], "controller": True}  # fmt: skip
    template = daemon_set["spec"]["template"]
    metadata = {"name": name, "labels": template["metadata"]["labels"], "ownerReferences": [owner]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**template["spec"], "nodeName": node}}


def _owner(pod: Any) -> str:
    owners = pod["metadata"].get("ownerReferences") or [{"name": ""}]
    return str(owners[0]["name"])


def _selects(daemon_set: Any, labels: dict[str, str]) -> bool:
    """Return whether pods of *daemon_set* may run on a node with *labels*."""
    spec = daemon_set["spec"]["template"]["spec"]
    if not spec.get("nodeSelector", {}).items() <= labels.items():
        return False
    affinity = spec.get("affinity", {}).get("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    return not required or any(all(_terms(term, labels)) for term in required["nodeSelectorTerms"])


def _terms(term: Any, labels: dict[str, str]) -> Iterator[bool]:
    for requirement in term["matchExpressions"]:
        assert requirement["operator"] == "DoesNotExist", "only what docs/migrate.md uses"
        yield requirement["key"] not in labels
