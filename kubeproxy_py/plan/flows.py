"""Stale flows: conntrack entries by which UDP packets would go where no endpoint is any more.

Law: pure.  A flow is judged by its original destination, which is a virtual server of ours (address and port, so the
key of a NodePort has a node's address), and by the source of its replies, where IPVS writes the endpoint.  One whose
virtual server is not judged stays, and so does whatever is not UDP: TCP and SCTP end by themselves.

Source: IPVS writes the endpoint into the reply tuple with net.ipv4.vs.conntrack=1, ip_vs_update_conntrack in
net/netfilter/ipvs/ip_vs_nfct.c; the rule is kube-proxy's (pkg/proxy/conntrack), made stricter for NodePorts.
"""

from collections.abc import Iterable

from msgspec import Struct

from kubeproxy_py.compile.flows import Allowed, Destination
from kubeproxy_py.model.rows import VirtualServer


class Flow(Struct, frozen=True, gc=False):
    """A UDP conntrack entry to a virtual server.  ``entry`` is how the kernel told it, and how it is named to it."""

    virtual_server: VirtualServer
    destination: Destination  # where its replies come from
    entry: bytes = b""


class FlowReport(Struct, frozen=True, gc=False):
    """What came of one look at the flows of some virtual servers."""

    servers: int  # virtual servers whose flows were looked at
    seen: int  # flows that they had
    forgotten: int  # stale ones, now deleted
    refused: tuple[str, ...]  # the kernel's words on each that it would not delete
    forgotten_ipv6: int = 0  # those of the forgotten that were IPv6

    def __str__(self) -> str:
        """One sentence."""
        refused = f", {len(self.refused):,} refused ({self.refused[0]})" if self.refused else ""
        return (
            f"forgot {_counted(self.forgotten, 'UDP flow')} of {self.seen:,} to "
            f"{_counted(self.servers, 'virtual server')}{refused}"
        )


def stale_flows(flows: Iterable[Flow], allowed: Allowed) -> list[Flow]:
    """Those of *flows* that go where none of their virtual server may."""
    return [
        flow
        for flow in flows
        if flow.virtual_server in allowed and flow.destination not in allowed[flow.virtual_server]
    ]


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
