"""The rules of the KUBE-* chains.

A chain depends on the configuration, on which sets have entries (kube-proxy omits a rule that matches on an empty set),
and on the load balancer addresses that this node itself may not use.

Invariants:
- A rule is the text that ``iptables-save`` prints, so a chain that was read compares equal with the one written.
- A rule that needs a match or target which the kernel lacks is left out or simplified by itself, and never so that a
  Service admits clients that it should reject (model/extensions.py).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec import Struct

from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.kube_names import IpsetDefinition
from kubeproxy_py.model.rows import HANDED_ON_DSCP, TUNNEL_DEVICES, ChainSpec, Rows, Table
from kubeproxy_py.net import ADDRESS_BITS, CIDR, PROTOCOL_NUMBERS, Family

_PROTOCOL_NUMBERS = {protocol.lower(): number for protocol, number in PROTOCOL_NUMBERS.items()}
_LOOPBACK_NETWORK: Mapping[Family, str] = {"IPv4": "127.0.0.0/8", "IPv6": "::1/128"}
_REJECT_WITH: Mapping[Family, str] = {"IPv4": "icmp-port-unreachable", "IPv6": "icmp6-port-unreachable"}


class NonEmptySets(Struct, frozen=True, gc=False):
    """The sets of one family that have entries, as far as chains and set headers depend on them."""

    names: frozenset[str] = frozenset()
    closed_to_node: tuple[str, ...] = ()  # ``vip,protocol:port`` whose source ranges exclude this node, sorted
    maxelems: tuple[tuple[str, int], ...] = ()  # names of sets for which kube-proxy's maxelem is too small, and theirs


class _Inputs(Struct, frozen=True, gc=False):
    """All that the rules of one family depend on."""

    family: Family
    sets: NonEmptySets
    node: NodeContext

    def has_entries(self, definition: IpsetDefinition) -> bool:
        return definition.name_in(self.family) in self.sets.names

    def match(self, definition: IpsetDefinition, direction: str) -> str:
        return f"-m set --match-set {definition.name_in(self.family)} {direction}"

    def commented_match(self, definition: IpsetDefinition, direction: str) -> str:
        return f"{self.comment(definition.comment)}{self.match(definition, direction)}"

    def has_extension(self, name: str) -> bool:
        return self.node.has_extension(self.family, name)

    def comment(self, text: str) -> str:
        """Return the match of a comment and a space; "" on a kernel without xt_comment."""
        escaped = text.replace("'", "\\'")  # iptables-save puts a backslash before an apostrophe
        return f'-m comment --comment "{escaped}" ' if self.has_extension("comment") else ""


_Rules = Iterator[str]


def compile_chains(family: Family, sets: NonEmptySets, context: NodeContext) -> Rows:
    """Return all chains of *family* with their rules."""
    inputs = _Inputs(family, sets, context)
    chains = kube_names.chains(family, policies=context.policy_marks is not None)
    return {chain: ChainSpec(tuple(_RULES[chain.table, chain.name](inputs))) for chain in chains}


def _services(inputs: _Inputs) -> _Rules:
    yield f"-s {_LOOPBACK_NETWORK[inputs.family]} -j RETURN"
    more_local = () if inputs.node.masquerade_all else inputs.node.more_local_networks.get(inputs.family, ())
    if more_local and inputs.has_entries(kube_names.CLUSTER_IP):
        yield from _cluster_ip_masquerade_beside(inputs, more_local)
    if inputs.has_entries(kube_names.LOAD_BALANCER):
        match = inputs.commented_match(kube_names.LOAD_BALANCER, "dst,dst")
        yield f"{match} -j {kube_names.LOAD_BALANCER_CHAIN}"
    if not more_local and inputs.has_entries(kube_names.CLUSTER_IP):
        yield _cluster_ip_masquerade(inputs)
    if inputs.has_entries(kube_names.EXTERNAL_IP):
        yield f"{inputs.commented_match(kube_names.EXTERNAL_IP, 'dst,dst')} -j {kube_names.MARK_MASQ_CHAIN}"
    for definition in (kube_names.EXTERNAL_IP, kube_names.EXTERNAL_IP_LOCAL):
        if inputs.has_entries(definition):
            yield from _external_ip_accepts(inputs, inputs.commented_match(definition, "dst,dst"))
    # The sets of NodePorts of TCP and UDP have no addresses, so kube-proxy takes a Service port with the number of a
    # NodePort for one.
    is_exact = inputs.node.policy_marks is not None
    first, second = (_service_accepts, _node_port_jumps) if is_exact else (_node_port_jumps, _service_accepts)
    yield from first(inputs)
    yield from second(inputs)


def _external_ip_accepts(inputs: _Inputs, match: str) -> _Rules:
    """Yield the rules that accept traffic from outside or to an address of this node: not what is bridged past it.

    Without either match the same packets are accepted: an externalIP that is served is an address of this node.
    """
    if not inputs.has_extension("addrtype"):
        yield f"{match} -j ACCEPT"
        return
    if inputs.has_extension("physdev"):
        yield f"{match} -m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL -j ACCEPT"
    yield f"{match} -m addrtype --dst-type LOCAL -j ACCEPT"


def _service_accepts(inputs: _Inputs) -> _Rules:
    # Later nat rules of other programs (for example a CNI plugin's DNAT for hostPorts) must not see these packets.
    for definition in (kube_names.CLUSTER_IP, kube_names.LOAD_BALANCER):
        if inputs.has_entries(definition):
            yield f"{inputs.match(definition, 'dst,dst')} -j ACCEPT"


def _node_port_jumps(inputs: _Inputs) -> _Rules:
    if inputs.has_extension("addrtype"):
        yield f"-m addrtype --dst-type LOCAL -j {kube_names.NODE_PORT_CHAIN}"
        return
    for address in inputs.node.node_port_addresses.get(inputs.family, ()):
        yield f"-d {address}/{ADDRESS_BITS[inputs.family]} -j {kube_names.NODE_PORT_CHAIN}"


def _cluster_ip_masquerade(inputs: _Inputs) -> str:
    target = f"-j {kube_names.MARK_MASQ_CHAIN}"
    to_cluster_ip = f"{inputs.commented_match(kube_names.CLUSTER_IP, 'dst,dst')} {target}"
    if inputs.node.masquerade_all:
        return to_cluster_ip
    if if_not_local := inputs.node.if_not_local.get(inputs.family, ""):
        return f"{if_not_local} {to_cluster_ip}"
    # Pods of this node cannot be recognized, so only packets of the node itself, from a ClusterIP, are masqueraded.
    return f"{inputs.commented_match(kube_names.CLUSTER_IP, 'src,dst')} {target}"


def _cluster_ip_masquerade_beside(inputs: _Inputs, more_local: Iterable[CIDR]) -> _Rules:
    """Mark what comes from outside the first pod network, and unmark what comes from the others.

    These rules are the first ones, so a mark that another rule sets is not taken away.  A rule that matches what comes
    from none of several networks would need another set or chain, which kube-proxy would not clean up.
    """
    yield _cluster_ip_masquerade(inputs)
    mark = f"{inputs.node.masquerade_mark:#x}"
    for network in more_local:
        match = inputs.match(kube_names.CLUSTER_IP, "dst,dst")
        yield f"-s {network} {match} -j MARK --set-xmark 0x0/{mark}"


def _load_balancer(inputs: _Inputs) -> _Rules:
    if inputs.has_entries(kube_names.LOAD_BALANCER_LOCAL):
        yield f"{inputs.commented_match(kube_names.LOAD_BALANCER_LOCAL, 'dst,dst')} -j RETURN"
    yield f"-j {kube_names.MARK_MASQ_CHAIN}"


def _mark_masquerade(inputs: _Inputs) -> _Rules:
    mark = f"{inputs.node.masquerade_mark:#x}"
    yield f"-j MARK --set-xmark {mark}/{mark}"


_NODE_PORT_RULES: tuple[tuple[IpsetDefinition, str, str, str], ...] = (
    (kube_names.NODE_PORT_LOCAL_TCP, "tcp", "dst", "RETURN"),
    (kube_names.NODE_PORT_TCP, "tcp", "dst", kube_names.MARK_MASQ_CHAIN),
    (kube_names.NODE_PORT_LOCAL_UDP, "udp", "dst", "RETURN"),
    (kube_names.NODE_PORT_UDP, "udp", "dst", kube_names.MARK_MASQ_CHAIN),
    (kube_names.NODE_PORT_LOCAL_SCTP, "sctp", "dst,dst", "RETURN"),
    (kube_names.NODE_PORT_SCTP, "sctp", "dst,dst", kube_names.MARK_MASQ_CHAIN),
)


def _node_ports(inputs: _Inputs) -> _Rules:
    for definition, protocol, direction, target in _NODE_PORT_RULES:
        if inputs.has_entries(definition):
            yield f"-p {protocol} {inputs.commented_match(definition, direction)} -j {target}"


def _postrouting(inputs: _Inputs) -> _Rules:
    mark = f"{inputs.node.masquerade_mark:#x}"
    if inputs.has_entries(kube_names.LOOP_BACK):
        yield f"{inputs.commented_match(kube_names.LOOP_BACK, 'dst,dst,src')} -j MASQUERADE"
    yield f"-m mark ! --mark {mark}/{mark} -j RETURN"
    yield f"-j MARK --set-xmark {mark}/0x0"
    random_fully = " --random-fully" if inputs.node.random_fully else ""
    yield f"{inputs.comment('kubernetes service traffic requiring SNAT')}-j MASQUERADE{random_fully}"


def _forward(inputs: _Inputs) -> _Rules:
    mark = f"{inputs.node.masquerade_mark:#x}"
    yield f"{inputs.comment('kubernetes forwarding rules')}-m mark --mark {mark}/{mark} -j ACCEPT"
    yield (
        f"{inputs.comment('kubernetes forwarding conntrack rule')}-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    )


def _health_checks(inputs: _Inputs) -> _Rules:
    yield f"{inputs.commented_match(kube_names.HEALTH_CHECK_NODE_PORT, 'dst')} -j ACCEPT"


def _proxy_firewall(inputs: _Inputs) -> _Rules:
    if inputs.has_entries(kube_names.LOAD_BALANCER_FW):
        match = inputs.commented_match(kube_names.LOAD_BALANCER_FW, "dst,dst")
        yield f"{match} -j {kube_names.SOURCE_RANGES_CHAIN}"


def _source_ranges(inputs: _Inputs) -> _Rules:
    for definition in (kube_names.LOAD_BALANCER_SOURCE_CIDR, kube_names.LOAD_BALANCER_SOURCE_IP):
        if inputs.has_entries(definition):
            yield f"{inputs.commented_match(definition, 'dst,dst,src')} -j RETURN"
    yield "-j DROP"


_ACCESS_FILTER_RETURNS: tuple[tuple[IpsetDefinition, str], ...] = (
    (kube_names.LOAD_BALANCER, "dst,dst"),
    (kube_names.CLUSTER_IP, "dst,dst"),
    (kube_names.EXTERNAL_IP, "dst,dst"),
    (kube_names.EXTERNAL_IP_LOCAL, "dst,dst"),
    (kube_names.HEALTH_CHECK_NODE_PORT, "dst"),
)


def _access_filter(inputs: _Inputs) -> _Rules:
    # kube-proxy's rules let a UDP program of this host through that has the number of a health-check node port, and
    # packets that are not tracked, at any port of any Service address (kubernetes#72236).
    is_exact = inputs.node.policy_marks is not None
    for definition, direction in _ACCESS_FILTER_RETURNS:
        protocol = "-p tcp " if is_exact and definition is kube_names.HEALTH_CHECK_NODE_PORT else ""
        yield f"{protocol}{inputs.match(definition, direction)} -j RETURN"
    if inputs.node.health_port:
        yield f"-p tcp -m tcp --dport {inputs.node.health_port} -j RETURN"
    match = inputs.match(kube_names.IPVS_IPS, "dst")
    reject = f"REJECT --reject-with {_REJECT_WITH[inputs.family]}" if inputs.has_extension("REJECT") else "DROP"
    yield f"-m conntrack --ctstate {'NEW,UNTRACKED' if is_exact else 'NEW'} {match} -j {reject}"


def _out_filter(inputs: _Inputs) -> _Rules:
    # A packet of a process on this node reaches IPVS before any chain sees the address that it was sent to, so the
    # rules match what IPVS knows.  Without that match the node has access; all other clients are still filtered (a
    # warning at startup says so).
    if not inputs.has_extension("ipvs"):
        return
    for entry in inputs.sets.closed_to_node:
        address, _, protocol_and_port = entry.partition(",")
        protocol, _, port = protocol_and_port.partition(":")
        yield (
            f"-s {address}/{ADDRESS_BITS[inputs.family]} -m ipvs --vproto {_PROTOCOL_NUMBERS[protocol]} "
            f"--vaddr {address} --vport {port} -j DROP"
        )


def _policy_input(inputs: _Inputs) -> _Rules:
    # A pod of this node reaches all endpoints of what outsiders reach on this node only.
    for match in inputs.node.if_local.get(inputs.family, ()):
        yield f"{match} {_set_mark(inputs)}"
    yield from _hand_on(inputs)
    yield _drop_without_local_endpoint(inputs)


def _hand_on(inputs: _Inputs) -> _Rules:
    # What another node handed on is for the endpoints of this one; otherwise it could go round.
    unmarked, marked = f"-m mark ! {_policy_mark(inputs)}", f"-m mark {_policy_mark(inputs)}"
    if inputs.has_entries(kube_names.POLICY_OUTSIDE):
        by_tunnel = f"-i {TUNNEL_DEVICES[inputs.family]}"
        yield f"! {by_tunnel} {unmarked} {_set_mark(inputs, kube_names.POLICY_OUTSIDE)}"
    if inputs.has_entries(kube_names.POLICY_ROUTED) and inputs.has_extension("dscp") and inputs.has_extension("DSCP"):
        yield f"-m dscp ! --dscp {HANDED_ON_DSCP} {unmarked} {_set_mark(inputs, kube_names.POLICY_ROUTED)}"
        yield f"{marked} {inputs.match(kube_names.POLICY_ROUTED, 'dst,dst')} -j DSCP --set-dscp {HANDED_ON_DSCP}"


def _policy_forward(inputs: _Inputs) -> _Rules:
    # An address that a Service has is on kube-ipvs0, so what is forwarded to the Service network goes to no Service.
    for network in inputs.node.service_networks.get(inputs.family, ()):
        yield f"-d {network} -m conntrack --ctstate NEW -j DROP"


def _policy_output(inputs: _Inputs) -> _Rules:
    # What is handed on by route comes by here, too, with the address of the client, and without a mark once its Service
    # is not handed on any more; a changed mark would have it routed again, to this node itself.
    of_node = "-m addrtype --src-type LOCAL " if inputs.has_extension("addrtype") else ""
    if inputs.has_entries(kube_names.POLICY_ROUTED) and not of_node:
        yield f"-m mark {_policy_mark(inputs)} {inputs.match(kube_names.POLICY_ROUTED, 'dst,dst')} -j RETURN"
    # This node itself is subject to source ranges, with any source address.
    yield f"{inputs.match(kube_names.LOAD_BALANCER_FW, 'dst,dst')} -j {kube_names.POLICY_RANGES_CHAIN}"
    if inputs.has_extension("addrtype"):
        for network in inputs.node.service_networks.get(inputs.family, ()):
            yield f"-d {network} -m addrtype ! --dst-type LOCAL -m conntrack --ctstate NEW -j DROP"
    yield f"{of_node}{_set_mark(inputs)}"
    yield _drop_without_local_endpoint(inputs)


def _policy_ranges(inputs: _Inputs) -> _Rules:
    for definition in (kube_names.LOAD_BALANCER_SOURCE_CIDR, kube_names.LOAD_BALANCER_SOURCE_IP):
        yield f"{inputs.match(definition, 'dst,dst,src')} -j RETURN"
    yield "-j DROP"


def _set_mark(inputs: _Inputs, definition: IpsetDefinition = kube_names.POLICY_MARKS) -> str:
    return f"-j SET --map-set {definition.name_in(inputs.family)} dst,dst --map-mark"


def _drop_without_local_endpoint(inputs: _Inputs) -> str:
    # Connections that exist go on: their endpoint may have been here, and may be draining.
    new = "-m conntrack --ctstate NEW"
    return f"-m mark ! {_policy_mark(inputs)} {new} {inputs.match(kube_names.POLICY_NO_LOCAL, 'dst,dst')} -j DROP"


def _policy_postrouting(inputs: _Inputs) -> _Rules:
    # Requests of this node itself have the Service address as their source, which no other node answers to.
    if not inputs.has_extension("addrtype"):
        return
    random_fully = " --random-fully" if inputs.node.random_fully else ""
    source = "-m addrtype --src-type LOCAL "
    yield f"-m mark {_policy_mark(inputs)} {source}-j MASQUERADE{random_fully}"


def _policy_mark(inputs: _Inputs) -> str:
    assert inputs.node.policy_marks
    flag = f"{inputs.node.policy_marks.flag:#x}"
    return f"--mark {flag}/{flag}"


_RULES: Mapping[tuple[Table, str], Callable[[_Inputs], _Rules]] = {
    ("nat", kube_names.MARK_MASQ_CHAIN): _mark_masquerade,
    ("nat", kube_names.LOAD_BALANCER_CHAIN): _load_balancer,
    ("nat", kube_names.NODE_PORT_CHAIN): _node_ports,
    ("nat", kube_names.POSTROUTING_CHAIN): _postrouting,
    ("nat", kube_names.SERVICES_CHAIN): _services,
    ("filter", kube_names.FORWARD_CHAIN): _forward,
    ("filter", kube_names.NODE_PORT_CHAIN): _health_checks,
    ("filter", kube_names.SOURCE_RANGES_CHAIN): _source_ranges,
    ("filter", kube_names.PROXY_FIREWALL_CHAIN): _proxy_firewall,
    ("filter", kube_names.ACCESS_FILTER_CHAIN): _access_filter,
    ("filter", kube_names.OUT_FILTER_CHAIN): _out_filter,
    ("mangle", kube_names.POLICY_RANGES_CHAIN): _policy_ranges,
    ("mangle", kube_names.POLICY_INPUT_CHAIN): _policy_input,
    ("mangle", kube_names.POLICY_FORWARD_CHAIN): _policy_forward,
    ("mangle", kube_names.POLICY_OUTPUT_CHAIN): _policy_output,
    ("nat", kube_names.POLICY_POSTROUTING_CHAIN): _policy_postrouting,
}
