"""UDP flows: conntrack entries to the virtual servers of this node."""

from collections.abc import Mapping

from msgspec import Struct

from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.model.services import IP

Destination = tuple[IP, int]
"""Address and port of an endpoint."""

Allowed = Mapping[VirtualServer, frozenset[Destination]]
"""The destinations to which flows of each virtual server may go."""


class Flow(Struct, frozen=True, gc=False):
    """A UDP conntrack entry to a virtual server.  ``entry`` is how the kernel told it, and how it is named to it."""

    virtual_server: VirtualServer
    destination: Destination  # where its replies come from
    entry: bytes = b""


class StaleFlowResult(Struct, frozen=True, gc=False):
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


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
