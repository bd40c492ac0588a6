"""Find out which parts of netfilter this kernel has for our sets and rules, and what follows from a missing one.

Invariants:
- Nothing here is fatal: a rule that can be done without is left out or simplified (model/extensions.py), and what
  cannot be protected without the others waits until their modules are loaded.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from errno import EINVAL, EPERM
from pathlib import Path

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.ipset.constants import IPSET_ERR_PROTOCOL
from kubeproxy_py.kernel.iptables import nf_tables
from kubeproxy_py.kernel.iptables.backend import Backend
from kubeproxy_py.kernel.iptables.kernel_extensions import missing_extensions
from kubeproxy_py.kernel.netlink.attributes import u8
from kubeproxy_py.kernel.netlink.socket import NETLINK_NETFILTER, Socket, message
from kubeproxy_py.model.extensions import EXTENSIONS, Extension
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.net import Family

_IPSET_CMD_PROTOCOL = 6 << 8 | 1  # NFNL_SUBSYS_IPSET, IPSET_CMD_PROTOCOL
_IPSET_ATTR_PROTOCOL = 1
_IPSET_PROTOCOL = 6  # spoken by Linux 3.x and still the minimum of current kernels


class HostProblem(Problem, frozen=True, gc=False):
    """A feature that this host lacks."""

    of_process: bool = False  # the process that looks lacks rights, and the host may lack nothing
    fatal: bool = False  # no Service can be served without it


_NO_COMPAT = HostProblem(
    message="the kernel module nft_compat is missing, without which iptables-nft has no matches and targets",
    hint="modprobe nft_compat, or use --iptables-flavour=legacy",
)
_NO_IPSET = HostProblem(
    message="the kernel does not support ipset, without which Services are neither masqueraded nor protected",
    hint="modprobe ip_set; no restart is needed",
)


def missing_by_family(
    backend: Backend, families: Iterable[Family], extensions: Iterable[Extension] = EXTENSIONS.values()
) -> dict[Family, list[Extension]]:
    """Return those of *extensions* that the kernel lacks, for each of *families*."""
    asked = tuple(extensions)
    return {family: missing_extensions(backend, family, asked) for family in families}


def askable_extensions(kernel_version: tuple[int, int, int], root: Path, *, policies: bool = False) -> list[Extension]:
    """Return the extensions that the kernel can be asked for without changing what happens to packets.

    Before Linux 5.1 xt_physdev loads br_netfilter, after which bridged packets pass iptables.  Only a rule that needs
    it may cause that, so there it is taken to exist.  What only *policies* use is not loaded for nothing.
    """
    has_bridge_netfilter = kernel_version >= (5, 1, 0) or (root / "proc/sys/net/bridge").exists()
    used = (extension for extension in EXTENSIONS.values() if policies or not extension.is_for_policies)
    return [extension for extension in used if has_bridge_netfilter or extension.name != "physdev"]


def extension_problems(backend: Backend, missing: Mapping[Family, Sequence[Extension]]) -> Iterator[HostProblem]:
    """Yield a problem for each kernel module whose match or target is *missing*, by family.

    kube-proxy does not check this; one rule that the kernel cannot have fails every restore, and with it all other
    rules.
    """
    affected: dict[str, tuple[Extension, dict[Family, None]]] = {}
    for family, extensions in missing.items():
        for extension in (each for each in extensions if not each.is_for_policies):
            affected.setdefault(extension.module_for(family), (extension, {}))[1][family] = None
    for module, (extension, families) in affected.items():
        where = "" if len(families) == len(missing) else f" for {', '.join(families)}"
        if extension.without:
            yield HostProblem(
                message=f"the kernel module {module} is missing{where}: {extension.without}",
                hint=f"modprobe {module}, then restart kubeproxy-py",
            )
        else:
            yield HostProblem(
                message=f"the kernel module {module} is missing{where}, without which Services are neither masqueraded "
                "nor protected",
                hint=f"modprobe {module}; no restart is needed",
            )
    if backend == "nft" and missing and not nf_tables.has_compat():
        yield _NO_COMPAT


def probe_ipset() -> int:
    """Return the errno with which ip_set answers in the protocol version that kernel/ipset/ uses; 0 if it works.

    IPSET_ERR_PROTOCOL: ip_set has no such version.  Any other: there is no ip_set yet; a later request loads it, so
    the program ``ipset``, which needs it just as well, would be no help.
    """
    try:
        netlink = Socket(NETLINK_NETFILTER)
    except KernelError as error:
        return error.errno or EINVAL
    try:
        netlink.request(message(_IPSET_CMD_PROTOCOL, 0, bytes(4) + u8(_IPSET_ATTR_PROTOCOL, _IPSET_PROTOCOL)))
    except KernelError as error:
        return error.errno or EINVAL
    finally:
        netlink.close()
    return 0


def ipset_problems(errno: int) -> Iterator[HostProblem]:
    """Yield a problem if there is no ip_set, given the answer of ``probe_ipset``."""
    if errno not in (0, IPSET_ERR_PROTOCOL, EPERM):  # EPERM: not root, which is a problem of its own
        yield _NO_IPSET
