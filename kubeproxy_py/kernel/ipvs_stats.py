"""What IPVS has counted of a virtual server: bytes of a listing to Traffic.

Law: pure.  Linux >= 4.1 tells every count in 64 bits (STATS64); before that connections and packets are in 32 bits,
which run over, as ``ipvsadm`` shows them.

Source: include/uapi/linux/ip_vs.h, IPVS_SVC_ATTR_STATS, IPVS_SVC_ATTR_STATS64, IPVS_STATS_ATTR_*.
"""

import sys

from kubeproxy_py.kernel.attributes import attributes
from kubeproxy_py.kernel.ipvs_answers import service_attributes
from kubeproxy_py.model.rows import Traffic, VirtualServer

_STATS, _STATS64 = 10, 12
_COUNTS = range(1, 6)  # CONNS, INPKTS, OUTPKTS, INBYTES, OUTBYTES: the order of Traffic's fields


def decode_traffic(body: bytes) -> tuple[VirtualServer, Traffic] | None:
    """One virtual server of a listing with what it carried; None if it goes by a firewall mark."""
    service = service_attributes(body)
    if service is None:
        return None
    key, found = service
    counts = attributes(found.get(_STATS64) or found.get(_STATS) or b"")
    return key, Traffic(*(int.from_bytes(counts.get(kind, b""), sys.byteorder) for kind in _COUNTS))
