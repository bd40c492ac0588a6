"""Effects of a changed configuration: which fields differ, and whether they can be applied without a restart.

Invariants:
- Every field of KubeProxyConfiguration has a row in EFFECTS (tested). A field that is not known to be safe to apply
  requires a restart.
- A restart loses no packets: kernel state is left in place, and the new process starts from it.
"""

from enum import Enum

from msgspec import Struct

from kubeproxy_py.config.types import KubeProxyConfiguration, Section, fields_of


class Effect(Enum):
    """How a change of a field takes effect."""

    LIVE = "applied without a restart"
    RESTART = "requires a restart"
    NONE = "has no effect in this agent"


_LIVE, _RESTART, _NONE = Effect.LIVE, Effect.RESTART, Effect.NONE

EFFECTS: dict[str, Effect] = {
    "featureGates": _NONE,  # the only gate with an effect, KubeProxyIPVS=false, is refused
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
    # Which Node this is, and where the servers listen.
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
    "ipvs.scheduler": _LIVE,  # after a check that the kernel has it
    "ipvs.excludeCIDRs": _LIVE,
    # Sysctls are set at startup, where a failure is fatal; the privilege for them may have been dropped since.
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
    "oomScoreAdj": _RESTART,  # lowering it requires a capability that may have been dropped since
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
    """The paths of the fields in which two configurations differ, by how the change takes effect."""

    live: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()


def change_between(old: KubeProxyConfiguration, new: KubeProxyConfiguration) -> Change:
    """Return the changes from *old* to *new*, without the fields that have no effect."""
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
        if field.field_type is None:
            paths += _differing(before, after, f"{path}.")
        elif before != after:
            paths.append(path)
    return paths
