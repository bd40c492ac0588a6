"""The matches and targets of iptables that our rules use, the kernel module of each, and what rules are without it.

Invariants:
- Every extension that compile/chains.py writes is listed; ACCEPT, DROP and RETURN are no extensions.
- A rule that the kernel cannot have is left out or simplified by itself (compile/chains.py), if no Service admits
  clients then that it should reject.  An extension without which that is not possible has no text in ``without``: the
  chains that need it fail, and what they protect waits for them.
"""

import re
from collections.abc import Iterable

from msgspec import Struct

from kubeproxy_py.net import Family

_PREFIXES: dict[Family, str] = {"IPv4": "ipt", "IPv6": "ip6t"}
_USE = re.compile(r"-m (\S+)|-j (\S+)")


class Extension(Struct, frozen=True, gc=False):
    """A match (``physdev``) or a target (in capitals: ``REJECT``)."""

    name: str
    module: str  # of the kernel; {} is ipt or ip6t
    without: str = ""  # what is different without it; "": our rules cannot do without it
    is_for_policies: bool = False  # asked for with exact policies only; a setting that needs it is ignored without it

    @property
    def is_target(self) -> bool:
        """Whether it is a target."""
        return self.name.isupper()

    def module_for(self, family: Family) -> str:
        """Return the kernel module that provides it for *family*."""
        return self.module.format(_PREFIXES[family])


EXTENSIONS: dict[str, Extension] = {
    extension.name: extension
    for extension in (
        Extension("set", "xt_set"),
        Extension("SET", "xt_set"),
        Extension("mark", "xt_mark"),
        Extension("MARK", "xt_mark"),
        Extension("conntrack", "xt_conntrack"),
        Extension("MASQUERADE", "{}_MASQUERADE"),  # an alias of xt_MASQUERADE since Linux 5.2
        Extension(
            "REJECT",
            "{}_REJECT",
            "new connections to a Service address at a port of no Service are dropped, not rejected",
        ),
        Extension("addrtype", "xt_addrtype", "NodePorts have one rule for each address instead of one for all"),
        Extension("physdev", "xt_physdev", "one rule for externalIPs is left out; the next accepts the same packets"),
        Extension(
            "ipvs",
            "xt_ipvs",
            "loadBalancerSourceRanges cannot be enforced for traffic from this node; other clients are still filtered",
        ),
        Extension("comment", "xt_comment", "rules have no comments"),
        Extension("dscp", "xt_dscp", "no Service can have dsr: route", is_for_policies=True),
        Extension("DSCP", "xt_DSCP", "no Service can have dsr: route", is_for_policies=True),
    )
}


def used_extensions(rules: Iterable[str]) -> list[Extension]:
    """Return the extensions that *rules* use, each once, in order of their first use."""
    names = (match or target for rule in rules for match, target in _USE.findall(rule))
    return [EXTENSIONS[name] for name in dict.fromkeys(names) if name in EXTENSIONS]
