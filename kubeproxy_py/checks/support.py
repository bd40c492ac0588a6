"""Check what kernel, programs and libraries of this host have and lack."""

from collections.abc import Iterator

from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.finding import Finding


def check_support(situation: Situation) -> Iterator[Finding]:
    """Find modules, set types, matches and targets that are missing."""
    for lack in situation.doctor.lacks:
        effect = "no Service can be served" if lack.fatal else "what needs it is not served or not protected"
        yield Finding("KernelLacks", "this host", effect, lack.hint, lack.message, "error" if lack.fatal else "warning")


def support_blind(situation: Situation) -> str:
    """Return why not everything could be looked at."""
    rights = situation.doctor.rights
    return "this process lacks rights; see the check rights" if rights and rights.missing else ""


def support_seen(situation: Situation) -> str:
    """Return that nothing is missing; "" if something is, or may be."""
    return (
        "" if situation.doctor.lacks or support_blind(situation) else "IPVS, set types, matches and targets are there"
    )


def check_versions(situation: Situation) -> Iterator[Finding]:
    """Find libraries that are older than this agent needs."""
    for library in situation.doctor.outdated:
        yield Finding(
            "LibraryOutdated",
            library.name,
            "the agent was never tried with it, and may fail at any time",
            f"pip install '{library.name}{library.needed}'",
            f"version {library.version} is installed, {library.needed} is needed",
        )


def versions_seen(situation: Situation) -> str:
    """Return all versions."""
    return ", ".join(f"{name} {version}" for name, version in situation.doctor.versions.items())


def check_backend(situation: Situation) -> Iterator[Finding]:
    """Find a kubelet that uses another iptables backend than this agent."""
    ours, theirs = situation.doctor.backend, situation.doctor.kubelet_backends
    if ours and theirs and ours not in theirs:
        yield Finding(
            "OtherIptablesBackend",
            f"iptables-{ours}",
            "packets traverse the rules of both, in no fixed order: what one accepts the other may drop",
            "let this agent use kubelet's: --iptables-flavour=auto, with that iptables in its PATH or image",
            f"this agent uses it, kubelet uses iptables-{' and iptables-'.join(theirs)} (it left a chain "
            f"{' or '.join(kube_names.KUBELET_HINT_CHAINS)} there)",
        )


def backend_seen(situation: Situation) -> str:
    """Return both backends."""
    doctor = situation.doctor
    if not doctor.backend:
        return ""
    return (
        f"iptables-{doctor.backend}; kubelet's: {', '.join(doctor.kubelet_backends) or 'no chain of kubelet is here'}"
    )


def check_stale_rules(situation: Situation) -> Iterator[Finding]:
    """Find rules that another mode of kube-proxy left."""
    if found := situation.doctor.stale_rules:
        yield Finding(
            "RulesOfAnotherMode",
            found,
            "they may drop or misdirect packets to Services",
            "if no other service proxy runs here: stop this agent, run kubeproxy-py cleanup, and start it again",
            "another mode of kube-proxy, or another iptables backend, left them",
        )
