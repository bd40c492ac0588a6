"""What a source tells the agent.

Law: an event carries the whole new object, never a difference, so hearing one twice is harmless.  A source first
tells all that exists, then ``Synced`` once; after a relist it tells what is gone as well as what is there.
"""

from typing import Literal

from msgspec import Struct

from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.services import IP, EndpointSlice, Service, ServiceName, SliceName

Feed = Literal["services", "slices", "node"]
"""What must each be heard of in full before anything is programmed."""


class ServiceUpserted(Struct, frozen=True, gc=False):
    service: Service


class ServiceDeleted(Struct, frozen=True, gc=False):
    name: ServiceName


class SliceUpserted(Struct, frozen=True, gc=False):
    slice: EndpointSlice
    triggered_s: float = 0.0  # when the change that it tells of was made, since 1970; 0: it doesn't tell


class SliceDeleted(Struct, frozen=True, gc=False):
    name: SliceName


class NodeUpserted(Struct, frozen=True, gc=False):
    node: Node


class NodeDeleted(Struct, frozen=True, gc=False):
    name: str


class HostAddresses(Struct, frozen=True, gc=False):
    """All addresses of all interfaces of this host, kube-ipvs0 included."""

    addresses: tuple[HostAddress, ...]


class AddressesChanged(Struct, frozen=True, gc=False):
    """What the kernel said that changed; whoever must know more reads for himself."""

    elsewhere: bool = False  # addresses of interfaces other than kube-ipvs0
    device: bool = False  # kube-ipvs0 itself came or went
    ours: dict[IP, bool] = {}  # addresses on kube-ipvs0 that changed, and whether each is there now


class Synced(Struct, frozen=True, gc=False):
    feed: Feed


class ObjectProblem(Struct, frozen=True, gc=False):
    """An object, or a part of one, that can't be used: who must mend what.  The rest goes on."""

    where: str  # "Service shop/web", or "games.yaml, document 3: Service shop/web"
    field: str  # "spec.ports[0].port"
    message: str
    hint: str = ""

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.where}: {self.field}: {self.message}{hint}"


ObjectEvent = (
    ServiceUpserted | ServiceDeleted | SliceUpserted | SliceDeleted | NodeUpserted | NodeDeleted | HostAddresses
)
Event = ObjectEvent | Synced | ObjectProblem
