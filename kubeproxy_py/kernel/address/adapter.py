"""The device kube-ipvs0, the addresses on it, and the addresses of all interfaces, by batched rtnetlink.

Invariants:
- The device exists only so that its addresses are local to this host; it carries no traffic and stays down.
- Adding what exists and deleting what does not exist succeeds.  Any device of the name is used, even if another
  program created it.
- When ``apply`` returns, packets to an added address are delivered to this host.
- The kernel never selects an IPv6 address that was added here as the source of a packet (encode.py).
- A device that was renamed gets its name back, and its addresses are read as those of kube-ipvs0 until then, also if it
  was renamed while no agent ran (renamed.py).
- IPv6 is switched on for the device if it is off for new interfaces (ipv6_switch.py), and its MTU is set back if it is
  too small for IPv6.
- An address that has a network (10.96.0.10/24) is none of ours, and is replaced by the address alone.

Source: net/ipv6/addrconf.c, and the headers named in rtnetlink.py.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from errno import EACCES, EADDRNOTAVAIL, EEXIST, EINVAL, ENOBUFS, ENODEV, ENXIO
from functools import partial
from socket import inet_pton
from struct import Struct
from time import sleep

from kubeproxy_py.kernel import LINK, Scope, Snapshot, snapshot_of
from kubeproxy_py.kernel.address.decode import (
    decode_addresses,
    decode_index,
    decode_local_targets,
    decode_mtu,
    decode_names,
)
from kubeproxy_py.kernel.address.encode import encode_address, encode_link, encode_mtu, encode_rename
from kubeproxy_py.kernel.address.ipv6_switch import enable_ipv6
from kubeproxy_py.kernel.address.renamed import find_renamed
from kubeproxy_py.kernel.address.routing_socket import RoutingSocket, step_failure
from kubeproxy_py.kernel.address.rtnetlink import (
    HOST_PREFIX,
    IFA_F_DEPRECATED,
    IFADDRMSG,
    IFADDRMSG_INDEX_OFFSET,
    IFINFOMSG,
    IFLA_EXT_MASK,
    IFLA_IFNAME,
    RT_SCOPE_LINK,
    RTA_DST,
    RTEXT_FILTER_SKIP_STATS,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETROUTE,
    RTMSG,
)
from kubeproxy_py.kernel.dispatch import group_steps, row_kind
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.netlink.attributes import attribute, string, u32
from kubeproxy_py.kernel.netlink.families import AF_INET6, AF_UNSPEC
from kubeproxy_py.kernel.netlink.socket import Message, NetlinkError, message
from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.rows import IPVS_DEVICE, PREFERRED, Address, AddressSpec, Link, Rows
from kubeproxy_py.model.steps import Step, StepFailure
from kubeproxy_py.net import IP, IPV6_MIN_MTU

_INDEX = Struct("=I")
_USUAL_MTU = 1500  # of a new device

# (row type, verb) -> errors that mean that there was nothing left to do.  A deleted address is EADDRNOTAVAIL, on older
# kernels ENXIO, and ENODEV if the device was deleted with it.
_DONE: dict[tuple[type, str], frozenset[int]] = {
    (Link, "add"): frozenset((EEXIST,)),
    (Link, "delete"): frozenset((ENODEV,)),
    (Address, "add"): frozenset((EEXIST,)),
    (Address, "delete"): frozenset((EADDRNOTAVAIL, ENXIO, ENODEV)),
}

_DONE_IN_PARTS = frozenset((EEXIST, EADDRNOTAVAIL, ENXIO))
"""Errors of a message of several that an address needs, which mean that there was nothing left to do."""

_POLL_DELAYS_S = tuple(0.001 * 2**number for number in range(10))
"""Pauses between checks whether new addresses are local: 1 s in total, about seven times the longest delay seen."""

_ROUTE_LOOKUP_MAX = 100
"""Up to this many routes are looked up one by one, 30 us each; for more, all routes are listed."""


class AddressAdapter(RoutingSocket):
    """Reads and writes Link and Address rows, in the network namespace in which it is first used.

    *served* returns the addresses of the virtual servers, by which a device that was renamed is recognized.
    """

    def __init__(self, served: Callable[[], Collection[IP]] = frozenset) -> None:
        self._served = served
        # The prefix lengths of the addresses on the device that have a network: other programs added them, and a delete
        # must name the prefix length.
        self._foreign_prefixes: dict[IP, list[int]] = {}
        # The index of the device; 0 if it must be looked up.  Linux does not reuse indexes, so a stale one is no other
        # device's.
        self._device = 0
        self._last_device = 0  # the index when it was found last

    def scopes(self) -> list[Scope]:
        """Return the one scope: the device with its addresses."""
        return [LINK]

    def read(self, scope: Scope) -> Rows:
        """Return kube-ipvs0 and its addresses, without those that Linux itself assigns.  Raises KernelError."""
        return self.snapshot(scope).rows()

    def snapshot(self, scope: Scope) -> Snapshot:
        """Return the state of *scope* without building rows.  Raises KernelError."""
        assert scope == LINK, scope
        named = self._device = self._find_index(IPVS_DEVICE)
        index = self._last_device = named or self._renamed_index()
        if not index:
            return snapshot_of({})
        device = _INDEX.pack(index)
        bodies = [body for body in self._dump_addresses() if body[IFADDRMSG_INDEX_OFFSET : IFADDRMSG.size] == device]
        return Snapshot(lambda: hash((named, index, *bodies)), partial(self._rows_in, bodies, has_name=bool(named)))

    def _rows_in(self, bodies: Iterable[bytes], *, has_name: bool) -> Rows:
        """Return the rows of the device and its addresses, without that of the device if it has another name.

        Also record foreign prefix lengths.  Raises KernelError.
        """
        listed = decode_addresses(bodies)
        rows: Rows = {Link(IPVS_DEVICE): None} if has_name else {}
        self._foreign_prefixes.clear()
        for each in listed:
            if not _is_automatic(each.family, each.scope, each.address):
                is_preferred = each.family == AF_INET6 and not each.flags & IFA_F_DEPRECATED
                if each.prefix != HOST_PREFIX[each.family]:
                    self._foreign_prefixes.setdefault(each.address, []).append(each.prefix)
                    rows[Address(each.address)] = AddressSpec(is_preferred, each.prefix)
                else:
                    rows.setdefault(Address(each.address), PREFERRED if is_preferred else None)
        return rows

    def apply(self, steps: Sequence[Step]) -> list[StepFailure]:
        """Apply *steps* and return those that failed.  Raises KernelError if the kernel could not be asked."""
        failures: list[StepFailure] = []
        for kind, group in group_steps(steps, row_kind):
            failures += (self._apply_links if kind is Link else self._apply_addresses)(group)
        return failures

    def host_addresses(self) -> tuple[HostAddress, ...]:
        """Return all addresses of all interfaces, sorted.  Raises KernelError.

        Those of kube-ipvs0 are included, under its name even while another program has given it another one.
        """
        names = self._interface_names()
        index = self._last_device if IPVS_DEVICE in names.values() else self._renamed_index()
        if index in names:
            names[index] = IPVS_DEVICE
        listed = decode_addresses(self._dump_addresses())
        named = ((names.get(each.index), each.address, each.prefix) for each in listed)
        return tuple(sorted(HostAddress(name, address, prefix) for name, address, prefix in named if name))

    def _apply_links(self, steps: Sequence[Step]) -> list[StepFailure]:
        self._device = 0
        if any(step.verb == "add" for step in steps):
            self._undo_rename()
        return _failures(steps, self._netlink.execute(encode_link(step) for step in steps))

    def _undo_rename(self) -> None:
        """Give the device its name back if another program renamed it, with all of its addresses.

        They would be those of another interface otherwise, at which NodePorts are served.  Linux refuses it if the
        device was deleted, or is up, or if another one has the name.
        """
        if self._last_device:
            self._netlink.execute([encode_rename(self._last_device, IPVS_DEVICE)])

    def _apply_addresses(self, steps: Sequence[Step]) -> list[StepFailure]:
        errors = self._send_addresses(steps, self._device) if self._device else None
        if errors is None or any(error.errno == ENODEV for error in errors.values()):
            self._device = self._find_index(IPVS_DEVICE)
            if not self._device:
                no_device = NetlinkError(ENODEV, f"the device {IPVS_DEVICE} does not exist")
                return _failures(steps, dict.fromkeys(range(len(steps)), no_device))
            errors = self._send_addresses(steps, self._device)
        failures = _failures(steps, errors)
        # Where the MTU was too small, IPv6 starts anew, and may then be off.
        for errno, make_possible in ((EINVAL, self._enlarge_mtu), (ENOBUFS, self._enlarge_mtu), (EACCES, enable_ipv6)):
            failures = self._retry_where_ipv6_failed(failures, errno, make_possible)
        self._wait_until_local(_added_ipv6(steps) - _added_ipv6(failure.step for failure in failures))
        return failures

    def _retry_where_ipv6_failed(
        self, failures: list[StepFailure], errno: int, make_possible: Callable[[], str]
    ) -> list[StepFailure]:
        """Have IPv6 made possible on the device if *errno* is why some of *failures* failed.

        Try these again and return what is left.
        """
        refused = [failure.step for failure in failures if _is_refused(failure, errno)]
        if not refused:
            return failures
        others = [failure for failure in failures if not _is_refused(failure, errno)]
        if problem := make_possible():
            return [*others, *(StepFailure(step, errno, problem) for step in refused)]
        return [*others, *_failures(refused, self._send_addresses(refused, self._device))]

    def device_mtu(self) -> int | None:
        """Return the MTU of kube-ipvs0 in bytes; None if it does not exist.  Raises KernelError."""
        index = self._find_index(IPVS_DEVICE)
        return decode_mtu(self._netlink.request(_link_request(index))) if index else None

    def _enlarge_mtu(self) -> str:
        """Set the MTU of the device back if it is too small for IPv6, and return "", or why that is not possible.

        The device carries no packets, so any MTU would do.  But Linux deletes all IPv6 addresses of an interface whose
        MTU becomes too small, and refuses new ones: with EINVAL, before 5.4 with ENOBUFS (addrconf_notify).
        """
        mtu = self.device_mtu()
        if mtu is None or mtu >= IPV6_MIN_MTU:
            return ""  # it is something else
        errors = self._netlink.execute([encode_mtu(self._device, _USUAL_MTU)])
        if not errors:
            return ""
        cause = f"the MTU of {IPVS_DEVICE} is {mtu}, and IPv6 needs {IPV6_MIN_MTU}; it could not be changed"
        return f"{cause}: {errors[0].text} (ip link set {IPVS_DEVICE} mtu {_USUAL_MTU})"

    def _send_addresses(self, steps: Sequence[Step], device: int) -> dict[int, NetlinkError]:
        """Apply Address *steps* on the interface *device*; return the errors by index.

        What adds an address is sent before what only deletes: with the first address of a network Linux deletes others
        of it (unless net.ipv4.conf.all.promote_secondaries is set), which by then exist without it.
        """
        order: Sequence[int] = range(len(steps))
        if self._foreign_prefixes:
            order = [*(i for i in order if steps[i].verb != "delete"), *(i for i in order if steps[i].verb == "delete")]
        owners: list[int] = []  # the step of each message
        errors = self._netlink.execute(self._messages(steps, device, order, owners))
        found: dict[int, NetlinkError] = {}
        for number, error in errors.items():
            if steps[owners[number]].verb == "add" or error.errno not in _DONE_IN_PARTS:
                found.setdefault(owners[number], error)
        return found

    def _messages(
        self, steps: Sequence[Step], device: int, order: Iterable[int], owners: list[int]
    ) -> Iterator[Message]:
        for index in order:
            for each in encode_address(steps[index], device, self._foreign_prefixes):
                owners.append(index)
                yield each

    def _wait_until_local(self, addresses: set[IP]) -> None:
        """Wait until packets to each of these IPv6 *addresses* are delivered to this host, at most 1 s.

        The kernel's acknowledgement does not guarantee this: a worker (addrconf_dad_work) adds the local route, up to
        140 ms later on a busy machine (Linux 6.1).  Until then packets to a new address are forwarded, and each
        leaves a conntrack entry because of which its flow bypasses IPVS for as long as the entry lives.

        The wait is bounded, because with some policy routing rules an address never becomes local.
        """
        for delay_s in _POLL_DELAYS_S:
            addresses -= self._local_addresses(addresses)
            if not addresses:
                return
            sleep(delay_s)

    def _local_addresses(self, addresses: Collection[IP]) -> set[IP]:
        """Return those of these IPv6 *addresses* for which the kernel has a local route."""
        if len(addresses) <= _ROUTE_LOOKUP_MAX:
            return {address for address in addresses if self._is_local(address)}
        by_packed = {inet_pton(AF_INET6, address): address for address in addresses}
        routes = self._netlink.dump(message(RTM_GETROUTE, 0, RTMSG.pack(AF_INET6, 0, 0, 0, 0, 0, 0, 0, 0)))
        return {by_packed[target] for target in decode_local_targets(routes) if target in by_packed}

    def _is_local(self, address: IP) -> bool:
        target = attribute(RTA_DST, inet_pton(AF_INET6, address))
        try:
            body = RTMSG.pack(AF_INET6, HOST_PREFIX[AF_INET6], 0, 0, 0, 0, 0, 0, 0) + target
            reply = self._netlink.request(message(RTM_GETROUTE, 0, body))
        except KernelError:  # no route at all
            return False
        return bool(decode_local_targets([reply]))

    def _find_index(self, name: str) -> int:
        """Return the index of the interface *name*; 0 if it does not exist."""
        try:
            reply = self._netlink.request(_link_request(0, string(IFLA_IFNAME, name)))
        except KernelError as error:
            if error.errno == ENODEV:
                return 0
            raise
        return decode_index(reply)

    def _renamed_index(self) -> int:
        """Return the index of the device while it has another name; 0, or one that is gone, if it does not exist."""
        if not self._last_device:
            listed = decode_addresses(self._dump_addresses())
            self._last_device = find_renamed(self._dump_links(), listed, self._served)
        return self._last_device

    def _interface_names(self) -> dict[int, str]:
        """Return interface names by index."""
        return decode_names(self._dump_links())

    def _dump_links(self) -> list[bytes]:
        """Return the body of one message for each interface of the host."""
        body = IFINFOMSG.pack(AF_UNSPEC, 0, 0, 0, 0) + u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
        return self._netlink.dump(message(RTM_GETLINK, 0, body))

    def _dump_addresses(self) -> list[bytes]:
        """Return the body of one message for each address of the host."""
        return self._netlink.dump(message(RTM_GETADDR, 0, IFADDRMSG.pack(AF_UNSPEC, 0, 0, 0, 0)))


def _link_request(index: int, attributes: bytes = b"") -> Message:
    """Return the request for the interface *index*, or 0 and its name in *attributes*."""
    return message(RTM_GETLINK, 0, IFINFOMSG.pack(AF_UNSPEC, 0, index, 0, 0) + attributes)


def _is_refused(failure: StepFailure, errno: int) -> bool:
    return failure.errno == errno and failure.step.verb != "delete" and ":" in str(failure.step.key)


def _added_ipv6(steps: Iterable[Step]) -> set[IP]:
    """Return the IPv6 addresses that *steps* add, or add again without a network."""
    added = (
        step.key.address
        for step in steps
        if isinstance(step.key, Address)
        and (step.verb == "add" or (isinstance(step.before, AddressSpec) and step.before.prefix_length))
        and step.verb != "delete"
    )
    return {address for address in added if ":" in address}


def _is_automatic(family: int, scope: int, address: IP) -> bool:
    """Return whether the kernel assigned *address* itself: loopback, and the link-local one of a device that was up."""
    return address.startswith("127.") or address == "::1" or (family == AF_INET6 and scope == RT_SCOPE_LINK)


def _failures(steps: Sequence[Step], errors: Mapping[int, NetlinkError]) -> list[StepFailure]:
    """Return a failure for each of *errors*, by index of *steps*, unless it means that nothing was left to do."""
    failed = ((steps[index], error) for index, error in errors.items())
    return [
        step_failure(step, error)
        for step, error in failed
        if error.errno not in _DONE.get((type(step.key), step.verb), ())
    ]
