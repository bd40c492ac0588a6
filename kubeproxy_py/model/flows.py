"""UDP flows: conntrack entries to the virtual servers of this node."""

from collections.abc import Mapping

from msgspec import Struct

from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.net import IP

Destination = tuple[IP, int]
"""Address and port of an endpoint."""

AllowedDestinations = Mapping[VirtualServer, frozenset[Destination]]
"""The destinations to which flows of each virtual server may go."""


class Flow(Struct, frozen=True, gc=False):
    """A UDP conntrack entry to a virtual server."""

    virtual_server: VirtualServer
    destination: Destination  # source of the replies: the endpoint that IPVS chose
    entry: bytes = b""  # the kernel's attributes of the entry, which identify it when it is deleted


class StaleFlowResult(Struct, frozen=True, gc=False):
    """The result of one scan of the flows of some virtual servers."""

    servers: int  # virtual servers whose flows were scanned
    seen: int  # flows to these
    deleted: int  # stale flows that were deleted
    errors: tuple[str, ...]  # the kernel's error for each stale flow that could not be deleted
    deleted_ipv6: int = 0  # how many of the deleted flows were IPv6

    def __str__(self) -> str:
        failed = f", {len(self.errors):,} failed ({self.errors[0]})" if self.errors else ""
        return (
            f"deleted {self.deleted:,} of {_counted(self.seen, 'UDP flow')} to "
            f"{_counted(self.servers, 'virtual server')}{failed}"
        )


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
