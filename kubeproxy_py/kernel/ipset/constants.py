"""ipset by netlink: commands, attributes, error numbers, set types and the protocol names in entries.

The names are those of include/uapi/linux/netfilter/ipset/ip_set.h.
"""

from kubeproxy_py.net import PROTOCOL_NUMBERS

NFNL_SUBSYS_IPSET = 6

IPSET_CMD_CREATE, IPSET_CMD_DESTROY, IPSET_CMD_SWAP, IPSET_CMD_LIST = 2, 3, 6, 7
IPSET_CMD_ADD, IPSET_CMD_DEL, IPSET_CMD_HEADER, IPSET_CMD_TYPE = 9, 10, 12, 13

# Attributes of a command.
ATTR_PROTOCOL, ATTR_SETNAME, ATTR_TYPENAME, ATTR_REVISION, ATTR_FAMILY, ATTR_FLAGS = range(1, 7)
ATTR_DATA, ATTR_ADT, ATTR_LINENO, ATTR_REVISION_MIN = range(7, 11)
ATTR_SETNAME2 = ATTR_TYPENAME
FLAG_LIST_HEADER = 1 << 2
FLAG_WITH_SKBINFO = 1 << 6  # of CADT_FLAGS: entries may have firewall marks

# Attributes inside DATA.
ATTR_IP, _ATTR_IP_TO, _ATTR_CIDR, ATTR_PORT, ATTR_PORT_TO, ATTR_TIMEOUT, ATTR_PROTO, ATTR_CADT_FLAGS = range(1, 9)
ATTR_HASHSIZE, ATTR_MAXELEM, ATTR_NETMASK = range(18, 21)
ATTR_ELEMENTS = 24
ATTR_IP2, ATTR_CIDR2 = 20, 21
ATTR_SKBMARK = 27

# Attributes inside IP and IP2.
ATTR_IPADDR_IPV4, ATTR_IPADDR_IPV6 = 1, 2

IPSET_ERR_PROTOCOL = 4097
IPSET_ERR_FIND_TYPE = 4098
IPSET_ERR_BUSY = 4100
IPSET_ERR_TYPE_MISMATCH = 4102
IPSET_ERR_EXIST = 4103
IPSET_ERR_INVALID_CIDR = 4104
IPSET_ERR_HASH_FULL = 4352

SKBINFO = "skbinfo"
"""The option with which entries of a set may have firewall marks; in the type of a row it follows the kernel's."""

ENTRY_TYPES = frozenset(
    ("hash:ip", "hash:ip,port", "hash:ip,port skbinfo", "hash:ip,port,ip", "hash:ip,port,net", "bitmap:port")
)
"""Set types whose entries can be encoded and decoded; model/kube_names.py uses no other."""

NEEDED_REVISIONS = {
    "hash:ip": 0,
    "hash:ip,port": 1,
    "hash:ip,port skbinfo": 5,
    "hash:ip,port,ip": 1,
    "hash:ip,port,net": 1,
    "bitmap:port": 0,
}
"""The lowest revision of each type that has what our entries need: 1 added SCTP, 5 marks (net/netfilter/ipset).

An older ``ipset`` program, of a CNI plugin's image for example, refuses to list or save any set of the node as soon as
one has a revision that it does not know.
"""

PORT_RANGE = (0, 65535)
"""The ports of a bitmap:port set."""

ENTRY_PROTOCOL_NUMBERS = {name.lower(): number for name, number in PROTOCOL_NUMBERS.items()} | {"udplite": 136}
ENTRY_PROTOCOL_NAMES = {number: name for name, number in ENTRY_PROTOCOL_NUMBERS.items()}
"""The protocols that ``ipset save`` prints by name; others are numbers."""
