"""Settings that contradict each other, among kube-proxy's fields and this agent's own flags.

Invariants:
- What cannot work is a problem.  What works, but hardly as it is meant, is a warning, because kube-proxy accepts it.
"""

import re
from collections.abc import Callable, Iterator

from kubeproxy_py.config.durations import format_duration
from kubeproxy_py.config.errors import InvalidValue, abbreviated
from kubeproxy_py.config.types import AgentSettings, KubeProxyConfiguration
from kubeproxy_py.model.policy_marks import mask_problem
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.net import CIDR, SocketAddress, contains

_UNSPECIFIED = ("0.0.0.0", "::")
_NODE_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)  # RFC 1123, as for every object's name
_SYNC_PERIOD_MIN_S = 1.0

DisplayName = Callable[[str], str]
"""Returns the field at a path as the operator wrote it."""


def contradiction(settings: AgentSettings, config: KubeProxyConfiguration) -> tuple[str, InvalidValue] | None:
    """Return the path of a setting that cannot work with the others, and the reason; None if there is none."""
    masquerade_bit = config.iptables.masquerade_bit
    if settings.iptables_backend == "libiptc" and settings.iptables_flavour == "nft":
        message = "libiptc writes legacy tables only, but --iptables-flavour is nft"
        return "iptablesBackend", InvalidValue(message, "remove one of the two flags")
    if settings.policy_marks and (message := mask_problem(settings.policy_mark_mask, masquerade_bit)):
        hint = "neighbouring bits that nothing else on this node uses, as 0x3fff"
        return "policyMarkMask", InvalidValue(message, hint)
    if settings.policy_marks and (message := _service_network_problem(settings.service_cidr, config.cluster_cidr)):
        return "serviceCIDR", InvalidValue(message, "only the networks of ClusterIPs, such as 10.96.0.0/12")
    return None


def _service_network_problem(networks: tuple[CIDR, ...], cluster_cidr: tuple[CIDR, ...]) -> str:
    """Return why new connections to addresses in *networks* that no Service has must not be dropped; "": they may."""
    for network in networks:
        if network.endswith("/0"):
            return f"{network} is every address"
        if pods := next((cidr for cidr in cluster_cidr if contains(network, cidr)), ""):
            return f"{network} contains {pods}, the pods of clusterCIDR, which nobody could reach"
    return ""


def doubtful_settings(
    config: KubeProxyConfiguration, settings: AgentSettings, display_name: DisplayName
) -> Iterator[Problem]:
    """Yield a warning for each setting that works, but hardly as it is meant."""
    for path, reason in _doubts(config, settings):
        yield reason.as_problem(display_name(path))


def _doubts(config: KubeProxyConfiguration, settings: AgentSettings) -> Iterator[tuple[str, InvalidValue]]:
    health, metrics = config.healthz_bind_address, config.metrics_bind_address
    if config.hostname_override and not _NODE_NAME.fullmatch(config.hostname_override.strip().lower()):
        message = f"{abbreviated(config.hostname_override)} cannot be the name of a Node"
        yield "hostnameOverride", InvalidValue(message, "lowercase letters, digits, - and .")
    if health and metrics and _overlap(health, metrics):
        message = f"the health server and the metrics server cannot both listen on port {health.port}"
        yield "healthzBindAddress", InvalidValue(message, "choose another port for one of them")
    if settings.healthz_at_service_addresses and not (health and health.address in _UNSPECIFIED):
        message = "has no effect, because the health server does not listen on all addresses"
        yield "healthzAtServiceAddresses", InvalidValue(message, "set healthzBindAddress to 0.0.0.0:10256")
    if 0 < config.ipvs.sync_period_s < _SYNC_PERIOD_MIN_S:
        message = f"{format_duration(config.ipvs.sync_period_s)} compares all kernel state nearly without a pause"
        yield "ipvs.syncPeriod", InvalidValue(message, "30s is usual; 1s is the least that makes sense")
    if settings.manifests:
        sources = {"clientConnection.kubeconfig": config.client_connection.kubeconfig, "master": settings.master}
        for path in (path for path, value in sources.items() if value):
            yield path, InvalidValue("ignored, because --manifests is given: there is no API server")


def _overlap(one: SocketAddress, other: SocketAddress) -> bool:
    """Return whether no two sockets can listen on both addresses."""
    addresses = {one.address, other.address}
    return one.port == other.port != 0 and (len(addresses) == 1 or not addresses.isdisjoint(_UNSPECIFIED))
