"""Check for other programs that change what Services need: service proxies, firewalls, other users of IPVS."""

from collections.abc import Iterator

from msgspec import Struct

from kubeproxy_py.checks.rivals import ANOTHER_PROXY, find_rivals
from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.model.finding import Finding
from kubeproxy_py.model.kube_names import KUBE_ROUTER_SERVICES_CHAIN

_NAMED = 3


class _Trace(Struct, frozen=True, gc=False):
    """What a service proxy leaves in the kernel, by which it is known where its process cannot be seen."""

    program: str
    sets: tuple[str, ...] = ()  # prefixes of names
    chains: tuple[str, ...] = ()  # prefixes of names
    interfaces: tuple[str, ...] = ()
    is_certain: bool = True  # False: it has these without being a service proxy, too
    remedy: str = ""


_TRACES = (
    _Trace(
        "kube-router",
        sets=("kube-router-ipvs-", "kube-router-local-ips", "kube-router-service-ips"),
        chains=(KUBE_ROUTER_SERVICES_CHAIN,),
        interfaces=("kube-dummy-if",),
        remedy="run kube-router with --run-service-proxy=false, and once kube-router --cleanup-config",
    ),
    _Trace(
        "Cilium",
        chains=("CILIUM_",),
        interfaces=("cilium_host", "cilium_net"),
        is_certain=False,
        remedy="set kubeProxyReplacement: false in Cilium's configuration, or do not run this agent",
    ),
)

FIREWALLS = ("firewalld", "ufw", "nftables", "shorewall")
IPVS_USERS = ("keepalived", "ldirectord")
PROGRAMS = (*FIREWALLS, *IPVS_USERS, "node-cache", "cilium-agent")
"""Programs that matter to Service traffic."""


def check_other_proxies(situation: Situation) -> Iterator[Finding]:
    """Find other service proxies: by process, by what answers at their ports, by their sets, chains and interfaces."""
    found = [finding for finding in find_rivals(situation.rivals) if finding.reason == ANOTHER_PROXY]
    yield from found
    for trace in _TRACES:
        signs = list(_signs(trace, situation))
        if signs and not any(trace.program.lower() in finding.subject for finding in found):
            yield Finding(
                ANOTHER_PROXY,
                trace.program,
                "two service proxies undo each other's changes or answer the same packets differently"
                if trace.is_certain
                else "if it replaces kube-proxy here, it and this agent answer the same packets differently",
                trace.remedy,
                f"it left {', '.join(signs[:_NAMED])} here",
                "error" if trace.is_certain else "warning",
            )


def _signs(trace: _Trace, situation: Situation) -> Iterator[str]:
    yield from (f"set {name}" for name in situation.doctor.set_names if trace.sets and name.startswith(trace.sets))
    for (family, table), chains in situation.facts.tables.items():
        for name in chains:
            if trace.chains and name.startswith(trace.chains):
                yield f"chain {name} ({family} {table})"
    yield from (f"interface {name}" for name in situation.doctor.interfaces if name in trace.interfaces)


def check_firewalls(situation: Situation) -> Iterator[Finding]:
    """Find firewall services, which may flush or reorder rules."""
    for program, pid in situation.doctor.programs:
        if program in FIREWALLS:
            yield Finding(
                "FirewallService",
                f"{program} (pid {pid})",
                "when it reloads, rules may be missing until the agent has repaired them, some seconds later; and its "
                "zones may reject Services",
                f"systemctl disable --now {program}; or accept pod and Service networks, and do not reload it",
                "it runs here, and writes rules of its own",
                "warning",
            )


def check_ipvs_users(situation: Situation) -> Iterator[Finding]:
    """Find virtual servers of other programs, which the agent deletes unless it is told not to."""
    doctor = situation.doctor
    users = " and ".join(f"{program} (pid {pid})" for program, pid in doctor.programs if program in IPVS_USERS)
    foreign = doctor.foreign_servers
    if foreign and not situation.keeps_foreign:
        others = f" and {len(foreign) - _NAMED} more" if len(foreign) > _NAMED else ""
        yield Finding(
            "ForeignVirtualServers",
            f"virtual server {', '.join(foreign[:_NAMED])}{others}",
            "the agent deletes them, as kube-proxy does, and their clients are cut off",
            "add their networks to ipvs.excludeCIDRs (--ipvs-exclude-cidrs), or set --keep-foreign-virtual-servers",
            f"no Service has them; {users or 'another program'} made them",
        )
    elif users and not situation.keeps_foreign:
        yield Finding(
            "OtherIpvsUser",
            users,
            "the agent deletes virtual servers that it makes, as kube-proxy does",
            "if it uses IPVS (virtual_server in keepalived.conf): add its networks to ipvs.excludeCIDRs, or set "
            "--keep-foreign-virtual-servers",
            "it can program IPVS, too",
            "warning",
        )


def ipvs_users_seen(situation: Situation) -> str:
    """Return how many virtual servers there are, and whose."""
    doctor = situation.doctor
    kept = f", {len(doctor.foreign_servers)} of other programs, which are kept" if doctor.foreign_servers else ""
    return f"{doctor.virtual_servers} virtual servers{kept}"
