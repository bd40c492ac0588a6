"""Stale flows: conntrack entries by which UDP packets would go where no endpoint is any more.

Law: pure.  A flow is judged by its original destination, which is a virtual server of ours (address and port, so the
key of a NodePort has a node's address), and by the source of its replies, where IPVS writes the endpoint.  One whose
virtual server is not judged stays, and so does whatever is not UDP: TCP and SCTP end by themselves.

Source: IPVS writes the endpoint into the reply tuple with net.ipv4.vs.conntrack=1, ip_vs_update_conntrack in
net/netfilter/ipvs/ip_vs_nfct.c; the rule is kube-proxy's (pkg/proxy/conntrack), made stricter for NodePorts.
"""

from collections.abc import Iterable

from kubeproxy_py.model.flows import Allowed, Flow


def stale_flows(flows: Iterable[Flow], allowed: Allowed) -> list[Flow]:
    """Those of *flows* that go where none of their virtual server may."""
    return [
        flow
        for flow in flows
        if flow.virtual_server in allowed and flow.destination not in allowed[flow.virtual_server]
    ]
