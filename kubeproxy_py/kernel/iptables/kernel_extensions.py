"""Ask the kernel whether it has a match or target, as iptables itself asks; its module is loaded if necessary.

Invariants:
- An extension is missing only where the kernel reports it; where it cannot be asked, the first rule that uses it fails.
- A question costs one system call or message, and for a missing extension the kernel's attempt to load it.

legacy: IPT_SO_GET_REVISION_MATCH and _TARGET take a struct xt_get_revision (name, 29 bytes; revision, one byte) and
return the highest revision, or ENOENT.  nft: NFNL_MSG_COMPAT_GET, see nf_tables.py; comments are part of nf_tables and
need no match there.

Source: include/uapi/linux/netfilter_ipv4/ip_tables.h, netfilter_ipv6/ip6_tables.h, netfilter/x_tables.h;
iptables/nft.c, nft_ipv4_add ("Use nft built-in comments support").
"""

from collections.abc import Iterable
from contextlib import closing
from errno import ENOENT
from struct import pack

from kubeproxy_py.kernel.host.sockopt import SocketOptions
from kubeproxy_py.kernel.iptables import nf_tables
from kubeproxy_py.kernel.iptables.backend import Backend
from kubeproxy_py.kernel.iptables.fingerprint import LAYOUTS
from kubeproxy_py.model.extensions import Extension
from kubeproxy_py.net import Family

_GET_REVISION: dict[Family, tuple[int, int]] = {"IPv4": (66, 67), "IPv6": (68, 69)}  # *_SO_GET_REVISION_MATCH, _TARGET
_NATIVE_IN_NFT = frozenset(("comment",))


def missing_extensions(
    backend: Backend, family: Family, extensions: Iterable[Extension], *, has_compat: bool = True
) -> list[Extension]:
    """Return those of *extensions* that the kernel does not have for *family*.

    Args:
        backend: legacy or nft.
        family: The address family.
        extensions: What to ask for.
        has_compat: False: the kernel has no nft_compat, and so none for nft but those that are part of nf_tables.
    """
    if not has_compat:
        return [extension for extension in extensions if extension.name not in _NATIVE_IN_NFT]
    return [extension for extension in extensions if not has_extension(backend, family, extension)]


def has_extension(backend: Backend, family: Family, extension: Extension) -> bool:
    """Return whether the kernel has *extension*, or cannot be asked."""
    if backend == "nft":
        return extension.name in _NATIVE_IN_NFT or nf_tables.has_extension(
            family, extension.name, is_target=extension.is_target
        )
    layout = LAYOUTS[family]
    request = bytearray(pack("=29sB", extension.name.encode(), 0))
    try:
        with closing(SocketOptions(layout.domain, layout.level)) as options:
            options.get(_GET_REVISION[family][extension.is_target], request)
    except OSError as error:
        return error.errno != ENOENT  # EPROTONOSUPPORT: it has other revisions only
    except ImportError:
        return True
    return True
