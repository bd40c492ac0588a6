"""The host the agent runs on, as far as the desired rows depend on it."""

from msgspec import Struct

from kubeproxy_py.net import FAMILIES, IP, Family


class HostInfo(Struct, frozen=True, gc=False):
    """What is found out about this host once at start and does not change while the agent runs.

    The defaults are those of a current host: ``plan`` without access to the kernel and tests use them.
    """

    node_name: str = ""
    kernel_version: tuple[int, int, int] = (6, 1, 0)
    cpus: int = 1  # online logical CPUs; nf_conntrack_max scales with them
    families: tuple[Family, ...] = FAMILIES  # those whose iptables works
    random_fully: bool = True  # iptables supports MASQUERADE --random-fully (1.6.2 and later)
    match_ipvs: bool = True  # the kernel has the iptables match "ipvs" (module xt_ipvs)
    outgoing_addresses: tuple[IP, ...] = ()  # its source addresses towards the default routes
