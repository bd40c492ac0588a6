"""What a changed configuration asks for: which fields differ, and whether they can be applied while we run.

Law: every field of KubeProxyConfiguration has its row here (a test says so), and one that is not known to be safe
to apply needs a restart.  A restart costs nobody a packet: the kernel's state stays, and is adopted.
"""

from enum import Enum

from msgspec import Struct

from kubeproxy_py.config.types import KubeProxyConfiguration, Section, fields_of


class Effect(Enum):
    """What it takes to follow a field."""

    LIVE = "applied at once"
    RESTART = "needs a restart"
    NONE = "means nothing to this agent"


_LIVE, _RESTART, _NONE = Effect.LIVE, Effect.RESTART, Effect.NONE

EFFECTS: dict[str, Effect] = {
    "featureGates": _NONE,  # what would matter, KubeProxyIPVS=false, is refused
    # Read once, when the API client is made.
    "clientConnection.kubeconfig": _RESTART,
    "clientConnection.acceptContentTypes": _NONE,
    "clientConnection.contentType": _NONE,
    "clientConnection.qps": _NONE,
    "clientConnection.burst": _NONE,
    "logging.format": _LIVE,
    "logging.flushFrequency": _NONE,
    "logging.verbosity": _LIVE,
    "logging.vmodule": _NONE,
    "logging.options.text.splitStream": _NONE,
    "logging.options.text.infoBufferSize": _NONE,
    "logging.options.json.splitStream": _NONE,
    "logging.options.json.infoBufferSize": _NONE,
    # Which Node we are, and where we listen.
    "hostnameOverride": _RESTART,
    "bindAddress": _RESTART,
    "healthzBindAddress": _RESTART,
    "metricsBindAddress": _RESTART,
    "bindAddressHardFail": _RESTART,
    "enableProfiling": _RESTART,
    "showHiddenMetricsForVersion": _NONE,
    "mode": _RESTART,
    "iptables.masqueradeBit": _LIVE,
    "iptables.masqueradeAll": _LIVE,
    "iptables.localhostNodePorts": _NONE,
    "iptables.syncPeriod": _NONE,
    "iptables.minSyncPeriod": _NONE,
    "ipvs.syncPeriod": _LIVE,
    "ipvs.minSyncPeriod": _LIVE,
    "ipvs.scheduler": _LIVE,  # once the kernel was asked whether it has it
    "ipvs.excludeCIDRs": _LIVE,
    # Kernel settings are made at start, where failing is fatal; the privilege for them may be gone by now.
    "ipvs.strictARP": _RESTART,
    "ipvs.tcpTimeout": _LIVE,
    "ipvs.tcpFinTimeout": _LIVE,
    "ipvs.udpTimeout": _LIVE,
    "nftables.masqueradeBit": _NONE,
    "nftables.masqueradeAll": _NONE,
    "nftables.syncPeriod": _NONE,
    "nftables.minSyncPeriod": _NONE,
    "winkernel.networkName": _NONE,
    "winkernel.sourceVip": _NONE,
    "winkernel.enableDSR": _NONE,
    "winkernel.rootHnsEndpointName": _NONE,
    "winkernel.forwardHealthCheckVip": _NONE,
    "detectLocalMode": _LIVE,
    "detectLocal.bridgeInterface": _LIVE,
    "detectLocal.interfaceNamePrefix": _LIVE,
    "clusterCIDR": _LIVE,
    "nodePortAddresses": _LIVE,
    "oomScoreAdj": _RESTART,  # lowering it takes a capability that may be gone by now
    "conntrack.maxPerCore": _RESTART,
    "conntrack.min": _RESTART,
    "conntrack.tcpEstablishedTimeout": _RESTART,
    "conntrack.tcpCloseWaitTimeout": _RESTART,
    "conntrack.tcpBeLiberal": _RESTART,
    "conntrack.udpTimeout": _RESTART,
    "conntrack.udpStreamTimeout": _RESTART,
    "configSyncPeriod": _RESTART,
    "portRange": _NONE,
    "windowsRunAsService": _NONE,
}


class Change(Struct, frozen=True, gc=False):
    """The paths of the fields in which two configurations differ, by what it takes to follow them."""

    live: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()


def change_between(old: KubeProxyConfiguration, new: KubeProxyConfiguration) -> Change:
    """What changes from *old* to *new*; fields that mean nothing here are passed over."""
    paths = _differing(old, new)
    return Change(
        live=tuple(path for path in paths if EFFECTS.get(path, _RESTART) is _LIVE),
        restart=tuple(path for path in paths if EFFECTS.get(path, _RESTART) is _RESTART),
    )


def _differing(old: Section, new: Section, prefix: str = "") -> list[str]:
    paths: list[str] = []
    for field in fields_of(type(old)):
        before, after = getattr(old, field.name), getattr(new, field.name)
        path = f"{prefix}{field.key}"
        if field.kind is None:
            paths += _differing(before, after, f"{path}.")
        elif before != after:
            paths.append(path)
    return paths
