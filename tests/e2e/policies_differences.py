"""policies_differences: where kube-proxy's IPVS mode, and so this agent, does otherwise than its iptables mode.

Law: these are ways of IPVS mode that its users know, each with its source; none is this agent's own choice.
"""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    """What iptables mode does, why IPVS mode doesn't, and where that is told."""

    iptables_mode: str
    because: str
    source: str


DIFFERENCES = {
    "local for all": Difference(
        "pods and the node reach all endpoints by an outer address; only clients from outside are kept to local ones",
        "a virtual server has one list of real servers, whoever asks",
        "kubernetes#93456; tests/recorded_cases/lb-local",
    ),
    "as the address asked": Difference(
        "the node's own requests are masqueraded",
        "externalTrafficPolicy Local exempts the address from masquerading, whoever asks; and the node takes the"
        " address as its own source, since it is on kube-ipvs0.  What a pod of another node answers comes back only if"
        " the network routes that address to this node",
        "kubernetes PR 97081, which calls itself a partial fix for that",
    ),
    "on to other nodes": Difference(
        "requests from outside are dropped at a node without local endpoints",
        "the virtual server is given the others' endpoints, so that this node's pods can use it; from outside the"
        " answer passes the node by.  A load balancer learns from the health-check node port not to send here",
        "kubernetes#75262, kubernetes PR 97081",
    ),
    "by its own address": Difference(
        "the node's own requests are held against the source ranges, whatever their source address",
        "they meet IPVS before the filter, which then tells them by having the Service address as source; a program"
        " that binds to another address of the node isn't told",
        "the rule of KUBE-IPVS-OUT-FILTER, `-s VIP -m ipvs --vaddr VIP ... -j DROP`; seen on Linux 6.1",
    ),
    "internal falls back": Difference(
        "dropped where there is no local endpoint",
        "a Service that can be reached from outside has the cluster's endpoints at hand, and they fill the empty list",
        "tests/recorded_cases/itp-local: its Service itp-etp",
    ),
    "refused, not dropped": Difference(
        "dropped where there is no local endpoint",
        "the kernel answers for a virtual server without real servers; there is no rule",
        "tests/recorded_cases/itp-local: its Service itp-remote",
    ),
    "local address": Difference(
        "a Service address is on no interface: a port that no Service has is not looked at, and the packet follows its"
        " route",
        "the address is on kube-ipvs0, so host programs would be reached by it; KUBE-IPVS-FILTER refuses that",
        "kubernetes#72236, kubernetes PR 108460",
    ),
    "a NodePort's number": Difference(
        "rules for NodePorts come after those for Service addresses, which no packet survives",
        "what goes to a local address, as all Service addresses are, is shown to KUBE-NODE-PORT; its sets of TCP and"
        " UDP look at the port alone.  So a Service's port of that number is masqueraded",
        "the rule `-m addrtype --dst-type LOCAL -j KUBE-NODE-PORT` of KUBE-SERVICES; the sets are bitmap:port",
    ),
}
