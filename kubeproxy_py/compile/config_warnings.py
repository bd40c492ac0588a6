"""What of the Node does not fit the configuration, or of a Service not the Node: worth telling, no reason not to serve.

Law: pure, and says nothing of what is as it should be.  kube-proxy ends for these; here the rules follow the Node
whenever it changes, so they mend themselves.
"""

from kubeproxy_py.compile.node_context import LOOPBACK, NodeContext, by_family, node_ips, primary_family
from kubeproxy_py.config.types import KubeProxyConfiguration
from kubeproxy_py.model.node import Node
from kubeproxy_py.model.services import IP, Family, Service, family_of


def node_warnings(config: KubeProxyConfiguration, families: tuple[Family, ...], node: Node | None) -> tuple[str, ...]:
    """Each doubt as a sentence; none before the Node is known."""
    if node is None:
        return ()
    return tuple(filter(None, (_pod_networks(config, node), _addresses(config, families, node))))


def family_doubts(config: KubeProxyConfiguration, families: tuple[Family, ...]) -> tuple[str, ...]:
    """What is configured for a family that this host does not serve, a sentence for each field."""
    fields = {
        "bindAddress": () if config.bind_address in ("0.0.0.0", "::") else (config.bind_address,),
        "ipvs.excludeCIDRs": config.ipvs.exclude_cidrs,
        "clusterCIDR": config.cluster_cidr,
        "nodePortAddresses": tuple(word for word in config.node_port_addresses if "/" in word),
    }
    useless = {field: [word for word in words if family_of(word) not in families] for field, words in fields.items()}
    return tuple(
        f"{field}: {', '.join(words)}: means nothing, for this host serves {' and '.join(families)} alone"
        for field, words in useless.items()
        if words
    )


def _pod_networks(config: KubeProxyConfiguration, node: Node) -> str:
    if config.detect_local_mode != "NodeCIDR":
        return ""
    if not node.pod_cidrs:
        return (
            f"Node {node.name} has no podCIDRs yet, which detectLocalMode NodeCIDR needs: until it has, "
            "traffic from outside the cluster to ClusterIPs is not masqueraded"
        )
    family = primary_family(config.bind_address, node)
    if family not in by_family(node.pod_cidrs):
        return (
            f"Node {node.name} has no podCIDR of its own family, {family}: traffic from outside the "
            "cluster to ClusterIPs of that family is not masqueraded"
        )
    return ""


def _addresses(config: KubeProxyConfiguration, families: tuple[Family, ...], node: Node) -> str:
    ips, first = node_ips(config.bind_address, node), primary_family(config.bind_address, node)
    if all(ips[family] == LOOPBACK[family] for family in families):
        return f"Node {node.name} has no address that this host serves: its own IP is taken to be {ips[families[0]]}"
    return "" if first in families else f"Node {node.name} is one of {first} first, which this host does not serve"


def external_ips_on_node(service: Service, site: NodeContext) -> tuple[IP, ...]:
    """The externalIPs of *service* that another interface of this node has than kube-ipvs0, which they should be on.

    Of load balancers' addresses that is not said: some load balancers (k3s's) give out the nodes' own, on purpose.
    """
    if not service.external_ips or service.proxy_name or service.type == "ExternalName":
        return ()
    served = [family for family in by_family(service.cluster_ips) if family in site.families]
    taken = frozenset[IP]().union(*(site.foreign_addresses.get(family, ()) for family in served))
    return tuple(address for address in service.external_ips if address in taken)
