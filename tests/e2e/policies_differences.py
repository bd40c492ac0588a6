"""Differences between kube-proxy's IPVS mode, which this agent follows, and its iptables mode.

All are known properties of IPVS mode, each with its source; none is this agent's own choice.
"""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    """What iptables mode does, why IPVS mode differs, and the source."""

    iptables_mode: str
    because: str
    source: str


DIFFERENCES = {
    "local for all": Difference(
        "pods and the node reach all endpoints by an external address; only clients outside are limited to local ones",
        "a virtual server has one list of real servers for all clients",
        "kubernetes#93456; tests/recorded_cases/lb-local",
    ),
    "source is the service address": Difference(
        "the node's own requests are masqueraded",
        "externalTrafficPolicy Local exempts the address from masquerading for all clients; and the node uses the"
        " address as its source, because it is on kube-ipvs0.  The answer of a pod of another node returns only if"
        " the network routes that address to this node",
        "kubernetes PR 97081, which is described as a partial fix",
    ),
    "forwarded to other nodes": Difference(
        "requests from outside are dropped at a node without local endpoints",
        "the virtual server has the endpoints of other nodes, so that this node's pods can use it; for clients outside,"
        " the answer bypasses the node.  The health-check node port keeps load balancers from sending here",
        "kubernetes#75262, kubernetes PR 97081",
    ),
    "bound to a node address": Difference(
        "the node's own requests are checked against the source ranges, whatever their source address",
        "they reach IPVS before the filter, which recognizes them by the Service address as source; a program"
        " that binds to another address of the node is not recognized",
        "the rule of KUBE-IPVS-OUT-FILTER, `-s VIP -m ipvs --vaddr VIP ... -j DROP`; seen on Linux 6.1",
    ),
    "internal falls back": Difference(
        "dropped where there is no local endpoint",
        "a Service that can be reached from outside has the cluster's endpoints too, and they replace the empty list",
        "tests/recorded_cases/itp-local: its Service itp-etp",
    ),
    "refused, not dropped": Difference(
        "dropped where there is no local endpoint",
        "the kernel rejects requests to a virtual server without real servers; no rule drops them",
        "tests/recorded_cases/itp-local: its Service itp-remote",
    ),
    "local address": Difference(
        "a Service address is on no interface: no rule matches a port without a Service, and the packet follows its"
        " route",
        "the address is on kube-ipvs0, so it would reach programs of the host; KUBE-IPVS-FILTER rejects that",
        "kubernetes#72236, kubernetes PR 108460",
    ),
    "number of a NodePort": Difference(
        "rules for NodePorts come after those for Service addresses, which decide every packet that they match",
        "traffic to a local address, as all Service addresses are, traverses KUBE-NODE-PORT, whose sets for TCP and"
        " UDP match only the port.  So traffic to a Service port of that number is masqueraded",
        "the rule `-m addrtype --dst-type LOCAL -j KUBE-NODE-PORT` of KUBE-SERVICES; the sets are bitmap:port",
    ),
}
