"""Whether a rule matches a packet, option by option, and what of the packet decided it, in words.

Invariants:
- An option that is not in the table may match.  A rule that one known option excludes does not match, whatever else it
  asks for.

Source: iptables-extensions(8); net/netfilter/xt_*.c.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from ipaddress import ip_address, ip_network

from msgspec import Struct

from kubeproxy_py.diagnose.trace.lookup import Lookup
from kubeproxy_py.diagnose.trace.packet import ICMP, Host, Packet
from kubeproxy_py.diagnose.trace.rules import Option, Rule
from kubeproxy_py.diagnose.trace.sets import match_set, set_entry
from kubeproxy_py.diagnose.trace.truth import MAYBE, NO, YES, Truth, all_of, truth
from kubeproxy_py.model.rows import HANDED_ON_DSCP, Address
from kubeproxy_py.net import IP, PROTOCOL_NUMBERS, special_use

_PROTOCOL_NAMES = {str(number): protocol.lower() for protocol, number in PROTOCOL_NUMBERS.items()} | {
    "1": "icmp", "58": "icmp", "ipv6-icmp": "icmp", "icmpv6": "icmp", "0": "all", "all": "all",
}  # fmt: skip
_ECHO_REQUESTS = {"IPv4": ("8", "8/0", "any", "255", "echo-request"), "IPv6": ("128", "128/0", "echo-request")}
_MASK = 0xFFFFFFFF
NOT = "{not}"


class View(Struct, frozen=True, gc=False):
    """What rules are evaluated on, besides the packet."""

    lookup: Lookup
    host: Host

    def is_local(self, address: IP) -> bool:
        """Return whether this host has *address*, on kube-ipvs0 or another interface."""
        return Address(address) in self.lookup or bool(self.host.interface_of(address))


Test = Callable[[Option, Packet, View], Truth]
"""Whether an option matches, not negated."""

Words = Callable[[Option, Packet, View], str]
"""The option as a statement about the packet, ``{not}`` where a negation belongs."""


def match_rule(rule: Rule, packet: Packet, view: View) -> Truth:
    """Return whether *rule* matches *packet*."""
    known = all_of(_match(option, packet, view) for option in rule.options)
    bare = all_of(YES if name in _HARMLESS_BARE else MAYBE for name in rule.bare)
    return all_of((known, bare))


def match_words(rule: Rule, packet: Packet, view: View) -> str:
    """Return why *rule* matches, or may match, *packet*; "" for a rule that matches all."""
    statements = [_statement(option, packet, view) for option in rule.options]
    statements += [f"-m {name} cannot be evaluated" for name in rule.bare if name not in _HARMLESS_BARE]
    return ", ".join(statement for statement in statements if statement)


def _match(option: Option, packet: Packet, view: View) -> Truth:
    test = _TESTS.get((option.extension, option.name))
    if test is None:
        return MAYBE
    try:
        result = test[0](option, packet, view)
    except (ValueError, IndexError):  # a form of the value that is not known here
        return MAYBE
    return result.negated() if option.is_negated else result


def _statement(option: Option, packet: Packet, view: View) -> str:
    test = _TESTS.get((option.extension, option.name))
    result = _match(option, packet, view)
    if test is None or result == MAYBE:
        return f"{option.extension and f'-m {option.extension} '}{option} cannot be evaluated"
    return test[1](option, packet, view).replace("{not}", "not " if option.is_negated else "").strip()


def _ports(text: str) -> range:
    first, colon, last = text.partition(":")
    low = int(first or 0)
    return range(low, (int(last or 0xFFFF) if colon else low) + 1)


@lru_cache(maxsize=4096)  # many rules name the same networks
def _is_within(address: IP, network: str) -> bool:
    return ip_address(address) in ip_network(network, strict=False)


def _network(address: Callable[[Packet], IP]) -> Test:
    def test(option: Option, packet: Packet, _view: View) -> Truth:
        own = address(packet)
        return truth(any(_is_within(own, value) for value in option.value.split(",")))

    return test


def _interface(interface: Callable[[Packet], str | None]) -> Test:
    def test(option: Option, packet: Packet, _view: View) -> Truth:
        name = interface(packet)
        if option.value == "+":
            return YES
        if name is None:
            return NO
        if not name:
            return MAYBE
        return truth(name.startswith(option.value[:-1]) if option.value.endswith("+") else name == option.value)

    return test


def _protocol(option: Option, packet: Packet, _view: View) -> Truth:
    name = _PROTOCOL_NAMES.get(option.value, option.value)
    return truth(name in ("all", packet.protocol.lower()))


def _destination_port(option: Option, packet: Packet, _view: View) -> Truth:
    return truth(any(packet.port in _ports(part) for part in option.value.split(","))) if packet.port else NO


def _unknown_port(_option: Option, packet: Packet, _view: View) -> Truth:
    return MAYBE if packet.port else NO


def _tcp_flags(option: Option, packet: Packet, _view: View) -> Truth:
    mask, required = (set(value.split(",")) - {"NONE"} for value in option.values)
    mask = {"FIN", "SYN", "RST", "PSH", "ACK", "URG"} if "ALL" in mask else mask
    return truth(packet.protocol == "TCP" and mask & {"SYN"} == required)


def _syn(_option: Option, packet: Packet, _view: View) -> Truth:
    return truth(packet.protocol == "TCP")


def _set(option: Option, packet: Packet, view: View) -> Truth:
    name, directions, *_ = option.values
    return match_set(view.lookup, name, tuple(directions.split(",")), packet)


def _address_type(address: Callable[[Packet], IP]) -> Test:
    def test(option: Option, packet: Packet, view: View) -> Truth:
        kinds, own = option.value.split(","), address(packet)
        if view.is_local(own):
            return truth("LOCAL" in kinds)
        use = special_use(own)
        if use in ("multicast", "broadcast", "unspecified"):
            return truth(use.upper() in kinds) if use.upper() in kinds else MAYBE
        if "UNICAST" in kinds:
            return MAYBE if "BROADCAST" in kinds else YES
        return MAYBE if set(kinds) & {"BROADCAST", "UNREACHABLE", "BLACKHOLE", "PROHIBIT", "ANYCAST"} else NO

    return test


def _mark(option: Option, packet: Packet, _view: View) -> Truth:
    value, mask = value_and_mask(option.value)
    if (packet.mark ^ value) & mask & ~packet.unknown_mark:
        return NO
    return MAYBE if mask & packet.unknown_mark else YES


def value_and_mask(text: str) -> tuple[int, int]:
    """Return the value and the mask of ``0x4000/0x4000``.  Raises ValueError."""
    value, slash, mask = text.partition("/")
    return int(value, 0), int(mask, 0) if slash else _MASK


def _state(option: Option, packet: Packet, _view: View) -> Truth:
    states = option.value.split(",")
    if "NEW" in states:
        return YES
    changed = packet.virtual_server is not None or packet.diverted
    return MAYBE if changed and set(states) & {"DNAT", "SNAT"} else NO


def _physdev_in(_option: Option, packet: Packet, _view: View) -> Truth:
    # Only with br_netfilter, and if the interface is a bridge.
    return NO if packet.from_host or packet.in_interface is None else MAYBE


def _physdev_bridged(_option: Option, packet: Packet, view: View) -> Truth:
    return NO if packet.from_host or view.is_local(packet.destination) else MAYBE


def _virtual(value: Callable[[Packet], str]) -> Test:
    def test(option: Option, packet: Packet, _view: View) -> Truth:
        if packet.virtual_server is None:
            return NO
        wanted = option.value
        return truth(value(packet) == (wanted.rpartition("/")[0] if wanted.endswith(("/32", "/128")) else wanted))

    return test


def _ipvs(_option: Option, packet: Packet, _view: View) -> Truth:
    return truth(packet.virtual_server is not None)


def _packet_type(option: Option, packet: Packet, _view: View) -> Truth:
    if packet.from_host:
        return MAYBE
    return truth(option.value == "unicast")


def _owner(_option: Option, packet: Packet, _view: View) -> Truth:
    return MAYBE if packet.from_host else NO  # a packet that is forwarded has no owner


def _icmp_type(option: Option, packet: Packet, _view: View) -> Truth:
    return truth(packet.protocol == ICMP and option.value in _ECHO_REQUESTS[packet.family])


def _dscp(option: Option, _packet: Packet, _view: View) -> Truth:
    return NO if option.value == HANDED_ON_DSCP else MAYBE  # a client that has it is as what a node handed on


def _always(_option: Option, _packet: Packet, _view: View) -> Truth:
    return YES


def _text(template: str) -> Words:
    return lambda option, packet, _view: template.replace("{value}", " ".join(option.values)).replace(
        "{packet.port}", str(packet.port)
    )


def _nothing(_option: Option, _packet: Packet, _view: View) -> str:
    return ""


def _set_words(option: Option, packet: Packet, view: View) -> str:
    name, directions, *_ = option.values
    return f"{set_entry(name, tuple(directions.split(',')), packet, view.lookup)} is {NOT}in {name}"


def _address_type_words(address: Callable[[Packet], IP]) -> Words:
    def words(option: Option, packet: Packet, _view: View) -> str:
        kind = option.value
        return f"{address(packet)} is {NOT}{'an address of this node' if kind == 'LOCAL' else kind}"

    return words


def _source(packet: Packet) -> IP:
    return packet.source


def _destination(packet: Packet) -> IP:
    return packet.destination


def _server_text(part: Callable[[Packet], object]) -> Callable[[Packet], str]:
    return lambda packet: str(part(packet)) if packet.virtual_server else ""


def _vaddr(packet: Packet) -> object:
    return packet.virtual_server and packet.virtual_server.address


def _vport(packet: Packet) -> object:
    return packet.virtual_server and packet.virtual_server.port


def _vproto(packet: Packet) -> object:
    return packet.virtual_server and PROTOCOL_NUMBERS[packet.virtual_server.protocol]


_PORT_WORDS = _text("port {packet.port} is {not}{value}")
_HARMLESS_BARE = frozenset(("tcp", "udp", "sctp", "icmp", "icmp6", "dccp", "udplite"))

_TESTS: Mapping[tuple[str, str], tuple[Test, Words]] = {  # (match, option) -> test, words
    ("", "-s"): (_network(_source), _text("the source is {not}in {value}")),
    ("", "-d"): (_network(_destination), _text("the destination is {not}in {value}")),
    ("", "-i"): (_interface(lambda packet: packet.in_interface), _text("it does {not}arrive by {value}")),
    ("", "-o"): (_interface(lambda packet: packet.out_interface), _text("it does {not}leave by {value}")),
    ("", "-p"): (_protocol, _text("it is {not}{value}")),
    **{(name, "--dport"): (_destination_port, _PORT_WORDS) for name in ("tcp", "udp", "sctp", "dccp", "udplite")},
    **{(name, "--sport"): (_unknown_port, _nothing) for name in ("tcp", "udp", "sctp", "dccp", "udplite")},
    ("multiport", "--dports"): (_destination_port, _PORT_WORDS),
    ("multiport", "--sports"): (_unknown_port, _nothing),
    ("tcp", "--tcp-flags"): (_tcp_flags, _text("its flags are {not}{value}")),
    ("tcp", "--syn"): (_syn, _text("it is {not}a SYN")),
    ("set", "--match-set"): (_set, _set_words),
    ("addrtype", "--dst-type"): (_address_type(_destination), _address_type_words(_destination)),
    ("addrtype", "--src-type"): (_address_type(_source), _address_type_words(_source)),
    ("mark", "--mark"): (_mark, _text("its mark is {not}{value}")),
    ("connmark", "--mark"): (lambda *_: MAYBE, _nothing),
    ("conntrack", "--ctstate"): (_state, _text("the state of its connection is {not}{value}")),
    ("state", "--state"): (_state, _text("the state of its connection is {not}{value}")),
    ("physdev", "--physdev-is-in"): (_physdev_in, _text("it did {not}arrive by a port of a bridge")),
    ("physdev", "--physdev-is-bridged"): (_physdev_bridged, _text("it is {not}bridged")),
    ("ipvs", "--vproto"): (_virtual(_server_text(_vproto)), _nothing),
    ("ipvs", "--vaddr"): (_virtual(_server_text(_vaddr)), _text("it was {not}sent to the virtual server at {value}")),
    ("ipvs", "--vport"): (_virtual(_server_text(_vport)), _text("port {value}")),
    ("ipvs", "--ipvs"): (_ipvs, _text("IPVS took it")),
    ("pkttype", "--pkt-type"): (_packet_type, _text("it is {not}{value}")),
    ("owner", "--uid-owner"): (_owner, _nothing),
    ("owner", "--gid-owner"): (_owner, _nothing),
    ("owner", "--socket-exists"): (_owner, _nothing),
    ("icmp", "--icmp-type"): (_icmp_type, _text("it is {not}ICMP type {value}")),
    ("icmp6", "--icmpv6-type"): (_icmp_type, _text("it is {not}ICMPv6 type {value}")),
    ("dscp", "--dscp"): (_dscp, _text("it was {not}handed on by a node, with DSCP {value}")),
    ("comment", "--comment"): (_always, _nothing),
}
