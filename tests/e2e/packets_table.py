"""Requests to the Service `web`: client, address, the pods that answer, and the source address that they see.

The result follows from kube-proxy's rules, so each row names the rule.  `web` has four pods, two on node A and two on
node B; with rr each must get its exact share.

A masqueraded packet has the address of the interface by which node A sends it to the pod: that of the bridge cni0 to
its own pods, that of eth0 to node B's.
"""

from __future__ import annotations

from typing import NamedTuple

from lab.network import BY_NAME

CLUSTER_IP, CLUSTER_IP_6 = "10.96.0.10", "fd00:10:96::10"
PORT, NODE_PORT = 80, 30080
WEB_PODS = ("pod-a1", "pod-a2", "pod-b1", "pod-b2")

MASQUERADED = {"pod-a1": "10.244.1.1", "pod-a2": "10.244.1.1", "pod-b1": "192.168.3.10", "pod-b2": "192.168.3.10"}
MASQUERADED_6 = {
    "pod-a1": "fd00:10:244:1::1",
    "pod-a2": "fd00:10:244:1::1",
    "pod-b1": "fd00:3::10",
    "pod-b2": "fd00:3::10",
}
_POD_A1, _POD_A2 = BY_NAME["pod-a1"], BY_NAME["pod-a2"]
KEPT_FROM_A1 = {**dict.fromkeys(WEB_PODS, _POD_A1.ipv4), "pod-a1": "10.244.1.1"}
KEPT_FROM_A1_6 = {**dict.fromkeys(WEB_PODS, _POD_A1.ipv6), "pod-a1": "fd00:10:244:1::1"}
KEPT_FROM_A2 = {**dict.fromkeys(WEB_PODS, _POD_A2.ipv4), "pod-a2": "10.244.1.1"}

_POD_KEEPS = (
    "its source is in clusterCIDR, so `! -s 10.244.0.0/16 ... KUBE-CLUSTER-IP dst,dst` does not mark it; to itself, "
    "KUBE-LOOP-BACK dst,dst,src matches, because otherwise the pod would answer itself without the node"
)
_NODE_USES_VIP = "the node uses the ClusterIP, which is local, as its source, and that is not in clusterCIDR: marked"
_OUTSIDE = "its source is not in clusterCIDR: marked"
_NODE_PORT = "KUBE-SERVICES sends traffic to local addresses to KUBE-NODE-PORT, whose set marks every source"


class Row(NamedTuple):
    """A request of *client* to *address*:*port*; *sources* are the pods that answer, with the source that each sees."""

    client: str
    address: str
    port: int
    sources: dict[str, str]
    why: str

    def __str__(self) -> str:
        return f"{self.client} to {self.address} {self.port}"


NODE_ADDRESSES = ("192.168.3.10", "172.16.5.10", "10.244.1.1")
NODE_ADDRESSES_6 = ("fd00:3::10", "fd00:10:244:1::1")
_CLIENTS = ("pod-a1", "pod-a2", "node-a", "outside")

ROWS = (
    Row("pod-a1", CLUSTER_IP, PORT, KEPT_FROM_A1, _POD_KEEPS),
    Row("pod-a2", CLUSTER_IP, PORT, KEPT_FROM_A2, _POD_KEEPS),
    Row("node-a", CLUSTER_IP, PORT, MASQUERADED, _NODE_USES_VIP),
    Row("outside", CLUSTER_IP, PORT, MASQUERADED, _OUTSIDE),
    *(Row(client, address, NODE_PORT, MASQUERADED, _NODE_PORT) for client in _CLIENTS for address in NODE_ADDRESSES),
    Row("pod-a1", CLUSTER_IP_6, PORT, KEPT_FROM_A1_6, _POD_KEEPS),
    Row("node-a", CLUSTER_IP_6, PORT, MASQUERADED_6, _NODE_USES_VIP),
    Row("outside", CLUSTER_IP_6, PORT, MASQUERADED_6, _OUTSIDE),
    *(Row("outside", address, NODE_PORT, MASQUERADED_6, _NODE_PORT) for address in NODE_ADDRESSES_6),
)
