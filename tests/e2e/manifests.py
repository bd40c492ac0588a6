"""manifests: Kubernetes objects as people write them, and a folder of them for the agent to watch.

Law: a file comes to be, or changes, by renaming, so that the agent never sees half of one.  Endpoints are given by the
names of the lab's pods, of which address and node follow.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lab.network import BY_NAME

Object = dict[str, Any]

NAMESPACE = "shop"


class Port(NamedTuple):
    """One port of a Service, and the port of its pods behind it."""

    number: int = 80
    protocol: str = "TCP"
    target: int = 8080
    node_port: int = 0

    @property
    def name(self) -> str:
        return f"{self.protocol.lower()}-{self.number}"


def service(name: str, cluster_ips: str | Sequence[str], ports: Iterable[Port] = (Port(),), **spec: object) -> Object:
    """A Service; *cluster_ips* is one address, "None", or one of each family."""
    addresses = [cluster_ips] if isinstance(cluster_ips, str) else list(cluster_ips)
    written = [_service_port(port) for port in ports]
    kind = "NodePort" if any("nodePort" in port for port in written) else "ClusterIP"
    fields = {"type": kind, "clusterIP": addresses[0], "clusterIPs": addresses, "ports": written, **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": _metadata(name), "spec": fields}


def endpoint_slice(
    name: str, pods: Iterable[str], ports: Iterable[Port] = (Port(),), *, version: int = 4, unready: Iterable[str] = ()
) -> Object:
    """The EndpointSlice of the Service *name* for one IP *version*; *unready* pods are in it, but not ready."""
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
    """The v1 Endpoints of the Service *name*, as written by hand for one without selector."""
    subset = {
        "addresses": [{"ip": BY_NAME[pod].ipv4} for pod in pods],
        "ports": [{"name": port.name, "port": port.target, "protocol": port.protocol} for port in ports],
    }
    return {"apiVersion": "v1", "kind": "Endpoints", "metadata": _metadata(name), "subsets": [subset]}


def backed(
    name: str, cluster_ip: str, pods: Iterable[str], ports: Sequence[Port] = (Port(),), **spec: object
) -> list[Object]:
    """An IPv4 Service and its EndpointSlice."""
    return [service(name, cluster_ip, ports, **spec), endpoint_slice(name, pods, ports)]


class Folder:
    """A folder of manifests."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def put(self, stem: str, objects: Iterable[Object]) -> None:
        """Have *objects*, and only these, in the file STEM.json."""
        self.put_text(f"{stem}.json", json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def put_text(self, file_name: str, text: str) -> None:
        """Have *text* in the file."""
        written = self.path / f"{file_name}.new"  # by this end the agent passes it over
        written.write_text(text)
        written.rename(self.path / file_name)

    def drop(self, stem: str) -> None:
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
    return {"addresses": [address], "nodeName": machine.plugged_into, "conditions": {"ready": ready}}
