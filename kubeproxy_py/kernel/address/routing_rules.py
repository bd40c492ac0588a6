"""Rules of policy routing (ip-rule(8)), as far as adapters need them: read and encoded.

Source: include/uapi/linux/fib_rules.h; net/core/fib_rules.c (fib_nl_newrule), net/ipv4/fib_rules.c.
"""

from collections.abc import Iterable
from errno import EAFNOSUPPORT, ENOENT, ESRCH
from socket import inet_ntop, inet_pton
from struct import Struct as Layout

from msgspec import Struct

from kubeproxy_py.kernel.address.rtnetlink import HOST_PREFIX, RTMSG, RTMSG_TYPE
from kubeproxy_py.kernel.errors import KernelError, decoding
from kubeproxy_py.kernel.netlink.attributes import attribute, parse_attributes, read_string, read_u32, string, u8, u32
from kubeproxy_py.kernel.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, Message, Socket, message
from kubeproxy_py.net import IP

RTM_NEWRULE, RTM_DELRULE = 32, 33
TABLE_LOCAL = 255
LOOK_UP, BLACKHOLE = 1, 6  # actions: FR_ACT_TO_TBL, FR_ACT_BLACKHOLE

_RTM_GETRULE = 34
_FRA_DST, _FRA_IIFNAME, _FRA_PRIORITY, _FRA_TABLE, _FRA_IP_PROTO, _FRA_DPORT_RANGE = 1, 3, 6, 15, 22, 24
_PORTS = Layout("=HH")
_NO_RULES = frozenset((EAFNOSUPPORT, ENOENT, ESRCH))


class Rule(Struct, frozen=True, gc=False):
    """A rule of policy routing, as far as it matters here."""

    table: int
    preference: int
    destination: IP = ""
    protocol: int = 0
    ports: tuple[int, int] = (0, 0)
    interface: str = ""  # by which packets arrive; "": by any, or none
    action: int = LOOK_UP


def read_rules(netlink: Socket, family: int) -> list[Rule]:
    """Return the rules in the order in which the kernel tries them; none of a family that it does not have.

    Raises KernelError.
    """
    try:
        bodies = netlink.dump(message(_RTM_GETRULE, 0, RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)))
    except KernelError as error:
        if error.errno in _NO_RULES:
            return []
        raise
    return decode_rules(bodies, family)


def decode_rules(bodies: Iterable[bytes], family: int) -> list[Rule]:
    """Return the rules of *family* in rule messages, in their order.  Raises KernelError."""
    with decoding("a listing of routing rules"):
        return [_parse_rule(body) for body in bodies if body[0] == family]


def rule_message(kind: int, family: int, rule: Rule) -> Message:
    """Return the message of *kind* (RTM_NEWRULE, RTM_DELRULE) about *rule*; a new one must not exist."""
    length = HOST_PREFIX[family] if rule.destination else 0
    body = RTMSG.pack(family, length, 0, 0, 0, 0, 0, rule.action, 0)
    body += u32(_FRA_TABLE, rule.table) + u32(_FRA_PRIORITY, rule.preference)
    if rule.destination:
        body += attribute(_FRA_DST, inet_pton(family, rule.destination))
    if rule.protocol:
        body += u8(_FRA_IP_PROTO, rule.protocol) + attribute(_FRA_DPORT_RANGE, _PORTS.pack(*rule.ports))
    if rule.interface:
        body += string(_FRA_IIFNAME, rule.interface)
    return message(kind, NLM_F_CREATE | NLM_F_EXCL if kind == RTM_NEWRULE else 0, body)


def _parse_rule(body: bytes) -> Rule:
    header = RTMSG.unpack_from(body)
    family, table = header[0], header[4]
    found = parse_attributes(body, RTMSG.size)
    destination = found.get(_FRA_DST)
    return Rule(
        read_u32(found[_FRA_TABLE]) if _FRA_TABLE in found else table,
        read_u32(found[_FRA_PRIORITY]) if _FRA_PRIORITY in found else 0,
        inet_ntop(family, destination) if destination else "",
        found[_FRA_IP_PROTO][0] if _FRA_IP_PROTO in found else 0,
        _PORTS.unpack_from(found[_FRA_DPORT_RANGE]) if _FRA_DPORT_RANGE in found else (0, 0),
        read_string(found.get(_FRA_IIFNAME, b"")),
        header[RTMSG_TYPE],
    )
