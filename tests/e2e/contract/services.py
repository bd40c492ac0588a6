"""The Services of the contract; their addresses follow from their numbers (`policies_services.py`).

Node A runs pod-a1 and pod-a2, node B pod-b1, -b2 and -b3.
"""

from __future__ import annotations

from typing import Literal

from lab.echo import Protocol
from lab.network import BY_NAME, NODE_NAME
from tests.e2e.manifests import Object
from tests.e2e.policies_services import FAR, NEAR, Front, Served, Version, objects, place

# NodePorts are served at node A's address on the LAN only; "other NodePort" is a NodePort at another address of node A,
# "no port" a port of the ClusterIP that no Service has.
ContractFront = Front | Literal["other NodePort", "no port"]

NODE_PORT_ADDRESSES = "192.168.3.0/24,fd00:3::/64"
SERVICE_CIDR = "10.96.0.0/16,fd00:10:96::/108"
FREE_PORT = 4242

_OTHER_ADDRESS: dict[Version, str] = {4: "172.16.5.10", 6: "fd00:10:244:1::1"}
_NODE_A = BY_NAME[NODE_NAME]
_AT_NODE_A: dict[Version, str] = {4: _NODE_A.ipv4, 6: _NODE_A.ipv6}
_POD_NETWORKS = ["10.244.1.0/24", "fd00:10:244:1::/64"]
_OUTSIDE = ("192.168.3.175/32", "fd00:3::175/128")
_NODE = ("192.168.3.10/32", "fd00:3::10/128")

_INTERNAL_LOCAL: Object = {"internalTrafficPolicy": "Local"}
_EXTERNAL_LOCAL: Object = {"externalTrafficPolicy": "Local"}
_BOTH_LOCAL = _INTERNAL_LOCAL | _EXTERNAL_LOCAL
_STICKY: Object = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}}}
_PODS_OF_ALL = ("pod-a1", "pod-a2", "pod-b1", "pod-b3")
_SWAPPED: dict[Protocol, int] = {"tcp": 8091}


def _from(*ranges: str) -> Object:
    return {"loadBalancerSourceRanges": list(ranges)}


_ROWS = (
    Served(1, "near", NEAR, {}),
    Served(2, "near, external Local", NEAR, _EXTERNAL_LOCAL),
    Served(3, "near, internal Local", NEAR, _INTERNAL_LOCAL),
    Served(4, "near, both Local", NEAR, _BOTH_LOCAL),
    Served(5, "far", FAR, {}),
    Served(6, "far, external Local", FAR, _EXTERNAL_LOCAL),
    Served(7, "far, internal Local", FAR, _INTERNAL_LOCAL),
    Served(8, "far, both Local", FAR, _BOTH_LOCAL),
    Served(9, "inner near, internal Local", NEAR, _INTERNAL_LOCAL, external=()),
    Served(10, "inner far, internal Local", FAR, _INTERNAL_LOCAL, external=()),
    Served(11, "nobody", (), {}),
    Served(12, "nobody, both Local", (), _BOTH_LOCAL),
    Served(13, "for outside", NEAR, _from(*_OUTSIDE)),
    Served(14, "for outside, external Local", NEAR, _from(*_OUTSIDE) | _EXTERNAL_LOCAL),
    Served(15, "for node A and outside", NEAR, _from(*_NODE, *_OUTSIDE)),
    Served(16, "some end, external Local", _PODS_OF_ALL, _EXTERNAL_LOCAL, terminating=("pod-a2", "pod-b3")),
    Served(17, "local one ends, external Local", NEAR, _EXTERNAL_LOCAL, terminating=("pod-a1",)),
    Served(18, "local one ends, internal Local", NEAR, _INTERNAL_LOCAL, terminating=("pod-a1",)),
    Served(19, "all end", NEAR, {}, terminating=NEAR),
    Served(20, "all end, external Local", NEAR, _EXTERNAL_LOCAL, terminating=NEAR),
    Served(21, "remote one ends, external Local", ("pod-b1",), _EXTERNAL_LOCAL, terminating=("pod-b1",)),
    Served(22, "all ended, external Local", NEAR, _EXTERNAL_LOCAL, stopped=NEAR),
    Served(23, "local one ended, external Local", NEAR, _EXTERNAL_LOCAL, stopped=("pod-a1",)),
    Served(24, "sticky", NEAR, _STICKY),
    Served(25, "sticky, external Local", NEAR, _STICKY | _EXTERNAL_LOCAL),
    Served(26, "TCP only", NEAR, {}, protocols=("tcp",)),
    Served(27, "two target ports", NEAR, {}, targets=_SWAPPED),
    Served(28, "at node A's address, external Local", NEAR, _EXTERNAL_LOCAL, port=81, vip=_AT_NODE_A),
    Served(29, "alone", ("pod-a1",), {}, external=()),
    Served(30, "on near's NodePort number", NEAR, {}, port=30101),
    Served(31, "on near's NodePort number, external Local", NEAR, _EXTERNAL_LOCAL, port=30101),
    Served(32, "for node A's pods, external Local", NEAR, _from(*_POD_NETWORKS) | _EXTERNAL_LOCAL),
    Served(33, "for node A and outside, external Local", NEAR, _from(*_NODE, *_OUTSIDE) | _EXTERNAL_LOCAL),
    Served(34, "at node A's address, for outside", NEAR, _from(*_OUTSIDE), port=82, vip=_AT_NODE_A),
    Served(35, "near, external Local, externalIP only", NEAR, _EXTERNAL_LOCAL, external=("externalIP",)),
    Served(36, "far, both Local, externalIP only", FAR, _BOTH_LOCAL, external=("externalIP",)),
)
_UNALLOCATED = Served(250, "unallocated", (), {}, external=())
SERVED = {served.name: served for served in (*_ROWS, _UNALLOCATED)}


def contract_objects() -> list[Object]:
    """Return all Services but the unallocated one, their EndpointSlices, and the Node, which names its pod networks."""
    node, *others = objects(_ROWS)
    return [node | {"spec": {"podCIDR": _POD_NETWORKS[0], "podCIDRs": _POD_NETWORKS}}, *others]


def place_of(service: str, front: ContractFront, version: Version) -> tuple[str, int]:
    """Return address and port of *front* of *service*."""
    served = SERVED[service]
    match front:
        case "other NodePort":
            return _OTHER_ADDRESS[version], served.node_port
        case "no port":
            return place(served, "ClusterIP", version)[0], FREE_PORT
        case _:
            return place(served, front, version)
