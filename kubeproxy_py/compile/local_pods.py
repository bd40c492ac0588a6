"""By which matches of iptables pods of this node are recognized (detectLocalMode)."""

from itertools import chain

from kubeproxy_py.config.types import KubeProxyConfiguration
from kubeproxy_py.model.node import Node
from kubeproxy_py.net import CIDR, Family, by_family, contains, family_of, networks_by_family


def if_not_local(config: KubeProxyConfiguration, node: Node | None, family: Family) -> str:
    """Return the match for packets that no pod of this node sent; "" if pods cannot be recognized."""
    match config.detect_local_mode:
        case "BridgeInterface":
            return f"! -i {config.detect_local.bridge_interface}"
        case "InterfaceNamePrefix":
            return f"! -i {config.detect_local.interface_name_prefix}+"
        case "NodeCIDR":
            cidrs = node.pod_cidrs if node else ()
        case _:
            cidrs = config.cluster_cidr
    first = by_family(cidrs).get(family)
    return f"! -s {first}" if first else ""


def if_local(
    config: KubeProxyConfiguration, node: Node | None, families: tuple[Family, ...]
) -> dict[Family, tuple[str, ...]]:
    """Return the matches for packets that pods of this node sent; none of a family if they cannot be recognized.

    Of clusterCIDR, in which the pods of other nodes are, too, only the networks of this node count if they are known.
    """
    match config.detect_local_mode:
        case "BridgeInterface":
            return dict.fromkeys(families, (f"-i {config.detect_local.bridge_interface}",))
        case "InterfaceNamePrefix":
            return dict.fromkeys(families, (f"-i {config.detect_local.interface_name_prefix}+",))
    own = tuple(dict.fromkeys(node.pod_cidrs)) if node else ()
    networks = own
    if config.detect_local_mode == "ClusterCIDR":
        all_pods = tuple(dict.fromkeys(config.cluster_cidr))
        networks = tuple(chain.from_iterable(_own_part(all_pods, own, family) for family in families))
    return {
        family: tuple(f"-s {network}" for network in found)
        for family, found in networks_by_family(networks, families).items()
    }


def more_local_networks(config: KubeProxyConfiguration, families: tuple[Family, ...]) -> dict[Family, tuple[CIDR, ...]]:
    """Return the networks of clusterCIDR after the first of each family; kube-proxy permits none."""
    if config.detect_local_mode != "ClusterCIDR":
        return {}
    networks = networks_by_family(config.cluster_cidr, families)
    return {family: cidrs[1:] for family, cidrs in networks.items() if len(cidrs) > 1}


def _own_part(all_pods: tuple[CIDR, ...], own: tuple[CIDR, ...], family: Family) -> tuple[CIDR, ...]:
    """Return those of *own*, this node's networks, that are in one of *all_pods*; if none is, *all_pods*."""
    wider = [cidr for cidr in all_pods if family_of(cidr) == family]
    inside = [cidr for cidr in own if any(contains(network, cidr) for network in wider)]
    return tuple(inside or wider)
