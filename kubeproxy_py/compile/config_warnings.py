"""Warnings about a Node or Service that does not fit the configuration; none of them prevents serving.

kube-proxy exits in some of these cases.  Here the rules follow every change of the Node, so they become right by
themselves once the Node does.
"""

from collections.abc import Iterable
from functools import reduce
from ipaddress import ip_network
from operator import or_

from kubeproxy_py.compile.node_context import NodeContext, machines_in, node_ips, primary_family
from kubeproxy_py.config.types import AgentSettings, KubeProxyConfiguration
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.policy_marks import MARK_USERS, MarkRange, free_mask
from kubeproxy_py.model.services import EndpointSlice, Service
from kubeproxy_py.net import IP, LOOPBACK_IP, Family, by_family, family_of


def node_warnings(config: KubeProxyConfiguration, families: tuple[Family, ...], node: Node | None) -> tuple[str, ...]:
    """Return a sentence for each way in which *node* does not fit; none while there is no Node object."""
    if node is None:
        return ()
    return tuple(filter(None, (_pod_cidr_warning(config, node), _address_warning(config, families, node))))


def family_warnings(config: KubeProxyConfiguration, families: tuple[Family, ...]) -> tuple[str, ...]:
    """Return a sentence for each field with values of a family that this host does not serve."""
    fields = {
        "bindAddress": () if config.bind_address in ("0.0.0.0", "::") else (config.bind_address,),
        "ipvs.excludeCIDRs": config.ipvs.exclude_cidrs,
        "clusterCIDR": config.cluster_cidr,
        "nodePortAddresses": tuple(value for value in config.node_port_addresses if "/" in value),
    }
    ignored = {
        field: [value for value in values if family_of(value) not in families] for field, values in fields.items()
    }
    return tuple(
        f"{field}: {', '.join(values)} ignored: this host serves only {' and '.join(families)}"
        for field, values in ignored.items()
        if values
    )


def loopback_warnings(config: KubeProxyConfiguration, settings: AgentSettings) -> tuple[str, ...]:
    """Return a sentence if nodePortAddresses has loopback networks that add nothing.

    load.py warns of the keyword ``localhost`` without exact policies.
    """
    values = config.node_port_addresses
    networks = [value for value in values if "/" in value and ip_network(value).is_loopback]
    if settings.policy_marks:
        everything = [value for value in values if value.endswith("/0")]
        families = {family_of(value) for value in everything}
        asked = [value for value in networks if family_of(value) in families]
        asked += [value for value in values if everything and value == "localhost"]
        if not asked:
            return ()
        return (
            f"nodePortAddresses: {', '.join(everything)} means all addresses but loopback, "
            f"also beside {', '.join(asked)}; NodePorts of its family are not served on loopback",
        )
    if not networks:
        return ()
    return (
        f"nodePortAddresses: {', '.join(networks)} adds no address: "
        "IPVS serves NodePorts on loopback only with --policies=exact",
    )


def mark_warnings(
    policy_marks: MarkRange | None, masquerade_bit: int, addresses: Iterable[HostAddress]
) -> tuple[str, ...]:
    """Return a sentence for each program on this host that uses bits of the marks of exact policies, or adds others."""
    if policy_marks is None:
        return ()
    interfaces = {address.interface for address in addresses}
    users = {
        program: bits
        for program, prefix, bits in MARK_USERS
        if any(interface.startswith(prefix) for interface in interfaces)
    }
    free = free_mask(reduce(or_, users.values(), 0), masquerade_bit)
    others = f"take others: --policy-mark-mask={free:#x}" if free else "no bits are left for --policies=exact"

    def what_it_does(bits: int) -> str:
        if common := policy_marks.mask & bits:
            return f"uses bits {common:#x} of --policy-mark-mask={policy_marks.mask:#x}, too; {others}"
        return f"may add bits of {bits:#x} to packets: these are treated as with --policies=kube-proxy"

    return tuple(
        f"--policies=exact: {program} {what_it_does(bits)} (docs/policies.md)" for program, bits in users.items()
    )


def service_network_warnings(settings: AgentSettings, node: Node | None) -> tuple[str, ...]:
    """Return a sentence for each network of --service-cidr that has *node* or pods of it."""
    if settings.policy_marks is None:
        return ()
    return tuple(
        f"--service-cidr: {network} ignored: it has {', '.join(found)} of Node {node.name if node else ''}; "
        "name only the networks of ClusterIPs"
        for network in settings.service_cidr
        if (found := machines_in(network, node))
    )


def external_ips_on_node(service: Service, context: NodeContext) -> tuple[IP, ...]:
    """Return the externalIPs of *service* that another interface of this node has, so kube-ipvs0 does not get them."""
    return _on_node(service.external_ips, service, context)


def cluster_ips_on_node(service: Service, context: NodeContext) -> tuple[IP, ...]:
    """Return the ClusterIPs of *service* that another interface of this node has, too.

    kube-ipvs0 gets them all the same, and IPVS takes the packets, so a program there (NodeLocal DNSCache) gets none.
    """
    return _on_node(service.cluster_ips, service, context)


def load_balancer_ips_on_node(service: Service, context: NodeContext) -> tuple[IP, ...]:
    """Return the load balancer's addresses of *service* that another interface of this node has.

    They are no mistake: some load balancers (k3s's) assign those of the nodes on purpose.
    """
    return _on_node(service.load_balancer_ips, service, context)


def has_address_on_node(service: Service, context: NodeContext) -> bool:
    """Return whether another interface of this node has any address that *service* names, served or not."""
    named = (*service.cluster_ips, *service.external_ips, *service.load_balancer_ips)
    return any(not addresses.isdisjoint(named) for addresses in context.foreign_addresses.values())


def _on_node(addresses: tuple[IP, ...], service: Service, context: NodeContext) -> tuple[IP, ...]:
    if not addresses or service.proxy_name is not None or service.type == "ExternalName":
        return ()
    families = [family for family in by_family(service.cluster_ips) if family in context.families]
    return tuple(
        address
        for address in addresses
        if any(address in context.foreign_addresses.get(family, ()) for family in families)
    )


def endpoints_at_own_address(service: Service, slices: Iterable[EndpointSlice]) -> tuple[IP, ...]:
    """Return those ClusterIPs of *service* that an endpoint of it has, so that its packets go in circles or nowhere."""
    endpoints = {endpoint.address for part in slices for endpoint in part.endpoints}
    return tuple(address for address in service.cluster_ips if address in endpoints)


def _pod_cidr_warning(config: KubeProxyConfiguration, node: Node) -> str:
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
            f"Node {node.name} has no podCIDR of its primary family, {family}: traffic from outside the "
            "cluster to ClusterIPs of that family is not masqueraded"
        )
    return ""


def _address_warning(config: KubeProxyConfiguration, families: tuple[Family, ...], node: Node) -> str:
    ips, primary = node_ips(config.bind_address, node), primary_family(config.bind_address, node)
    if all(ips[family] == LOOPBACK_IP[family] for family in families):
        lack = (
            "address in a family that this host serves"
            if node.addresses
            else "status.addresses of type InternalIP or ExternalIP"
        )
        return f"Node {node.name} has no {lack}; assuming {ips[families[0]]} as the node IP"
    return (
        "" if primary in families else f"Node {node.name} has primary family {primary}, which this host does not serve"
    )
