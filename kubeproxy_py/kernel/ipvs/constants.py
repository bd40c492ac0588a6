"""The numbers of IPVS over generic netlink: commands, attributes, flags.

Law: as in include/uapi/linux/ip_vs.h (IPVS_CMD_*, IPVS_SVC_ATTR_*, IPVS_DEST_ATTR_*), and nothing is computed.
"""

import msgspec

from kubeproxy_py.model.services import Protocol

FAMILY_NAME = "IPVS"
VERSION = 1

NEW_SERVICE, SET_SERVICE, DEL_SERVICE, GET_SERVICE, NEW_DEST, SET_DEST, DEL_DEST, GET_DEST = range(1, 9)
SET_CONFIG, GET_CONFIG = 12, 13

SERVICE, DEST = 1, 2  # attributes of a message
TIMEOUT_TCP, TIMEOUT_TCP_FIN, TIMEOUT_UDP = 4, 5, 6

S_FAMILY, S_PROTOCOL, S_ADDRESS, S_PORT, S_FIREWALL_MARK, S_SCHEDULER, S_FLAGS, S_TIMEOUT, S_NETMASK = range(1, 10)

D_ADDRESS, D_PORT, D_METHOD, D_WEIGHT, D_UPPER, D_LOWER, D_ACTIVE, D_INACTIVE, D_PERSISTENT = range(1, 10)
D_FAMILY, _, D_TUNNEL_TYPE, D_TUNNEL_PORT, D_TUNNEL_FLAGS = range(11, 16)

MASQUERADE, LOCAL_NODE = 0, 1  # kernels before 2.6.38 tell masquerading to this host itself as LOCAL_NODE
METHOD_MASK = 0x7
FLAG_HASHED = 0x2  # IP_VS_SVC_F_HASHED: the kernel's own mark, set on all that it holds

PROTOCOL_NUMBERS: dict[Protocol, int] = {"TCP": 6, "UDP": 17, "SCTP": 132}
PROTOCOL_NAMES: dict[int, Protocol] = {number: name for name, number in PROTOCOL_NUMBERS.items()}


class Timeouts(msgspec.Struct, frozen=True, gc=False):
    """How long IPVS keeps idle connections, in seconds; written, 0 keeps what is there."""

    tcp_s: int = 0
    tcp_fin_s: int = 0
    udp_s: int = 0
