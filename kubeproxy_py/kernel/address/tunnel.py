"""The devices by which packets arrive that other nodes hand on (direct server return): tunl0 and ip6tnl0.

IPVS sends in IPIP without any device; to receive, the device must be up.  For IPv4 it needs an address, and a rp_filter
that does not mind by which device a client's packet arrives.  The kernel has one such device for all that comes from
anywhere, and another program may use it, too (Calico).  So what we set is noted in the alias of the device:

    kubeproxy-py 192.168.3.10           the address that was added; the device was down
    kubeproxy-py 192.168.3.10 shared    the device was up already, and its state and addresses are another program's

A device that was ours alone is shared as soon as another program has added an address.

What arrives by a device of ours alone is for addresses of this node: a rule of policy routing drops everything else,
which has no route then.  Otherwise a packet to a Service address that this node does not have (yet) would be routed on,
perhaps to the node that handed it on, which would do so again, until its TTL ends.  A rule of iptables would have to
know whether the device is shared; the setting ``forwarding`` of the device is ignored in IPv6, and in IPv4 overwritten
with that of all devices.

Invariants:
- What another program set up stays as it is, but for rp_filter, which becomes loose; so does the way of its packets.
- As long as a device of ours alone is up there is the rule.
- The rule comes after that of the local table, so that Service addresses are found before.
- A row that is there in parts is read as one that is not complete, so that it is completed or deleted.

Source: net/ipv4/ipip.c, net/ipv6/ip6_tunnel.c; net/ipv4/fib_frontend.c (__fib_validate_source); net/ipv4/devinet.c
(inet_forward_change), net/ipv6/ip6_output.c (ip6_forward).
"""

from collections.abc import Iterable, Iterator, Sequence
from errno import EADDRNOTAVAIL, EAFNOSUPPORT, EEXIST, ENODEV, ENOENT, ENXIO
from pathlib import Path
from socket import inet_pton

from msgspec import Struct

from kubeproxy_py.kernel import RETURN_TUNNELS, Mark, MarkReader, Scope
from kubeproxy_py.kernel.address.decode import decode_addresses
from kubeproxy_py.kernel.address.routing_rules import (
    BLACKHOLE,
    RTM_DELRULE,
    RTM_NEWRULE,
    TABLE_LOCAL,
    Rule,
    read_rules,
    rule_message,
)
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
    RT_SCOPE_LINK,
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
_DONE = frozenset((EEXIST, ENOENT, EADDRNOTAVAIL, ENXIO))
_PREFERENCE = 32765  # the last before that of the main table, so after that of the local table wherever it was moved to


class _Device(Struct, frozen=True, gc=False):
    index: int
    is_up: bool
    alias: str
    addresses: frozenset[IP] = frozenset()  # of its family, without link-local ones

    @property
    def is_ours(self) -> bool:
        return self.alias.startswith(_PREFIX)

    @property
    def is_noted_as_shared(self) -> bool:
        return self.is_ours and self.alias.endswith(_SHARED)

    @property
    def is_shared(self) -> bool:
        """Whether another program uses it; also one that was up before this agent set it up."""
        if self.is_ours and not self.is_noted_as_shared:
            return bool(self.addresses - {self.noted})
        return self.is_ours or self.is_up

    @property
    def noted(self) -> IP:
        return self.alias.removeprefix(_PREFIX).removesuffix(_SHARED) if self.is_ours else ""


class TunnelAdapter(StepwiseAdapter):
    """Reads and writes ReturnTunnel rows, in the network namespace in which it is first used."""

    filters = True

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def scopes(self) -> list[Scope]:
        """Return the one scope."""
        return [RETURN_TUNNELS]

    def read(self, scope: Scope) -> Rows:
        """Return the devices that we set up.  Raises KernelError."""
        assert scope == RETURN_TUNNELS, scope
        rows: Rows = {}
        for family, number in _NUMBERS.items():
            device, rules = self._find(family), read_rules(self._netlink, number)
            if device and device.is_ours:
                rows[ReturnTunnel(family)] = TunnelSpec(device.noted, self._is_complete(device, family, rules))
            elif _drop_rule(family) in rules:
                rows[ReturnTunnel(family)] = TunnelSpec("", is_complete=False)
        return rows

    def mark_readers(self) -> list[MarkReader]:
        """Return one that reads the devices themselves, which are two, while there are rows of them."""
        return [MarkReader(RETURN_TUNNELS.kind, self._read_mark, RETURN_TUNNELS.kind)]

    def _read_mark(self) -> dict[str, Mark]:
        rows = frozenset(self.read(RETURN_TUNNELS).items())
        return {RETURN_TUNNELS.kind: Mark(RETURN_TUNNELS, hash(rows))}

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
        if family == "IPv4" and (failure := write_sysctl(self._rp_filter(family), _LOOSE, root=self._root)):
            yield StepFailure(step, failure.errno, failure.text)
            return
        rules = read_rules(self._netlink, _NUMBERS[family])
        messages = _share(device, family, address, rules) if device.is_shared else _own(device, family, address, rules)
        yield from self._send(step, messages, _DONE)

    def _take_down(self, step: Step, family: Family) -> Iterator[StepFailure]:
        device, rules = self._find(family), read_rules(self._netlink, _NUMBERS[family])
        if not device or not device.is_ours:
            yield from self._send(step, _without_rule(family, rules), _DONE)
            return
        if family == "IPv4" and not device.is_shared:
            default = read_sysctl("net/ipv4/conf/default/rp_filter", root=self._root) or "0"
            write_sysctl(self._rp_filter(family), default, root=self._root)
        yield from self._send(step, _release(device, family, rules), _DONE)

    def _is_complete(self, device: _Device, family: Family, rules: Sequence[Rule]) -> bool:
        is_dropped = _drop_rule(family) in rules
        if device.is_noted_as_shared != device.is_shared or is_dropped == device.is_shared:
            return False
        if not device.is_up or _precedes_local(family, rules):
            return False
        return family == "IPv6" or self._takes_all(device, family)

    def _takes_all(self, device: _Device, family: Family) -> bool:
        """Return whether the kernel takes packets of any client that arrive by *device*."""
        if read_sysctl(self._rp_filter(family), root=self._root) != _LOOSE:
            return False
        return bool(device.addresses) if device.is_shared else device.noted in device.addresses

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
        bodies = self._netlink.dump(message(RTM_GETADDR, 0, IFADDRMSG.pack(_NUMBERS[family], 0, 0, 0, index)))
        listed = [each for each in decode_addresses(bodies) if each.index == index]
        addresses = frozenset(each.address for each in listed if each.scope != RT_SCOPE_LINK)
        return _Device(index, bool(flags & _IFF_UP), read_string(alias), addresses)


def _own(device: _Device, family: Family, address: IP, rules: Sequence[Rule]) -> Iterator[Message]:
    """Yield the messages that set up a *device* of ours alone, which is up last."""
    if family == "IPv4" and device.noted not in ("", address):
        yield _address(RTM_DELADDR, device.index, device.noted)  # first, so that nobody takes it for another program's
    yield _change(device.index, f"{_PREFIX}{address}", up=None)
    if _precedes_local(family, rules):
        yield from _without_rule(family, rules)
    yield rule_message(RTM_NEWRULE, _NUMBERS[family], _drop_rule(family))  # after all others of its preference
    if family == "IPv4":
        yield _address(RTM_NEWADDR, device.index, address)
    yield _change(device.index, None, up=True)


def _share(device: _Device, family: Family, address: IP, rules: Sequence[Rule]) -> Iterator[Message]:
    """Yield the messages that take back from a *device* that is shared what it had while it was ours alone."""
    yield from _without_rule(family, rules)
    yield from _without_address(device, family)
    yield _change(device.index, f"{_PREFIX}{address}{_SHARED}", up=None)


def _release(device: _Device, family: Family, rules: Sequence[Rule]) -> Iterator[Message]:
    """Yield the messages that take back what *device* has of us; its alias last, so that the others are sent again."""
    yield from _without_address(device, family)
    if not device.is_shared:
        yield _change(device.index, None, up=False)
    yield from _without_rule(family, rules)
    yield _change(device.index, "", up=None)


def _without_address(device: _Device, family: Family) -> Iterator[Message]:
    if family == "IPv4" and device.noted and not device.is_noted_as_shared:
        yield _address(RTM_DELADDR, device.index, device.noted)


def _without_rule(family: Family, rules: Sequence[Rule]) -> Iterator[Message]:
    if _drop_rule(family) in rules:
        yield rule_message(RTM_DELRULE, _NUMBERS[family], _drop_rule(family))


def _drop_rule(family: Family) -> Rule:
    return Rule(0, _PREFERENCE, interface=TUNNEL_DEVICES[family], action=BLACKHOLE)


def _precedes_local(family: Family, rules: Iterable[Rule]) -> bool:
    """Return whether our rule comes before that of the local table: somebody has moved that behind."""
    both = (rule for rule in rules if rule.table == TABLE_LOCAL or rule == _drop_rule(family))
    return next(both, None) == _drop_rule(family)


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
