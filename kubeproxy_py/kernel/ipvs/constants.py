"""IPVS by generic netlink: commands, attributes, flags.

The names are those of include/uapi/linux/ip_vs.h: CMD_* is IPVS_CMD_*, SVC_* is IPVS_SVC_ATTR_*, DEST_* is
IPVS_DEST_ATTR_*.
"""

import msgspec

from kubeproxy_py.kernel.netlink.families import AF_INET, AF_INET6

FAMILY_NAME = "IPVS"
VERSION = 1

CMD_NEW_SERVICE, CMD_SET_SERVICE, CMD_DEL_SERVICE, CMD_GET_SERVICE = range(1, 5)
CMD_NEW_DEST, CMD_SET_DEST, CMD_DEL_DEST, CMD_GET_DEST = range(5, 9)
CMD_SET_CONFIG, CMD_GET_CONFIG = 12, 13

# Attributes of a message (IPVS_CMD_ATTR_*).
ATTR_SERVICE, ATTR_DEST = 1, 2
ATTR_TIMEOUT_TCP, ATTR_TIMEOUT_TCP_FIN, ATTR_TIMEOUT_UDP = 4, 5, 6

SVC_AF, SVC_PROTOCOL, SVC_ADDR, SVC_PORT, SVC_FWMARK, SVC_SCHED_NAME, SVC_FLAGS, SVC_TIMEOUT, SVC_NETMASK = range(1, 10)
SVC_STATS, SVC_STATS64 = 10, 12

DEST_ADDR, DEST_PORT, DEST_FWD_METHOD, DEST_WEIGHT, DEST_U_THRESH, DEST_L_THRESH = range(1, 7)
DEST_ACTIVE_CONNS, DEST_INACT_CONNS, DEST_PERSIST_CONNS = range(7, 10)
DEST_STATS, DEST_ADDR_FAMILY, DEST_STATS64, DEST_TUN_TYPE, DEST_TUN_PORT, DEST_TUN_FLAGS = range(10, 16)

FWD_MASQUERADE, FWD_LOCALNODE, FWD_TUNNEL, FWD_ROUTE = range(4)
# kernels before 2.6.38 return LOCALNODE for masquerading to the host itself
FWD_MASK = 0x7
FLAG_HASHED = 0x2  # IP_VS_SVC_F_HASHED: set by the kernel on every virtual server
SINGLE_CLIENT = {AF_INET: 0xFFFFFFFF, AF_INET6: 128}  # the netmask of a persistence template for each client


class Timeouts(msgspec.Struct, frozen=True, gc=False):
    """How long IPVS keeps idle connections, in seconds; 0 leaves the current value when written."""

    tcp_s: int = 0
    tcp_fin_s: int = 0
    udp_s: int = 0
