"""Kubernetes objects as users write them, and a folder of manifests for the agent to watch.

Invariants:
  - A file is created or replaced by renaming, so that the agent never reads an incomplete one.
  - Endpoints are given by the names of the lab's pods, which determine address and node; that of a node is a pod there
    with hostNetwork.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lab.network import BY_NAME, PODS

Object = dict[str, Any]

NAMESPACE = "shop"


class Port(NamedTuple):
    """One port of a Service, with its target port."""

    number: int = 80
    protocol: str = "TCP"
    target: int = 8080
    node_port: int = 0

    @property
    def name(self) -> str:
        return f"{self.protocol.lower()}-{self.number}"


def service(name: str, cluster_ips: str | Sequence[str], ports: Iterable[Port] = (Port(),), **spec: object) -> Object:
    """Return a Service; *cluster_ips* is one address, "None", or one of each family."""
    addresses = [cluster_ips] if isinstance(cluster_ips, str) else list(cluster_ips)
    written = [_service_port(port) for port in ports]
    kind = "NodePort" if any("nodePort" in port for port in written) else "ClusterIP"
    fields = {"type": kind, "clusterIP": addresses[0], "clusterIPs": addresses, "ports": written, **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": _metadata(name), "spec": fields}


def endpoint_slice(
    name: str, pods: Iterable[str], ports: Iterable[Port] = (Port(),), *, version: int = 4, unready: Iterable[str] = ()
) -> Object:
    """Return the EndpointSlice of the Service *name* for one IP *version*, with ready *pods* and *unready* ones."""
    ready = dict.fromkeys(pods, True) | dict.fromkeys(unready, False)
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": _metadata(f"{name}-{version}", **{"kubernetes.io/service-name": name}),
        "addressType": f"IPv{version}",
        "ports": [{"name": port.name, "port": port.target, "protocol": port.protocol} for port in ports],
        "endpoints": [_endpoint(pod, is_ready, version) for pod, is_ready in ready.items()],
    }


def endpoints(name: str, pods: Iterable[str], ports: Iterable[Port]) -> Object:
    """Return the v1 Endpoints of the Service *name*, as users write them for a Service without selector."""
    subset = {
        "addresses": [{"ip": BY_NAME[pod].ipv4} for pod in pods],
        "ports": [{"name": port.name, "port": port.target, "protocol": port.protocol} for port in ports],
    }
    return {"apiVersion": "v1", "kind": "Endpoints", "metadata": _metadata(name), "subsets": [subset]}


def service_with_slice(
    name: str, cluster_ip: str, pods: Iterable[str], ports: Sequence[Port] = (Port(),), **spec: object
) -> list[Object]:
    """Return an IPv4 Service and its EndpointSlice."""
    return [service(name, cluster_ip, ports, **spec), endpoint_slice(name, pods, ports)]


class Folder:
    """A folder of manifests."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, stem: str, objects: Iterable[Object]) -> None:
        """Write *objects* to the file STEM.json, replacing its content."""
        self.write_text(f"{stem}.json", json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def write_text(self, file_name: str, text: str) -> None:
        """Write *text* to the file."""
        written = self.path / f"{file_name}.new"  # the agent ignores files with this suffix
        written.write_text(text)
        written.rename(self.path / file_name)

    def delete(self, stem: str) -> None:
        """Remove the file STEM.json."""
        (self.path / f"{stem}.json").unlink()


def _metadata(name: str, **labels: str) -> Object:
    return {"name": name, "namespace": NAMESPACE, "labels": labels}


def _service_port(port: Port) -> Object:
    node_port = {"nodePort": port.node_port} if port.node_port else {}
    return {"name": port.name, "port": port.number, "protocol": port.protocol, **node_port}


def _endpoint(pod: str, ready: bool, version: int) -> Object:
    machine = BY_NAME[pod]
    address = machine.ipv4 if version == 4 else machine.ipv6
    node = machine.plugged_into if machine in PODS else machine.name
    return {"addresses": [address], "nodeName": node, "conditions": {"ready": ready}}
