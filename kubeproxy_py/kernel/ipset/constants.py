"""ipset by netlink: commands, attributes, error numbers, set types and the protocol names in entries.

The names are those of include/uapi/linux/netfilter/ipset/ip_set.h.
"""

from kubeproxy_py.net import PROTOCOL_NUMBERS

NFNL_SUBSYS_IPSET = 6

IPSET_CMD_CREATE, IPSET_CMD_DESTROY, IPSET_CMD_SWAP, IPSET_CMD_LIST = 2, 3, 6, 7
IPSET_CMD_ADD, IPSET_CMD_DEL, IPSET_CMD_HEADER, IPSET_CMD_TYPE = 9, 10, 12, 13

# Attributes of a command.
ATTR_PROTOCOL, ATTR_SETNAME, ATTR_TYPENAME, ATTR_REVISION, ATTR_FAMILY, ATTR_FLAGS = range(1, 7)
ATTR_DATA, ATTR_ADT, ATTR_LINENO = range(7, 10)
ATTR_SETNAME2 = ATTR_TYPENAME
FLAG_LIST_HEADER = 1 << 2

# Attributes inside DATA.
ATTR_IP, _ATTR_IP_TO, _ATTR_CIDR, ATTR_PORT, ATTR_PORT_TO, ATTR_TIMEOUT, ATTR_PROTO = range(1, 8)
ATTR_HASHSIZE, ATTR_MAXELEM, ATTR_NETMASK = range(18, 21)
ATTR_IP2, ATTR_CIDR2 = 20, 21

# Attributes inside IP and IP2.
ATTR_IPADDR_IPV4, ATTR_IPADDR_IPV6 = 1, 2

IPSET_ERR_PROTOCOL = 4097
IPSET_ERR_BUSY = 4100
IPSET_ERR_TYPE_MISMATCH = 4102
IPSET_ERR_EXIST = 4103
IPSET_ERR_INVALID_CIDR = 4104
IPSET_ERR_HASH_FULL = 4352

ERROR_TEXTS = {
    IPSET_ERR_PROTOCOL: "not an entry for this set: other family, or parts missing",
    4098: "the kernel has no such set type, or not in this revision",
    4099: "the kernel has no room for more sets",
    IPSET_ERR_BUSY: "the set is in use",
    4101: "a set of that name exists already",
    IPSET_ERR_TYPE_MISMATCH: "the sets differ in type or family",
    IPSET_ERR_EXIST: "it exists already, or is missing",
    IPSET_ERR_INVALID_CIDR: "not a usable prefix length",
    4105: "not a usable netmask",
    4106: "the type has no such family",
    4108: "the set is in use",
    4109: "not an IPv4 address",
    4110: "not an IPv6 address",
    IPSET_ERR_HASH_FULL: "the set is full",
}
"""Texts for the error numbers that only ipset has."""

ENTRY_TYPES = frozenset(("hash:ip", "hash:ip,port", "hash:ip,port,ip", "hash:ip,port,net", "bitmap:port"))
"""Set types whose entries can be encoded and decoded; kube_names.IPSET_DEFINITIONS uses no other."""

PORT_RANGE = (0, 65535)
"""The ports of a bitmap:port set."""

ENTRY_PROTOCOL_NUMBERS = {name.lower(): number for name, number in PROTOCOL_NUMBERS.items()} | {"udplite": 136}
ENTRY_PROTOCOL_NAMES = {number: name for name, number in ENTRY_PROTOCOL_NUMBERS.items()}
"""The protocols that ``ipset save`` prints by name; others are numbers."""
