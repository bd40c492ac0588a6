"""Services that nodes hand on to each other by direct server return, and the Nodes that they need."""

from __future__ import annotations

import subprocess
from typing import NamedTuple

from lab.echo import Protocol
from lab.network import BY_NAME
from tests.e2e.manifests import Folder, Object, Port, endpoint_slice, service

NODES = ("node-a", "node-b")
PODS_OF = {"node-a": ("10.244.1.0/24", "fd00:10:244:1::/64"), "node-b": ("10.244.2.0/24", "fd00:10:244:2::/64")}
PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp")
VERSIONS = (4, 6)
# `route` marks what is handed on by its DSCP; a kernel that was built for the lab has no modules for that.
HAS_DSCP = all(subprocess.run(["modprobe", "-q", name], check=False).returncode == 0 for name in ("xt_dscp", "xt_DSCP"))
WAYS: tuple[str, ...] = ("tunnel", "route") if HAS_DSCP else ("tunnel",)


class Served(NamedTuple):
    """A Service with a way to hand on, by whose number its addresses are known."""

    name: str
    number: int
    pods: tuple[str, ...]
    way: str  # "": none
    machine: str = ""  # whose addresses the load balancer announces; "": nobody's

    def vip(self, version: int) -> str:
        if self.machine:
            return BY_NAME[self.machine].ipv4 if version == 4 else BY_NAME[self.machine].ipv6
        return f"203.0.113.{self.number}" if version == 4 else f"2001:db8:f::{self.number}"

    def objects(self) -> list[Object]:
        ports = [Port(80, p.upper(), 8080) for p in PROTOCOLS]
        both = {"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"}
        addresses = [f"10.96.7.{self.number}", f"fd00:10:96::7:{self.number}"]
        built = service(self.name, addresses, ports, type="LoadBalancer", externalTrafficPolicy="Local", **both)
        built["status"] = {"loadBalancer": {"ingress": [{"ip": self.vip(version)} for version in VERSIONS]}}
        if self.way:
            built["metadata"]["annotations"] = {"kubeproxy-py.io/dsr": self.way}
        return [built, *(endpoint_slice(self.name, self.pods, ports, version=version) for version in VERSIONS)]


def node(name: str) -> Object:
    machine = BY_NAME[name]
    addresses = [{"type": "InternalIP", "address": address} for address in (machine.ipv4, machine.ipv6)]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"podCIDRs": list(PODS_OF[name])},
        "status": {"addresses": addresses},
    }


def write(folder: Folder, *services: Served) -> None:
    folder.write("all", [*map(node, NODES), *(each for served in services for each in served.objects())])
