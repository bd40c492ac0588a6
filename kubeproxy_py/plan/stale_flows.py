"""Which conntrack entries are stale: those that send UDP packets to an address that is no longer an endpoint.

A flow is identified by its original destination, which is a virtual server (for a NodePort, with an address of the
node), and by the source of its replies, where IPVS writes the endpoint.  Only UDP is affected: TCP and SCTP
connections end by themselves.

Source: with net.ipv4.vs.conntrack=1, ip_vs_update_conntrack in net/netfilter/ipvs/ip_vs_nfct.c writes the endpoint
into the reply tuple.  The rule is that of kube-proxy (pkg/proxy/conntrack), but stricter for NodePorts.
"""

from collections.abc import Iterable

from kubeproxy_py.model.flows import AllowedDestinations, Flow


def find_stale_flows(flows: Iterable[Flow], allowed: AllowedDestinations) -> list[Flow]:
    """Return those of *flows* whose destination their virtual server does not allow.

    A flow whose virtual server is not in *allowed* is never stale.
    """
    return [
        flow
        for flow in flows
        if flow.virtual_server in allowed and flow.destination not in allowed[flow.virtual_server]
    ]
