"""Query the kernel's nf_tables with single netlink messages.

Invariant: a query changes nothing.  ``works`` sends a batch that creates a table with a NAT chain and has no end
message: Linux checks it, loads modules as it would for ``iptables-nft``, answers, and discards it
(net/netfilter/nfnetlink.c, nfnetlink_rcv_batch: a batch that is not committed is aborted).

The agent sends these queries at every start, where a process costs 5 ms (50 ms in user-mode-linux) and a message 0.02
ms. pyroute2, which `cleanup` uses to delete tables (nftables_mode.py), would cost 90 ms and 21 MiB here.

Layout: each body is an nfgenmsg (family u8, version u8 = 0, resource id u16 in network order) and attributes.
Source: include/uapi/linux/netfilter/{nfnetlink,nf_tables,nf_tables_compat}.h.
"""

import re
from collections.abc import Iterable
from contextlib import closing
from errno import EINVAL, ENOENT
from struct import pack

from kubeproxy_py.kernel.errors import KernelError, decoding
from kubeproxy_py.kernel.netlink.attributes import be32, nested, parse_attributes, string
from kubeproxy_py.kernel.netlink.families import AF_NUMBERS, AF_UNSPEC
from kubeproxy_py.kernel.netlink.socket import NETLINK_NETFILTER, NLM_F_CREATE, Message, Socket, message
from kubeproxy_py.net import Family

_NFTABLES, _NFT_COMPAT = 10, 11  # NFNL_SUBSYS_*
_BATCH_BEGIN = 0x10  # NFNL_MSG_BATCH_BEGIN
_NEW_TABLE, _GET_TABLE, _NEW_CHAIN, _GET_CHAIN, _GET_RULE, _GET_GENERATION = (  # NFT_MSG_*
    _NFTABLES << 8 | number for number in (0, 1, 3, 4, 7, 16)
)
_COMPAT_GET = _NFT_COMPAT << 8  # NFNL_MSG_COMPAT_GET
_NFGENMSG_SIZE = 4
_NFPROTO_NAMES = {1: "inet", 2: "ip", 5: "netdev", 7: "bridge", 10: "ip6"}  # include/uapi/linux/netfilter.h
_POSTROUTING, _PRIORITY_SRCNAT = 4, 100  # NF_INET_POST_ROUTING, NF_IP_PRI_NAT_SRC
_TIMEOUT_S = 1.0
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY = 1, 3, 4, 5  # NFTA_CHAIN_*

# The counter of a rule: NFTA_EXPR_NAME, the header of NFTA_EXPR_DATA, NFTA_COUNTER_BYTES, NFTA_COUNTER_PACKETS, each of
# these two after an NFTA_COUNTER_PAD where the machine needs it.
_PAD, _BYTES, _PACKETS = (re.escape(pack("=HH", length, kind)) for length, kind in ((4, 3), (12, 1), (12, 2)))
_COUNTER = re.compile(b"counter\0.{4}(?:%b)?%b.{8}(?:%b)?%b.{8}" % (_PAD, _BYTES, _PAD, _PACKETS), re.DOTALL)


def works(family: Family) -> bool:
    """Return whether nf_tables supports a NAT chain of *family*; also False without the capability NET_ADMIN."""
    if generation() is None:
        # Without nf_tables, Linux answers a batch once and not its messages: waiting for these would only time out.
        return False
    header = _nfgenmsg(AF_NUMBERS[family])
    table = string(1, "kubeproxy-check")  # NFTA_TABLE_NAME, NFTA_CHAIN_TABLE
    hook = nested(4, be32(1, _POSTROUTING), be32(2, _PRIORITY_SRCNAT))  # NFTA_CHAIN_HOOK
    batch: list[Message] = [
        message(_BATCH_BEGIN, 0, _nfgenmsg(AF_UNSPEC, _NFTABLES)),
        message(_NEW_TABLE, NLM_F_CREATE, header + table),
        message(_NEW_CHAIN, NLM_F_CREATE, header + table + string(3, "check") + hook + string(7, "nat")),
    ]
    try:
        with closing(Socket(NETLINK_NETFILTER, timeout_s=_TIMEOUT_S)) as netlink:
            return not netlink.execute(batch)
    except KernelError:
        return False


def has_table(family: Family, table: str) -> bool:
    """Return whether nf_tables contains *table*."""
    return _errno_of(message(_GET_TABLE, 0, _nfgenmsg(AF_NUMBERS[family]) + string(1, table))) == 0


def has_chain(family: Family, table: str, chain: str) -> bool:
    """Return whether nf_tables contains *chain* in *table*; also False where it cannot be asked."""
    return chain_errno(family, table, chain) == 0


def chain_errno(family: Family, table: str, chain: str) -> int:
    """Return 0 if nf_tables contains *chain* in *table*, ENOENT if not, another errno if it cannot be asked."""
    body = _nfgenmsg(AF_NUMBERS[family]) + string(1, table) + string(3, chain)
    return _errno_of(message(_GET_CHAIN, 0, body))


def has_extension(family: Family, name: str, *, is_target: bool = False) -> bool:
    """Return whether the kernel has the xtables match or target *name* (``ipvs``), loading its module if necessary.

    Also True where the kernel cannot be asked, as without the module nft_compat: then the first rule that uses it
    fails.
    """
    # NFTA_COMPAT_NAME, NFTA_COMPAT_REV (0), NFTA_COMPAT_TYPE (0: a match, 1: a target)
    body = _nfgenmsg(AF_NUMBERS[family]) + string(1, name) + be32(2, 0) + be32(3, int(is_target))
    return _errno_of(message(_COMPAT_GET, 0, body)) != ENOENT


def has_compat() -> bool:
    """Return whether the kernel has nft_compat, or cannot be asked; without it nfnetlink knows no such request."""
    body = _nfgenmsg(AF_NUMBERS["IPv4"]) + string(1, "set") + be32(2, 0) + be32(3, 0)
    return _errno_of(message(_COMPAT_GET, 0, body)) != EINVAL


def hooked_tables() -> list[tuple[str, str]]:
    """Return the family (``inet``) and name of each table with a chain in a hook; none where it cannot be asked."""
    try:
        with closing(Socket(NETLINK_NETFILTER, timeout_s=_TIMEOUT_S)) as netlink:
            return decode_hooked_tables(netlink.dump(message(_GET_CHAIN, 0, _nfgenmsg(AF_UNSPEC))))
    except KernelError:
        return []


def decode_hooked_tables(bodies: Iterable[bytes]) -> list[tuple[str, str]]:
    """Return the family and name of the tables in a listing of chains that have a hook.  Raises KernelError."""
    found: dict[tuple[str, str], None] = {}
    with decoding("a listing of chains of nf_tables"):
        for body in bodies:
            attributes = parse_attributes(body, _NFGENMSG_SIZE)
            if _CHAIN_HOOK in attributes and body[0] in _NFPROTO_NAMES:
                name = attributes[_CHAIN_TABLE].rstrip(b"\0").decode(errors="replace")
                found[_NFPROTO_NAMES[body[0]], name] = None
    return sorted(found)


def generation() -> int | None:
    """Return the number of the last commit to any table of this network namespace; None if the kernel gives none."""
    try:
        with closing(Socket(NETLINK_NETFILTER, timeout_s=_TIMEOUT_S)) as netlink:
            return read_generation(netlink)
    except KernelError:
        return None


def read_generation(netlink: Socket) -> int | None:
    """Return the same by an open socket.  Raises KernelError."""
    reply = netlink.request(message(_GET_GENERATION, 0, _nfgenmsg(AF_UNSPEC)))
    number = parse_attributes(reply, _NFGENMSG_SIZE).get(1)  # NFTA_GEN_ID
    return None if number is None else int.from_bytes(number, "big")


def table_hash(family: Family, table: str) -> int | None:
    """Return a hash of *table*, see ``read_table_hash``; None if it cannot be read."""
    try:
        with closing(Socket(NETLINK_NETFILTER, timeout_s=_TIMEOUT_S)) as netlink:
            return read_table_hash(netlink, family, table) if read_generation(netlink) is not None else None
    except KernelError:
        return None


def read_table_hash(netlink: Socket, family: Family, table: str) -> int:
    """Return a hash of the chains and rules of *table*, counters aside, by an open socket.  Raises KernelError.

    It is that of no chain if the table does not exist.  Rules whose expressions have other counters (quotas) give
    another hash with each packet.
    """
    header = _nfgenmsg(AF_NUMBERS[family])
    rules = netlink.dump(message(_GET_RULE, 0, header + string(1, table)))  # NFTA_RULE_TABLE
    chains = netlink.dump(message(_GET_CHAIN, 0, header))
    return content_hash(chains, rules, table)


def content_hash(chains: Iterable[bytes], rules: Iterable[bytes], table: str) -> int:
    """Return a hash of those of *chains* that are in *table*, and of its *rules* in their order, without counters.

    The nfgenmsg is left out: it contains the number of the last commit.  Raises KernelError.
    """
    name = table.encode() + b"\0"
    with decoding("a listing of nft chains"):
        parsed = [parse_attributes(body, _NFGENMSG_SIZE) for body in chains]
    ours = frozenset(
        tuple(attributes.get(kind) for kind in (_CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY))
        for attributes in parsed
        if attributes.get(_CHAIN_TABLE) == name
    )
    return hash((ours, *(_COUNTER.sub(b"counter", body[_NFGENMSG_SIZE:]) for body in rules)))


def _errno_of(request: Message) -> int:
    """Return the errno with which the kernel rejects *request*; 0 if it answers."""
    try:
        with closing(Socket(NETLINK_NETFILTER, timeout_s=_TIMEOUT_S)) as netlink:
            netlink.request(request)
    except KernelError as error:
        return error.errno
    return 0


def _nfgenmsg(family: int, resource: int = 0) -> bytes:
    return pack("=BB", family, 0) + pack(">H", resource)
