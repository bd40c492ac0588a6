"""kube-ipvs0, the addresses on it, and the addresses of the whole host, by batched rtnetlink.

Law: the device is there so that its addresses are this host's own; it carries no traffic and stays down.  What is
there already, whoever made it, is done; so is deleting what is gone.  Any device of the name will do.

An address that was added is the host's own when ``apply`` returns.  For IPv6 the kernel's acknowledgement does not
say so: the local route is made by a worker of its own (addrconf_dad_work), up to 140 ms later on a busy machine
(6.1).  Until then packets to a new address are routed on, and each leaves a conntrack entry by which its flow would
pass IPVS by for as long as it lives.

Source: include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h; net/ipv6/addrconf.c.  EADDRNOTAVAIL is what Linux says
of an address that is gone, ENXIO what it once said, ENODEV what it says when the device went with it.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from errno import EADDRNOTAVAIL, EEXIST, ENODEV, ENXIO
from functools import cached_property, lru_cache, partial
from socket import inet_ntop, inet_pton
from struct import Struct
from time import sleep

from kubeproxy_py.kernel import LINK, Scope, Snapshot, snapshot_of
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.netlink.attributes import attribute, attributes, head, nest, read_text, text, u32
from kubeproxy_py.kernel.netlink.families import AF_INET, AF_INET6, AF_UNSPEC, family_number
from kubeproxy_py.kernel.netlink.messages import header
from kubeproxy_py.kernel.netlink.socket import CREATE, EXCLUSIVE, NETLINK_ROUTE, Message, NetlinkError, Socket, message
from kubeproxy_py.kernel.runs import kinds, runs
from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.rows import IPVS_DEVICE, Address, Link, Rows
from kubeproxy_py.model.services import IP
from kubeproxy_py.model.steps import Step, StepFailure

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18  # RTM_*
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_GETROUTE = 26

_IFINFO = Struct("=BxHiII")  # family, type, index, flags, which flags to change
_IFADDR = Struct("=BBBBI")  # family, prefix length, flags, scope, index
_INDEX, _INDEX_AT = Struct("=I"), 4
_RTMSG = Struct("=BBBBBBBBI")  # family, prefix lengths of target and source, TOS, table, protocol, scope, type, flags
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_EXT_MASK = 3, 18, 29
_IFLA_INFO_KIND = 1
_SKIP_STATISTICS = 1 << 3  # RTEXT_FILTER_SKIP_STATS
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST = 1
_ROUTE_LOCAL = 2  # RTN_LOCAL
_NO_DUPLICATE_SEARCH = 0x02  # IFA_F_NODAD
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_HOST_PREFIX: dict[int, int] = {AF_INET: 32, AF_INET6: 128}
_LOCAL_HEADER, _ADDRESS_HEADER = (
    {family: head(kind, prefix // 8) for family, prefix in _HOST_PREFIX.items()} for kind in (_IFA_LOCAL, _IFA_ADDRESS)
)

_DONE: dict[tuple[type, str], frozenset[int]] = {  # (kind, verb) -> refusals that mean that nothing was left to do
    (Link, "add"): frozenset((EEXIST,)),
    (Link, "delete"): frozenset((ENODEV,)),
    (Address, "add"): frozenset((EEXIST,)),
    (Address, "delete"): frozenset((EADDRNOTAVAIL, ENXIO, ENODEV)),
}

_WAITS_S = tuple(0.001 * 2**number for number in range(10))
"""Between looks whether new addresses are local: a second in all, some seven times the worst that was seen."""

_FEW = 100
"""Up to so many routes are asked for one by one, 30 us each; more are found in a listing of all."""


class AddressAdapter:
    """Link and Address rows of the network namespace in which it was first used."""

    def __init__(self) -> None:
        # Prefix lengths of addresses on the device that others put there, which deleting has to name.
        self._odd_prefixes: dict[IP, int] = {}
        # The number of the device, 0: to be asked for.  Linux gives none twice, so a stale one names no other device.
        self._device = 0

    def scopes(self) -> list[Scope]:
        """One: the device with its addresses."""
        return [LINK]

    def read(self, scope: Scope) -> Rows:
        """kube-ipvs0 and its addresses, but for those that Linux itself gives a device.  Raises KernelError."""
        return self.listing(scope).rows()

    def listing(self, scope: Scope) -> Snapshot:
        """The same, not yet made into rows."""
        assert scope == LINK, scope
        index = self._device = self._index(IPVS_DEVICE)
        if not index:
            return snapshot_of({})
        device = _INDEX.pack(index)
        bodies = [body for body in self._dumped() if body[_INDEX_AT : _IFADDR.size] == device]
        return Snapshot(lambda: hash((index, *bodies)), partial(self._rows_in, bodies))

    def _rows_in(self, bodies: Iterable[bytes]) -> Rows:
        rows: Rows = {Link(IPVS_DEVICE): None}
        self._odd_prefixes.clear()
        for family, prefix, scope_number, _, address in _told(bodies):
            if not _is_automatic(family, scope_number, address):
                rows[Address(address)] = None
                if prefix != _HOST_PREFIX[family]:
                    self._odd_prefixes[address] = prefix
        return rows

    def apply(self, steps: Sequence[Step]) -> list[StepFailure]:
        """Carry out *steps*.  Raises KernelError if the kernel could not be asked."""
        failed: list[StepFailure] = []
        for kind, run in runs(steps, kinds(steps)):
            failed += (self._apply_links if kind is Link else self._apply_addresses)(run)
        return failed

    def host_addresses(self) -> tuple[HostAddress, ...]:
        """All addresses of all interfaces, kube-ipvs0 included, sorted.  Raises KernelError."""
        names = self._names()
        found = ((names.get(index), address) for _, _, _, index, address in _told(self._dumped()))
        return tuple(sorted(HostAddress(name, address) for name, address in found if name))

    def close(self) -> None:
        """Close the socket; a later use opens another."""
        if "_netlink" in self.__dict__:
            self.__dict__.pop("_netlink").close()

    @cached_property
    def _netlink(self) -> Socket:
        return Socket(NETLINK_ROUTE)

    def _apply_links(self, steps: Sequence[Step]) -> list[StepFailure]:
        self._device = 0
        return _unless_done(steps, self._netlink.execute(encode_link(step) for step in steps))

    def _apply_addresses(self, steps: Sequence[Step]) -> list[StepFailure]:
        refused = self._ask_for(steps, self._device) if self._device else None
        if refused is None or any(refusal.errno == ENODEV for refusal in refused.values()):
            self._device = self._index(IPVS_DEVICE)
            if not self._device:
                gone = NetlinkError(ENODEV, f"there is no device {IPVS_DEVICE}")
                return [_failed(step, gone) for step in steps if not _is_done(step, gone)]
            refused = self._ask_for(steps, self._device)
        failed = _unless_done(steps, refused)
        self._await_local(_ipv6_added(steps) - _ipv6_added(each.step for each in failed))
        return failed

    def _await_local(self, addresses: set[IP]) -> None:
        """Wait until packets to each of these IPv6 *addresses* are the host's own.

        Not for ever: where somebody's routing rules say otherwise, it will never be so.
        """
        for wait_s in _WAITS_S:
            addresses -= self._local(addresses)
            if not addresses:
                return
            sleep(wait_s)

    def _local(self, addresses: Collection[IP]) -> set[IP]:
        """Those of these IPv6 *addresses* to which the kernel has a local route."""
        if len(addresses) <= _FEW:
            return {address for address in addresses if self._is_local(address)}
        wanted = {inet_pton(AF_INET6, address): address for address in addresses}
        routes = self._netlink.dump(message(_GETROUTE, 0, _RTMSG.pack(AF_INET6, 0, 0, 0, 0, 0, 0, 0, 0)))
        local = (route for route in routes if _RTMSG.unpack_from(route)[7] == _ROUTE_LOCAL)
        targets = (attributes(route, _RTMSG.size).get(_RTA_DST, b"") for route in local)
        return {wanted[target] for target in targets if target in wanted}

    def _is_local(self, address: IP) -> bool:
        target = attribute(_RTA_DST, inet_pton(AF_INET6, address))
        try:
            body = _RTMSG.pack(AF_INET6, 128, 0, 0, 0, 0, 0, 0, 0) + target
            reply = self._netlink.ask(message(_GETROUTE, 0, body))
        except KernelError:  # no route at all
            return False
        return bool(_RTMSG.unpack_from(reply)[7] == _ROUTE_LOCAL)

    def _ask_for(self, steps: Sequence[Step], device: int) -> dict[int, NetlinkError]:
        """Have *steps* on addresses carried out on *device*; those that were refused, by their places."""
        return self._netlink.execute(encode_address(step, device, self._odd_prefixes) for step in steps)

    def _index(self, name: str) -> int:
        """The interface index of *name*; 0 if there is none."""
        try:
            body = _IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + text(_IFLA_IFNAME, name)
            reply = self._netlink.ask(message(_GETLINK, 0, body))
        except KernelError as error:
            if error.errno == ENODEV:
                return 0
            raise
        return int(_IFINFO.unpack_from(reply)[2])

    def _names(self) -> dict[int, str]:
        """Interface names by index."""
        body = _IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + u32(_IFLA_EXT_MASK, _SKIP_STATISTICS)
        replies = self._netlink.dump(message(_GETLINK, 0, body))
        return {
            _IFINFO.unpack_from(reply)[2]: read_text(attributes(reply, _IFINFO.size)[_IFLA_IFNAME]) for reply in replies
        }

    def _dumped(self) -> list[bytes]:
        """What the kernel tells of every address of the host."""
        return self._netlink.dump(message(_GETADDR, 0, _IFADDR.pack(AF_UNSPEC, 0, 0, 0, 0)))


def _told(bodies: Iterable[bytes]) -> Iterator[tuple[int, int, int, int, IP]]:
    """(family, prefix length, scope, interface index, address) of every IP address."""
    for body in bodies:
        family, prefix, _, scope, index = _IFADDR.unpack_from(body)
        if family in _HOST_PREFIX:
            yield family, prefix, scope, index, inet_ntop(family, own_address(family, body))


def own_address(family: int, body: bytes, start: int = _IFADDR.size) -> bytes:
    """The address of this host in a message about one, packed; its attributes begin at *start*.

    On a point-to-point link ADDRESS is the far end, and LOCAL our own.  IPv4 has both, ADDRESS first; IPv6 has LOCAL
    only on such a link, and then first.
    """
    if family == AF_INET and body[start + 8 : start + 12] == _LOCAL_HEADER[AF_INET]:
        return body[start + 12 : start + 16]
    if family == AF_INET6 and body[start : start + 4] == _ADDRESS_HEADER[AF_INET6]:
        return body[start + 4 : start + 20]
    found = attributes(body, start)
    return found.get(_IFA_LOCAL) or found[_IFA_ADDRESS]


def encode_link(step: Step) -> Message:
    """Make or delete the dummy device that *step* names; new devices are down."""
    assert isinstance(step.key, Link)
    body = _IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + text(_IFLA_IFNAME, step.key.name)
    if step.verb == "delete":
        return message(_DELLINK, 0, body)
    linkinfo = nest(_IFLA_LINKINFO, attribute(_IFLA_INFO_KIND, b"dummy"))
    return message(_NEWLINK, CREATE | EXCLUSIVE, body + linkinfo)


def encode_address(step: Step, index: int, odd_prefixes: dict[IP, int]) -> Message:
    """Put the address of *step* on interface *index*, as a host address of global scope, or take it off.

    IPv6 is told not to look for duplicates.  A dummy has no neighbours and would not, but only finds that out a
    moment later, and until then the address is tentative and refuses to be used (seen on 6.1).
    """
    assert isinstance(step.key, Address)
    address = step.key.address
    family = family_number(address)
    packed = inet_pton(family, address)
    prefix = _HOST_PREFIX[family]
    if step.verb == "delete":
        return _up_to_delete(family, odd_prefixes.get(address, prefix), index) + packed
    return _up_to_add(family, index) + packed + _ADDRESS_HEADER[family] + packed


@lru_cache(maxsize=64)
def _up_to_delete(family: int, prefix: int, index: int) -> bytes:
    """The message that deletes an address, up to the address itself."""
    body = _IFADDR.pack(family, prefix, 0, _SCOPE_UNIVERSE, index) + _LOCAL_HEADER[family]
    return header(_DELADDR, 0, len(body) + _HOST_PREFIX[family] // 8) + body


@lru_cache(maxsize=64)
def _up_to_add(family: int, index: int) -> bytes:
    """The message that adds an address, up to the address itself, which stands there twice."""
    flags = _NO_DUPLICATE_SEARCH if family == AF_INET6 else 0
    body = _IFADDR.pack(family, _HOST_PREFIX[family], flags, _SCOPE_UNIVERSE, index) + _LOCAL_HEADER[family]
    size = len(body) + len(_ADDRESS_HEADER[family]) + 2 * _HOST_PREFIX[family] // 8
    return header(_NEWADDR, CREATE | EXCLUSIVE, size) + body


def _ipv6_added(steps: Iterable[Step]) -> set[IP]:
    added = (step.key.address for step in steps if step.verb == "add" and isinstance(step.key, Address))
    return {address for address in added if ":" in address}


def _is_automatic(family: int, scope: int, address: IP) -> bool:
    """Whether nobody has to have asked for *address*: loopback, and the link-local one of a device that was up."""
    return address.startswith("127.") or address == "::1" or (family == AF_INET6 and scope == _SCOPE_LINK)


def _is_done(step: Step, refusal: NetlinkError) -> bool:
    return refusal.errno in _DONE.get((type(step.key), step.verb), ())


def _unless_done(steps: Sequence[Step], refused: Mapping[int, NetlinkError]) -> list[StepFailure]:
    """The steps that were *refused*, by their places, but for those of which nothing was left to do."""
    each = ((steps[index], refusal) for index, refusal in refused.items())
    return [_failed(step, refusal) for step, refusal in each if not _is_done(step, refusal)]


def _failed(step: Step, refusal: NetlinkError) -> StepFailure:
    return StepFailure(step, refusal.errno, refusal.text)
