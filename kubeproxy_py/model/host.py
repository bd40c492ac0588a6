"""The host the agent runs on, as far as the desired rows depend on it."""

from msgspec import Struct, field

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
    # Matches and targets that the kernel lacks (extensions.py); a family that lacks none may be missing.
    missing_extensions: dict[Family, frozenset[str]] = field(default_factory=dict)
    outgoing_addresses: tuple[IP, ...] = ()  # its source addresses towards the default routes
