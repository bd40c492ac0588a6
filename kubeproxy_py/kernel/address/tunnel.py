"""The devices by which packets arrive that other nodes hand on (direct server return): tunl0 and ip6tnl0.

IPVS sends in IPIP without any device; to receive, the device must be up.  For IPv4 it needs an address, and a rp_filter
that does not mind by which device a client's packet arrives.  The kernel has one such device for all that comes from
anywhere, and another program may use it, too (Calico).  So what we set is noted in the alias of the device:

    kubeproxy-py 192.168.3.10           the address that was added; the device was down
    kubeproxy-py 192.168.3.10 shared    the device was up already, and its state and addresses are another program's

Invariants:
- What another program set up stays as it is, but for rp_filter, which becomes loose.
- A row that is there in parts is read as one that is not complete, so that it is completed or deleted.

Source: net/ipv4/ipip.c, net/ipv6/ip6_tunnel.c; net/ipv4/fib_frontend.c (__fib_validate_source).
"""

from collections.abc import Iterator
from errno import EADDRNOTAVAIL, EAFNOSUPPORT, EEXIST, ENODEV, ENXIO
from pathlib import Path
from socket import inet_pton

from msgspec import Struct

from kubeproxy_py.kernel import RETURN_TUNNELS, Scope
from kubeproxy_py.kernel.address.decode import decode_addresses
from kubeproxy_py.kernel.address.routing_socket import StepwiseAdapter
from kubeproxy_py.kernel.address.rtnetlink import (
    ADDRESS_HEADER,
    HOST_PREFIX,
    IFADDRMSG,
    IFINFOMSG,
    IFLA_IFALIAS,
    IFLA_IFNAME,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    LOCAL_HEADER,
    RT_SCOPE_UNIVERSE,
    RTM_DELADDR,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
)
from kubeproxy_py.kernel.errors import KernelError, decoding
from kubeproxy_py.kernel.host.sysctl import read_sysctl, write_sysctl
from kubeproxy_py.kernel.netlink.attributes import attribute, nested, parse_attributes, read_string, string
from kubeproxy_py.kernel.netlink.families import AF_INET, AF_INET6, AF_UNSPEC
from kubeproxy_py.kernel.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, Message, message
from kubeproxy_py.model.rows import TUNNEL_DEVICES, ReturnTunnel, Rows, TunnelSpec
from kubeproxy_py.model.steps import Step, StepFailure
from kubeproxy_py.net import IP, Family

_IFF_UP = 0x1
_LOOSE = "2"  # of rp_filter; more than 1, which may be set for all interfaces, of which the larger value counts
_PREFIX, _SHARED = "kubeproxy-py ", " shared"
_NUMBERS: dict[Family, int] = {"IPv4": AF_INET, "IPv6": AF_INET6}
_KINDS: dict[Family, bytes] = {"IPv4": b"ipip", "IPv6": b"ip6tnl"}
_NO_DEVICE = frozenset((ENODEV, EAFNOSUPPORT))
_DONE = frozenset((EEXIST, EADDRNOTAVAIL, ENXIO))


class _Device(Struct, frozen=True, gc=False):
    index: int
    is_up: bool
    alias: str

    @property
    def is_ours(self) -> bool:
        return self.alias.startswith(_PREFIX)

    @property
    def is_shared(self) -> bool:
        """Whether another program uses it; also one that was up before this agent set it up."""
        return self.alias.endswith(_SHARED) if self.is_ours else self.is_up

    @property
    def noted(self) -> IP:
        return self.alias.removeprefix(_PREFIX).removesuffix(_SHARED) if self.is_ours else ""


class TunnelAdapter(StepwiseAdapter):
    """Reads and writes ReturnTunnel rows, in the network namespace in which it is first used."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def scopes(self) -> list[Scope]:
        """Return the one scope."""
        return [RETURN_TUNNELS]

    def read(self, scope: Scope) -> Rows:
        """Return the devices that we set up.  Raises KernelError."""
        assert scope == RETURN_TUNNELS, scope
        rows: Rows = {}
        for family in _NUMBERS:
            device = self._find(family)
            if device and device.is_ours:
                is_complete = device.is_up and (family == "IPv6" or self._takes_all(device, family))
                rows[ReturnTunnel(family)] = TunnelSpec(device.noted, is_complete)
        return rows

    def _apply(self, step: Step) -> Iterator[StepFailure]:
        assert isinstance(step.key, ReturnTunnel)
        if isinstance(step.spec, TunnelSpec):
            return self._set_up(step, step.key.family, step.spec.address)
        return self._take_down(step, step.key.family)

    def _set_up(self, step: Step, family: Family, address: IP) -> Iterator[StepFailure]:
        device = self._find(family)
        if device is None:
            errors = self._netlink.execute([_new_device(family)])  # also loads the module
            device = self._find(family)
            if device is None:
                name, kind = TUNNEL_DEVICES[family], _KINDS[family].decode()
                why = errors[0].text if errors else "it does not exist"
                yield StepFailure(
                    step, ENODEV, f"no device {name}: {why} (modprobe {'ipip' if kind == 'ipip' else 'ip6_tunnel'})"
                )
                return
        note = f"{_PREFIX}{address}{_SHARED if device.is_shared else ''}"
        messages = [_change(device.index, note, up=None if device.is_shared else True)]
        if family == "IPv4":
            if failure := write_sysctl(self._rp_filter(family), _LOOSE, root=self._root):
                yield StepFailure(step, failure.errno, failure.text)
                return
            if not device.is_shared:
                if device.noted not in ("", address):
                    messages.append(_address(RTM_DELADDR, device.index, device.noted))
                messages.append(_address(RTM_NEWADDR, device.index, address))
        yield from self._send(step, messages, _DONE)

    def _take_down(self, step: Step, family: Family) -> Iterator[StepFailure]:
        device = self._find(family)
        if not device or not device.is_ours:
            return
        messages: list[Message] = []
        if not device.is_shared:
            if family == "IPv4":
                default = read_sysctl("net/ipv4/conf/default/rp_filter", root=self._root) or "0"
                write_sysctl(self._rp_filter(family), default, root=self._root)
                messages.append(_address(RTM_DELADDR, device.index, device.noted))
            messages.append(_change(device.index, None, up=False))
        messages.append(_change(device.index, "", up=None))  # last, so that it is tried again until all is done
        yield from self._send(step, messages, _DONE)

    def _takes_all(self, device: _Device, family: Family) -> bool:
        """Return whether the kernel takes packets of any client that arrive by *device*."""
        if read_sysctl(self._rp_filter(family), root=self._root) != _LOOSE:
            return False
        bodies = self._netlink.dump(message(RTM_GETADDR, 0, IFADDRMSG.pack(AF_INET, 0, 0, 0, 0)))
        addresses = {each.address for each in decode_addresses(bodies) if each.index == device.index}
        return bool(addresses) if device.is_shared else device.noted in addresses

    def _rp_filter(self, family: Family) -> str:
        return f"net/ipv4/conf/{TUNNEL_DEVICES[family]}/rp_filter"

    def _find(self, family: Family) -> _Device | None:
        """Return the device; None if there is none.  Raises KernelError."""
        body = IFINFOMSG.pack(AF_UNSPEC, 0, 0, 0, 0) + string(IFLA_IFNAME, TUNNEL_DEVICES[family])
        try:
            reply = self._netlink.request(message(RTM_GETLINK, 0, body))
        except KernelError as error:
            if error.errno in _NO_DEVICE:
                return None
            raise
        with decoding("the description of an interface"):
            _, _, index, flags, _ = IFINFOMSG.unpack_from(reply)
            alias = parse_attributes(reply, IFINFOMSG.size).get(IFLA_IFALIAS, b"")
            return _Device(index, bool(flags & _IFF_UP), read_string(alias))


def _new_device(family: Family) -> Message:
    body = IFINFOMSG.pack(AF_UNSPEC, 0, 0, 0, 0) + string(IFLA_IFNAME, TUNNEL_DEVICES[family])
    body += nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, _KINDS[family]))
    return message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def _change(index: int, alias: str | None, *, up: bool | None) -> Message:
    """Return the message that sets the alias (None: not), and has the device up or down (None: as it is)."""
    flags, mask = (_IFF_UP if up else 0, 0 if up is None else _IFF_UP)
    body = IFINFOMSG.pack(AF_UNSPEC, 0, index, flags, mask)
    return message(RTM_NEWLINK, 0, body if alias is None else body + attribute(IFLA_IFALIAS, alias.encode()))


def _address(kind: int, index: int, address: IP) -> Message:
    packed = inet_pton(AF_INET, address)
    body = IFADDRMSG.pack(AF_INET, HOST_PREFIX[AF_INET], 0, RT_SCOPE_UNIVERSE, index)
    body += LOCAL_HEADER[AF_INET] + packed + ADDRESS_HEADER[AF_INET] + packed
    return message(kind, NLM_F_CREATE | NLM_F_EXCL if kind == RTM_NEWADDR else 0, body)
