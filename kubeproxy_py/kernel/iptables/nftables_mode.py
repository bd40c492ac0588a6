"""Delete the tables of kube-proxy's nftables mode, by pyroute2.

Only `cleanup` imports this module.  pyroute2 costs 90-140 ms (0.6 s on the lab kernel) and 21 MiB, which a command that
ends may spend and the resident agent may not (docs/dependencies.md); the agent only checks whether the tables exist,
with one message each (nf_tables.py).
"""

from collections.abc import Iterator
from socket import AF_INET, AF_INET6

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.nftables.main import NFTables

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.model.kube_names import NFTABLES_MODE_TABLE
from kubeproxy_py.net import Family

_NFPROTO: dict[Family, int] = {"IPv4": int(AF_INET), "IPv6": int(AF_INET6)}  # NFPROTO_IPV4, NFPROTO_IPV6


def delete_table(family: Family) -> Iterator[KernelError]:
    """Delete the table of *family*, with its chains, sets and maps, if it exists; yield the error if that fails."""
    try:
        with NFTables(nfgen_family=_NFPROTO[family]) as netlink:
            # The listing has the tables of all families.
            tables = {(table["nfgen_family"], table.get_attr("NFTA_TABLE_NAME")) for table in netlink.get_tables()}
            if (_NFPROTO[family], NFTABLES_MODE_TABLE) in tables:
                netlink.table("del", name=NFTABLES_MODE_TABLE)
    except (NetlinkError, OSError) as error:
        text = f"{family}, table {NFTABLES_MODE_TABLE} of nftables mode: {error}"
        yield KernelError(text, errno=getattr(error, "code", 0))
